//! The Rust builder: says the same things as the flow file, with the same words.
//!
//! ```no_run
//! use wiredflow_engine::builder::{Flow, Result, Value, json, mqtt};
//! use wiredflow_engine::functions::Call;
//!
//! fn double(call: Call) -> Result<Value> {
//!     let number = call.data["number"].as_i64().unwrap_or_default();
//!     Ok(serde_json::json!({"doubled": number * 2}))
//! }
//!
//! let flow = Flow::new("sensors").pipeline("numbers", |pipeline| {
//!     pipeline
//!         .every("10s")
//!         .http("http://localhost:8027")
//!         .core_logic(double)
//!         .store(json("data").preprocess("add_datetime"))
//!         .send(mqtt("localhost:1883", "demo/doubled").field("doubled"))
//! });
//! # drop(flow);
//! ```

mod component;
mod steps;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use wiredflow_core::config_reader::read_flow;
use wiredflow_core::fields::Reading;
use wiredflow_core::fill::Lookup;
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::problem::any_error;

pub use component::{
    Component, component, csv, http, http_post, http_put, json, jsonl, load, mqtt, mqtt_topics,
    python, rust, sqlite,
};
pub use serde_json::json;
pub use steps::{link, program, sql};
pub use wiredflow_core::{Error, Result, Value};

use crate::check::{Checked, check_node};
use crate::functions::{Call, Function, Functions, Give};

/// A flow in the making, and when it is made: the same tree that a file gives, and the Rust functions
/// that it calls.
#[derive(Clone, Debug)]
pub struct Flow {
    node: Node,
    functions: Functions,
}

impl Flow {
    /// A flow of this name, without pipelines.
    pub fn new(name: &str) -> Self {
        let node = Node::map([("name", Node::text(name))]);
        Self {
            node,
            functions: Functions::default(),
        }
    }

    /// Adds a pipeline. Functions given as closures are linked in under the pipeline's name and a number.
    #[must_use]
    pub fn pipeline(mut self, name: &str, build: impl FnOnce(Pipeline) -> Pipeline) -> Self {
        let pipeline = build(Pipeline::new(name));
        for (name, function) in pipeline.functions {
            self.functions.register(&name, function);
        }
        let mut keys = pipeline.keys;
        keys.set("stages", Node::new(NodeKind::List(pipeline.stages)));
        self.put("pipelines", name, keys);
        self
    }

    /// Adds a storage that several pipelines share.
    #[must_use]
    pub fn storage(mut self, name: &str, storage: impl Into<Component>) -> Self {
        self.put("storages", name, storage.into().with_options());
        self
    }

    /// Adds a place where stages can run: `component("ssh", json!({"host": "worker@10.0.0.7"}))`. A stage names it by
    /// [`Component::option`]: `rust("score").option("remote", "big")`.
    #[must_use]
    pub fn remote(mut self, name: &str, place: impl Into<Component>) -> Self {
        self.put("remotes", name, place.into().node());
        self
    }

    /// Links in a Rust function under a name, for `rust:` in a file or [`rust`] here.
    #[must_use]
    pub fn function(
        mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) -> Self {
        self.functions.register_simple(name, function);
        self
    }

    /// Links in a Rust function that never waits; see [`Functions::register_quick`] for what it promises and gains.
    #[must_use]
    pub fn quick_function(
        mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) -> Self {
        self.functions.register_quick(name, function);
        self
    }

    /// Sets any other key of the flow: `state`, `on_failure`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Node>) -> Self {
        self.node.set(key, value.into());
        self
    }

    /// Looks whether the flow is well formed; all problems are in the error, a line each.
    ///
    /// # Errors
    /// `Config`, with the problems.
    pub fn build(self) -> Result<Self> {
        let mut reading = Reading::default();
        drop(read_flow(&self.node, "flow", &mut reading));
        let problems = reading.into_problems();
        if !any_error(&problems) {
            return Ok(self);
        }
        let lines = problems
            .iter()
            .map(|problem| format!("{}: {}", problem.path, problem.message));
        Err(Error::config(lines.collect::<Vec<_>>().join("\n")))
    }

    /// The flow as the tree that a file would give.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The Rust functions that are linked in.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Checks everything and gives the plan to run, as for a file in `folder`.
    pub fn check(&self, folder: &Path, lookup: &dyn Lookup) -> Checked {
        check_node(&self.node, "flow", folder, &self.functions, lookup)
    }

    fn put(&mut self, map: &str, name: &str, value: Node) {
        let mut entries = match self.node.entry(map) {
            Some(entry) => entry.value.clone(),
            None => Node::empty_map(),
        };
        if let NodeKind::Map(entries) = &mut entries.kind {
            // Not `set`: a name given twice must be reported, as in a file.
            let span = wiredflow_core::node::Span::default();
            entries.push(wiredflow_core::node::Entry {
                key: name.to_owned(),
                span,
                value,
            });
        }
        self.node.set(map, entries);
    }
}

/// One pipeline in the making.
pub struct Pipeline {
    name: String,
    keys: Node,
    stages: Vec<Node>,
    functions: Vec<(String, Function)>,
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipeline({}, {} stages)", self.name, self.stages.len())
    }
}

impl Pipeline {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            keys: Node::empty_map(),
            stages: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// Trigger: a fixed grid, `"10s"`.
    #[must_use]
    pub fn every(self, period: &str) -> Self {
        self.set("every", period)
    }

    /// Trigger: cron's 5 fields, or 6 with seconds first.
    #[must_use]
    pub fn cron(self, fields: &str) -> Self {
        self.set("cron", fields)
    }

    /// Trigger: once, at an RFC 3339 time.
    #[must_use]
    pub fn at(self, time: &str) -> Self {
        self.set("at", time)
    }

    /// Trigger: once at each start of the flow.
    #[must_use]
    pub fn once(self) -> Self {
        self.set("once", Value::Bool(true))
    }

    /// Trigger: a stream, such as [`mqtt`].
    #[must_use]
    pub fn source(self, source: impl Into<Component>) -> Self {
        let node = source.into().node();
        self.set("source", node)
    }

    /// Sets any other key of the pipeline: `delay`, `overlap`, `on_failure` …
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Node>) -> Self {
        self.keys.set(key, value.into());
        self
    }

    /// Reads from an HTTP server: an address, or [`http`] with more.
    #[must_use]
    pub fn http(self, request: impl Into<Component>) -> Self {
        let request = request.into();
        let request = if request.kind.is_empty() {
            Component {
                options: request.options.clone(),
                ..http(&request.word())
            }
        } else {
            request
        };
        let (config, options) = (request.config, request.options);
        self.stage("http", config, options)
    }

    /// Makes params for the stages after it: a closure, [`python`] or [`rust`].
    #[must_use]
    pub fn configuration<M>(self, function: impl IntoLogic<M>) -> Self {
        self.logic("configuration", function)
    }

    /// The user's own code: a closure, [`python`] or [`rust`].
    #[must_use]
    pub fn core_logic<M>(self, function: impl IntoLogic<M>) -> Self {
        self.logic("core_logic", function)
    }

    /// Keeps records: [`json()`], [`jsonl`], [`csv()`], [`sqlite`], [`python`], or the name of a shared storage.
    #[must_use]
    pub fn store(self, storage: impl Into<Component>) -> Self {
        let storage = storage.into();
        let options = storage.options.clone();
        self.stage("store", storage.with_options(), options)
    }

    /// Reads the records of a storage: its name, or [`load`] with more.
    #[must_use]
    pub fn load(self, storage: impl Into<Component>) -> Self {
        let Component {
            config, options, ..
        } = storage.into();
        self.stage("load", config, options)
    }

    /// Delivers records: [`mqtt`], [`http_post`], [`http_put`], [`python`] or [`rust`].
    #[must_use]
    pub fn send(self, receiver: Component) -> Self {
        let options = receiver.options.clone();
        self.stage("send", receiver.with_options(), options)
    }

    /// Delivers records by a closure.
    #[must_use]
    pub fn send_with<M>(self, function: impl IntoLogic<M>) -> Self {
        self.logic("send", function)
    }

    /// Keeps records by a closure.
    #[must_use]
    pub fn store_with<M>(self, function: impl IntoLogic<M>) -> Self {
        self.logic("store", function)
    }

    /// Any other stage, as [`component`] names it: `step(component("filter", json!({"field": "n", "above": 20})))`.
    #[must_use]
    pub fn step(self, step: Component) -> Self {
        let Component {
            kind,
            config,
            beside: _,
            options,
        } = step;
        self.stage(&kind, config, options)
    }

    fn logic<M>(mut self, kind: &str, function: impl IntoLogic<M>) -> Self {
        let name = format!("{}_{}", self.name, self.stages.len() + 1);
        let (component, closure) = function.into_logic(&name);
        self.functions
            .extend(closure.map(|closure| (name, closure)));
        let options = component.options.clone();
        self.stage(kind, component.with_options(), options)
    }

    fn stage(mut self, kind: &str, config: Node, options: Vec<(String, Node)>) -> Self {
        let mut stage = Node::map([(kind, config)]);
        for (key, value) in options {
            stage.set(&key, value);
        }
        self.stages.push(stage);
        self
    }
}

/// What can stand where the user's code stands. `M` tells closures and components apart for the compiler.
pub trait IntoLogic<M> {
    /// The component, and the closure that is to be linked in under `name`.
    fn into_logic(self, name: &str) -> (Component, Option<Function>);
}

/// Marks closures.
#[derive(Debug)]
pub struct Closure;

impl<F: Fn(Call) -> Result<Value> + Send + Sync + 'static> IntoLogic<Closure> for F {
    fn into_logic(self, name: &str) -> (Component, Option<Function>) {
        (
            rust(name),
            Some(Arc::new(move |call, give| give(self(call)?))),
        )
    }
}

/// Marks closures that hand out their output one by one.
#[derive(Debug)]
pub struct Generator;

/// What gives a document for each time it calls `give`, as a Python function that yields.
impl<F: Fn(Call, Give<'_>) -> Result<()> + Send + Sync + 'static> IntoLogic<Generator> for F {
    fn into_logic(self, name: &str) -> (Component, Option<Function>) {
        (rust(name), Some(Arc::new(self)))
    }
}

impl IntoLogic<Component> for Component {
    fn into_logic(self, _: &str) -> (Component, Option<Function>) {
        (self, None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[test]
    fn the_builder_says_what_the_file_says() {
        let built = Flow::new("sensors")
            .storage("all", sqlite().beside("key", "id"))
            .pipeline("numbers", |pipeline| {
                pipeline
                    .every("10s")
                    .http(
                        http("http://localhost:8027")
                            .header("apikey", "k")
                            .option("timeout", "5s"),
                    )
                    .store(json("data").preprocess("add_datetime"))
                    .store("all")
            })
            .pipeline("stream", |pipeline| {
                pipeline
                    .source(mqtt("localhost:1883", "/demo/integers").set("qos", value!(0)))
                    .core_logic(python("logic.py:work").params(value!({"limit": 5})))
                    .send(http_post("http://localhost:8027").field("calculated value"))
            });
        let file = "
name: sensors
storages:
  all: {sqlite: {}, key: id}
pipelines:
  numbers:
    every: 10s
    stages:
      - http: {url: \"http://localhost:8027\", headers: {apikey: k}}
        timeout: 5s
      - store: {json: {folder: data}, preprocess: [add_datetime]}
      - store: all
  stream:
    source: {mqtt: {broker: \"localhost:1883\", topic: /demo/integers, qos: 0}}
    stages:
      - core_logic: {python: \"logic.py:work\", params: {limit: 5}}
      - send: {http_post: {url: \"http://localhost:8027\"}, field: calculated value}
";
        assert_eq!(
            built.node().to_value(),
            wiredflow_core::yaml::parse(file).unwrap().to_value()
        );
        assert!(built.build().is_ok());
    }

    #[test]
    fn whatever_the_file_can_say_a_component_can() {
        let built = Flow::new("x").pipeline("p", |p| {
            p.source(component("webhook", value!({"listen": "127.0.0.1:9000"})))
                .step(
                    component("filter", value!({"field": "n", "above": 20})).option("name", "warm"),
                )
                .core_logic(
                    component("sql", value!("select * from input")).params(value!({"a": 1})),
                )
                .store(component("parquet", value!({"folder": "data"})).mapping("overwrite"))
        });
        let file = "
name: x
pipelines:
  p:
    source: {webhook: {listen: \"127.0.0.1:9000\"}}
    stages:
      - filter: {field: n, above: 20}
        name: warm
      - core_logic: {sql: select * from input, params: {a: 1}}
      - store: {parquet: {folder: data}, mapping: overwrite}
";
        let file = wiredflow_core::yaml::parse(file).unwrap();
        assert_eq!(built.node().to_value(), file.to_value());
    }

    #[test]
    fn a_closure_is_linked_in_under_the_pipelines_name() {
        let flow = Flow::new("x").pipeline("p", |p| p.once().core_logic(|_: Call| Ok(value!(1))));
        assert!(flow.functions().find("p_1").is_some());
    }

    #[test]
    fn a_closure_with_two_arguments_gives_one_by_one() {
        fn twice(call: Call, give: Give<'_>) -> Result<()> {
            give(call.data.clone())?;
            give(call.data)
        }
        let flow = Flow::new("x").pipeline("p", |p| p.once().core_logic(twice).send_with(twice));
        assert_eq!(flow.functions().names().collect::<Vec<_>>(), ["p_1", "p_2"]);
    }

    #[test]
    fn each_preprocess_adds_a_step() {
        let storage = json("data")
            .preprocess("add_datetime")
            .preprocess(rust("tidy").params(value!({"limit": 1})));
        let expected = value!({"json": {"folder": "data"}, "preprocess": ["add_datetime", {"rust": "tidy", "params": {"limit": 1}}]});
        assert_eq!(storage.with_options().to_value(), expected);
    }

    #[test]
    fn build_tells_all_problems() {
        let flow = Flow::new("bad name").pipeline("p", |p| p.set("evry", "10s"));
        let message = flow.build().unwrap_err().to_string();
        for part in ["bad name", "evry", "trigger"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
