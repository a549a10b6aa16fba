//! What has become of many runs, written in one call.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use rusqlite::Connection;
use wiredflow_core::Result;
use wiredflow_core::storage::{Cursor, Epoch};

use super::failure::Failure;
use super::runs::{RunEnd, RunId};
use super::{StateHandle, of_count, to_stored};

/// A run that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartedRun {
    /// Its number.
    pub id: RunId,
    /// The tick that it runs for, if a schedule started it.
    pub scheduled_at: Option<Timestamp>,
    /// When it began.
    pub started: Timestamp,
}

/// What has become of a run since it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunChange {
    /// The run.
    pub run: StartedRun,
    /// The pipeline that runs.
    pub pipeline: Arc<str>,
    /// Whether its start has been written before.
    pub is_known: bool,
    /// How it ended and when, if it has.
    pub end: Option<(RunEnd, Timestamp)>,
    /// How far its loads have come.
    pub cursors: Vec<Cursor>,
}

impl StateHandle {
    /// A run that begins now and is written later, by [`StateHandle::write_runs`]. Its tick must be one that
    /// nobody has claimed: later than [`Schedule::newest`](super::Schedule::newest).
    pub fn begin_run(&self, scheduled_at: Option<Timestamp>, started: Timestamp) -> StartedRun {
        StartedRun {
            id: self.next_run(),
            scheduled_at,
            started,
        }
    }

    /// Writes starts and ends of runs, all of them or none. The tick of a run that goes on is claimed, that of
    /// a run that has ended is done.
    pub async fn write_runs(&self, changes: Arc<[RunChange]>) -> Result<()> {
        let session = self.session;
        self.writer
            .call(move |connection| write(connection, &changes, session))
            .await
    }

    /// A number that no other run has.
    pub(super) fn next_run(&self) -> RunId {
        RunId(self.last_run.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn write(connection: &Connection, changes: &[RunChange], session: i64) -> Result<(), Failure> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO runs (id, pipeline, scheduled_at, started, ended, outcome, records_in, records_out, error)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let mut update = connection.prepare_cached(
        "UPDATE runs SET ended = ?2, outcome = ?3, records_in = ?4, records_out = ?5, error = ?6
         WHERE id = ?1",
    )?;
    let mut tick = connection.prepare_cached(
        "INSERT INTO ticks (pipeline, at, state, session) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET state = excluded.state, session = excluded.session",
    )?;
    for change in changes {
        let (run, pipeline) = (change.run, change.pipeline.as_ref());
        let end = change.end.as_ref().map(|(end, _)| end);
        let ended = change.end.as_ref().map(|(_, time)| to_stored(*time));
        let outcome = end.map_or("running", |end| end.outcome.word());
        let records_in = of_count(end.map_or(0, |end| end.records_in));
        let records_out = of_count(end.map_or(0, |end| end.records_out));
        let error = end.and_then(|end| end.error.as_deref());
        let at = run.scheduled_at.map(to_stored);
        if change.is_known {
            update.execute((run.id.0, ended, outcome, records_in, records_out, error))?;
        } else {
            let started = to_stored(run.started);
            insert.execute(rusqlite::params![
                run.id.0,
                pipeline,
                at,
                started,
                ended,
                outcome,
                records_in,
                records_out,
                error
            ])?;
        }
        if let Some(at) = at {
            let state = if end.is_some() { "done" } else { "claimed" };
            tick.execute((pipeline, at, state, session))?;
        }
        for cursor in &change.cursors {
            super::cursors::set(connection, pipeline, cursor, Epoch::default())?;
        }
    }
    Ok(())
}
