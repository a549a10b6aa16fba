//! Columns and their names.

use std::collections::HashMap;

use crate::sql::names::{check_name, quote};
use crate::sql::values::JSON_TEXT;

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
