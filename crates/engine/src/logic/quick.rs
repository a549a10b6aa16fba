//! Calls of quick functions: right here, in the stage's own task.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use wiredflow_core::{Error, Result, Value};

use super::threads::panicked;
use crate::clock::Clock;
use crate::functions::{Call, Quick};

/// A call that took longer gives way once to what waits.
const LONG: Duration = Duration::from_millis(1);

/// Calls it. A panic is its error, and so is a call that took longer than `limit`: it could not be ended before.
pub(super) async fn call(
    function: &Quick,
    call: Call,
    clock: &Clock,
    limit: Option<Duration>,
) -> Result<Value> {
    let begun = clock.monotonic();
    let given = catch_unwind(AssertUnwindSafe(|| function(call)));
    let took = clock.monotonic() - begun;
    if let Some(limit) = limit.filter(|limit| took > *limit) {
        let limit = wiredflow_core::units::format_duration(limit);
        return Err(Error::data(format!(
            "it took longer than its `timeout` of {limit}"
        )));
    }
    if took > LONG {
        tokio::task::yield_now().await;
    }
    given.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}
