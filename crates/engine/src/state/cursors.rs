//! Where the sources stand, and who may move them.

use rusqlite::{Connection, OptionalExtension};
use wiredflow_core::storage::{Cursor, Epoch};
use wiredflow_core::{Error, Result};

use super::StateHandle;
use super::failure::Failure;
use super::{of_count, to_count};

/// A source's position and the owner that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCursor {
    /// The position, in the source's own words.
    pub position: String,
    /// The owner that set it.
    pub epoch: Epoch,
}

impl StateHandle {
    /// Moves the cursors of `pipeline`, all of them or none.
    ///
    /// # Errors
    /// `Config` when a later owner has moved one of them before: this process has been replaced and
    /// must stop.
    pub async fn set_cursors(
        &self,
        pipeline: &str,
        cursors: Vec<Cursor>,
        epoch: Epoch,
    ) -> Result<()> {
        let pipeline = pipeline.to_owned();
        self.writer
            .call(move |connection| {
                cursors
                    .iter()
                    .try_for_each(|cursor| set(connection, &pipeline, cursor, epoch))
            })
            .await
    }

    /// Where `source` of `pipeline` stands, if it ever moved.
    pub async fn cursor(&self, pipeline: &str, source: &str) -> Result<Option<StoredCursor>> {
        let (pipeline, source) = (pipeline.to_owned(), source.to_owned());
        self.writer
            .call(move |connection| {
                let stored = connection
                    .prepare_cached(
                        "SELECT position, epoch FROM cursors WHERE pipeline = ?1 AND source = ?2",
                    )?
                    .query_row((&pipeline, &source), |row| {
                        Ok(StoredCursor {
                            position: row.get(0)?,
                            epoch: Epoch(to_count(row.get(1)?)),
                        })
                    })
                    .optional()?;
                Ok(stored)
            })
            .await
    }
}

pub(super) fn set(
    connection: &Connection,
    pipeline: &str,
    cursor: &Cursor,
    epoch: Epoch,
) -> Result<(), Failure> {
    let moved = connection
        .prepare_cached(
            "INSERT INTO cursors (pipeline, source, position, epoch) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET position = excluded.position, epoch = excluded.epoch
             WHERE excluded.epoch >= epoch",
        )?
        .execute((
            pipeline,
            &cursor.source,
            &cursor.position,
            of_count(epoch.0),
        ))?;
    if moved == 1 {
        return Ok(());
    }
    Err(Failure::from(Error::config(format!(
        "another owner has taken over `{pipeline}`: the cursor of `{}` is past epoch {}; stop this \
         process",
        cursor.source, epoch.0
    ))))
}
