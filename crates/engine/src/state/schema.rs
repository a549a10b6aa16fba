//! The tables of `state.db`, how they came to be, and which files are refused.
//!
//! `PRAGMA user_version` counts the migrations that a file has had. Each runs in a transaction of its
//! own together with the new number, so a crash leaves the file before or after it, never between.
//!
//! Times are integers: milliseconds since 1970, UTC. They compare and index as numbers, take six
//! bytes, have no zone or format to get wrong, and `datetime(started / 1000, 'unixepoch')` reads them
//! by hand. Schedules are no finer than 10 ms, so nothing that must be told apart falls together.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ffi};
use std::path::Path;
use std::time::Duration;

use wiredflow_core::Error;

use super::failure::Failure;
use super::lock::own_folder;

/// How long a statement waits for another process that has the file, a `backup` or a reader.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// "WFst": says that a file is a state of Wiredflow.
const APPLICATION_ID: i32 = 0x5746_7374;

/// The first SQLite without the bug that could corrupt a file when its WAL is reset, as the library
/// numbers itself.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Every change of the tables since the first, in order; a line that was released is never edited.
pub(super) const MIGRATIONS: &[&str] = &[V1, V2, V3, V4];

const V1: &str = "
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each start of the flow; without an end it crashed.
CREATE TABLE flow_sessions (
    id INTEGER PRIMARY KEY,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended INTEGER,
    outcome TEXT CHECK (outcome IN ('ended', 'failed', 'crashed'))
) STRICT;

CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    pipeline TEXT NOT NULL,
    scheduled_at INTEGER,
    started INTEGER NOT NULL,
    ended INTEGER,
    outcome TEXT NOT NULL
        CHECK (outcome IN ('running', 'committed', 'failed', 'dead_lettered', 'skipped')),
    records_in INTEGER NOT NULL DEFAULT 0,
    records_out INTEGER NOT NULL DEFAULT 0,
    error TEXT
) STRICT;
CREATE INDEX runs_running ON runs (id) WHERE outcome = 'running';

-- A row makes its tick run once; `session` is the start of the flow that claimed it.
CREATE TABLE ticks (
    pipeline TEXT NOT NULL,
    at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('claimed', 'done')),
    session INTEGER NOT NULL,
    PRIMARY KEY (pipeline, at)
) STRICT, WITHOUT ROWID;

-- The grid of each schedule; another definition starts a new grid.
CREATE TABLE schedules (
    pipeline TEXT PRIMARY KEY,
    definition TEXT NOT NULL,
    anchor INTEGER NOT NULL,
    last_tick INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
    pipeline TEXT NOT NULL,
    source TEXT NOT NULL,
    position TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (pipeline, source)
) STRICT, WITHOUT ROWID;

-- The body stands last, so that a list does not read it.
CREATE TABLE dead_letters (
    id TEXT NOT NULL PRIMARY KEY,
    pipeline TEXT NOT NULL,
    stage TEXT NOT NULL,
    time INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    kind TEXT NOT NULL,
    delivery TEXT,
    reason TEXT NOT NULL,
    trace TEXT,
    params TEXT,
    body_encoding TEXT NOT NULL CHECK (body_encoding IN ('json', 'bytes')),
    body BLOB NOT NULL
) STRICT;
";

const V2: &str = "
-- How far the data files of storages are committed: see the module `files`.
CREATE TABLE files (
    name TEXT PRIMARY KEY,
    from_byte INTEGER NOT NULL,
    length INTEGER NOT NULL,
    digested INTEGER NOT NULL,
    digest BLOB NOT NULL,
    old_end BLOB NOT NULL,
    inode INTEGER,
    length_before INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE file_cursors (
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    position TEXT NOT NULL,
    position_before TEXT,
    PRIMARY KEY (name, source)
) STRICT;

CREATE INDEX dead_letters_delivery ON dead_letters (delivery) WHERE delivery IS NOT NULL;
";

const V3: &str = "
-- A letter that is asked for is its own place in the queue of replays: since when. `is_batch` says that the body is an
-- array of records; `origin` is where a payload came from; `secrets` are the places in the params where secrets stood.
ALTER TABLE dead_letters ADD COLUMN asked INTEGER;
ALTER TABLE dead_letters ADD COLUMN is_batch INTEGER;
ALTER TABLE dead_letters ADD COLUMN origin TEXT;
ALTER TABLE dead_letters ADD COLUMN secrets TEXT;
CREATE INDEX dead_letters_asked ON dead_letters (asked, id) WHERE asked IS NOT NULL;

-- What became of replays, for who has asked: the newest of them.
CREATE TABLE replays (
    number INTEGER PRIMARY KEY,
    letter TEXT NOT NULL,
    ended INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('committed', 'skipped', 'dead_lettered', 'refused')),
    reason TEXT,
    became TEXT NOT NULL
) STRICT;

-- Inboxes: what sources have brought and pipelines have not dealt with yet. `row` is the inbox's id and a number
-- of 48 bits; see the module `inbox`. The body stands last, so that it is not read with the rest.
CREATE TABLE inboxes (
    id INTEGER PRIMARY KEY,
    pipeline TEXT NOT NULL UNIQUE,
    session INTEGER NOT NULL,
    low INTEGER NOT NULL
) STRICT;

CREATE TABLE inbox (
    row INTEGER PRIMARY KEY,
    dealt INTEGER NOT NULL DEFAULT 0,
    session INTEGER,
    place INTEGER,
    print INTEGER,
    origin TEXT,
    form TEXT NOT NULL CHECK (form IN ('json', 'values', 'unreadable', 'empty')),
    reason TEXT,
    body BLOB NOT NULL
) STRICT;

-- Outboxes: what senders have taken on and peers have not confirmed yet, see the module `outbox`. A row's number is
-- the outbox's id and a number of 48 bits. A row without a body is sent, and known for a while.
CREATE TABLE outboxes (
    id INTEGER PRIMARY KEY,
    pipeline TEXT NOT NULL,
    stage TEXT NOT NULL,
    session INTEGER NOT NULL,
    next INTEGER NOT NULL,
    UNIQUE (pipeline, stage)
) STRICT;

CREATE TABLE outbox (
    row INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    digest INTEGER,
    parcel INTEGER NOT NULL,
    delivery INTEGER NOT NULL,
    list INTEGER NOT NULL,
    time INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    params TEXT,
    body BLOB
) STRICT;
";

const V4: &str = "
-- What was measured, by the minute and later by the hour: see the module `profiles`.
CREATE TABLE profiles (
    begin INTEGER PRIMARY KEY,
    ended INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    figures BLOB NOT NULL
) STRICT;
";

pub(super) const WRITER: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// What a file is, before anything is done to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileState {
    /// No tables yet: a new or an emptied file.
    Empty,
    /// This flow's state after so many migrations.
    Version(usize),
}

/// Refuses an SQLite library that is too old to be trusted with a WAL.
pub(super) fn check_library() -> Result<(), Error> {
    if rusqlite::version_number() >= OLDEST_SQLITE {
        return Ok(());
    }
    Err(Error::bug(format!(
        "this build has SQLite {}, whose WAL can corrupt a file; build with 3.51.3 or newer",
        rusqlite::version()
    )))
}

/// Looks at a file without changing a byte of it.
///
/// # Errors
/// `Config` for a file of a newer version, of another flow, or of another program.
pub(super) fn look(path: &Path, flow: &str) -> Result<FileState, Failure> {
    let connection = open_to_read(path)?;
    // The last connection to close would otherwise fold the WAL into a file that may be refused.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    identify(&connection, flow)
}

/// What the open file is; see [`look`].
pub(super) fn identify(connection: &Connection, flow: &str) -> Result<FileState, Failure> {
    let version: i64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    let application: i32 = connection.query_row("PRAGMA application_id", (), |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    if tables == 0 && version == 0 {
        return Ok(FileState::Empty);
    }
    if application != APPLICATION_ID || version < 1 {
        return Err(Failure::from(Error::config(
            "the file is not a state of Wiredflow; move it away, or set `state:` to another folder",
        )));
    }
    let known = MIGRATIONS.len();
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > known {
        return Err(Failure::from(Error::config(format!(
            "the file has version {version}, and this Wiredflow ({}) knows versions up to {known}; \
             run the newer Wiredflow that wrote it, or set `state:` to another folder",
            env!("CARGO_PKG_VERSION")
        ))));
    }
    match owner(connection)? {
        Some(other) if other != flow => Err(Failure::from(Error::config(format!(
            "the folder belongs to the flow `{other}`; {}",
            own_folder(flow)
        )))),
        _ => Ok(FileState::Version(version)),
    }
}

fn owner(connection: &Connection) -> Result<Option<String>, Failure> {
    let owner = connection
        .query_row("SELECT value FROM meta WHERE key = 'flow'", (), |row| {
            row.get(0)
        })
        .optional()?;
    Ok(owner)
}

/// Opens the file for the one writer, with every commit synced to the disk.
pub(super) fn open_to_write(path: &Path, state: &FileState) -> Result<Connection, Failure> {
    let connection = Connection::open_with_flags(path, WRITER)?;
    settle(&connection)?;
    if *state == FileState::Empty {
        // One sync for the whole of an empty file, below, where each of these would take several.
        connection.pragma_update(None, "synchronous", "OFF")?;
        // Both only take hold before the first table.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
    if mode != "wal" {
        return Err(Failure::from(Error::config(format!(
            "the disk allows no write-ahead log (it gives `{mode}`); set `state:` to a local folder"
        ))));
    }
    if *state == FileState::Empty {
        // A file without its first page would make SQLite throw a log away that has been committed to.
        std::fs::File::open(path)?.sync_all()?;
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Savepoints keep their undo in memory; a burst's log is given back afterwards.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    // Folding the log into the file takes some milliseconds in which nobody is answered: seldom, then.
    connection.pragma_update(None, "wal_autocheckpoint", 8192)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens the file to read, beside a running flow or without one.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    settle(&connection)?;
    if !rollback_is_due(&connection) {
        return Ok(connection);
    }
    // Only who may write can undo it; what it undoes was never committed.
    let connection = Connection::open_with_flags(path, WRITER)?;
    settle(&connection)?;
    Ok(connection)
}

/// Whether a kill has come while the file was being made, before it had a write-ahead log: what was half
/// done then must be undone before anything can be read.
fn rollback_is_due(connection: &Connection) -> bool {
    let version = connection.query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0));
    let code = version
        .err()
        .and_then(|error| error.sqlite_error().copied());
    code.is_some_and(|code| code.extended_code == ffi::SQLITE_READONLY_ROLLBACK)
}

/// What every connection has: a wait for others, and no trust in what the file's schema says.
pub(super) fn settle(connection: &Connection) -> Result<(), Failure> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(())
}

/// Brings a file from `from` migrations to all of `migrations`.
pub(super) fn migrate(
    connection: &mut Connection,
    from: usize,
    migrations: &[&str],
) -> Result<(), Failure> {
    for (version, statements) in (1..).zip(migrations).skip(from) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(statements)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection
            .query_row("PRAGMA user_version", (), |row| row.get(0))
            .unwrap()
    }

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            .unwrap();
        let names = statement.query_map((), |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    }

    #[test]
    fn the_library_is_new_enough() {
        check_library().unwrap();
    }

    #[test]
    fn a15_each_migration_runs_once_and_keeps_what_is_there() {
        let mut connection = Connection::open_in_memory().unwrap();
        let first = "CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (7);";
        migrate(&mut connection, 0, &[first]).unwrap();
        assert_eq!(version(&connection), 1);
        let both = [first, "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 8;"];
        migrate(&mut connection, 1, &both).unwrap();
        migrate(&mut connection, 2, &both).unwrap();
        assert_eq!(version(&connection), 2);
        let row: (i64, i64) = connection
            .query_row("SELECT x, y FROM a", (), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(row, (7, 8));
    }

    #[test]
    fn a15_a_migration_that_fails_half_way_leaves_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        let steps = [
            "CREATE TABLE a (x);",
            "CREATE TABLE b (x); CREATE TABLE a (x);",
        ];
        migrate(&mut connection, 0, &steps).unwrap_err();
        assert_eq!(version(&connection), 1);
        assert_eq!(tables(&connection), ["a"]);
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let connection = Connection::open_in_memory().unwrap();
        assert_eq!(identify(&connection, "x").unwrap(), FileState::Empty);
        connection
            .execute_batch("CREATE TABLE theirs (x);")
            .unwrap();
        identify(&connection, "x").unwrap_err();
    }
}
