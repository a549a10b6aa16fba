//! Records as a table in memory, for a query.

use std::collections::HashMap;

use rusqlite::Connection;
use wiredflow_core::{Error, Result, Value};

use super::names::{check_column, quote};
use super::values::{Cell, JSON_TEXT, fields, is_nested};

/// SQLite's own limit.
const MOST_COLUMNS: usize = 2000;

/// The columns that records need, in the order in which they come first.
#[derive(Default)]
struct Columns<'r> {
    names: Vec<&'r str>,
    /// Whether the first value that is not null is nested.
    json: Vec<Option<bool>>,
    places: HashMap<String, usize>,
}

/// Makes a table of records: a column for each field, one `value` for records that are no objects. `texts` are
/// values of which nobody knows whether they are numbers; what looks like one becomes one.
pub(super) fn create(
    connection: &Connection,
    name: &str,
    rows: &[Value],
    texts: bool,
) -> Result<()> {
    let mut columns = Columns::default();
    for (field, value) in rows.iter().flat_map(fields) {
        columns
            .add(field, value)
            .map_err(|reason| Error::data(format!("`{name}` cannot be a table: {reason}")))?;
    }
    let declared: Vec<String> = match columns.names.len() {
        // A table has a column, though nothing is known yet.
        0 => vec![quote("_")],
        _ => columns.declared(if texts { "NUMERIC" } else { "" }),
    };
    let table = quote(name);
    let told = |error: rusqlite::Error| Error::data(format!("`{name}` cannot be a table: {error}"));
    let sql = format!("CREATE TABLE main.{table} ({})", declared.join(", "));
    connection.execute_batch(&sql).map_err(told)?;
    if columns.names.is_empty() {
        return Ok(());
    }
    let holes = vec!["?"; columns.names.len()].join(", ");
    let insert = format!("INSERT INTO main.{table} VALUES ({holes})");
    connection.execute_batch("BEGIN").map_err(told)?;
    let mut statement = connection.prepare(&insert).map_err(told)?;
    for row in rows {
        statement.clear_bindings();
        for (field, value) in fields(row) {
            let place = columns.place(field).unwrap_or_default();
            let json = columns.json[place] == Some(true);
            statement
                .raw_bind_parameter(place + 1, Cell { value, json })
                .map_err(told)?;
        }
        statement.raw_execute().map_err(told)?;
    }
    drop(statement);
    connection.execute_batch("COMMIT").map_err(told)
}

impl<'r> Columns<'r> {
    fn place(&self, name: &str) -> Option<usize> {
        let found = self.places.get(name);
        found
            .or_else(|| self.places.get(&name.to_ascii_lowercase()))
            .copied()
    }

    fn add(&mut self, name: &'r str, value: &Value) -> Result<(), String> {
        let place = match self.place(name) {
            Some(place) if self.names[place] == name => place,
            Some(place) => {
                return Err(format!(
                    "its fields `{name}` and `{}` differ in letter case only, which is the same to SQL",
                    self.names[place]
                ));
            }
            None => {
                check_column(name)?;
                if self.names.len() == MOST_COLUMNS {
                    return Err(format!("it would have more than {MOST_COLUMNS} columns"));
                }
                self.places
                    .insert(name.to_ascii_lowercase(), self.names.len());
                self.names.push(name);
                self.json.push(None);
                self.names.len() - 1
            }
        };
        if !value.is_null() {
            self.json[place].get_or_insert(is_nested(value));
        }
        Ok(())
    }

    fn declared(&self, usual: &str) -> Vec<String> {
        let kinds = self.json.iter().map(|json| match json {
            Some(true) => JSON_TEXT,
            Some(false) | None => usual,
        });
        let names = self.names.iter().map(|name| quote(name));
        names
            .zip(kinds)
            .map(|(name, kind)| format!("{name} {kind}"))
            .collect()
    }
}
