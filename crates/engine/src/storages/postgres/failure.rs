//! What PostgreSQL says, told as who must act.

use tokio_postgres::error::{DbError, SqlState};
use wiredflow_core::Error;

use crate::tls;

/// A failure on its way to become the caller's [`Error`]; it exists so that `?` works.
#[derive(Debug)]
pub(super) struct Failure {
    error: Error,
    /// It is a value's fault, by what the server says.
    pub(super) is_of_a_value: bool,
}

impl Failure {
    /// The caller's error, with the server that it happened at.
    pub(super) fn into_error(self, place: &str) -> Error {
        self.error.context(format_args!("PostgreSQL at {place}"))
    }

    /// The same, as that of one record.
    pub(super) fn of_record(self, index: usize) -> Self {
        let message = format!("the table refuses the record: {}", self.error.message());
        Self {
            error: Error::data(message).at_record(index),
            ..self
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            is_of_a_value: false,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            if let Some(error) = of_tls(&error) {
                return Self::from(tls::failure(error));
            }
            // Its source says what it is about: a name that is not known, a connection that was refused.
            let reason = std::error::Error::source(&error);
            let reason = reason.map_or_else(|| error.to_string(), ToString::to_string);
            return Self::from(Error::remote(format!("cannot be reached: {reason}")));
        };
        let message = said(told);
        let class = &told.code().code()[..2];
        match class {
            // A login, a database or a right that is not there.
            "28" | "3D" | "3F" => Self::from(Error::config(message)),
            _ if *told.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                Self::from(Error::config(message))
            }
            // A value that its column cannot hold, or that the table does not want.
            "22" | "23" => Self {
                error: Error::remote(message),
                is_of_a_value: true,
            },
            // Whatever else: tried again, with the table read anew, it may go.
            _ => Self::from(Error::remote(message)),
        }
    }
}

/// The failure of TLS that is behind it.
fn of_tls(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let cause = std::error::Error::source(error)?;
    let cause = cause.downcast_ref::<std::io::Error>()?;
    cause.get_ref()?.downcast_ref()
}

/// What the server says, in one line.
fn said(told: &DbError) -> String {
    let detail = told.detail().map(|detail| format!(" ({detail})"));
    let message = format!("{}{}", told.message(), detail.unwrap_or_default());
    match message.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}
