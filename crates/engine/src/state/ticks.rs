//! Schedules across restarts: where each grid starts, which ticks have run, and that none runs twice.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use wiredflow_core::Result;

use super::failure::Failure;
use super::runs::{self, RunId};
use super::{StateHandle, from_stored, to_stored};

/// What the state knows of a pipeline's schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Where the grid starts: when the pipeline first ran with this definition, in whole
    /// milliseconds. It may lie ahead of now when the clock was set back.
    pub anchor: Timestamp,
    /// The newest tick that was claimed, never later than now; none on a new grid.
    pub last_tick: Option<Timestamp>,
    /// The newest tick that was ever claimed, whatever the definition and the clock were then: a later one is
    /// nobody's.
    pub newest: Option<Timestamp>,
    /// Ticks that an earlier start of the flow had claimed and did not finish, oldest first. They can
    /// be claimed again, or given up with [`StateHandle::finish_tick`].
    pub interrupted: Vec<Timestamp>,
}

/// Whose a tick is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickClaim {
    /// The caller's: it has not run before.
    First,
    /// The caller's: an earlier start of the flow had claimed it and was interrupted.
    Again,
    /// Not the caller's: it has run, or runs now.
    Taken,
}

impl StateHandle {
    /// The schedule of `pipeline` as the last start left it. `definition` is its text in any stable
    /// spelling: where it differs from the stored one, or nothing is stored, a new grid starts at
    /// `now` and what was interrupted on the old one is given up.
    pub async fn schedule(
        &self,
        pipeline: &str,
        definition: &str,
        now: Timestamp,
    ) -> Result<Schedule> {
        let (pipeline, definition) = (pipeline.to_owned(), definition.to_owned());
        let session = self.session;
        self.writer
            .call(move |connection| schedule(connection, &pipeline, &definition, session, now))
            .await
    }

    /// Claims the tick of `pipeline` at `at`: of all who ask, one gets it, once.
    pub async fn claim_tick(&self, pipeline: &str, at: Timestamp) -> Result<TickClaim> {
        let pipeline = pipeline.to_owned();
        let session = self.session;
        self.writer
            .call(move |connection| claim(connection, &pipeline, at, session))
            .await
    }

    /// Claims a tick and records the start of its run in one transaction; none when it is taken.
    pub async fn start_tick(
        &self,
        pipeline: &str,
        at: Timestamp,
        started: Timestamp,
    ) -> Result<Option<RunId>> {
        let (run, pipeline) = (self.next_run(), pipeline.to_owned());
        let session = self.session;
        self.writer
            .call(
                move |connection| match claim(connection, &pipeline, at, session)? {
                    TickClaim::First | TickClaim::Again => {
                        runs::insert(connection, run, &pipeline, Some(at), started).map(Some)
                    }
                    TickClaim::Taken => Ok(None),
                },
            )
            .await
    }

    /// Marks a tick as done, whether it ran or was given up. A run that was started with its tick
    /// does this at its end.
    pub async fn finish_tick(&self, pipeline: &str, at: Timestamp) -> Result<()> {
        let pipeline = pipeline.to_owned();
        self.writer
            .call(move |connection| finish(connection, &pipeline, to_stored(at)))
            .await
    }
}

fn schedule(
    connection: &Connection,
    pipeline: &str,
    definition: &str,
    session: i64,
    now: Timestamp,
) -> Result<Schedule, Failure> {
    let newest = connection
        .prepare_cached("SELECT max(at) FROM ticks WHERE pipeline = ?1")?
        .query_row([pipeline], |row| row.get::<_, Option<i64>>(0))?
        .map(from_stored)
        .transpose()?;
    // The tick of a run is written with the run, and makes its way into `last_tick` when it is removed.
    let stored: Option<(i64, Option<i64>)> = connection
        .prepare_cached(
            "SELECT anchor, max(coalesce(last_tick, at), coalesce(at, last_tick)) FROM (
                 SELECT anchor, last_tick, (
                     SELECT max(at) FROM ticks WHERE pipeline = ?1 AND at >= anchor) AS at
                 FROM schedules WHERE pipeline = ?1 AND definition = ?2)",
        )?
        .query_row((pipeline, definition), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((anchor, last_tick)) = stored else {
        return Ok(Schedule {
            newest,
            ..new_grid(connection, pipeline, definition, session, now)?
        });
    };
    let mut interrupted = connection.prepare_cached(
        "SELECT at FROM ticks WHERE pipeline = ?1 AND state = 'claimed' AND session <> ?2
         ORDER BY at",
    )?;
    let interrupted = interrupted
        .query_map((pipeline, session), |row| from_stored(row.get(0)?))?
        .collect::<rusqlite::Result<_>>()?;
    let last_tick = last_tick.map(from_stored).transpose()?;
    Ok(Schedule {
        anchor: from_stored(anchor)?,
        last_tick: last_tick.map(|tick| tick.min(now)),
        newest,
        interrupted,
    })
}

fn new_grid(
    connection: &Connection,
    pipeline: &str,
    definition: &str,
    session: i64,
    now: Timestamp,
) -> Result<Schedule, Failure> {
    let anchor = to_stored(now);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO schedules (pipeline, definition, anchor) VALUES (?1, ?2, ?3)",
        )?
        .execute((pipeline, definition, anchor))?;
    connection
        .prepare_cached(
            "UPDATE ticks SET state = 'done'
             WHERE pipeline = ?1 AND state = 'claimed' AND session <> ?2",
        )?
        .execute((pipeline, session))?;
    Ok(Schedule {
        anchor: from_stored(anchor)?,
        last_tick: None,
        newest: None,
        interrupted: Vec::new(),
    })
}

fn claim(
    connection: &Connection,
    pipeline: &str,
    at: Timestamp,
    session: i64,
) -> Result<TickClaim, Failure> {
    let at = to_stored(at);
    let first = connection
        .prepare_cached(
            "INSERT INTO ticks (pipeline, at, state, session) VALUES (?1, ?2, 'claimed', ?3)
             ON CONFLICT DO NOTHING",
        )?
        .execute((pipeline, at, session))?;
    if first == 1 {
        connection
            .prepare_cached(
                "UPDATE schedules SET last_tick = ?2
                 WHERE pipeline = ?1 AND (last_tick IS NULL OR last_tick < ?2)",
            )?
            .execute((pipeline, at))?;
        return Ok(TickClaim::First);
    }
    let again = connection
        .prepare_cached(
            "UPDATE ticks SET session = ?3
             WHERE pipeline = ?1 AND at = ?2 AND state = 'claimed' AND session <> ?3",
        )?
        .execute((pipeline, at, session))?;
    Ok(if again == 1 {
        TickClaim::Again
    } else {
        TickClaim::Taken
    })
}

/// Marks the tick at `at`, as stored, as done.
pub(super) fn finish(connection: &Connection, pipeline: &str, at: i64) -> Result<(), Failure> {
    connection
        .prepare_cached("UPDATE ticks SET state = 'done' WHERE pipeline = ?1 AND at = ?2")?
        .execute((pipeline, at))?;
    Ok(())
}
