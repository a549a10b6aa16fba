//! What SQLite says of a query, told to the user.

use rusqlite::ErrorCode;
use wiredflow_core::Error;
use wiredflow_core::problem::possible;

use super::INPUT;

/// What is said of all else.
pub(super) const ONLY_SELECT: &str = "only `SELECT` is possible, over the flow's own storages";

/// Why a statement may not run.
pub(super) enum Refused {
    By(rusqlite::Error),
    Because(String),
}

impl Refused {
    /// What SQLite says.
    fn text(&self) -> Option<&str> {
        match self {
            Self::By(rusqlite::Error::SqlInputError { msg, .. }) => Some(msg),
            Self::By(rusqlite::Error::SqliteFailure(_, text)) => text.as_deref(),
            Self::By(_) | Self::Because(_) => None,
        }
    }

    /// The name of a column that is not there, and whether the query says of which table it is.
    pub(super) fn missing_column(&self) -> Option<(bool, String)> {
        let text = self.text()?;
        if let Some(join) = text.strip_prefix("cannot join using column ") {
            let name = join.split(" - column not present").next()?;
            return Some((true, name.to_owned()));
        }
        let name = text.strip_prefix("no such column: ")?;
        let name = name.split(" - should this be").next().unwrap_or(name);
        if let Some(quoted) = name.strip_prefix('"') {
            return Some((false, quoted.strip_suffix('"').unwrap_or(quoted).to_owned()));
        }
        Some(match name.split_once('.') {
            Some((_, column)) => (true, column.to_owned()),
            None => (false, name.to_owned()),
        })
    }

    pub(super) fn message(&self, storages: &[String]) -> String {
        let denied = Some(ErrorCode::AuthorizationForStatementDenied);
        match self {
            Self::Because(reason) => reason.clone(),
            Self::By(rusqlite::Error::MultipleStatement) => {
                "it is more than one statement".to_owned()
            }
            Self::By(error) if error.sqlite_error_code() == denied => ONLY_SELECT.to_owned(),
            Self::By(error) => {
                let text = self.text().map_or_else(|| error.to_string(), str::to_owned);
                if let Some(table) = text.strip_prefix("no such table: ") {
                    let known = storages.iter().map(String::as_str).chain([INPUT]);
                    return format!("there is no table `{table}`: {}", possible(table, known));
                }
                match text.strip_prefix("not authorized to use function: ") {
                    Some(function) => format!("the function `{function}` is not possible here"),
                    None => text,
                }
            }
        }
    }

    pub(super) fn message_with(&self, columns: &str) -> String {
        let message = self.message(&[]);
        match self.missing_column() {
            Some(_) => format!("{message}; {columns}"),
            None => message,
        }
    }
}

/// Who must act on what SQLite says while a query runs.
pub(super) fn failure(error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => Error::data("the query was stopped"),
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::DiskFull,
        ) => Error::remote(format!("SQLite refuses: {error}")),
        _ => Error::data(format!("SQLite refuses: {error}")),
    }
}
