//! What SQLite says, told as who must act.

use std::path::Path;

use rusqlite::ErrorCode;
use wiredflow_core::Error;

/// A failure on its way to become the caller's [`Error`]; it exists so that `?` works.
#[derive(Debug)]
pub(super) struct Failure(Error);

impl Failure {
    /// The caller's error, with the file that it happened in.
    pub(super) fn into_error(self, path: &Path) -> Error {
        self.0.context(format_args!("`{}`", path.display()))
    }

    /// What went wrong with one record.
    pub(super) fn of_record(error: rusqlite::Error, index: usize) -> Self {
        if let rusqlite::Error::ToSqlConversionFailure(reason) = &error {
            let message = format!("the record cannot be stored: {reason}");
            return Self(Error::data(message).at_record(index));
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
                Self(Error::data(format!("the table refuses the record: {error}")).at_record(index))
            }
            _ => Self::from(error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self(match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                Error::remote("no space left on its disk; free some, what waits is kept")
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::config(format!(
                "it is no sound SQLite database ({error}); restore a backup, or move it away"
            )),
            // Whatever else: opened again, with its tables read anew, it may go.
            _ => Error::remote(format!("SQLite refuses: {error}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;
    use wiredflow_core::ErrorKind;

    use super::*;

    #[track_caller]
    fn check_kind(code: i32, expected: ErrorKind, of_record: ErrorKind) {
        let error = || rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let told = Failure::from(error()).into_error("x.db".as_ref());
        assert_eq!(told.kind(), expected, "{told}");
        let told = Failure::of_record(error(), 3).into_error("x.db".as_ref());
        assert_eq!(told.kind(), of_record, "{told}");
        assert_eq!(told.record(), (of_record == ErrorKind::Data).then_some(3));
        assert!(told.message().starts_with("`x.db`: "), "{told}");
    }

    #[test]
    fn only_what_a_record_does_is_its_fault() {
        use ErrorKind::{Config, Data, Remote};
        check_kind(ffi::SQLITE_FULL, Remote, Remote);
        check_kind(ffi::SQLITE_IOERR_FSYNC, Remote, Remote);
        check_kind(ffi::SQLITE_BUSY, Remote, Remote);
        check_kind(ffi::SQLITE_CORRUPT, Config, Config);
        check_kind(ffi::SQLITE_NOTADB, Config, Config);
        check_kind(ffi::SQLITE_CONSTRAINT_CHECK, Remote, Data);
        check_kind(ffi::SQLITE_TOOBIG, Remote, Data);
    }
}
