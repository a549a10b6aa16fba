//! Pipelines that are paused: an operator's word outlives a restart.

use jiff::Timestamp;
use rusqlite::Connection;
use wiredflow_core::Result;

use super::failure::Failure;
use super::{StateHandle, from_stored, to_stored};

/// How the key of a paused pipeline begins, in `meta`.
const KEY: &str = "paused:";

impl StateHandle {
    /// Notes since when a pipeline is paused, or that it is not.
    pub async fn set_paused(&self, pipeline: &str, since: Option<Timestamp>) -> Result<()> {
        let key = format!("{KEY}{pipeline}");
        self.writer
            .call(move |connection| {
                match since {
                    Some(since) => connection.execute(
                        "INSERT INTO meta (key, value) VALUES (?1, ?2)
                         ON CONFLICT DO UPDATE SET value = excluded.value",
                        (&key, to_stored(since).to_string()),
                    )?,
                    None => connection.execute("DELETE FROM meta WHERE key = ?1", [&key])?,
                };
                Ok(())
            })
            .await
    }
}

/// The pipelines that are paused, and since when.
pub(super) fn read(connection: &Connection) -> Result<Vec<(String, Timestamp)>, Failure> {
    let mut statement = connection.prepare(
        "SELECT substr(key, 8), CAST(value AS INTEGER) FROM meta WHERE key GLOB 'paused:*'",
    )?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, from_stored(row.get(1)?)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
