//! What a server says, told as who must act.

use std::error::Error as _;

use async_nats::{ConnectError, ConnectErrorKind};
use wiredflow_core::Error;

use crate::api::Refusal;
use crate::tls;

/// JetStream does not run there, or not for this account.
pub(crate) const OFF: &[u64] = &[10039, 10076];
/// There is no stream of that name.
pub(crate) const NO_STREAM: u64 = 10059;
/// There is one of that name, with other settings.
pub(crate) const OTHER_STREAM: u64 = 10058;
/// There is no consumer of that name.
pub(crate) const NO_CONSUMER: u64 = 10014;
/// There is no such message.
pub(crate) const NO_MESSAGE: u64 = 10037;
/// A message of that number could not be deleted: it is not there.
pub(crate) const NOT_DELETED: u64 = 10057;
/// The subject's newest message is another one; the second where somebody else is just putting one.
pub(crate) const OTHER_SEQUENCE: &[u64] = &[10071, 10164];
/// The store does not take it: it is full, or the disk.
pub(crate) const NOT_STORED: u64 = 10077;
/// There are too few servers for that many replicas: no cluster, or some are away.
pub(crate) const TOO_FEW: &[u64] = &[10005, 10074];
/// What an operator must change: limits of the account, settings that cannot be, names that clash.
const OPERATOR: &[u64] = &[
    10002, 10025, 10026, 10027, 10028, 10052, 10065, 10079, 10120,
];

/// What a refusal means to who has asked.
pub(crate) fn refused(refusal: &Refusal) -> Error {
    let text = &refusal.text;
    if OPERATOR.contains(&refusal.code) {
        return Error::config(format!("it refuses: {text}"));
    }
    if OFF.contains(&refusal.code) {
        // A server that ends says so too: only when a connection is made it is the operator's matter.
        return Error::remote(format!("its JetStream is off: {text}"));
    }
    Error::remote(format!("it refuses for now: {text}"))
}

/// What a connection that was not made means.
pub(crate) fn connecting(error: &ConnectError) -> Error {
    if let Some(tls) = behind::<rustls::Error>(error) {
        return tls::failure(tls);
    }
    let text = error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => Error::config(
            "it refuses the login: name a user, token, seed or file of credentials that it knows",
        ),
        ConnectErrorKind::Authentication => Error::config(format!(
            "the seed or the credentials cannot be used: {text}"
        )),
        ConnectErrorKind::ServerParse => {
            Error::config(format!("its address cannot be used: {text}"))
        }
        ConnectErrorKind::Dns => Error::remote(format!("its name is not known: {text}")),
        ConnectErrorKind::TimedOut => Error::remote("it does not answer"),
        ConnectErrorKind::Tls | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            let lower = text.to_lowercase();
            // What a server with other ideas of a login says.
            if [
                "authentication expired",
                "authentication revoked",
                "authorization violation",
            ]
            .iter()
            .any(|word| lower.contains(word))
            {
                return Error::config(format!("it refuses the login: {text}"));
            }
            Error::remote(format!("cannot be reached: {text}"))
        }
    }
}

/// The error of that type that is behind another, through those that hide their source in an `io::Error`.
fn behind<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}
