//! Worker pools: real servers of NATS, real nodes, and flows whose stages run there.

mod broken;
mod refused;
mod same;

use std::path::Path;

use wiredflow_testkit::{FlowTest, Nats, NatsVersion, Running, Signal, wait_until};

use crate::remote::{A_WHILE, LOGIC};
use crate::{SOON, tool};

/// Functions for what breaks.
const MORE: &str = r#"

def saves(relevant_info=None, db_connectors=None, **params):
    n = relevant_info[0]["n"]
    with open(os.environ["MARKS"], "a") as marks:
        marks.write(str(n) + "\n")
    time.sleep(0.1)
    db_connectors["saved"].save([{"n": n}])
    return {"n": n, "twice": 2 * n}

def slow(relevant_info=None, **params):
    n = relevant_info[0]["n"]
    with open(os.environ["MARKS"], "a") as marks:
        marks.write(str(n) + "\n")
    time.sleep(3)
    return {"n": n, "twice": 2 * n}

def poison(relevant_info=None, **params):
    with open(os.environ["MARKS"], "a") as marks:
        marks.write("again\n")
    os.kill(os.getppid(), 9)
    time.sleep(1000)
"#;

fn server() -> Nats {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    Nats::start(&NatsVersion::Debian.program(folder).unwrap())
}

/// A node, and the folder in which it stands.
struct Node {
    runs: Running,
    test: FlowTest,
}

impl Node {
    /// Starts one and waits until it is there.
    fn start(url: &str, arguments: &[&str]) -> Self {
        let test = tool();
        let cache = test.path("cache");
        let state = test.path("state");
        let test = test.env("XDG_CACHE_HOME", cache.to_str().unwrap());
        let test = test.env("XDG_STATE_HOME", state.to_str().unwrap());
        let mut all = vec!["node", "--engine", url];
        all.extend(arguments);
        let runs = test.spawn(all);
        wait_until(SOON, || runs.stderr().contains("INFO  node `"));
        Self { runs, test }
    }

    /// The processes that it has started, itself not counted.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("XDG_CACHE_HOME={}", self.test.path("cache").display());
        let own = self.runs.id();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_its = |number: &u32| {
            let environ = std::fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
            *number != own
                && environ
                    .split(|byte| *byte == 0)
                    .any(|one| one == mark.as_bytes())
        };
        numbers.filter(is_its).collect()
    }

    /// Kills it at once, and sees to it that what it has started ends.
    fn kill9(&self) {
        self.runs.signal(Signal::Kill);
        wait_until(SOON, || self.processes().is_empty());
    }
}

/// A flow with the pool of a server as `pool`.
fn flow(url: &str, options: &str, pipelines: &str) -> FlowTest {
    let test = tool();
    test.file("logic.py", &format!("{LOGIC}{MORE}"));
    let marks = test.path("marks");
    let text = format!(
        "name: t\nlisten: off\nstorages: {{numbers: {{jsonl: {{folder: data}}}}, saved: {{jsonl: {{folder: data}}}}}}\n\
         remotes:\n  pool: {{workers: {{engine: \"{url}\", env: {{MARKS: \"{}\"}}{options}}}}}\npipelines:\n{pipelines}",
        marks.display()
    );
    test.file("flow.yaml", &text.replace("PLACE", "pool"));
    test
}

/// How many calls were begun.
fn begun(test: &FlowTest) -> usize {
    match test.path("marks").exists() {
        true => test.read("marks").lines().count(),
        false => 0,
    }
}

/// Runs it to its end.
fn run_once(test: &FlowTest) -> wiredflow_testkit::Finished {
    test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE)
}
