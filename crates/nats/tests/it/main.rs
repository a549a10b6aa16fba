//! The engine against real servers.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

mod cluster;
mod faults;
mod promises;
mod refusals;
mod servers;
