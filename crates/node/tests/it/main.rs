//! A node and a flow's coordinator, on an engine in memory that fails as it is told to. Time is tokio's, and paused.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

mod bench;
mod pool_calls;
mod pool_chaos;
mod pool_faults;
mod pool_nodes;
mod pool_strangers;
