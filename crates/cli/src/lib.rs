//! Wiredflow: data services that collect, work on, store and send records.
//!
//! A program that ends in [`main`] is the whole command-line tool with a flow of its own: its verbs take
//! that flow where FILE is left out, and files may name the Rust functions that it links in.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use wiredflow::{Call, Flow, Result, Value, json};
//!
//! fn double(call: Call) -> Result<Value> {
//!     let number = call.data["number"].as_i64().unwrap_or_default();
//!     Ok(json!({"doubled": number * 2}))
//! }
//!
//! fn main() -> ExitCode {
//!     let flow = Flow::new("sensors").pipeline("numbers", |pipeline| {
//!         pipeline
//!             .every("10s")
//!             .http("http://localhost:8027")
//!             .core_logic(double)
//!             .store(json("data"))
//!     });
//!     wiredflow::main(flow)
//! }
//! ```

mod arguments;
mod deployed;
mod engine;
mod exit;
mod flow_file;
mod front;
mod live;
mod log;
mod paint;
mod problems;
mod reach;
mod screen;
mod service;
mod table;
mod tool;
mod traces;
mod verbs;
mod watch;

use std::process::ExitCode;

pub use wiredflow_core::{Batch, ErrorKind, Map, Params, Record};
pub use wiredflow_engine::builder::*;
pub use wiredflow_engine::functions::{Call, Function, Functions, Give};

/// Runs the command-line tool with a flow linked in, and gives the exit code for the program's own `main`.
///
/// Takes the program's arguments, standard streams and signals; starts what it needs and has ended all of
/// it when it returns.
pub fn main(flow: Flow) -> ExitCode {
    tool::run(std::env::args_os(), Some(flow))
}

/// Runs the command-line tool without a flow of its own: what the binary `wiredflow` does.
pub fn plain_main() -> ExitCode {
    tool::run(std::env::args_os(), None)
}
