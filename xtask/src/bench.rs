//! The measurements of BENCHMARKS.md: the tool and loops by hand, interleaved in one run on one machine.
//!
//! Never a test: what a figure is worth depends on what else the machine does. `--smoke` measures
//! nothing; it looks whether everything that is published gets stored.

mod broker;
mod clocks;
mod figures;
mod footprint;
mod growth;
mod ingest;
mod latency;
mod machine;
mod page;
mod polls;
mod process;
mod remote;
mod steps;

use std::path::{Path, PathBuf};

use crate::{Result, tree};
use process::Process;

/// What measures a part of the page.
type Measure = fn(&Plan) -> Result<page::Part>;

const PARTS: [(&str, Measure); 10] = [
    ("ingest", ingest::measure),
    ("latency", latency::measure),
    ("growth", growth::measure),
    ("burst", growth::measure_bursts),
    ("polls", polls::measure),
    ("steps", steps::measure),
    ("python", steps::measure_python),
    ("footprint", footprint::measure),
    ("clocks", clocks::measure),
    ("remote", remote::measure),
];

/// Where the runs keep their files: on the disk that holds the build, not in memory.
const FOLDER: &str = "target/bench";

const USAGE: &str = "`bench [--only ingest|latency|growth|burst|polls|steps|python|footprint|clocks|remote] [--pairs N] \
                     [--messages N] [--no-build] [--smoke]`";

/// What was asked for.
pub(crate) struct Plan {
    /// How often each contender runs; they take turns.
    pairs: usize,
    messages: usize,
    only: Option<String>,
    build: bool,
    smoke: bool,
    folder: PathBuf,
    programs: PathBuf,
}

impl Plan {
    fn read(arguments: &[&str]) -> Result<Self> {
        let root = tree::root();
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let mut plan = Self {
            pairs: 9,
            messages: 100_000,
            only: None,
            build: true,
            smoke: false,
            folder: root.join(FOLDER),
            programs: target
                .unwrap_or_else(|| root.join("target"))
                .join("release"),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .ok_or_else(|| format!("`{word}` wants a value: {USAGE}"))
            };
            let number = |text: &&str| match text.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("`{word}` wants a number above 0, not `{text}`")),
            };
            match *word {
                "--pairs" => plan.pairs = number(value()?)?,
                "--messages" => plan.messages = number(value()?)?,
                "--only" => plan.only = Some((*value()?).to_owned()),
                "--no-build" => plan.build = false,
                "--smoke" => plan.smoke = true,
                _ => return Err(format!("cannot use `{word}`: {USAGE}")),
            }
        }
        if plan.smoke {
            (plan.pairs, plan.messages) = (1, 1000);
            plan.programs.set_file_name("debug");
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    /// One of the programs that were built.
    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Starts the part that follows a table.
    fn rows(&self, folder: &Path, file: &Path, table: &str) -> Result<Process> {
        let mut command = std::process::Command::new(self.program("wiredflow-bench"));
        command.args(["rows", "--table", table, "--file"]).arg(file);
        command.args(["--messages", &self.messages.to_string()]);
        let mut rows = Process::start(&mut command, &folder.join("rows.log"), true)?;
        rows.line("ready")?;
        Ok(rows)
    }

    /// A new, empty folder for one run.
    fn fresh_folder(&self) -> Result<PathBuf> {
        let folder = self.folder.join("run");
        let failed = |error| format!("cannot make `{}`: {error}", folder.display());
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(failed)?;
        }
        std::fs::create_dir_all(&folder).map_err(failed)?;
        Ok(folder)
    }
}

/// Measures, prints, and writes the parts of BENCHMARKS.md that were measured.
pub(crate) fn run(arguments: &[&str]) -> Result {
    let plan = Plan::read(arguments)?;
    if plan.build {
        build(&plan)?;
    }
    if plan.smoke {
        return ingest::smoke(&plan);
    }
    let mut found = false;
    for (name, measure) in PARTS {
        if plan.wants(name) {
            found = true;
            // Written at once: what comes later may fail, or be cut short.
            page::write(&measure(&plan)?)?;
        }
    }
    if found {
        Ok(())
    } else {
        Err(format!("there is no such part: {USAGE}"))
    }
}

fn build(plan: &Plan) -> Result {
    let mut command = std::process::Command::new(env!("CARGO"));
    command.args([
        "build",
        "--locked",
        "-p",
        "wiredflow",
        "-p",
        "wiredflow-bench",
    ]);
    if !plan.smoke {
        command.arg("--release");
    }
    let status = command.current_dir(tree::root()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("the build failed".to_owned()),
        Err(error) => Err(format!("cannot run cargo: {error}")),
    }
}
