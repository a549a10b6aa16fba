//! A node and a flow's coordinator, on an engine in memory that fails as it is told to.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]
