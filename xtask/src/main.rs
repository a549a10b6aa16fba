//! The project's own tool: `cargo xtask ci | deny | tidy | docs | bench | planted | soak`.
//!
//! A rule that matters is a check here or a lint, and `cargo xtask ci` runs them all, the same on a
//! developer's machine as anywhere else.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks to its terminal"
)]

mod bench;
mod ci;
mod deny;
mod docs;
mod metadata;
mod planted;
mod soak;
mod spdx;
mod tidy;
mod tree;

use std::process::ExitCode;

/// What every verb returns: an error is a sentence for the person at the terminal.
type Result<T = ()> = std::result::Result<T, String>;

const USAGE: &str = "\
usage: cargo xtask VERB

  ci [--only STEP ...]  every check, in order; `scripts/test` installs what it wants and calls it
  deny                  licences, bans and sources of all dependencies, by deny.toml
  tidy                  the rules of the architecture that are checks of our own
  docs [--check]        writes the documents that are made from the program, or compares them
  soak [--minutes N]    the long forms of the proofs of docs/guarantees.md
  planted [--seed N] [--count N]
                        flows with a bottleneck that is known: whether `profile` finds it
  bench                 the measurements of BENCHMARKS.md
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["ci", rest @ ..] => ci::run(rest),
        ["deny"] => deny::run(),
        ["tidy"] => tidy::run(),
        ["docs"] => docs::write(),
        ["docs", "--check"] => docs::check(),
        ["soak", rest @ ..] => soak::run(rest),
        ["bench", rest @ ..] => bench::run(rest),
        ["planted", rest @ ..] => planted::run(rest),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
