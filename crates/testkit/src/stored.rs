//! What a storage holds, read by other programs' rules: a file that does not parse is a failure.

use std::{fs, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value};

use crate::wait::wait_until;

/// How long a file may not be readable.
const SOON: Duration = Duration::from_secs(20);

/// The rows of a file that a storage of this kind has written, oldest first; none where there is no file. The
/// values of csv are text. Of `sqlite` it is the table `rows`, with columns of numbers and texts.
///
/// # Errors
/// What is wrong with the file. While it is being written, that may be what is not written yet.
pub fn rows(kind: &str, file: &Path) -> Result<Vec<Value>, String> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    if kind == "sqlite" {
        return table(file).map_err(|error| error.to_string());
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    match kind {
        "json" if text.is_empty() => Ok(Vec::new()),
        "json" => match serde_json::from_str(&text) {
            Ok(Value::Array(rows)) => Ok(rows),
            Ok(object) => Ok(vec![object]),
            Err(error) => Err(format!("{error}: {text}")),
        },
        "jsonl" => text
            .lines()
            .filter(|line| !line.is_empty())
            .map(parsed)
            .collect(),
        "csv" => {
            let mut lines = text.split_terminator("\r\n");
            let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
            lines.map(|line| named(&names, line)).collect()
        }
        other => Err(format!("no storage of kind `{other}`")),
    }
}

/// The whole lines of a file that a flow may be writing at this moment: what is behind the last line end is still
/// on its way. None where there is no file.
pub fn written_lines(file: &Path) -> Vec<String> {
    let bytes = fs::read(file).unwrap_or_default();
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    String::from_utf8(bytes[..whole].to_vec())
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The rows of a jsonl file that a flow may be writing at this moment.
pub fn written_rows(file: &Path) -> Vec<Value> {
    let lines = written_lines(file);
    lines.iter().map(|line| parsed(line).unwrap()).collect()
}

/// Looks through a database; panics when it is damaged.
#[track_caller]
pub fn check_database(file: &Path) {
    let found = integrity(file);
    assert_eq!(found.as_deref(), Ok("ok"), "{}", file.display());
}

fn integrity(file: &Path) -> Result<String, String> {
    let open = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE);
    open.and_then(|database| database.query_row("PRAGMA integrity_check", (), |row| row.get(0)))
        .map_err(|error| error.to_string())
}

fn table(file: &Path) -> rusqlite::Result<Vec<Value>> {
    let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let known = "SELECT count(*) FROM sqlite_schema WHERE name = 'rows'";
    if database.query_row(known, (), |row| row.get::<_, u32>(0))? == 0 {
        return Ok(Vec::new());
    }
    let mut select = database.prepare("SELECT * FROM rows ORDER BY rowid")?;
    let names: Vec<String> = select.column_names().map(str::to_owned).collect();
    let rows = select.query_map((), |row| {
        let mut object = Map::new();
        for (index, name) in names.iter().enumerate() {
            let value = match row.get_ref(index)? {
                rusqlite::types::ValueRef::Integer(number) => number.into(),
                rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
                _ => Value::Null,
            };
            object.insert(name.clone(), value);
        }
        Ok(Value::Object(object))
    })?;
    rows.collect()
}

fn parsed(line: &str) -> Result<Value, String> {
    serde_json::from_str(line).map_err(|error| format!("{error}: {line:?}"))
}

/// A row of plain values: the tests store nothing that wants quotes.
fn named(names: &[&str], line: &str) -> Result<Value, String> {
    let values: Vec<&str> = line.split(',').collect();
    if values.len() != names.len() {
        return Err(format!("a row of {} fields: {line:?}", values.len()));
    }
    let pairs = names.iter().zip(values);
    Ok(Value::Object(
        pairs
            .map(|(name, value)| ((*name).to_owned(), value.into()))
            .collect(),
    ))
}

/// How many records wait in the outboxes of a state; none where there is no state yet. The flow may be running.
#[track_caller]
pub fn waiting_in_outboxes(state: &Path) -> u64 {
    let count = || {
        let connection = Connection::open_with_flags(state, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = 'outbox'";
        if connection.query_row(is_there, (), |row| row.get::<_, i64>(0))? == 0 {
            return Ok(0);
        }
        let waiting = "SELECT count(*) FROM outbox WHERE body IS NOT NULL";
        connection.query_row(waiting, (), |row| row.get::<_, i64>(0))
    };
    let mut counted = Ok(0);
    // Its owner may have it for itself for a moment.
    wait_until(SOON, || {
        counted = if state.exists() { count() } else { Ok(0) };
        counted.is_ok()
    });
    counted.map_or(0, i64::unsigned_abs)
}
