//! Random flows: valid ones of every kind of trigger, stage and storage, and the damage that users do to them.
//!
//! A flow is made in two steps: a *draft* of independent choices, which proptest makes smaller by itself when a test
//! fails, and its assembly, which gives names and lets stages name the storages that there are.
//!
//! ```
//! # use proptest::prelude::*;
//! # use wiredflow_testkit::flows;
//! proptest! {
//!     fn whatever_the_flow(node in flows::flow()) {
//!         // `wiredflow_core::yaml::write(&node)` is its file.
//!     }
//! }
//! # whatever_the_flow();
//! ```

mod edits;
mod parts;
mod values;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use wiredflow_core::Value;
use wiredflow_core::node::{Entry, Node, NodeKind};

pub use edits::{Edit, edit};
pub use values::{document, text};

use parts::{Entries, StageDraft, options, stage, storage, trigger};

/// The name under which a flow's functions are linked in: `{rust: work}` stands where user code does.
pub const FUNCTION: &str = "work";

/// A valid flow as the tree that its file would give. Whoever checks it links in a function called [`FUNCTION`].
pub fn flow() -> impl Strategy<Value = Node> {
    let pipelines = vec(pipeline(), 1..5);
    let keys = (
        option::of("[A-Za-z0-9_-]{1,64}"),
        option::of(select(vec!["state", "var/state", ".other"])),
        option::of(on_failure()),
    );
    let flow = (keys, vec(storage(), 0..3), pipelines).prop_map(
        |((name, state, on_failure), storages, pipelines)| {
            let mut flow = Entries::default();
            flow.put_some("name", name);
            flow.put_some("state", state);
            flow.put_some("on_failure", on_failure);
            let shared: Vec<String> = (0..storages.len()).map(storage_name).collect();
            if !storages.is_empty() {
                let storages = storages
                    .iter()
                    .enumerate()
                    .map(|(index, draft)| (storage_name(index), draft.node(index)));
                flow.put("storages", Node::map(storages.collect::<Vec<_>>()));
            }
            let mut loadable = shared.clone();
            for (index, pipeline) in pipelines.iter().enumerate() {
                if pipeline
                    .stages
                    .iter()
                    .any(|stage| stage.is_inline_storage(shared.len()))
                {
                    loadable.push(pipeline_name(index));
                }
            }
            let pipelines = pipelines.iter().enumerate();
            let pipelines = pipelines.map(|(index, draft)| {
                (pipeline_name(index), draft.node(index, &shared, &loadable))
            });
            flow.put("pipelines", Node::map(pipelines.collect::<Vec<_>>()));
            flow.node()
        },
    );
    flow.prop_filter("two webhooks cannot have one port", |flow| {
        let mut listens = webhooks(flow);
        listens.sort_unstable();
        listens.windows(2).all(|pair| pair[0] != pair[1])
    })
}

/// Where its webhooks listen.
fn webhooks(flow: &Node) -> Vec<&str> {
    fn listen(pipeline: &Entry) -> Option<&str> {
        let source = &pipeline.value.entry("source")?.value;
        let webhook = &source.entry("webhook")?.value;
        webhook.entry("listen")?.value.as_text()
    }
    let Some(NodeKind::Map(pipelines)) = flow.entry("pipelines").map(|entry| &entry.value.kind)
    else {
        return Vec::new();
    };
    pipelines.iter().filter_map(listen).collect()
}

/// No name is another's with a number behind: `numbers_2` would be the second storage of `numbers`.
fn pipeline_name(index: usize) -> String {
    ["numbers", "letters-2", "A_b", "x"][index % 4].to_owned()
}

fn storage_name(index: usize) -> String {
    ["all", "kept-9", "Last_one"][index % 3].to_owned()
}

fn on_failure() -> impl Strategy<Value = &'static str> {
    select(vec!["stop", "restart", "isolate"])
}

#[derive(Clone, Debug)]
struct PipelineDraft {
    keys: Vec<(&'static str, Node)>,
    stages: Vec<StageDraft>,
}

fn pipeline() -> impl Strategy<Value = PipelineDraft> {
    let duration = || option::of(values::duration());
    let word = |words: &'static [&'static str]| option::of(select(words));
    let scheduled = (
        duration(),
        duration(),
        duration(),
        word(&["skip", "queue", "allow"]),
        word(&["latest", "all", "none"]),
    );
    let plain = (
        option::of(on_failure()),
        word(&["task"]),
        word(&["sink", "inbox"]),
    );
    let steps = vec((stage(), options()), 1..6);
    (trigger(), scheduled, plain, steps).prop_map(
        |((trigger, is_source), scheduled, plain, stages)| {
            let mut keys = trigger;
            let (delay, jitter, timeout, overlap, catch_up) = scheduled;
            let mut put = |key, value: Option<Node>| keys.extend(value.map(|value| (key, value)));
            if !is_source {
                put("delay", delay.map(Node::from));
                put("jitter", jitter.map(Node::from));
                put("timeout", timeout.map(Node::from));
            }
            put("overlap", overlap.map(Node::from));
            put("catch_up", catch_up.map(Node::from));
            put("on_failure", plain.0.map(Node::from));
            put("isolation", plain.1.map(Node::from));
            put(
                "ack",
                plain
                    .2
                    .filter(|word| is_source || *word == "sink")
                    .map(Node::from),
            );
            let stages = stages
                .into_iter()
                .map(|(stage, options)| stage.with_options(options));
            PipelineDraft {
                keys,
                stages: stages.collect(),
            }
        },
    )
}

impl PipelineDraft {
    fn node(&self, pipeline: usize, shared: &[String], loadable: &[String]) -> Node {
        let stages = self.stages.iter().enumerate();
        let stages = stages.map(|(index, stage)| stage.node((pipeline, index), shared, loadable));
        let mut keys = Entries::default();
        self.keys
            .iter()
            .for_each(|(key, value)| keys.put(key, value.clone()));
        keys.put("stages", Node::new(NodeKind::List(stages.collect())));
        keys.node()
    }
}

/// One of the names, if there is any.
fn chosen<'n>(which: &Index, names: &'n [String]) -> Option<&'n str> {
    (!names.is_empty()).then(|| which.get(names).as_str())
}

fn number(value: impl Into<Value>) -> Node {
    Node::from(value.into())
}
