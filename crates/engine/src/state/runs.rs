//! The history of runs: one row for each delivery that is worth remembering.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use wiredflow_core::{Error, Result};

use super::failure::Failure;
use super::{StateHandle, from_stored, of_count, ticks, to_count, to_stored, unknown_word};

/// Names a run in the history of its flow; later runs have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RunId(pub(super) i64);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// Every required sink has committed.
    Committed,
    /// It failed, and its pipeline's `on_failure` decided what then.
    Failed,
    /// All that it carried was set aside as dead letters.
    DeadLettered,
    /// It did not run, or its policy passed over what failed.
    Skipped,
}

impl RunOutcome {
    /// The word in the file and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Failed => "failed",
            Self::DeadLettered => "dead_lettered",
            Self::Skipped => "skipped",
        }
    }
}

/// What is known of a run at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// How it ended.
    pub outcome: RunOutcome,
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
    /// Why it failed, scrubbed of secrets.
    pub error: Option<String>,
}

/// A run of the history. `outcome` is written as its word, and as `running` while there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredRun {
    /// Its number.
    pub id: RunId,
    /// The pipeline that ran.
    pub pipeline: String,
    /// The tick that it ran for, if a schedule started it.
    pub scheduled_at: Option<Timestamp>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended; none while it runs.
    #[serde(serialize_with = "outcome_word")]
    pub outcome: Option<RunOutcome>,
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is said of a run whose process has ended before it.
pub(super) const INTERRUPTED: &str = "interrupted: the process ended before this run did";

impl StoredRun {
    /// Ends the run in the reader's eyes, if it has no end.
    pub(super) fn interrupt(&mut self) {
        if self.outcome.is_none() {
            self.outcome = Some(RunOutcome::Failed);
            self.error = Some(INTERRUPTED.to_owned());
        }
    }
}

impl StateHandle {
    /// Records that a run begins; `scheduled_at` is its tick, if a schedule started it.
    pub async fn start_run(
        &self,
        pipeline: &str,
        scheduled_at: Option<Timestamp>,
        started: Timestamp,
    ) -> Result<RunId> {
        let (run, pipeline) = (self.next_run(), pipeline.to_owned());
        self.writer
            .call(move |connection| insert(connection, run, &pipeline, scheduled_at, started))
            .await
    }

    /// Records a run's end; its tick, if it had one, is done in the same transaction.
    /// Told twice, the later end stands.
    ///
    /// # Errors
    /// `Bug` for a run that this state does not have.
    pub async fn finish_run(&self, run: RunId, end: RunEnd, ended: Timestamp) -> Result<()> {
        self.writer
            .call(move |connection| finish(connection, run, &end, ended))
            .await
    }

    /// Records a run that has begun and ended, in one call: for what never ran (a tick that was
    /// skipped because the last run was still going) and for short runs of streams.
    pub async fn record_run(
        &self,
        pipeline: &str,
        scheduled_at: Option<Timestamp>,
        started: Timestamp,
        end: RunEnd,
        ended: Timestamp,
    ) -> Result<RunId> {
        let (run, pipeline) = (self.next_run(), pipeline.to_owned());
        self.writer
            .call(move |connection| {
                insert(connection, run, &pipeline, scheduled_at, started)?;
                finish(connection, run, &end, ended)?;
                Ok(run)
            })
            .await
    }
}

pub(super) fn insert(
    connection: &Connection,
    run: RunId,
    pipeline: &str,
    scheduled_at: Option<Timestamp>,
    started: Timestamp,
) -> Result<RunId, Failure> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO runs (id, pipeline, scheduled_at, started, outcome)
         VALUES (?1, ?2, ?3, ?4, 'running')",
    )?;
    let tick = scheduled_at.map(to_stored);
    statement.execute((run.0, pipeline, tick, to_stored(started)))?;
    Ok(run)
}

fn finish(
    connection: &Connection,
    run: RunId,
    end: &RunEnd,
    ended: Timestamp,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "UPDATE runs SET ended = ?2, outcome = ?3, records_in = ?4, records_out = ?5, error = ?6
         WHERE id = ?1 RETURNING pipeline, scheduled_at",
    )?;
    let values = (
        run.0,
        to_stored(ended),
        end.outcome.word(),
        of_count(end.records_in),
        of_count(end.records_out),
        end.error.as_deref(),
    );
    let tick: Option<(String, Option<i64>)> = statement
        .query_row(values, |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match tick {
        Some((pipeline, Some(at))) => ticks::finish(connection, &pipeline, at),
        Some((_, None)) => Ok(()),
        None => Err(Failure::from(Error::bug(format!(
            "run {} was never started",
            run.0
        )))),
    }
}

pub(super) const COLUMNS: &str = "id, pipeline, scheduled_at, started, ended, outcome, records_in, \
                                  records_out, error";

/// Reads a row of [`COLUMNS`].
pub(super) fn read_row(row: &Row<'_>) -> rusqlite::Result<StoredRun> {
    let optional = |time: Option<i64>| time.map(from_stored).transpose();
    let word: String = row.get(5)?;
    Ok(StoredRun {
        id: RunId(row.get(0)?),
        pipeline: row.get(1)?,
        scheduled_at: optional(row.get(2)?)?,
        started: from_stored(row.get(3)?)?,
        ended: optional(row.get(4)?)?,
        outcome: outcome(&word)?,
        records_in: to_count(row.get(6)?),
        records_out: to_count(row.get(7)?),
        error: row.get(8)?,
    })
}

fn outcome(word: &str) -> rusqlite::Result<Option<RunOutcome>> {
    use RunOutcome::{Committed, DeadLettered, Failed, Skipped};
    if word == "running" {
        return Ok(None);
    }
    let found = [Committed, Failed, DeadLettered, Skipped]
        .into_iter()
        .find(|outcome| outcome.word() == word);
    found.map(Some).ok_or_else(unknown_word)
}

fn outcome_word<S: serde::Serializer>(
    outcome: &Option<RunOutcome>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome.map_or("running", RunOutcome::word))
}
