//! When a table began to grow, and when it was complete.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::{Options, Result};

/// How often it is looked at.
const EACH: Duration = Duration::from_millis(2);

/// It is over when nothing more came for so long, complete or not.
const IDLE: Duration = Duration::from_secs(5);

/// Says `ready`, follows a table that may not be there yet, and says `rows ROWS SECONDS`: how many there were in
/// the end, and the time from the first to the last.
pub(crate) fn run(options: &Options<'_>) -> Result {
    let (path, table) = (options.text("--file")?, options.text("--table")?);
    let wanted = options.number("--messages")?;
    println!("ready");
    // Rows are never removed here, so the newest number is their count, and costs one look.
    let newest = format!("SELECT coalesce(max(rowid), 0) FROM \"{table}\"");
    let (mut first, mut last, mut rows) = (None, Instant::now(), 0);
    let mut open: Option<Connection> = None;
    while rows < wanted && last.elapsed() < IDLE {
        std::thread::sleep(EACH);
        if open.is_none() {
            open = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok();
        }
        let count = open.as_ref().map(|connection| {
            let mut statement = connection.prepare_cached(&newest)?;
            statement.query_row((), |row| row.get::<_, i64>(0))
        });
        // No file, no table yet, or locked for a moment: looked at again.
        if let Some(Ok(count)) = count
            && count.unsigned_abs() > rows
        {
            (last, rows) = (Instant::now(), count.unsigned_abs());
            first.get_or_insert(last);
        }
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    println!("rows {rows} {seconds}");
    Ok(())
}
