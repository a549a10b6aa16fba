//! Clusters of agents over a model of an engine, by a clock that passes hours in a moment.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

mod stage;
mod storms;
mod turns;
