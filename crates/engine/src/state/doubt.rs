//! Storages whose files a crash may have torn, and that no start since has looked at: a start that runs some of the
//! pipelines only, or a replay, ends in order and leaves them as they are.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};
use wiredflow_core::Result;

use super::StateHandle;
use super::failure::Failure;

/// Where their names stand, as a JSON array.
const KEY: &str = "in_doubt";

/// Those of the last end in order. What cannot be read is none: nothing else writes it.
pub(super) fn read(connection: &Connection) -> Result<BTreeSet<String>, Failure> {
    let names = "SELECT value FROM meta WHERE key = ?1";
    let names: Option<String> = connection
        .query_row(names, [KEY], |row| row.get(0))
        .optional()?;
    Ok(names
        .and_then(|names| serde_json::from_str(&names).ok())
        .unwrap_or_default())
}

impl StateHandle {
    /// Keeps the names of storages that are still in doubt at the end, for the next start.
    ///
    /// # Errors
    /// `Remote` when the state cannot be written.
    pub async fn keep_in_doubt(&self, storages: BTreeSet<String>) -> Result<()> {
        let names = serde_json::json!(storages).to_string();
        let keep = move |connection: &Connection| {
            let keep = "INSERT INTO meta (key, value) VALUES (?1, ?2)
                ON CONFLICT DO UPDATE SET value = excluded.value";
            connection.execute(keep, (KEY, &names))?;
            Ok(())
        };
        self.writer.call(keep).await
    }
}
