//! What SQLite or the disk says, told as who must act.

use std::io;

use rusqlite::ErrorCode;
use wiredflow_core::Error;

/// A failure inside the state, on its way to become the caller's [`Error`].
///
/// It exists so that `?` works on SQLite's errors; the kind is decided here and nowhere else.
#[derive(Clone, Debug)]
pub(super) struct Failure(Error);

impl Failure {
    /// The caller's error; `place` is the file that it happened in.
    pub(super) fn into_error(self, place: &std::path::Path) -> Error {
        self.0.context(format_args!("state `{}`", place.display()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_space(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Error::config(
                format!("{error}; let this user write there, or set `state:` to another folder"),
            ),
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
                Error::config(format!("{error}; `state:` wants a folder of its own"))
            }
            _ => Error::remote(format!("the disk refuses: {error}")),
        })
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        Self(match code {
            Some(ErrorCode::DiskFull) => no_space(),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly,
            ) => Error::remote(format!("the disk refuses: {error}")),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::config(format!(
                "the file is damaged ({error}); restore a backup, or move it away to start anew"
            )),
            _ => Error::bug(format!("SQLite refuses: {error}")),
        })
    }
}

fn no_space() -> Error {
    Error::remote("no space left on the disk that holds it; free some, what waits is kept")
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;
    use wiredflow_core::ErrorKind;

    use super::*;

    fn check_kind(code: i32, expected: ErrorKind) {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let told = Failure::from(error).into_error("x/state.db".as_ref());
        assert_eq!(told.kind(), expected, "{told}");
        assert!(told.message().starts_with("state `x/state.db`: "), "{told}");
    }

    #[test]
    fn a_full_or_failing_disk_is_tried_again_and_a_damaged_file_is_not() {
        check_kind(ffi::SQLITE_FULL, ErrorKind::Remote);
        check_kind(ffi::SQLITE_IOERR_WRITE, ErrorKind::Remote);
        check_kind(ffi::SQLITE_BUSY, ErrorKind::Remote);
        check_kind(ffi::SQLITE_CORRUPT, ErrorKind::Config);
        check_kind(ffi::SQLITE_NOTADB, ErrorKind::Config);
        check_kind(ffi::SQLITE_CONSTRAINT, ErrorKind::Bug);
    }
}
