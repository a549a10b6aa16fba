//! `demo`: a whole service with everything that it talks to, in this process.

mod showing;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use wiredflow_core::storage::Query;
use wiredflow_core::units::parse_duration;
use wiredflow_core::{Result as CoreResult, Value};
use wiredflow_demo::{Peers, Ports, Server};
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::{Call, Functions};
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::RunOptions;

use crate::exit::{Failure, Outcome};
use crate::problems::Source;
use crate::service::{Look, serve};
use crate::tool::Tool;
use showing::Showing;

const FLOW: &str = include_str!("demo/flow.yaml");
const LOGIC: &str = include_str!("demo/logic.py");

/// How often the demo looks what has happened.
const LOOK: Duration = Duration::from_millis(250);

/// How long after its end a demo's files may be looked at in peace.
const LOOKED_AT: Duration = Duration::from_secs(600);

/// How the folder of a demo begins.
const PREFIX: &str = "wiredflow-demo-";

/// How many of the newest numbers of each storage the logic takes.
const NEWEST: usize = 5;

/// Watch a whole service work: collect, compute, store and send
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Starts HTTP servers and an MQTT broker on free ports of this machine, writes a flow into a
temporary folder, and runs it.

Examples:
  wiredflow demo
  wiredflow demo --for 30s
  wiredflow demo --for 10s --json | jq .pipelines"
)]
pub(crate) struct Demo {
    /// End after this time: 30s, 5m; until ^C when left out
    #[arg(long = "for", value_name = "D", value_parser = parse_duration)]
    limit: Option<Duration>,

    /// Print one JSON document with all figures at the end, and nothing before
    #[arg(long)]
    json: bool,
}

/// Which language the core logic of the demo is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Rust,
}

impl Demo {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let peers =
            Peers::start(Ports::FREE).map_err(|error| Failure::failed(error.to_string()))?;
        let language = if has_python() {
            Language::Python
        } else {
            Language::Rust
        };
        let folder = write_files(&peers, language)?;
        let plan = check(tool, &folder)?;
        let options = RunOptions {
            limit: self.limit,
            state: tool.global.state.clone(),
            ..RunOptions::default()
        };
        let is_silent = self.json || tool.global.quiet;
        let mut showing = Showing::new(tool, &peers, &folder);
        if !is_silent {
            showing.open(language)?;
        }
        let look = &mut |seen: Look| match showing.look(&seen.report) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()), // nobody watches any more
        };
        let served = serve(
            &plan,
            &options,
            (!is_silent).then_some(LOOK),
            look,
            None,
            Some(&tool.logs),
        )?;
        tool.screen.show(Vec::new());
        if self.json {
            tool.print_json(&served.report)?;
        } else if !is_silent {
            showing.close(&served.report, &plan)?;
        }
        peers.stop();
        Ok(served.exit)
    }
}

/// Writes the flow and its logic into a folder of their own, which stays for the user to look at.
fn write_files(peers: &Peers, language: Language) -> Result<PathBuf, Failure> {
    let told =
        |error: std::io::Error| Failure::failed(format!("cannot write the demo's files: {error}"));
    remove_earlier();
    let folder = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir()
        .map_err(told)?
        .keep();
    let logic = match language {
        Language::Python => "python: \"logic.py:calculate\"",
        Language::Rust => "rust: calculate",
    };
    let flow = FLOW
        .replace("INTEGERS", &peers.url(Server::Integers))
        .replace("LETTERS", &peers.url(Server::Letters))
        .replace("BROKER", &peers.broker().to_string())
        .replace("LOGIC", logic);
    std::fs::write(folder.join("flow.yaml"), flow).map_err(told)?;
    if language == Language::Python {
        std::fs::write(folder.join("logic.py"), LOGIC).map_err(told)?;
    }
    Ok(folder)
}

/// Removes what earlier demos of this user have left and that no demo uses now. What cannot be removed stays.
fn remove_earlier() {
    let place = std::env::temp_dir();
    let Ok(entries) = std::fs::read_dir(place) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // A link is no folder here, and stays.
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_left(&entry.path()) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Whether a demo has run in a folder and has ended: it holds the lock of its state while it runs.
fn is_left(folder: &Path) -> bool {
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .open(folder.join(".wiredflow/lock"));
    let Ok(lock) = lock else { return false };
    let ended = lock.metadata().and_then(|data| data.modified());
    let is_old = ended.is_ok_and(|ended| ended.elapsed().is_ok_and(|ago| ago > LOOKED_AT));
    is_old && lock.try_lock().is_ok()
}

fn check(tool: &Tool, folder: &Path) -> Result<Plan, Failure> {
    let file = folder.join("flow.yaml");
    let text =
        std::fs::read_to_string(&file).map_err(|error| Failure::failed(error.to_string()))?;
    let mut functions = Functions::default();
    functions.register_simple("calculate", |call| calculate(&call));
    let checked = check_text(
        &text,
        "demo",
        folder,
        &functions,
        &SystemLookup::new(folder),
    );
    checked.plan.ok_or_else(|| {
        let source = Source::file(file.display().to_string(), text);
        let report = source.report(&checked.problems, tool.screen.err().paint);
        tool.screen.tell(&report);
        Failure::failed("the demo's own flow has problems: please tell us")
    })
}

/// Whether there is a Python that can run the logic.
fn has_python() -> bool {
    let python = std::env::var_os("WIREDFLOW_PYTHON").unwrap_or_else(|| "python3".into());
    let status = Command::new(python)
        .args(["-c", "import sys; sys.exit(sys.version_info < (3, 8))"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// What logic.py does, for machines without Python.
fn calculate(call: &Call) -> CoreResult<Value> {
    let rows = |storage: &str| -> CoreResult<Vec<Value>> {
        let query = Query::newest(NEWEST);
        match call
            .storages
            .named(storage)?
            .load_blocking(query)?
            .into_document()
        {
            Value::Array(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    };
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let polled = rows("numbers")?;
    let heard = rows("stream")?;
    let of = |rows: &[Value], field: &str| -> Vec<i64> {
        rows.iter()
            .filter_map(|row| number(row.get(field)?))
            .collect()
    };
    let mut numbers = of(&polled, "Generated random number");
    numbers.extend(of(&heard, "Generated number"));
    let letters = rows("letters")?;
    let letter = letters
        .last()
        .and_then(|row| row.get("Generated random letter")?.as_str());
    let Some(letter) = letter.filter(|_| !numbers.is_empty()) else {
        return Ok(Value::Null);
    };
    numbers.sort_unstable();
    let sum: i64 = numbers.iter().sum();
    let adds = letter.chars().all(char::is_uppercase);
    Ok(json!({
        "letter": letter,
        "sorted list": numbers,
        "calculated value": if adds { sum } else { 100 - sum },
    }))
}
