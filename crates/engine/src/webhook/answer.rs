//! What senders are told.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::json;

/// An answer.
pub(super) type Answer = Box<Response<Full<Bytes>>>;

/// How many seconds a sender is to wait where there is no room for its request.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("1");

/// How many seconds a sender is to wait where the flow stops or is behind.
const COME_LATER: HeaderValue = HeaderValue::from_static("5");

/// The data is where it belongs, or was set aside or passed over as the flow says.
pub(super) fn done(word: &str) -> Answer {
    json_answer(StatusCode::OK, &json!({"status": word}))
}

/// The request is refused, or could not be dealt with.
pub(super) fn refused(status: StatusCode, why: &str) -> Answer {
    json_answer(status, &json!({"error": why}))
}

/// There is no room now.
pub(super) fn no_room() -> Answer {
    let answer = refused(
        StatusCode::TOO_MANY_REQUESTS,
        "too much is waiting: come again",
    );
    with(answer, RETRY_AFTER, COME_AGAIN)
}

/// The data is not committed: it may be sent again.
pub(super) fn unavailable(why: &str) -> Answer {
    let answer = refused(StatusCode::SERVICE_UNAVAILABLE, why);
    with(answer, RETRY_AFTER, COME_LATER)
}

/// With one more header.
pub(super) fn with(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut answer = Box::new(Response::new(Full::new(Bytes::from(body.to_string()))));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    with(answer, CONTENT_TYPE, kind)
}
