//! Workers: real Python processes, real faults, and the protocol over a stream in memory.

mod faults;
mod functions;
mod protocol;
mod start;
mod values;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_core::frame::{FRAME_LIMIT, Function, Level, Role, Start, VERSION};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::storage::{Epoch, Loaded, Query};
use wiredflow_core::{Batch, Error, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::tasks::Tasks;
use wiredflow_engine::worker::{Launch, Pool, Request, WorkerHost};

const SOON: Duration = Duration::from_secs(20);

/// Storages in memory and a log that is kept.
#[derive(Default)]
struct TestHost {
    storages: Mutex<BTreeMap<String, Loaded>>,
    lines: Mutex<Vec<(Level, String)>>,
}

impl TestHost {
    fn holds(self, storage: &str, loaded: Loaded) -> Self {
        self.storages
            .lock()
            .unwrap()
            .insert(storage.to_owned(), loaded);
        self
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().map(|(_, line)| line.clone()).collect()
    }

    fn has_line(&self, part: &str) -> bool {
        self.lines().iter().any(|line| line.contains(part))
    }
}

impl WorkerHost for TestHost {
    fn load<'a>(&'a self, storage: &'a str, query: Query) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(async move {
            match self.storages.lock().unwrap().get(storage) {
                None => Err(Error::remote(format!("`{storage}` is away"))),
                Some(Loaded::Rows(rows)) => {
                    let skipped = rows.len() - query.limit.unwrap_or(rows.len()).min(rows.len());
                    Ok(Loaded::Rows(rows[skipped..].to_vec()))
                }
                Some(other) => Ok(other.clone()),
            }
        })
    }

    fn save<'a>(&'a self, storage: &'a str, rows: Batch) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let rows = rows
                .into_records()
                .into_iter()
                .map(|record| record.into_value());
            let mut storages = self.storages.lock().unwrap();
            match storages.get_mut(storage) {
                Some(Loaded::Rows(stored)) => stored.extend(rows),
                _ => return Err(Error::config(format!("`{storage}` cannot be written"))),
            }
            Ok(())
        })
    }

    fn log(&self, level: Level, message: &str) {
        self.lines.lock().unwrap().push((level, message.to_owned()));
    }
}

/// A folder with `logic.py`, and how its functions are to be called.
struct Bench {
    _folder: tempfile::TempDir,
    place: std::path::PathBuf,
    functions: Vec<Function>,
    processes: usize,
    host: Arc<TestHost>,
}

impl Bench {
    /// All functions of the code are core logic.
    fn new(code: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("logic.py"), code).unwrap();
        let mut bench = Self {
            place: folder.path().to_owned(),
            _folder: folder,
            functions: Vec::new(),
            processes: 1,
            host: Arc::default(),
        };
        for name in code.lines().filter_map(|line| {
            line.trim_start_matches("async ")
                .strip_prefix("def ")?
                .split('(')
                .next()
        }) {
            bench = bench.function(name, Role::CoreLogic);
        }
        bench
    }

    fn function(mut self, name: &str, role: Role) -> Self {
        self.functions.retain(|function| function.name != name);
        self.functions.push(Function {
            name: name.to_owned(),
            role,
            source: Some(format!("logic.py:{name}")),
            pipeline: "numbers".to_owned(),
            storages: vec!["rows".to_owned(), "state".to_owned()],
        });
        self
    }

    fn host(mut self, host: TestHost) -> Self {
        self.host = Arc::new(host);
        self
    }

    fn processes(mut self, processes: usize) -> Self {
        self.processes = processes;
        self
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.place.join(name)
    }

    /// Another folder, which already has its `logic.py`, instead of the bench's own.
    fn keep(&mut self, folder: &Path) {
        self.place = folder.to_owned();
    }

    fn start(&self) -> Start {
        start(&self.place, self.functions.clone())
    }

    async fn open(&self) -> Result<Pool> {
        self.open_with(Launch::python("python3", "numbers.logic"))
            .await
    }

    async fn open_with(&self, launch: Launch) -> Result<Pool> {
        let surroundings = (Clock::real(), Tasks::default());
        Pool::open(
            launch,
            self.start(),
            self.processes,
            SOON,
            self.host.clone(),
            surroundings,
        )
        .await
    }
}

fn start(folder: &Path, functions: Vec<Function>) -> Start {
    Start {
        version: VERSION,
        functions,
        folder: Some(folder.to_str().unwrap().to_owned()),
        limit: FRAME_LIMIT,
        heartbeat: None,
        errand: None,
    }
}

/// What a function is called with.
#[derive(Clone)]
struct Given {
    batch: Batch,
    params: Value,
    deadline: Option<Duration>,
}

fn none() -> Given {
    Given {
        batch: Batch::default(),
        params: json!({}),
        deadline: None,
    }
}

fn one(value: Value) -> Given {
    Given {
        batch: Batch::of_values(vec![value]),
        ..none()
    }
}

fn many(values: &[Value]) -> Given {
    Given {
        batch: Batch::of_values(values.to_vec()).as_list(true),
        ..none()
    }
}

fn params(params: Value) -> Given {
    Given { params, ..none() }
}

impl Given {
    fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    fn request<'a>(&'a self, function: &'a str) -> Request<'a> {
        Request {
            function,
            params: self.params.as_object().unwrap(),
            batch: &self.batch,
            attempt: 1,
            epoch: Epoch::default(),
            keys: None,
            deadline: self.deadline,
        }
    }
}

/// All outputs of a call, each as the list of its values.
async fn run(pool: &Pool, function: &str, given: Given) -> Result<Vec<Value>> {
    let mut running = pool.call(given.request(function)).await?;
    let mut outputs = Vec::new();
    while let Some(batch) = running.next().await? {
        outputs.push(batch.values().cloned().collect::<Value>());
    }
    Ok(outputs)
}

/// The error of a call that must fail.
async fn failure(pool: &Pool, function: &str, given: Given) -> Error {
    match run(pool, function, given).await {
        Ok(outputs) => panic!("`{function}` gave {outputs:?}"),
        Err(error) => error,
    }
}

#[track_caller]
fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// Whether a process is there and not a zombie.
fn is_alive(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

/// The children of this process, zombies too. One whose thread ends while this looks may be missed: its new parent
/// has been looked at already.
fn children() -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        children.extend(text.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
    }
    children
}

/// Waits without blocking the runtime's thread.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + SOON;
    while !condition() {
        assert!(
            tokio::time::Instant::now() < end,
            "not within {SOON:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn written(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
