//! The long forms of the proofs: every point, 1,000 kills, how memory grows, how soon a service is back, clocks that add up.

use std::process::Command;

use crate::{Result, tree};

/// What is run, in this order.
const TESTS: &[(&str, &str)] = &[
    ("wiredflow", "crash_points::"),
    ("wiredflow", "kill_loop::"),
    ("wiredflow", "soak::"),
    ("wiredflow-engine", "flows::sums::"),
];

/// Runs them for about so many minutes and those that the points and the kills take.
pub(crate) fn run(arguments: &[&str]) -> Result {
    let minutes = match arguments {
        [] => "10",
        ["--minutes", minutes] if minutes.parse::<u16>().is_ok_and(|minutes| minutes > 0) => {
            minutes
        }
        _ => return Err("`soak [--minutes N]`".to_owned()),
    };
    let mut failed = Vec::new();
    for (package, test) in TESTS {
        println!("\n== {test}");
        let status = Command::new(env!("CARGO"))
            .args([
                "test",
                "--package",
                package,
                "--test",
                "it",
                "--locked",
                "--",
            ])
            .args([test, "--include-ignored", "--nocapture", "--test-threads=2"])
            .env("SOAK", "1")
            .env("SOAK_MINUTES", minutes)
            .current_dir(tree::root())
            .status()
            .map_err(|error| format!("cannot run `cargo test`: {error}"))?;
        if !status.success() {
            failed.push(*test);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "failed: {}; its seed is printed, `SEED=…` repeats it",
            failed.join(", ")
        ))
    }
}
