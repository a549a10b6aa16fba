//! What `cargo xtask bench` compares the tool with, and what puts it under load. Each part is a process of
//! its own, so that its CPU time can be told from that of the others.
//!
//! - `floor`: what a careful person would write by hand for one flow, and nothing more.
//! - `ingest`: a flow by the engine as a library, with its clocks or without.
//! - `publish`: many messages, or some in each second, to a broker.
//! - `watch`: how old each message is when it can be read in the file.
//! - `rows`: when a table began to grow and when it was complete.
//! - `answer`: an HTTP server that notes when each of many pollers asks.
//! - `poll`: a loop by hand that polls it.
//! - `steps`: what a stage costs that does nothing, by the engine as a library.
//! - `python`: the same for a stage in Python, and a bare pipe to Python.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the parts speak to the driver by their standard streams"
)]

mod answer;
mod feed;
mod floor;
mod flows;
mod ingest;
mod message;
mod poll;
mod publish;
mod python;
mod rows;
mod steps;
mod watch;

use std::error::Error;
use std::process::ExitCode;

/// An error is a sentence for the person at the terminal.
type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
usage: wiredflow-bench PART, started by `cargo xtask bench`

  floor   --broker HOST:PORT --version 4|5 --qos 0|1 --file FILE [--no-sync | --table]
  ingest  --flow FILE [--no-clocks]
  publish --broker HOST:PORT --qos 0|1 --messages N [--per-second N]
  watch   --file FILE --messages N
  rows    --file FILE --table TABLE --messages N
  answer  --pollers N
  poll    --url URL --pollers N --file FILE
  steps   --folder FOLDER
  python  --folder FOLDER --batch N --records N
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let options = Options(&words);
    let outcome = match words.first().map(String::as_str) {
        Some("floor") => floor::run(&options),
        Some("ingest") => ingest::run(&options),
        Some("publish") => publish::run(&options),
        Some("watch") => watch::run(&options),
        Some("rows") => rows::run(&options),
        Some("answer") => answer::run(&options),
        Some("poll") => poll::run(&options),
        Some("steps") => steps::run(&options),
        Some("python") => python::run(&options),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The words after the part's name.
struct Options<'a>(&'a [String]);

impl Options<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    fn find(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn text(&self, name: &str) -> Result<&str> {
        self.find(name)
            .ok_or_else(|| format!("`{name}` is missing\n{USAGE}").into())
    }

    fn number(&self, name: &str) -> Result<u64> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| format!("`{name}` wants a number, not `{text}`").into())
    }
}
