//! The user's own code, in whatever language: checked, opened and called in one way.

mod threads;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use wiredflow_core::charge::Activity;
use wiredflow_core::config;
use wiredflow_core::config_reader::not_built_yet;
use wiredflow_core::fields::FromNode;
use wiredflow_core::frame::{self, Role, Start};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::problem::possible;
use wiredflow_core::stage::Cx;
use wiredflow_core::{Batch, Error, Map, Params, Result, Value};

use crate::catalogue::CheckCx;
use crate::functions::{Call, Function};
use crate::resources::Resources;
use crate::storages::StorageHandles;
use threads::{Ending, Threads};

use crate::worker::{Launch, Pool, Request, Running, StageHost};

/// The keys that say "this is a function".
pub(crate) const LANGUAGES: [&str; 5] = ["python", "rust", "program", "sql", "transform"];

/// How long a worker may take to load the user's file.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How many documents of a Rust function wait to be taken.
const AHEAD: usize = 2;

/// The Python interpreter, unless the environment names another.
const PYTHON: &str = "python3";

config! {
    /// Your own code: exactly one function, `python` or `rust`.
    pub struct FunctionKeys {
        /// A Python function: `file.py:name`, the file relative to the flow's folder.
        python: Option<String>,
        /// A Rust function that is linked in, by name.
        rust: Option<String>,
        /// A program: its command and arguments; not built yet.
        program: Option<Node>,
        /// SQL over the flow's storages; not built yet.
        sql: Option<String>,
        /// A record transformation; not built yet.
        transform: Option<String>,
        /// Arguments for the function, by name.
        params: Option<Value>,
        /// How many processes call a Python function side by side; more than 1 wants `parallel` too.
        processes: usize = "1",
    }
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
    Rust(Function),
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Python(source) => write!(f, "python {source}"),
            Self::Rust(_) => f.write_str("rust"),
        }
    }
}

/// Reads and checks a function.
pub(crate) fn prepare(node: &Node, role: Role, cx: &mut CheckCx<'_>) -> Option<FunctionPlan> {
    if let Some(word) = node.as_text() {
        let help = match word.rsplit_once(':') {
            Some((file, _)) if file.ends_with(".py") => format!("write `{{python: \"{word}\"}}`"),
            _ => "possible: `{python: \"file.py:name\"}`, `{rust: name}`".to_owned(),
        };
        cx.reading.error_with_help(
            node.span,
            "a function is a map of its language".to_owned(),
            help,
        );
        return None;
    }
    let keys = FunctionKeys::from_node(node, cx.reading)?;
    let given: Vec<&str> = LANGUAGES
        .iter()
        .copied()
        .filter(|language| node.entry(language).is_some())
        .collect();
    let [language] = given[..] else {
        let message = match given.len() {
            0 => "a function is missing".to_owned(),
            _ => format!(
                "`{}` beside `{}`: there is exactly one function",
                given[1], given[0]
            ),
        };
        let help = "possible: `python: \"file.py:name\"`, `rust: name`";
        cx.reading.error_with_help(node.span, message, help);
        return None;
    };
    let span = node
        .entry(language)
        .map_or(node.span, |entry| entry.value.span);
    let params = match keys.params {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => {
            let span = node.entry("params").map_or(span, |entry| entry.value.span);
            cx.reading
                .error(span, "`params` is a map of arguments by name");
            return None;
        }
    };
    if !(1..=64).contains(&keys.processes) {
        cx.reading.error(span, "`processes` must be from 1 to 64");
    }
    let code = match (keys.python, keys.rust) {
        (Some(source), _) => {
            check_python(
                &source,
                node.entry("python").map_or(span, |entry| entry.value.span),
                cx,
            );
            Code::Python(source)
        }
        (_, Some(name)) => {
            let Some(function) = cx.functions.find(&name) else {
                let message = format!("there is no Rust function `{name}` in this program");
                let help = possible(&name, cx.functions.names());
                let help = if cx.functions.names().next().is_some() {
                    help
                } else {
                    "the plain tool has none: link it into a program of your own that ends in \
                     `wiredflow::main(flow)`"
                        .to_owned()
                };
                cx.reading.error_with_help(span, message, help);
                return None;
            };
            Code::Rust(function)
        }
        _ => {
            let help = "possible now: `python: \"file.py:name\"`, `rust: name`";
            cx.reading
                .error_with_help(span, not_built_yet(language), help);
            return None;
        }
    };
    Some(FunctionPlan {
        code,
        role,
        params,
        processes: keys.processes,
    })
}

/// Looks whether the file is there and mentions the function; its code is not run.
fn check_python(source: &str, span: wiredflow_core::node::Span, cx: &mut CheckCx<'_>) {
    let Some((file, name)) = source.rsplit_once(':') else {
        cx.reading
            .error(span, format!("`{source}` is no `file.py:name`"));
        return;
    };
    let path = cx.folder.join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        cx.reading.error(
            span,
            format!("cannot read the file `{file}`: is it in the flow's folder?"),
        );
        return;
    };
    let defined: Vec<&str> = text.lines().filter_map(defined_name).collect();
    if !defined.contains(&name) && !text.contains(name) {
        let message = format!("`{file}` defines no `{name}`");
        cx.reading
            .error_with_help(span, message, possible(name, defined));
    }
}

fn defined_name(line: &str) -> Option<&str> {
    let rest = line
        .strip_prefix("async ")
        .unwrap_or(line)
        .strip_prefix("def ")?;
    rest.split(|character: char| !character.is_alphanumeric() && character != '_')
        .next()
}

impl FunctionPlan {
    /// Starts what runs it.
    pub(crate) async fn open(&self, resources: &Resources) -> Result<Logic> {
        let body = match &self.code {
            Code::Rust(function) => Body::Rust(Arc::clone(function), Threads::default()),
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
        let interpreter = std::env::var("WIREDFLOW_PYTHON").unwrap_or_else(|_| PYTHON.to_owned());
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
        };
        let pool = Pool::open(
            Launch::python(&interpreter, &label),
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
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Python(python) => write!(f, "{python:?}"),
            Self::Rust(..) => f.write_str("rust"),
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
    Worker(Box<Running<'a>>),
    /// From a thread of this process.
    Thread(mpsc::Receiver<Value>, Ending),
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
                    deadline: cx.deadline,
                };
                // A process that starts anew is no work of the function's: its `timeout` begins after.
                let begun = cx.spend(Activity::Overhead, python.pool.call(request));
                Ok(Outputs::Worker(Box::new(begun.await?)))
            }
            Body::Rust(function, threads) => {
                let call = Call {
                    data: document(batch),
                    params: Arc::new(params),
                    pipeline: Arc::clone(&cx.pipeline),
                    storages: self.storages.clone(),
                };
                let (give, take) = mpsc::channel(AHEAD);
                let function = Arc::clone(function);
                let run = move || {
                    function(call, &mut |value| {
                        let gone = |_| Error::remote("the flow ends: the output is not wanted");
                        give.blocking_send(value).map_err(gone)
                    })
                };
                Ok(Outputs::Thread(take, threads.begin(run)?))
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
            Self::Worker(running) => running.next().await,
            Self::Thread(take, ending) => match take.recv().await {
                Some(value) => Ok(Some(Batch::of_document(value))),
                None => ending.wait().await.map(|()| None),
            },
        }
    }

    /// Ends the call early, in good order.
    pub(crate) async fn close(self) -> Result<()> {
        match self {
            Self::Worker(running) => running.close().await,
            Self::Thread(take, mut ending) => {
                drop(take);
                // Its next output is refused; what it says then is of no interest.
                drop(ending.wait().await);
                Ok(())
            }
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
