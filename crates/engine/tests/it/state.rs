//! The embedded state against the real disk and real second processes.

mod changes;
mod faults;
mod history;
mod machines;
mod processes;
mod profiles;

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;
use wiredflow_core::{ErrorKind, Result};
use wiredflow_engine::state::{
    Body, DeadLetter, Opening, RunEnd, RunOutcome, SessionOutcome, State,
};

/// The flow that the tests run.
const FLOW: &str = "sensors";

/// A time that the tests can tell from others: so many seconds after a day in 2026.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn open(folder: &Path) -> (State, Opening) {
    State::open(folder, FLOW, at(0)).unwrap()
}

async fn close(state: State) {
    state.close(SessionOutcome::Ended, at(1)).await.unwrap();
}

fn committed(records: u64) -> RunEnd {
    RunEnd {
        outcome: RunOutcome::Committed,
        records_in: records,
        records_out: records,
        error: None,
    }
}

fn letter(reason: &str, seconds: i64) -> DeadLetter {
    DeadLetter {
        pipeline: "p".to_owned(),
        stage: "store".to_owned(),
        kind: ErrorKind::Data,
        reason: reason.to_owned(),
        trace: None,
        time: at(seconds),
        delivery: Some("p/7".to_owned()),
        again: false,
        attempts: 3,
        origin: None,
        params: None,
        secrets: None,
        body: Body::Json(json!({"n": 1})),
    }
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.message().contains(word), "no `{word}` in: {error}");
    }
}
