//! Columns and their names.

use std::collections::HashMap;

use super::values::JSON_TEXT;

/// The longest name of a table or a column, in characters.
const LONGEST_NAME: usize = 200;

/// SQLite's name for a row's number, by which rows are ordered. No field may have it.
pub(super) const ROW_ID: &str = "_rowid_";

/// The columns in their order, and where each name stands; names that differ in case only are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) list: Vec<Column>,
    places: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) json: bool,
}

impl Columns {
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        match self.places.get(name) {
            Some(place) => Some(*place),
            None => self.places.get(&name.to_ascii_lowercase()).copied(),
        }
    }

    pub(super) fn add(&mut self, name: &str, json: bool) -> usize {
        let place = self.list.len();
        self.places.insert(name.to_ascii_lowercase(), place);
        self.list.push(Column {
            name: name.to_owned(),
            json,
        });
        place
    }
}

impl Column {
    pub(super) fn declared(&self) -> String {
        let kind = if self.json { JSON_TEXT } else { "" };
        format!("{} {kind}", quote(&self.name))
    }
}

/// Whether a field can be a column.
pub(super) fn check_column(name: &str) -> Result<(), String> {
    check_name(name, "column")?;
    if name.eq_ignore_ascii_case(ROW_ID) {
        return Err(format!(
            "`{name}` cannot be a column: it is SQLite's name for a row's number"
        ));
    }
    Ok(())
}

/// Whether a name can be a table's.
pub(super) fn check_table(name: &str) -> Result<(), String> {
    check_name(name, "table")?;
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("sqlite_") || lower.starts_with("_wiredflow_") {
        return Err(format!(
            "`{name}` cannot be a table: names that begin so are taken"
        ));
    }
    Ok(())
}

fn check_name(name: &str, what: &str) -> Result<(), String> {
    let shown: String = name.chars().take(40).collect();
    let shown = shown.escape_debug();
    if name.contains('\0') {
        return Err(format!("`{shown}` cannot be a {what}: it has a zero byte"));
    }
    if name.is_empty() || name.chars().nth(LONGEST_NAME).is_some() {
        return Err(format!(
            "`{shown}` cannot be a {what}: it has 1 to {LONGEST_NAME} characters"
        ));
    }
    Ok(())
}

/// A name as it stands in SQL.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
