//! The user's own code, in whatever language: checked, opened and called in one way.

mod keys;
mod quick;
mod sql;
mod threads;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use wiredflow_core::charge::{Activity, FunctionTime};
use wiredflow_core::frame::{self, Role, Start};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::stage::Cx;
use wiredflow_core::{Batch, Error, Map, Params, Result, Value};

use crate::clock::{Clock, Stopwatch, probe_of_process};
use crate::functions::{Call, Function, Linked, Quick};
use crate::resources::Resources;
use crate::sql::Query;
use crate::storages::StorageHandles;
use sql::SqlCalls;
use threads::{Ending, Threads};

use crate::worker::{Launch, Pool, Program, ProgramCall, Request, Running, StageHost};
pub use threads::FunctionThreads;

pub(crate) use keys::{FunctionKeys, LANGUAGES, prepare};

/// How long a worker may take to load the user's file.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How many documents of a Rust function wait to be taken.
const AHEAD: usize = 2;

/// The Python interpreter, unless the environment names another.
const PYTHON: &str = "python3";

/// The Python interpreter.
pub(crate) fn interpreter() -> String {
    std::env::var("WIREDFLOW_PYTHON").unwrap_or_else(|_| PYTHON.to_owned())
}

/// Whether a node names a function.
pub(crate) fn is_function(node: &Node) -> bool {
    LANGUAGES
        .iter()
        .any(|language| node.entry(language).is_some())
}

/// A checked function.
#[derive(Clone, Debug)]
pub(crate) struct FunctionPlan {
    code: Code,
    role: Role,
    params: Map,
    processes: usize,
}

#[derive(Clone)]
enum Code {
    /// `file.py:name`.
    Python(String),
    /// Linked in.
    Rust(Linked),
    /// A command and its arguments.
    Program(Vec<String>),
    /// A query.
    Sql(Query),
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Python(source) => write!(f, "python {source}"),
            Self::Rust(_) => f.write_str("rust"),
            Self::Program(command) => write!(f, "program {command:?}"),
            Self::Sql(query) => write!(f, "{query:?}"),
        }
    }
}

impl FunctionPlan {
    /// Starts what runs it.
    pub(crate) async fn open(&self, resources: &Resources) -> Result<Logic> {
        let body = match &self.code {
            Code::Rust(Linked::Waits(function)) => {
                let threads = Threads::of(&resources.threads);
                Body::Rust(Arc::clone(function), threads)
            }
            Code::Rust(Linked::Quick(function)) => {
                Body::Quick(Arc::clone(function), resources.clock.clone())
            }
            Code::Sql(query) => Body::Sql(SqlCalls::new(
                query.clone(),
                resources.storages.clone(),
                &resources.threads,
            )),
            Code::Program(command) => Body::Program(Program::new(
                command.clone(),
                resources.folder.to_path_buf(),
                Arc::new(StageHost::new(resources)),
                resources.clock.outside(),
            )),
            Code::Python(source) => {
                Body::Python(Box::new(self.open_python(source, resources).await?))
            }
        };
        Ok(Logic {
            body,
            role: self.role,
            params: self.params.clone(),
            storages: resources.storages.clone(),
        })
    }

    async fn open_python(&self, source: &str, resources: &Resources) -> Result<Python> {
        let label = format!(
            "wiredflow:{}/{}/{}",
            resources.flow, resources.pipeline, resources.stage
        );
        let function = frame::Function {
            name: source.to_owned(),
            role: self.role,
            source: Some(source.to_owned()),
            pipeline: resources.pipeline.to_string(),
            storages: resources.storages.names().map(str::to_owned).collect(),
        };
        let folder = std::path::absolute(&resources.folder)
            .unwrap_or_else(|_| resources.folder.to_path_buf());
        let start = Start {
            version: frame::VERSION,
            functions: vec![function],
            folder: Some(folder.to_string_lossy().into_owned()),
            limit: frame::FRAME_LIMIT,
            heartbeat: None,
            errand: None,
        };
        let pool = Pool::open(
            Launch::python(&interpreter(), &label).counted(resources.workers.clone()),
            start,
            self.processes,
            START_WITHIN,
            Arc::new(StageHost::new(resources)),
            (resources.clock.outside(), resources.tasks.clone()),
        )
        .await?;
        Ok(Python {
            pool,
            function: source.to_owned(),
        })
    }
}

/// The user's code, ready to be called. Dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Logic {
    body: Body,
    role: Role,
    params: Map,
    storages: StorageHandles,
}

enum Body {
    Python(Box<Python>),
    Rust(Function, Threads),
    Quick(Quick, Clock),
    Program(Program),
    Sql(SqlCalls),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Python(python) => write!(f, "{python:?}"),
            Self::Rust(..) | Self::Quick(..) => f.write_str("rust"),
            Self::Program(program) => write!(f, "{program:?}"),
            Self::Sql(calls) => write!(f, "{calls:?}"),
        }
    }
}

#[derive(Debug)]
struct Python {
    pool: Pool,
    function: String,
}

/// What a call gives, one batch after the other.
pub(crate) enum Outputs<'a> {
    /// From a worker.
    Worker(Box<Running<'a>>, FunctionTime),
    /// From a thread of this process.
    Thread(mpsc::Receiver<Value>, Ending, FunctionTime),
    /// Of a call that has ended.
    Ready(VecDeque<Batch>),
}

impl Logic {
    /// Begins a call. Dropping what it gives ends the call.
    pub(crate) async fn call<'a>(&'a self, batch: &Batch, cx: &Cx) -> Result<Outputs<'a>> {
        let params = self.params_with(&cx.params);
        match &self.body {
            Body::Python(python) => {
                let request = Request {
                    function: &python.function,
                    params: &params,
                    batch,
                    attempt: cx.attempt,
                    epoch: cx.epoch,
                    keys: None,
                    deadline: cx.deadline,
                };
                // A process that starts anew is no work of the function's: its `timeout` begins after.
                let begun = cx.spend(Activity::Overhead, python.pool.call(request));
                let running = Box::new(begun.await?);
                let time = FunctionTime::begin(&cx.charge);
                if let Some(process) = running.process() {
                    time.watch(probe_of_process(process));
                }
                Ok(Outputs::Worker(running, time))
            }
            Body::Quick(function, clock) => {
                let call = self.rust_call(batch, params, cx);
                let given = quick::call(function, call, clock, cx.deadline).await?;
                let given = Batch::of_document(given);
                Ok(Outputs::Ready(VecDeque::from([given])))
            }
            Body::Rust(function, threads) => {
                let call = self.rust_call(batch, params, cx);
                let (give, take) = mpsc::channel(AHEAD);
                let function = Arc::clone(function);
                let run = move |watch: &mut Stopwatch| {
                    function(call, &mut |value| {
                        let gone = |_| Error::remote("the flow ends: the output is not wanted");
                        watch.leave_out(|| give.blocking_send(value).map_err(gone))
                    })
                };
                let time = FunctionTime::begin(&cx.charge);
                let ending = threads.begin(run)?;
                time.watch(ending.probe());
                Ok(Outputs::Thread(take, ending, time))
            }
            Body::Program(program) => {
                let call = self.program_call(batch, &params, cx)?;
                let time = FunctionTime::begin(&cx.charge);
                Ok(Outputs::Ready(
                    self.outputs(program.run(call, &time).await?),
                ))
            }
            Body::Sql(calls) => {
                let time = FunctionTime::begin(&cx.charge);
                let rows = calls.call(batch.clone(), params, &time).await?;
                Ok(Outputs::Ready(self.outputs(rows)))
            }
        }
    }

    /// Calls, and gives the first output alone when the call has ended well: for functions that give one.
    pub(crate) async fn call_once(&self, batch: &Batch, cx: &Cx) -> Result<Batch> {
        let mut outputs = self.call(batch, cx).await?;
        let mut first = None;
        while let Some(output) = outputs.next().await? {
            first.get_or_insert(output);
        }
        Ok(first.unwrap_or_default())
    }

    fn rust_call(&self, batch: &Batch, params: Map, cx: &Cx) -> Call {
        Call {
            data: document(batch),
            params: Arc::new(params),
            pipeline: Arc::clone(&cx.pipeline),
            storages: self.storages.clone(),
        }
    }

    fn program_call(&self, batch: &Batch, params: &Map, cx: &Cx) -> Result<ProgramCall> {
        let unwritten = |error| Error::data(format!("cannot be written as JSON: {error}"));
        let mut input = Vec::new();
        for (index, value) in batch.values().enumerate() {
            serde_json::to_writer(&mut input, value)
                .map_err(|error| unwritten(error).at_record(index))?;
            input.push(b'\n');
        }
        let params = serde_json::to_string(params).map_err(unwritten)?;
        Ok(ProgramCall {
            input,
            variables: vec![
                ("WIREDFLOW_PARAMS", params),
                ("WIREDFLOW_FLOW", cx.flow.to_string()),
                ("WIREDFLOW_PIPELINE", cx.pipeline.to_string()),
                ("WIREDFLOW_STAGE", cx.stage.to_string()),
                ("WIREDFLOW_ATTEMPT", cx.attempt.to_string()),
            ],
            gives: !matches!(self.role, Role::Store | Role::Send),
        })
    }

    /// The documents of a call that gives them all at its end. To a configuration each is a set of params; to all
    /// others they are one batch, in which an array stands for many records and null for none.
    fn outputs(&self, documents: Vec<Value>) -> VecDeque<Batch> {
        match self.role {
            Role::Store | Role::Send => VecDeque::new(),
            Role::Configuration => documents.into_iter().map(Batch::of_document).collect(),
            Role::CoreLogic | Role::Http | Role::Preprocess => {
                let mut records = Vec::with_capacity(documents.len());
                for document in documents {
                    match document {
                        Value::Null => {}
                        Value::Array(many) => records.extend(many),
                        one => records.push(one),
                    }
                }
                VecDeque::from([Batch::of_values(records)])
            }
        }
    }

    /// The stage's own params, and over them a configuration's: those say what is to be made, and so are not for
    /// functions that store, send or prepare what was made.
    fn params_with(&self, from_configuration: &Params) -> Map {
        let mut params = self.params.clone();
        if matches!(self.role, Role::Store | Role::Send | Role::Preprocess) {
            return params;
        }
        for (name, value) in from_configuration.iter() {
            params.insert(name.clone(), value.clone());
        }
        params
    }
}

impl Outputs<'_> {
    /// The next batch; `None` when the call has ended well.
    pub(crate) async fn next(&mut self) -> Result<Option<Batch>> {
        match self {
            Self::Worker(running, time) => {
                let next = running.next().await;
                if let (Ok(None) | Err(_), Some(used)) = (&next, running.used()) {
                    time.ended(&used);
                }
                next
            }
            Self::Thread(take, ending, time) => match take.recv().await {
                Some(value) => Ok(Some(Batch::of_document(value))),
                None => {
                    let end = ending.wait().await;
                    if let Some(used) = ending.used() {
                        time.ended(&used);
                    }
                    end.map(|()| None)
                }
            },
            Self::Ready(batches) => Ok(batches.pop_front()),
        }
    }

    /// Ends the call early, in good order.
    pub(crate) async fn close(self) -> Result<()> {
        match self {
            Self::Worker(running, _) => running.close().await,
            Self::Thread(take, mut ending, _) => {
                drop(take);
                // Its next output is refused; what it says then is of no interest.
                drop(ending.wait().await);
                Ok(())
            }
            Self::Ready(_) => Ok(()),
        }
    }
}

/// A batch as user code sees it: null, the one record, or an array.
pub(crate) fn document(batch: &Batch) -> Value {
    match batch.records() {
        [] => Value::Null,
        [one] if !batch.is_list() => one.value().clone(),
        _ => Value::Array(batch.values().cloned().collect()),
    }
}

/// Whether a node is a map; for those that accept either words or functions.
pub(crate) fn is_map(node: &Node) -> bool {
    matches!(node.kind, NodeKind::Map(_))
}
