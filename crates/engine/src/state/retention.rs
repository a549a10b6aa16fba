//! What is kept, and for how long.

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use wiredflow_core::Result;

use super::dead_letters::first_id_of;
use super::failure::Failure;
use super::{StateHandle, of_count, to_stored};

/// How long a run stays in the history.
pub const RUN_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How many of the newest runs stay in the history.
pub const RUN_COUNT: u32 = 100_000;

/// How long a dead letter is kept with its body, whole: a letter without a body could not be replayed.
pub const DEAD_LETTER_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How long a tick is known to have run.
pub const TICK_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How many of the newest finished ticks of each pipeline are known.
pub const TICK_COUNT: u32 = 10_000;

/// How many starts of the flow are known.
const SESSION_COUNT: u32 = 1_000;

/// How many ends of replays are known: those that a person may still wait for.
const REPLAY_COUNT: u32 = 100_000;

/// Rows that one call removes from a table at most, so that no other caller waits long.
const STEP: u32 = 5_000;

/// Free pages that are given back to the disk at each step.
const PAGES: u32 = 2_000;

/// What was removed because of its age or number, for the caller to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Runs of the history.
    pub runs: usize,
    /// Ticks.
    pub ticks: usize,
    /// Dead letters, with their bodies.
    pub dead_letters: usize,
}

impl StateHandle {
    /// Removes what is older or more than the limits of this module; never a run that is going on or
    /// a tick that is not done and not old. Others' calls go on between the steps.
    ///
    /// # Errors
    /// As every call; the steps before the failure are kept.
    pub async fn prune(&self, now: Timestamp) -> Result<Pruned> {
        let mut all = Pruned::default();
        loop {
            let step = self
                .writer
                .call(move |connection| prune_step(connection, now))
                .await?;
            all.runs += step.runs;
            all.ticks += step.ticks;
            all.dead_letters += step.dead_letters;
            if step.runs.max(step.ticks).max(step.dead_letters) < STEP as usize {
                return Ok(all);
            }
        }
    }
}

fn prune_step(connection: &Connection, now: Timestamp) -> Result<Pruned, Failure> {
    let before = |age: SignedDuration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
    // Runs are numbered in the order of their starts, so the first that is young enough ends it.
    let mut runs = connection.prepare_cached(
        "DELETE FROM runs WHERE id IN (
             SELECT id FROM runs WHERE outcome <> 'running' AND id < max(
                 coalesce((SELECT id FROM runs WHERE started >= ?1 ORDER BY id LIMIT 1),
                     (SELECT max(id) + 1 FROM runs)),
                 (SELECT max(id) + 1 - ?2 FROM runs))
             ORDER BY id LIMIT ?3)",
    )?;
    let runs = runs.execute((to_stored(before(RUN_AGE)), RUN_COUNT, STEP))?;

    let mut dead_letters = connection.prepare_cached(
        "DELETE FROM dead_letters WHERE id IN (
             SELECT id FROM dead_letters WHERE id < ?1 AND asked IS NULL ORDER BY id LIMIT ?2)",
    )?;
    let dead_letters = dead_letters.execute((first_id_of(before(DEAD_LETTER_AGE)), STEP))?;

    connection
        .prepare_cached(
            "DELETE FROM replays WHERE number <= (SELECT max(number) FROM replays) - ?1",
        )?
        .execute([REPLAY_COUNT])?;

    let ticks = prune_ticks(connection, to_stored(before(TICK_AGE)))?;
    connection
        .prepare_cached(
            "DELETE FROM flow_sessions WHERE id <= (SELECT max(id) FROM flow_sessions) - ?1",
        )?
        .execute([SESSION_COUNT])?;
    // Each row that the pragma gives is a page given back, so it is read to its end.
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut pages = vacuum.query(())?;
    while pages.next()?.is_some() {}
    Ok(Pruned {
        runs,
        ticks,
        dead_letters,
    })
}

fn prune_ticks(connection: &Connection, before: i64) -> Result<usize, Failure> {
    // From name to name by the key: `SELECT DISTINCT` would read every row.
    let mut pipelines = connection.prepare_cached(
        "WITH RECURSIVE names (name) AS (
             SELECT min(pipeline) FROM ticks
             UNION ALL
             SELECT (SELECT min(pipeline) FROM ticks WHERE pipeline > name) FROM names
             WHERE name IS NOT NULL)
         SELECT name FROM names WHERE name IS NOT NULL",
    )?;
    let pipelines = pipelines
        .query_map((), |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut keep_newest = connection.prepare_cached(
        "UPDATE schedules SET last_tick = newest.at FROM (
             SELECT max(ticks.at) AS at FROM ticks JOIN schedules USING (pipeline)
             WHERE pipeline = ?1 AND ticks.at >= schedules.anchor) AS newest
         WHERE pipeline = ?1 AND newest.at > coalesce(last_tick, newest.at - 1)",
    )?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM ticks WHERE pipeline = ?1 AND at IN (
             SELECT at FROM ticks WHERE pipeline = ?1 AND (at < ?2 OR (state = 'done' AND at <= (
                 SELECT at FROM ticks WHERE pipeline = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?3)))
             ORDER BY at LIMIT ?4)",
    )?;
    let mut removed = 0;
    for pipeline in pipelines {
        keep_newest.execute([&pipeline])?;
        let room = (STEP as usize).saturating_sub(removed);
        removed += delete.execute((pipeline, before, TICK_COUNT, of_count(room as u64)))?;
    }
    Ok(removed)
}
