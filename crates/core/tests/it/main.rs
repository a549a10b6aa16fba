//! The tests of wiredflow-core that use it as others do.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

mod bytes;
mod crons;
mod daylight;
mod schedule;
mod units;
