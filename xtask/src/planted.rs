//! Planted bottlenecks: whether `profile` names what was hidden in flows, by hand and by chance.

use std::process::Command;

use crate::{Result, tree};

/// Runs them with the released program: those written by hand, and so many that chance draws.
pub(crate) fn run(arguments: &[&str]) -> Result {
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "test",
        "--release",
        "--package",
        "wiredflow",
        "--test",
        "it",
        "--locked",
        "--",
        "planted::planted_bottlenecks_are_found",
        "--include-ignored",
        "--nocapture",
    ]);
    let mut rest = arguments;
    while let [name, value, more @ ..] = rest {
        let variable = match *name {
            "--seed" => "SEED",
            "--count" => "PLANTED",
            _ => return Err(usage()),
        };
        if value.parse::<u64>().is_err() {
            return Err(usage());
        }
        command.env(variable, value);
        rest = more;
    }
    if !rest.is_empty() {
        return Err(usage());
    }
    let status = command.current_dir(tree::root()).status();
    let status = status.map_err(|error| format!("cannot run `cargo test`: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("not good enough; its seed is printed, `--seed N` repeats it".to_owned()),
    }
}

fn usage() -> String {
    "`planted [--seed N] [--count N]`".to_owned()
}
