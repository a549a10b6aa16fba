//! What happens when a flow starts: the folder is taken, the file made or migrated, and the traces of
//! an earlier crash are found.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use wiredflow_core::Result;

use super::doubt;
use super::failure::Failure;
use super::lock::{FolderLock, create_folder};
use super::paused;
use super::runs::INTERRUPTED;
use super::schema::{self, FileState, MIGRATIONS};
use super::{State, StateHandle, from_stored, to_stored, writer};

/// What was found when the state was opened, for the caller to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whether there was a state before.
    pub past: Past,
    /// The last start, when it ended without a word: a crash, a kill or a power cut.
    pub crash: Option<Crash>,
    /// Storages that a crash before may have torn, and that no start since has opened.
    pub in_doubt: BTreeSet<String>,
    /// Pipelines that are paused, and since when.
    pub paused: Vec<(String, Timestamp)>,
    /// The version that the file had, when it was migrated to a newer one.
    pub migrated_from: Option<usize>,
}

/// Whether there was a state before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// The flow runs in this folder for the first time.
    None,
    /// The folder has had a state since this time, but its `state.db` was deleted or emptied: ticks,
    /// cursors and dead letters are gone, and what was handled before may be handled again. To be
    /// said loudly.
    Lost(Timestamp),
    /// The state was found.
    Found,
}

/// A start of the flow that did not end in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// When it had started.
    pub started: Timestamp,
    /// The process that it was.
    pub pid: u32,
    /// How many runs it left open; they are ended as failed now.
    pub runs: usize,
}

/// See [`State::open`].
pub(super) fn open(folder: &Path, flow: &str, now: Timestamp) -> Result<(State, Opening)> {
    schema::check_library()?;
    create_folder(folder)?;
    let mut lock = FolderLock::take(folder, flow)?;
    let path = folder.join("state.db");
    let told = |failure: Failure| failure.into_error(&path);

    let file = prepare(folder, &path, flow).map_err(told)?;
    let mut connection = schema::open_to_write(&path, &file).map_err(told)?;
    let had = match file {
        FileState::Empty => 0,
        FileState::Version(version) => version,
    };
    schema::migrate(&mut connection, had, MIGRATIONS).map_err(told)?;
    let (session, crash) = begin_session(&mut connection, flow, now).map_err(told)?;
    let last_run = newest_run(&connection).map_err(told)?;
    let in_doubt = doubt::read(&connection).map_err(told)?;
    let paused = paused::read(&connection).map_err(told)?;

    let past = match (file, lock.state_since()) {
        (FileState::Version(_), _) => Past::Found,
        (FileState::Empty, None) => Past::None,
        (FileState::Empty, Some(since)) => Past::Lost(since),
    };
    if past != Past::Found {
        lock.remember(now).map_err(Failure::from).map_err(told)?;
    }
    let writer = writer::start(connection, path.clone(), lock).map_err(told)?;
    let state = State {
        handle: StateHandle {
            writer,
            session,
            last_run: Arc::new(AtomicI64::new(last_run)),
        },
    };
    let opening = Opening {
        past,
        crash,
        in_doubt,
        paused,
        migrated_from: Some(had).filter(|had| (1..MIGRATIONS.len()).contains(had)),
    };
    Ok((state, opening))
}

/// Makes the file, for this user alone, or looks at the one that is there and refuses a wrong one.
fn prepare(folder: &Path, path: &Path, flow: &str) -> Result<FileState, Failure> {
    if path.try_exists()? {
        return schema::look(path, flow);
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // The new names must outlive a power cut as the rows do: SQLite syncs its files, not the folder.
    File::open(folder)?.sync_all()?;
    if let Some(parent) = folder.canonicalize()?.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(FileState::Empty)
}

/// The number of the newest run of the history; 0 when there is none.
fn newest_run(connection: &Connection) -> Result<i64, Failure> {
    let newest = "SELECT coalesce(max(id), 0) FROM runs";
    Ok(connection.query_row(newest, (), |row| row.get(0))?)
}

/// Writes down that the flow has started, and ends what a crashed start has left open.
fn begin_session(
    connection: &mut Connection,
    flow: &str,
    now: Timestamp,
) -> Result<(i64, Option<Crash>), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT INTO meta (key, value) VALUES ('flow', ?1) ON CONFLICT DO NOTHING",
        [flow],
    )?;
    let runs = transaction.execute(
        "UPDATE runs SET outcome = 'failed', ended = ?1, error = ?2 WHERE outcome = 'running'",
        (to_stored(now), INTERRUPTED),
    )?;
    let open = transaction
        .query_row(
            "SELECT started, pid FROM flow_sessions WHERE ended IS NULL ORDER BY id DESC LIMIT 1",
            (),
            |row| {
                Ok(Crash {
                    started: from_stored(row.get(0)?)?,
                    pid: row.get(1)?,
                    runs,
                })
            },
        )
        .optional()?;
    transaction.execute(
        "UPDATE flow_sessions SET ended = ?1, outcome = 'crashed' WHERE ended IS NULL",
        [to_stored(now)],
    )?;
    transaction.execute(
        "INSERT INTO flow_sessions (pid, version, started) VALUES (?1, ?2, ?3)",
        (
            std::process::id(),
            env!("CARGO_PKG_VERSION"),
            to_stored(now),
        ),
    )?;
    let session = transaction.last_insert_rowid();
    transaction.commit()?;
    Ok((session, open))
}
