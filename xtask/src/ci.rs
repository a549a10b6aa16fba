//! Every check in order: the quick ones first, the tests last, so that their summary ends the output.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Result, deny, docs, tidy, tree};

struct Step {
    name: &'static str,
    run: fn() -> Result,
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        run: format,
    },
    Step {
        name: "tidy",
        run: tidy::run,
    },
    Step {
        name: "dependencies",
        run: deny::run,
    },
    Step {
        name: "lints",
        run: lints,
    },
    Step {
        name: "docs",
        run: rustdoc,
    },
    Step {
        name: "made-docs",
        run: docs::check,
    },
    Step {
        name: "doctests",
        run: doctests,
    },
    Step {
        name: "features",
        run: features,
    },
    Step {
        name: "tests",
        run: tests,
    },
];

/// Runs all steps, or those that `--only NAME` names; the first that fails ends the run.
pub(crate) fn run(arguments: &[&str]) -> Result {
    let mut chosen = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match (*argument, arguments.next()) {
            ("--only", Some(name)) => {
                let step = STEPS
                    .iter()
                    .find(|step| step.name == *name)
                    .ok_or_else(|| {
                        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
                        format!("there is no step `{name}`, only {}", names.join(", "))
                    })?;
                chosen.push(step);
            }
            _ => return Err(format!("cannot use `{argument}`: `ci [--only STEP ...]`")),
        }
    }
    if chosen.is_empty() {
        chosen.extend(STEPS);
    }

    for step in &chosen {
        println!("\n== {}", step.name);
        let start = Instant::now();
        let outcome = (step.run)();
        let seconds = start.elapsed().as_secs_f64();
        if let Err(message) = outcome {
            return Err(format!(
                "step `{}` failed after {seconds:.1} s: {message}",
                step.name
            ));
        }
        // The tests' own summary stays the last line.
        if step.name != "tests" {
            println!("== {}: passed in {seconds:.1} s", step.name);
        }
    }
    Ok(())
}

fn format() -> Result {
    succeed(cargo(&["fmt", "--all", "--check"]))
}

fn lints() -> Result {
    succeed(cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

fn rustdoc() -> Result {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    succeed(command)
}

fn doctests() -> Result {
    succeed(cargo(&["test", "--workspace", "--doc", "--locked"]))
}

/// What is only in a build that was asked for it.
fn features() -> Result {
    // Of the whole workspace, so that what it depends on is the same as for all other tests, and built once.
    let traces = ["--workspace", "--features", "wiredflow/traces", "--locked"];
    let mut tests = cargo(&["test"]);
    tests.args(traces).args(["--test", "it", "--", "traces::"]);
    succeed(tests)
}

/// All tests, and before their outcome which cases could not be tried on this machine.
fn tests() -> Result {
    let skipped = tree::root().join("target/skipped-cases");
    match std::fs::remove_file(&skipped) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("cannot remove `{}`: {error}", skipped.display()));
        }
        _ => {}
    }
    let outcome = run_tests(&skipped);
    if let Ok(cases) = std::fs::read_to_string(&skipped) {
        eprint!(
            "{} cases were not tried here:\n{cases}",
            cases.lines().count()
        );
    }
    outcome
}

/// nextest where it is installed, else cargo's own runner.
fn run_tests(skipped: &Path) -> Result {
    let mut nextest = cargo(&["nextest", "--version"]);
    nextest.stdout(Stdio::null()).stderr(Stdio::null());
    if nextest.status().is_ok_and(|status| status.success()) {
        let mut command = cargo(&[
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--profile",
            "ci",
        ]);
        command.env("SKIPPED_CASES", skipped);
        return succeed(command);
    }
    println!("cargo-nextest is not installed: the tests run with `cargo test`");
    cargo_test(skipped)
}

/// Runs `cargo test` and sums up what its many binaries say, in one last line.
fn cargo_test(skipped: &Path) -> Result {
    let mut command = cargo(&[
        "test",
        "--workspace",
        "--lib",
        "--bins",
        "--tests",
        "--locked",
        "--no-fail-fast",
    ]);
    let mut child = command
        .env("SKIPPED_CASES", skipped)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|err| format!("cannot run `cargo test`: {err}"))?;
    let mut total = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(|err| format!("cannot read from `cargo test`: {err}"))?;
            total.add(&line);
            println!("{line}");
        }
    }
    let status = child
        .wait()
        .map_err(|err| format!("cannot wait for `cargo test`: {err}"))?;
    let Counts {
        passed,
        failed,
        ignored,
    } = total;
    println!("{passed} passed, {failed} failed, {ignored} skipped");
    if !status.success() {
        return Err("tests failed".to_owned());
    }
    if passed == 0 {
        Err("no test was run".to_owned())
    } else {
        Ok(())
    }
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Counts {
    /// Adds the figures of a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, figures)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for figure in figures.split(';') {
            let Some((count, what)) = figure.trim().split_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<usize>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(tree::root());
    command
}

fn succeed(mut command: Command) -> Result {
    let line: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    let line = format!("cargo {}", line.join(" "));
    println!("{line}");
    let status = command
        .status()
        .map_err(|err| format!("cannot run `{line}`: {err}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{line}` ended with {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn the_figures_of_all_test_binaries_are_summed_up() {
        let mut total = Counts::default();
        total.add("running 3 tests");
        total.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        total
            .add("test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out");
        assert_eq!(
            total,
            Counts {
                passed: 13,
                failed: 2,
                ignored: 1
            }
        );
    }
}
