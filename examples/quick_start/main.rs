//! The quick start, built in Rust: this program is the whole tool with the flow linked in.
//!
//! `cargo run --example quick_start -- run` (with `wiredflow mock` in another terminal).

use std::process::ExitCode;

use wiredflow::{Flow, json};

fn main() -> ExitCode {
    let flow = Flow::new("quick_start").pipeline("numbers", |pipeline| {
        pipeline
            .every("5s")
            .http("http://localhost:8027")
            .store(json("data").preprocess("add_datetime"))
    });
    wiredflow::main(flow)
}
