//! The engine against real files, processes and peers: one program, so that it links once.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

mod catalogue;
mod flows;
mod functions;
mod harness;
mod http;
mod mqtt;
mod programs;
mod python_files;
mod queries;
mod random_flows;
mod small_disk;
mod state;
mod steps;
mod storages;
mod webhook;
mod worker;
