//! Reading a state from any process, while the flow runs or not: history, dead letters, backup.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Params, Row};
use wiredflow_core::{Error, Result};

use super::dead_letters::{self, ListedDeadLetter, StoredDeadLetter};
use super::failure::Failure;
use super::lock;
use super::runs::{self, RunOutcome, StoredRun};
use super::schema::{self, FileState, MIGRATIONS};
use super::to_count;

/// Reads a flow's state without its lock and without changing it. It sees every call that was
/// answered before the read began. Its methods block on the disk.
#[derive(Debug)]
pub struct StateReader {
    connection: Connection,
    path: PathBuf,
    folder: PathBuf,
}

/// Which rows to read; all when nothing is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Only those of this pipeline.
    pub pipeline: Option<&'a str>,
    /// At most this many.
    pub limit: Option<u32>,
}

/// Which runs to read; all when nothing is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunSelection<'a> {
    /// Only those of this pipeline.
    pub pipeline: Option<&'a str>,
    /// Only those that ended so.
    pub outcome: Option<RunOutcome>,
    /// At most this many.
    pub limit: Option<u32>,
}

impl StateReader {
    /// Opens the state of `flow` in `folder`.
    ///
    /// # Errors
    /// `Config` when the flow has never run there, or the file is of another flow or another version.
    pub fn open(folder: &Path, flow: &str) -> Result<Self> {
        let path = folder.join("state.db");
        if !path.is_file() {
            return Err(nothing_yet(folder, flow));
        }
        let told = |failure: Failure| failure.into_error(&path);
        let connection = schema::open_to_read(&path).map_err(told)?;
        match schema::identify(&connection, flow).map_err(told)? {
            FileState::Empty => Err(nothing_yet(folder, flow)),
            FileState::Version(version) if version < MIGRATIONS.len() => {
                Err(Error::config(format!(
                    "the state `{}` has the older version {version}; run the flow once to bring it to \
                 version {}",
                    path.display(),
                    MIGRATIONS.len()
                )))
            }
            FileState::Version(_) => Ok(Self {
                connection,
                path,
                folder: folder.to_owned(),
            }),
        }
    }

    /// Runs, newest first. One that its process has left open has failed, as the next start will say too.
    pub fn runs(&self, selection: Selection<'_>) -> Result<Vec<StoredRun>> {
        self.chosen_runs(RunSelection {
            pipeline: selection.pipeline,
            outcome: None,
            limit: selection.limit,
        })
    }

    /// As [`StateReader::runs`], also by their outcome.
    pub fn chosen_runs(&self, selection: RunSelection<'_>) -> Result<Vec<StoredRun>> {
        let columns = runs::COLUMNS;
        // Asked before and after: a process may begin or end just now.
        let is_held = lock::is_held(&self.folder);
        let mut found = self.rows(
            &format!(
                "SELECT {columns} FROM runs WHERE (?1 IS NULL OR pipeline = ?1)
                     AND (?3 IS NULL OR outcome = ?3 OR (?4 AND outcome = 'running'))
                 ORDER BY id DESC LIMIT ?2"
            ),
            (
                selection.pipeline,
                selection.limit.map_or(-1, i64::from),
                selection.outcome.map(RunOutcome::word),
                // One that its process has left open has failed.
                selection.outcome == Some(RunOutcome::Failed) && !is_held,
            ),
            runs::read_row,
        )?;
        if !is_held && !lock::is_held(&self.folder) {
            found.iter_mut().for_each(StoredRun::interrupt);
        }
        Ok(found)
    }

    /// Dead letters without their bodies, newest first.
    pub fn dead_letters(&self, selection: Selection<'_>) -> Result<Vec<ListedDeadLetter>> {
        let columns = dead_letters::LISTED_COLUMNS;
        self.rows(
            &format!(
                "SELECT {columns} FROM dead_letters WHERE ?1 IS NULL OR pipeline = ?1
                 ORDER BY id DESC LIMIT ?2"
            ),
            selection.params(),
            dead_letters::read_listed,
        )
    }

    /// How many dead letters each pipeline has; those that have none are left out.
    pub fn dead_letter_counts(&self) -> Result<BTreeMap<String, u64>> {
        let counts = self.rows(
            "SELECT pipeline, count(*) FROM dead_letters GROUP BY pipeline",
            (),
            |row| Ok((row.get(0)?, to_count(row.get(1)?))),
        )?;
        Ok(counts.into_iter().collect())
    }

    /// The dead letter of this name, if it is kept.
    pub fn dead_letter(&self, id: &str) -> Result<Option<StoredDeadLetter>> {
        let columns = dead_letters::COLUMNS;
        self.connection
            .prepare_cached(&format!("SELECT {columns} FROM dead_letters WHERE id = ?1"))
            .and_then(|mut statement| {
                statement
                    .query_row([id], dead_letters::read_stored)
                    .optional()
            })
            .map_err(|error| Failure::from(error).into_error(&self.path))
    }

    /// Writes a copy of the whole state to `target`, which must not exist: complete when this returns,
    /// and never seen half-written. A running flow goes on meanwhile.
    ///
    /// # Errors
    /// `Config` when `target` exists or cannot be made, `Remote` when the disk is full or fails.
    pub fn backup(&self, target: &Path) -> Result<()> {
        let told = |failure: Failure| failure.into_error(target);
        if target.try_exists().map_err(|error| told(error.into()))? {
            return Err(Error::config(format!(
                "`{}` is there already; name a new file for the backup",
                target.display()
            )));
        }
        let mut partial = target.as_os_str().to_owned();
        partial.push(".partial");
        let partial = Path::new(&partial);
        let written = self.write_backup(target, partial);
        if written.is_err() {
            // What is left of it is worth nothing; that it cannot be removed changes no answer.
            drop(fs::remove_file(partial));
        }
        written.map_err(told)
    }

    fn write_backup(&self, target: &Path, partial: &Path) -> Result<(), Failure> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(partial)?;
        let name = partial.to_str().ok_or_else(|| {
            Failure::from(Error::config("the backup's name must be readable text"))
        })?;
        self.connection.execute("VACUUM INTO ?1", [name])?;
        file.sync_all()?;
        fs::rename(partial, target)?;
        let folder = target.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }

    pub(super) fn rows<T>(
        &self,
        statement: &str,
        params: impl Params,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.connection
            .prepare_cached(statement)
            .and_then(|mut statement| statement.query_map(params, read)?.collect())
            .map_err(|error| Failure::from(error).into_error(&self.path))
    }
}

impl<'a> Selection<'a> {
    /// As the two parameters of a statement; a negative limit means all.
    fn params(self) -> (Option<&'a str>, i64) {
        (self.pipeline, self.limit.map_or(-1, i64::from))
    }
}

fn nothing_yet(folder: &Path, flow: &str) -> Error {
    Error::config(format!(
        "there is no state of `{flow}` in `{}` yet; it is made when the flow first runs",
        folder.display()
    ))
}
