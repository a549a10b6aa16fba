//! What a flow remembers across restarts: runs, ticks, cursors, dead letters, inboxes.
//!
//! One folder holds one flow's state: `state.db`, an SQLite file that a single thread writes, and
//! `lock`, which keeps a second process away. [`State::open`] takes the folder; [`StateHandle`] is
//! the cheap clone that the rest of the engine writes through; [`StateReader`] reads from any
//! process, beside a running flow or after it.
//!
//! The contract of every call of a handle:
//!
//! * `Ok` means that the disk has it (the transaction was committed and synced).
//! * `Err` means that nothing of the call was kept. `Remote`: the disk is full or fails; the call may
//!   be made again and the state lives on. `Config`: the file is damaged, was removed, or another
//!   owner has taken over. `Bug`: ours.
//! * A caller that is dropped while it waits does not know which of the two it was.
//! * Calls from one task take effect in their order; the queue is bounded, so callers may wait.
//! * Texts are stored as they come: **whoever calls has scrubbed them of secrets**, in reasons,
//!   traces, errors, positions and params alike.
//! * The present time is always the caller's; nothing here reads a clock.

mod changes;
mod cursors;
mod dead_letters;
mod doubt;
mod failure;
mod files;
mod inbox;
mod lock;
mod opening;
mod outbox;
mod paused;
mod profiles;
mod read;
mod replays;
mod retention;
mod runs;
mod schema;
mod ticks;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use rusqlite::types::{FromSqlError, Type};

use jiff::Timestamp;
use wiredflow_core::Result;

pub use changes::{RunChange, StartedRun};
pub use cursors::StoredCursor;
pub use dead_letters::{Body, DeadLetter, DeadLetterId, ListedDeadLetter, StoredDeadLetter};
pub use files::{FileCommit, FileLine, FileLineOnItsWay};
pub use inbox::{InboxForm, InboxRow, StoredInbox};
pub use lock::{create_folder, flow_of, is_locked};
pub use opening::{Crash, Opening, Past};
pub use outbox::{FoundOutbox, OutboxRow, TakenOut};
pub use profiles::{KeptProfile, PROFILE_AGE, PROFILE_MINUTES};
pub use read::{RunSelection, Selection, StateReader};
pub use replays::{AskedLetter, LetterEditor, ReplayEnd, ReplayOutcome, StoredReplay};
pub use retention::{DEAD_LETTER_AGE, Pruned, RUN_AGE, RUN_COUNT, TICK_AGE, TICK_COUNT};
pub use runs::{RunEnd, RunId, RunOutcome, StoredRun};
pub use ticks::{Schedule, TickClaim};
pub use writer::StateSnapshot;

use writer::WriterHandle;

/// The open state of a flow: the folder's lock and the thread that writes.
///
/// Dropping it without [`State::close`] loses nothing that was answered, but leaves the session
/// without an end, which the next start reports as a crash; the folder stays locked until the last
/// handle is gone too.
#[derive(Debug)]
pub struct State {
    handle: StateHandle,
}

/// How a start of a flow came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionOutcome {
    /// It was stopped, or had nothing left to do.
    Ended,
    /// A failure stopped it.
    Failed,
}

impl State {
    /// Opens the state of `flow` in `folder`, which is made (for this user alone) if it is not there.
    ///
    /// A file of an older version is migrated. Runs that a crash has left open are ended as failed,
    /// and what was found is told in the [`Opening`] for the caller to log.
    /// Blocks on the disk for some milliseconds: call it before the flow's work begins.
    ///
    /// # Errors
    /// `Config` when another process holds the folder, when it belongs to another flow, or when
    /// its file is damaged or of a newer version, which is then left as it is. `Remote` when the disk is full.
    pub fn open(folder: &std::path::Path, flow: &str, now: Timestamp) -> Result<(Self, Opening)> {
        opening::open(folder, flow, now)
    }

    /// A handle to write through.
    pub fn handle(&self) -> StateHandle {
        self.handle.clone()
    }

    /// Ends the session, waits for every call that was made before, folds the log into the file and
    /// releases the folder. Handles that are left answer with an error from then on.
    ///
    /// # Errors
    /// `Remote` when the disk is full or fails; what was answered before is safe all the same, and
    /// the folder is released.
    pub async fn close(self, outcome: SessionOutcome, now: Timestamp) -> Result<()> {
        let session = self.handle.session;
        let word = match outcome {
            SessionOutcome::Ended => "ended",
            SessionOutcome::Failed => "failed",
        };
        let ended = self
            .handle
            .writer
            .call(move |connection| {
                connection.execute(
                    "UPDATE flow_sessions SET ended = ?2, outcome = ?3 WHERE id = ?1",
                    (session, to_stored(now), word),
                )?;
                Ok(())
            })
            .await;
        self.handle.writer.stop().await.and(ended)
    }
}

/// Writes into the open state; a cheap clone. The module's text has the contract of its calls.
#[derive(Clone, Debug)]
pub struct StateHandle {
    writer: WriterHandle,
    /// The row of this start of the flow, by which ticks of an earlier one are known.
    session: i64,
    /// The number of the newest run.
    last_run: Arc<AtomicI64>,
}

impl StateHandle {
    /// What the writer has done since the state was opened.
    pub fn snapshot(&self) -> StateSnapshot {
        self.writer.snapshot()
    }
}

/// A time as it is stored: milliseconds since 1970.
fn to_stored(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A time as it was stored.
fn from_stored(milliseconds: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(milliseconds).map_err(|error| unreadable(Type::Integer, error))
}

/// A stored count.
fn to_count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// A count to be stored.
fn of_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What a row holds that this version did not write.
fn unreadable(
    kind: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, kind, Box::new(error))
}

/// A stored word that this version does not know.
fn unknown_word() -> rusqlite::Error {
    unreadable(Type::Text, FromSqlError::InvalidType)
}
