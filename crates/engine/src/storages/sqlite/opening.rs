//! Opening the database: whose file it is, and what makes a commit safe.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, access};
use wiredflow_core::{Error, Result};

use super::failure::Failure;
use crate::files::disk::{cannot_open, create_folders, sync_folder};

/// How long a commit waits for the other tables of the file, or for another program.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The first SQLite without the bug that could corrupt a file when its WAL is reset.
const OLDEST_SQLITE: i32 = 3_051_003;

/// "WFst": says that a file is the state of a flow.
const STATE: i32 = 0x5746_7374;

/// More statements than this are not kept prepared.
const STATEMENTS: usize = 64;

/// Opens the database, makes it if there is none, and gives its device and inode.
pub(super) fn open(path: &Path) -> Result<(Connection, (u64, u64))> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(Error::bug(format!(
            "this build has SQLite {}, whose WAL can corrupt a file; build with 3.51.3 or newer",
            rusqlite::version()
        )));
    }
    create_folders(path).map_err(|error| cannot_open(path, &error))?;
    let new = check_file(path)?;
    // A folder may be a link, which SQLite's own flag would refuse too.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize();
    let folder = folder.map_err(|error| cannot_open(path, &error))?;
    let real = folder.join(path.file_name().unwrap_or_default());

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let told = |error: rusqlite::Error| Failure::from(error).into_error(path);
    let connection = Connection::open_with_flags(&real, flags).map_err(|error| {
        let denied = access(&folder, Access::WRITE_OK).is_err()
            || (!new && access(&real, Access::READ_OK | Access::WRITE_OK).is_err());
        if denied {
            not_permitted(path)
        } else {
            told(error)
        }
    })?;
    if connection.is_readonly("main").map_err(told)? {
        return Err(not_permitted(path));
    }
    set_up(&connection).map_err(|failure| failure.into_error(path))?;
    // Also where the file is there: a crash may have come before its name was safe.
    sync_folder(&real).map_err(|error| cannot_open(path, &error))?;
    let metadata = fs::symlink_metadata(path).map_err(|error| cannot_open(path, &error))?;
    Ok((connection, (metadata.dev(), metadata.ino())))
}

/// Refuses what is no file; says whether there is none yet.
///
/// The file itself is not opened here: closing it would drop the locks of other connections.
fn check_file(path: &Path) -> Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        other => other.map_err(|error| cannot_open(path, &error))?,
    };
    if metadata.is_symlink() {
        let error = std::io::Error::from(rustix::io::Errno::LOOP);
        return Err(cannot_open(path, &error));
    }
    if !metadata.is_file() {
        return Err(Error::config(format!(
            "`{}` is not a file: move it away, or set another `path`",
            path.display()
        )));
    }
    Ok(false)
}

fn set_up(connection: &Connection) -> Result<(), Failure> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // A quoted name that is no column must be an error, not a text.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    let application: i32 = connection.query_row("PRAGMA application_id", (), |row| row.get(0))?;
    if application == STATE {
        let message = "it is the state of a flow, not a place for tables: set another `path`";
        return Err(Error::config(message).into());
    }
    // FULL: each commit is synced, so that a power cut takes none that was answered.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;",
    )?;
    Ok(())
}

fn not_permitted(path: &Path) -> Error {
    Error::config(format!(
        "cannot open `{}`: let this user read and write it and its folder, or set another `path`",
        path.display()
    ))
}
