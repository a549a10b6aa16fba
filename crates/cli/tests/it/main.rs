//! The command-line tool, as its users meet it: the real binary in a folder of its own.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

mod api;
mod arguments;
mod bad_input;
mod check;
mod cluster;
mod complex_service;
mod crash_points;
mod dead_letters;
mod examples;
mod faults;
mod gate;
mod graph;
mod inbox;
mod kill_loop;
mod mqtt;
mod numbers;
mod outbox;
mod own_tests;
mod paging;
mod peers;
mod planted;
mod pool;
mod postgres;
mod profile;
mod reload;
mod remote;
mod replay;
mod run;
mod since;
mod soak;
mod stages;
mod terminal;
mod traces;
mod unattended;
mod webhook;

use std::time::Duration;

use wiredflow_testkit::FlowTest;

/// What should happen at once has this long, on a machine with much else to do.
const SOON: Duration = Duration::from_secs(20);

/// The binary, in an empty folder.
fn tool() -> FlowTest {
    FlowTest::new(env!("CARGO_BIN_EXE_wiredflow"))
}
