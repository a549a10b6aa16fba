//! Dead letters that are asked for again: the mark in their rows, and what becomes of them.
//!
//! ```text
//! kept ── ask ──> asked ── committed, or passed over by a policy ──> gone
//!   ^               │
//!   └─ fails again ─┘        a crash changes nothing: what is asked stays asked
//! ```
//!
//! The row is the queue: it leaves, or becomes what has failed this time, in the one transaction that ends the replay.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use serde::Serialize;
use wiredflow_core::{Error, Result};

use super::dead_letters::{self, DeadLetter, DeadLetterId, RowTexts, StoredDeadLetter};
use super::failure::Failure;
use super::read::StateReader;
use super::schema;
use super::{StateHandle, from_stored, to_stored};

/// A letter that waits for its replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedLetter {
    /// Its name.
    pub id: DeadLetterId,
    /// The pipeline that it was in.
    pub pipeline: String,
}

/// How the replay of a letter has ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplayOutcome {
    /// All that came of it is committed: the letter goes.
    Committed,
    /// A policy has passed over it: the letter goes.
    Skipped,
    /// This has failed. The first takes the letter's row, so that it keeps its name; others get rows of their own.
    /// With none, the letter stays as it is.
    FailedAgain {
        /// What has failed.
        letters: Vec<DeadLetter>,
        /// Why it ended, where no letter says it.
        reason: Option<String>,
    },
    /// It could not be replayed, for this reason: it stays as it is.
    Refused(String),
}

impl ReplayOutcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Skipped => "skipped",
            Self::FailedAgain { .. } => "dead_lettered",
            Self::Refused(_) => "refused",
        }
    }
}

/// The end of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayEnd {
    /// The letter.
    pub letter: DeadLetterId,
    /// When.
    pub ended: Timestamp,
    /// How.
    pub outcome: ReplayOutcome,
}

/// What became of a replay, as who has asked for it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredReplay {
    /// Counts the ends of replays.
    #[serde(skip)]
    pub number: i64,
    /// The letter.
    #[serde(rename = "id")]
    pub letter: DeadLetterId,
    /// `committed`, `skipped`, `dead_lettered` (it has failed again) or `refused`.
    pub outcome: String,
    /// Why it did not go well.
    pub reason: Option<String>,
    /// The letters that there are now in its place.
    pub became: Vec<String>,
    /// When it ended.
    pub ended: Timestamp,
}

impl StateHandle {
    /// Letters that are asked for, those that wait longest first: of one pipeline, or of all.
    pub async fn asked_letters(
        &self,
        pipeline: Option<&str>,
        most: usize,
    ) -> Result<Vec<AskedLetter>> {
        let pipeline = pipeline.map(str::to_owned);
        self.writer
            .call(move |connection| {
                let mut asked = connection.prepare_cached(
                    "SELECT id, pipeline FROM dead_letters
                     WHERE asked IS NOT NULL AND (?1 IS NULL OR pipeline = ?1)
                     ORDER BY asked, id LIMIT ?2",
                )?;
                let letters = asked.query_map((&pipeline, most as u64 as i64), |row| {
                    Ok(AskedLetter {
                        id: DeadLetterId(row.get(0)?),
                        pipeline: row.get(1)?,
                    })
                })?;
                Ok(letters.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    /// A letter with its body, if it is kept, and asked for still.
    pub async fn asked_letter(&self, id: &DeadLetterId) -> Result<Option<StoredDeadLetter>> {
        let id = id.clone();
        self.writer
            .call(move |connection| {
                let columns = dead_letters::COLUMNS;
                let found = connection
                    .prepare_cached(&format!(
                        "SELECT {columns} FROM dead_letters WHERE id = ?1 AND asked IS NOT NULL"
                    ))?
                    .query_row([&id.0], dead_letters::read_stored)
                    .optional()?;
                Ok(found)
            })
            .await
    }

    /// Writes how replays have ended, all of them or none: a letter leaves, or stays with what has failed now. One that
    /// was dropped meanwhile is dropped.
    pub async fn end_replays(&self, ends: std::sync::Arc<[ReplayEnd]>) -> Result<()> {
        // Made into text here, on the caller's thread: the writer's time is everyone's.
        let rows = ends
            .iter()
            .map(|end| match &end.outcome {
                ReplayOutcome::FailedAgain { letters, .. } => {
                    letters.iter().map(RowTexts::of).collect()
                }
                _ => Ok(Vec::new()),
            })
            .collect::<Result<Vec<Vec<RowTexts>>>>()?;
        self.writer
            .call(move |connection| {
                let mut each = ends.iter().zip(&rows);
                each.try_for_each(|(end, rows)| end_one(connection, end, rows))
            })
            .await
    }
}

fn end_one(connection: &Connection, end: &ReplayEnd, rows: &[RowTexts]) -> Result<(), Failure> {
    let id = &end.letter;
    let before: Option<(u32, Option<String>)> = connection
        .prepare_cached("SELECT attempts, delivery FROM dead_letters WHERE id = ?1")?
        .query_row([&id.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((attempts, delivery)) = before else {
        return Ok(());
    };
    let mut became = Vec::new();
    let mut why = None;
    match &end.outcome {
        ReplayOutcome::Committed | ReplayOutcome::Skipped => {
            connection
                .prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?
                .execute([&id.0])?;
        }
        ReplayOutcome::Refused(reason) => {
            at_rest(connection, id)?;
            became.push(id.clone());
            why = Some(reason.clone());
        }
        ReplayOutcome::FailedAgain { letters, reason } => {
            for (letter, row) in letters.iter().zip(rows) {
                let letter = DeadLetter {
                    attempts: letter.attempts.saturating_add(attempts),
                    delivery: delivery.clone(),
                    again: false,
                    ..letter.clone()
                };
                if became.is_empty() {
                    replace(connection, id, &letter, row)?;
                    became.push(id.clone());
                } else {
                    became.push(dead_letters::insert(connection, &letter, row)?);
                }
            }
            if letters.is_empty() {
                at_rest(connection, id)?;
                became.push(id.clone());
            }
            let first = letters.first().map(|letter| letter.reason.clone());
            why = first.or_else(|| reason.clone());
        }
    }
    let became: Vec<&str> = became.iter().map(|id| id.0.as_str()).collect();
    let became = serde_json::Value::from(became).to_string();
    connection
        .prepare_cached(
            "INSERT INTO replays (letter, ended, outcome, reason, became) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((&id.0, to_stored(end.ended), end.outcome.word(), why, became))?;
    Ok(())
}

/// Takes a letter's mark away.
fn at_rest(connection: &Connection, id: &DeadLetterId) -> Result<(), Failure> {
    connection
        .prepare_cached("UPDATE dead_letters SET asked = NULL WHERE id = ?1")?
        .execute([&id.0])?;
    Ok(())
}

/// Makes a letter's row tell of what has failed now.
fn replace(
    connection: &Connection,
    id: &DeadLetterId,
    letter: &DeadLetter,
    row: &RowTexts,
) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "UPDATE dead_letters SET stage = ?2, time = ?3, bytes = ?4, attempts = ?5, kind = ?6,
                 reason = ?7, trace = ?8, params = ?9, secrets = ?10, body_encoding = ?11, is_batch = ?12,
                 body = ?13, origin = coalesce(?14, origin), asked = NULL
             WHERE id = ?1",
        )?
        .execute(rusqlite::params![
            id.0,
            letter.stage,
            to_stored(letter.time),
            super::of_count(row.body.len() as u64),
            letter.attempts,
            letter.kind.word(),
            letter.reason,
            letter.trace,
            row.params,
            row.secrets,
            row.encoding,
            row.is_batch,
            &row.body[..],
            letter.origin,
        ])?;
    Ok(())
}

impl StateReader {
    /// The number of the newest end of a replay; 0 when there is none.
    pub fn newest_replay(&self) -> Result<i64> {
        let newest = self.rows("SELECT coalesce(max(number), 0) FROM replays", (), |row| {
            row.get(0)
        })?;
        Ok(newest.first().copied().unwrap_or(0))
    }

    /// The ends of replays after that number, in order.
    pub fn replays_after(&self, number: i64) -> Result<Vec<StoredReplay>> {
        self.rows(
            "SELECT number, letter, outcome, reason, became, ended FROM replays
             WHERE number > ?1 ORDER BY number",
            [number],
            |row| {
                let became: String = row.get(4)?;
                Ok(StoredReplay {
                    number: row.get(0)?,
                    letter: DeadLetterId(row.get(1)?),
                    outcome: row.get(2)?,
                    reason: row.get(3)?,
                    became: serde_json::from_str(&became).unwrap_or_default(),
                    ended: from_stored(row.get(5)?)?,
                })
            },
        )
    }
}

/// Marks and removes dead letters from any process, beside a running flow: its short transactions and those of the
/// flow's one writer wait for each other. Its methods block on the disk.
#[derive(Debug)]
pub struct LetterEditor {
    connection: Connection,
    path: std::path::PathBuf,
}

impl LetterEditor {
    /// Opens the state of `flow` in `folder`, which must be there.
    ///
    /// # Errors
    /// As [`StateReader::open`].
    pub fn open(folder: &std::path::Path, flow: &str) -> Result<Self> {
        // It looks whose file it is, and of which version.
        drop(StateReader::open(folder, flow)?);
        let path = folder.join("state.db");
        let open = || -> Result<Connection, Failure> {
            let connection = Connection::open_with_flags(&path, schema::WRITER)?;
            schema::settle(&connection)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // Folding the log in is the flow's own work.
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            Ok(connection)
        };
        let connection = open().map_err(|failure| failure.into_error(&path))?;
        Ok(Self { connection, path })
    }

    /// Asks for the replay of these letters, all of them or none. One that is asked for already keeps its place.
    ///
    /// # Errors
    /// `Data` when one of them is not there (any more); `Remote` when the disk is full or the file stays busy.
    pub fn ask(&mut self, letters: &[DeadLetterId], now: Timestamp) -> Result<()> {
        self.change(
            letters,
            "UPDATE dead_letters SET asked = coalesce(asked, ?2) WHERE id = ?1",
            now,
        )
    }

    /// Removes these letters for good, all of them or none, asked for or not.
    ///
    /// # Errors
    /// As [`LetterEditor::ask`].
    pub fn remove(&mut self, letters: &[DeadLetterId]) -> Result<()> {
        let unused = Timestamp::UNIX_EPOCH;
        self.change(
            letters,
            "DELETE FROM dead_letters WHERE id = ?1 AND ?2 IS NOT NULL",
            unused,
        )
    }

    fn change(&mut self, letters: &[DeadLetterId], statement: &str, now: Timestamp) -> Result<()> {
        let mut change = || -> Result<(), Failure> {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let distinct: BTreeSet<&DeadLetterId> = letters.iter().collect();
            for letter in distinct {
                let changed = transaction
                    .prepare_cached(statement)?
                    .execute((&letter.0, to_stored(now)))?;
                if changed == 0 {
                    return Err(Failure::from(Error::data(format!(
                        "there is no dead letter `{letter}` any more; nothing was changed"
                    ))));
                }
            }
            transaction.commit()?;
            Ok(())
        };
        change().map_err(|failure| failure.into_error(&self.path))
    }
}
