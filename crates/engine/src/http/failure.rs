//! From what went wrong to who must act: statuses, sockets, certificates.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use rustls::{AlertDescription, CertificateError};
use wiredflow_core::units::format_duration;
use wiredflow_core::{Error, ErrorKind};

use super::reach::Refused;

/// How much of an answer is shown.
const SHOWN: usize = 200;

/// The longest wait that a peer is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The error of an answer that is no success.
pub(crate) fn refused(
    status: StatusCode,
    headers: &HeaderMap,
    place: &str,
    body: &[u8],
    now: Timestamp,
) -> Error {
    let (kind, what) = match status.as_u16() {
        401 | 403 => (ErrorKind::Config, "the peer refused the credentials"),
        407 => (ErrorKind::Config, "the proxy refused the credentials"),
        408 | 425 | 429 | 500..=599 => (ErrorKind::Remote, "the peer cannot answer now"),
        304 => (
            ErrorKind::Data,
            "the peer says that nothing has changed, but no earlier answer is kept",
        ),
        300..=399 => (ErrorKind::Data, "the peer leads on, but not to an address"),
        _ => (ErrorKind::Data, "the peer refused the request"),
    };
    let mut message = format!("{place}: {what} ({status})");
    let said = excerpt(body);
    if !said.is_empty() {
        message.push_str(": ");
        message.push_str(&said);
    }
    let error = Error::new(kind, message);
    match retry_after(headers, now) {
        Some(wait) if kind == ErrorKind::Remote => error.with_retry_after(wait).as_limit(),
        _ if status.as_u16() == 429 => error.as_limit(),
        _ => error,
    }
}

/// The error of a peer that says nothing.
pub(super) fn silent(place: &str, idle: Duration) -> Error {
    Error::remote(format!(
        "{place}: the peer sent nothing for {}; one that is slow by nature wants a `timeout` above 30s",
        format_duration(idle)
    ))
}

/// The error of a request that got no answer.
pub(super) fn transport(error: &reqwest::Error, place: &str, connect: Duration) -> Error {
    if let Some(found) = tls(error, place) {
        return found;
    }
    if let Some(why) = causes(error).find_map(|cause| cause.downcast_ref()) {
        return refuses(why, place);
    }
    if words(error).contains("proxy authorization required") {
        let message = format!("{place}: the proxy refused the credentials");
        return Error::config(message);
    }
    let message = if error.is_timeout() {
        format!("no connection within {}", format_duration(connect))
    } else if error.is_dns() {
        format!("the host cannot be found: {}", words(error))
    } else if error.is_connect() {
        format!("no connection: {}", words(error))
    } else {
        format!("no answer: {}", words(error))
    };
    let found = Error::remote(format!("{place}: {message}"));
    // Without a connection nothing of the request has left.
    match error.is_connect() || error.is_dns() {
        true => found.as_unsent(),
        false => found,
    }
}

/// The error of an address that may not be asked.
pub(super) fn refuses(why: &Refused, place: &str) -> Error {
    Error::data(format!("{place}: {why}"))
}

/// The error of an answer that broke off or cannot be unpacked.
pub(super) fn broken(error: &reqwest::Error, place: &str) -> Error {
    if let Some(found) = tls(error, place) {
        return found;
    }
    if unpacking(error) {
        let message = format!("{place}: the answer cannot be unpacked: {}", words(error));
        return Error::data(message);
    }
    Error::remote(format!("{place}: the answer broke off: {}", words(error)))
}

/// Whether the bytes were wrong; a connection that breaks off fails in other ways.
fn unpacking(error: &reqwest::Error) -> bool {
    let wrong = |cause: &io::Error| {
        matches!(
            cause.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
        )
    };
    let of_tls = causes(error).any(|cause| cause.is::<rustls::Error>());
    !of_tls && causes(error).any(|cause| cause.downcast_ref().is_some_and(wrong))
}

/// The error of a TLS greeting that failed, if that is what it was.
fn tls(error: &reqwest::Error, place: &str) -> Option<Error> {
    let cause = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>())?;
    let config = |what: String| Some(Error::config(format!("{place}: {what}")));
    match cause {
        rustls::Error::InvalidCertificate(reason) => config(format!(
            "the peer's certificate is refused: {}",
            certificate(reason)
        )),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity => config(format!(
                "the peer offers no TLS that is safe enough (1.2 or 1.3 are): {cause}"
            )),
            AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => config(format!(
                "the peer refused our certificate (`tls: {{cert, key}}`): {cause}"
            )),
            _ => None,
        },
        rustls::Error::PeerIncompatible(_) => config(format!(
            "the peer offers no TLS that is safe enough (1.2 or 1.3 are): {cause}"
        )),
        rustls::Error::InvalidMessage(_) => Some(Error::remote(format!(
            "{place}: the peer does not speak TLS: is it `http://`?"
        ))),
        _ => None,
    }
}

fn certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer => {
            "no trusted authority signed it; if it is the peer's own, name its authority with `tls: {ca: FILE}`"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: is the clock right?".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host".to_owned()
        }
        // What `openssl req -x509` makes unless it is told otherwise; the reason has no type of its own.
        other if other.to_string().contains("CaUsedAsEndEntity") => {
            "it is an authority's own; a peer needs one with `basicConstraints=CA:FALSE`".to_owned()
        }
        other => other.to_string(),
    }
}

/// How long the peer asks to wait: seconds, or the way from its own date to the one that it names.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let sent = headers.get(DATE).and_then(|date| date.to_str().ok());
            let from = sent.and_then(http_date).unwrap_or(now);
            // A date in the past asks for no wait.
            Duration::try_from(http_date(text)?.duration_since(from)).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// A date in one of the three forms that HTTP knows.
fn http_date(text: &str) -> Option<Timestamp> {
    const FORMS: [&str; 3] = [
        "%a, %d %b %Y %H:%M:%S GMT",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
    ];
    let read = |form| DateTime::strptime(form, text).ok();
    let civil = FORMS.into_iter().find_map(read)?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The innermost cause: `connection refused`.
pub(super) fn words(error: &reqwest::Error) -> String {
    causes(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}

/// The error and what is below it. An `io::Error` passes its content over when it is asked for its source.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let content = error.downcast_ref().and_then(io::Error::get_ref);
        match content {
            Some(content) => Some(content),
            None => error.source(),
        }
    })
}

/// What was asked of whom, for messages: no query, since it may hold secrets.
pub(super) fn place(method: &Method, url: &Url) -> String {
    format!("{method} {}", address(url))
}

/// An address without its login and its query.
pub(super) fn address(url: &Url) -> String {
    let query = if url.query().is_some() { "?…" } else { "" };
    format!(
        "{}{}{query}",
        url.origin().ascii_serialization(),
        url.path()
    )
}

/// The first characters of what a peer sent, on one line, safe to be shown.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(4 * SHOWN)];
    let text = String::from_utf8_lossy(start);
    let mut shown = String::new();
    for character in text.trim().chars().take(SHOWN) {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            other => {
                // Writing into a string cannot fail.
                let _ignored = write!(shown, "{}", other.escape_debug());
            }
        }
    }
    shown
}
