//! Why a peer could not be started, in words that say what to do.

use std::{fmt, io};

/// What the calls of this crate give.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a peer could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Another program listens on the port.
    PortTaken {
        /// The peer that wanted the port, as a user would call it.
        peer: &'static str,
        /// The port, on 127.0.0.1.
        port: u16,
    },
    /// The system or the peer refused, for another reason.
    NotStarted {
        /// The peer, as a user would call it.
        peer: &'static str,
        /// The reason.
        reason: String,
    },
}

impl Error {
    /// The error of a `bind` on `port` that failed for `peer`.
    pub(crate) fn bind(peer: &'static str, port: u16, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortTaken { peer, port },
            _ => Self::NotStarted {
                peer,
                reason: format!("port {port} of 127.0.0.1 cannot be used: {error}"),
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTaken { peer, port } => write!(
                f,
                "the {peer} needs port {port} of 127.0.0.1, which another program has: \
                 end that program (`ss -ltnp 'sport = :{port}'` names it) and start again"
            ),
            Self::NotStarted { peer, reason } => write!(f, "the {peer} did not start: {reason}"),
        }
    }
}

impl std::error::Error for Error {}
