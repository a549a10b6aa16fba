//! Calls of quick functions: right here, in the stage's own task.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use wiredflow_core::{Result, Value};

use super::threads::panicked;
use crate::clock::Clock;
use crate::functions::{Call, Quick};

/// A call that took longer gives way once to what waits: to other tasks, and to its own time limit.
const LONG: Duration = Duration::from_millis(1);

/// Calls it. A panic is its error.
pub(super) async fn call(function: &Quick, call: Call, clock: &Clock) -> Result<Value> {
    let begun = clock.monotonic();
    let given = catch_unwind(AssertUnwindSafe(|| function(call)));
    if clock.monotonic() - begun > LONG {
        // A time limit is looked at between two polls: this is where a call that broke it fails.
        tokio::task::yield_now().await;
    }
    given.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}
