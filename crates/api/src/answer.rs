//! What callers are told.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

/// An answer.
pub(crate) type Answer = Box<Response<Body>>;

/// What every answer says to browsers: nothing here is a page, and no page may use it.
const EVERYWHERE: [(HeaderName, HeaderValue); 6] = [
    (
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    ),
    (
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'"),
    ),
    (
        HeaderName::from_static("x-frame-options"),
        HeaderValue::from_static("DENY"),
    ),
    (
        HeaderName::from_static("referrer-policy"),
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cache-control"),
        HeaderValue::from_static("no-store"),
    ),
];

/// A document.
pub(crate) fn document(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(bytes) => text(status, "application/json", bytes),
        Err(error) => {
            tracing::error!("an answer of the API cannot be written: {error}");
            refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer cannot be written",
            )
        }
    }
}

/// It is done, or here it is.
pub(crate) fn ok(body: &impl Serialize) -> Answer {
    document(StatusCode::OK, body)
}

/// Why it is not done.
pub(crate) fn refused(status: StatusCode, why: impl AsRef<str>) -> Answer {
    document(status, &json!({ "error": why.as_ref() }))
}

/// It cannot be done now; the caller may come again after so many seconds.
pub(crate) fn later(status: StatusCode, seconds: u64, why: &str) -> Answer {
    with(
        refused(status, why),
        RETRY_AFTER,
        HeaderValue::from(seconds),
    )
}

/// Bytes of a kind.
pub(crate) fn text(status: StatusCode, kind: &'static str, bytes: impl Into<Body>) -> Answer {
    let mut answer = Box::new(Response::new(bytes.into()));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, HeaderValue::from_static(kind))
}

/// With one more header.
pub(crate) fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

/// With what every answer says.
pub(crate) fn guarded(mut answer: Response<Body>) -> Response<Body> {
    for (name, value) in EVERYWHERE {
        answer.headers_mut().insert(name, value);
    }
    answer
}
