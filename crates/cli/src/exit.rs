//! How a verb ends.

use std::process::ExitCode;

use wiredflow_engine::worker::Parting;

/// The exit codes that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It is done.
    Done,
    /// The flow or the work failed.
    Failed,
    /// The flow file or the arguments are wrong.
    Wrong,
    /// A second ^C before an orderly end.
    Interrupted,
    /// A worker's end, which its host understands.
    Parted(Parting),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Wrong => 2,
            Exit::Interrupted => 130,
            Exit::Parted(parting) => parting as u8,
        })
    }
}

/// Why a verb ended before its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody reads standard output any more.
    Closed,
    /// For the person at the terminal.
    Told(Exit, String),
}

impl Failure {
    /// What is told.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Closed => "nobody reads standard output any more",
            Self::Told(_, message) => message,
        }
    }

    /// The work failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Told(Exit::Failed, message.into())
    }

    /// The arguments or the file are wrong.
    pub(crate) fn wrong(message: impl Into<String>) -> Self {
        Self::Told(Exit::Wrong, message.into())
    }
}

/// What a verb gives.
pub(crate) type Outcome = Result<Exit, Failure>;
