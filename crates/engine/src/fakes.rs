//! A flow without its outside, for the flow's own tests: stand-ins say what connectors would bring, and keep
//! what would be sent; the clock stands still until nothing is left to do.
//!
//! All is a rewrite of what there is: of the tree before it is checked (storages go to a private folder) and
//! of the plan after it (stages and sources are opened as stand-ins). No component knows of it, and the run
//! loop, the policies around each stage and the user's functions are the real ones.

mod play;
mod stand_ins;
mod storages;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wiredflow_core::config::{FlowConfig, StageConfig, TriggerConfig};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::{Map, Value};

use crate::catalogue::{Prepared, Work};
use crate::check::links::name_of;
use crate::logic;
use crate::plan::{PipelinePlan, Plan, StagePlan, TriggerPlan};

pub use play::play;
pub use storages::{all_here, private_storages};

/// What comes from outside, once.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A JSON document.
    Json(Value),
    /// Bytes that are read as what they are: they may be no JSON.
    Raw(String),
    /// A peer's answer that is no success.
    Status(u16),
    /// The peer is away.
    Away,
}

/// What a stage is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// The same to each call.
    Always(Said),
    /// One to each call; there is none to a further one.
    InTurn(VecDeque<Said>),
}

/// The name of a stage: its pipeline's and its own.
pub type StageName = (String, String);

/// What the outside does in a test.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// What stages get in the place of what they would ask or calculate.
    pub answers: BTreeMap<StageName, Answers>,
    /// What streams bring, by pipeline.
    pub messages: BTreeMap<String, VecDeque<Said>>,
}

/// One thing that would have left.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The stage that sent it.
    pub stage: StageName,
    /// Where to: a topic, an address, a function.
    pub to: String,
    /// What: a bare text as text, anything else as JSON.
    pub payload: Value,
}

/// What was seen in a test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// All that would have left, in order.
    pub sent: Vec<Sent>,
    /// The params of each call of a stage that was answered for.
    pub asked: Vec<(StageName, Map)>,
}

/// Whether streams end when they have brought everything, or stay open until the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// They end, and their pipelines with them.
    End,
    /// They stay.
    Stay,
}

/// The outside of a flow under test. A cheap clone; what it has said it does not say again.
#[derive(Clone, Debug, Default)]
pub struct Outside(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    given: Given,
    seen: Seen,
}

impl Outside {
    /// An outside that says this.
    pub fn new(given: Given) -> Self {
        let seen = Seen::default();
        Self(Arc::new(Mutex::new(Told { given, seen })))
    }

    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    /// The plan with stand-ins for all that would reach out: sources, stages that talk to peers, receivers,
    /// functions that store or send, and the stages that this outside answers for. `flow` is what the plan
    /// was made from.
    #[must_use]
    pub fn stand_in(&self, plan: &Plan, flow: &FlowConfig, streams: Streams) -> Plan {
        let mut plan = plan.clone();
        // Who is given messages takes nothing from others.
        let is_given = |name: &str| self.lock().given.messages.contains_key(name);
        plan.links.retain(|link| !is_given(&link.receiver));
        let joined: BTreeSet<Arc<str>> = plan
            .links
            .iter()
            .map(|link| Arc::clone(&link.name))
            .collect();
        let is_joined = |config: &Node| name_of(config).is_some_and(|name| joined.contains(&*name));
        for pipeline in &mut plan.pipelines {
            let same =
                |config: &&wiredflow_core::config::PipelineConfig| *config.name == *pipeline.name;
            let Some(config) = flow.pipelines.iter().find(same) else {
                continue;
            };
            let takes = |trigger: &TriggerConfig| matches!(trigger, TriggerConfig::Source { kind, config } if kind == "link" && is_joined(config));
            if !takes(&config.trigger) {
                self.source(pipeline, &config.trigger, streams);
            }
            for (stage, config) in pipeline.stages.iter_mut().zip(&config.stages) {
                if stage.kind == "link" && !is_joined(&config.config) {
                    stage.open = stand_ins::passes().open;
                    continue;
                }
                let name = (pipeline.name.to_string(), stage.name.to_string());
                if let Some(prepared) = self.stage(name, stage, config) {
                    stage.open = prepared.open;
                }
            }
        }
        plan
    }

    fn source(&self, pipeline: &mut PipelinePlan, config: &TriggerConfig, streams: Streams) {
        if let (TriggerPlan::Source { open, .. }, TriggerConfig::Source { config, .. }) =
            (&mut pipeline.trigger, config)
        {
            *open = stand_ins::source(self.clone(), &pipeline.name, config, streams);
        }
    }

    /// What stands in for a stage; none where the real one works.
    fn stage(&self, name: StageName, plan: &StagePlan, config: &StageConfig) -> Option<Prepared> {
        let is_function = logic::is_function(&config.config);
        let answered = self.lock().given.answers.contains_key(&name);
        match (plan.kind.as_str(), plan.work) {
            ("send", _) => Some(stand_ins::receiver(
                self.clone(),
                name,
                plan.work,
                &config.config,
            )),
            ("store", _) if is_function => Some(stand_ins::store(self.clone(), name, plan.work)),
            (_, Work::PeerSink) => Some(stand_ins::store(self.clone(), name, plan.work)),
            ("http", _) | (_, Work::Peer) => {
                Some(stand_ins::connector(self.clone(), name, plan.work))
            }
            // A remote does it by code of its own, which no test has.
            ("core_logic", _) if !is_function => {
                Some(stand_ins::connector(self.clone(), name, plan.work))
            }
            _ if answered => Some(stand_ins::connector(self.clone(), name, plan.work)),
            _ => None,
        }
    }

    fn next_answer(&self, name: &StageName, params: &Map) -> Option<Said> {
        let mut told = self.lock();
        told.seen.asked.push((name.clone(), params.clone()));
        match told.given.answers.get_mut(name)? {
            Answers::Always(said) => Some(said.clone()),
            Answers::InTurn(said) => said.pop_front(),
        }
    }

    fn next_messages(&self, pipeline: &str, most: usize) -> Vec<Said> {
        let mut told = self.lock();
        let Some(messages) = told.given.messages.get_mut(pipeline) else {
            return Vec::new();
        };
        let number = most.min(messages.len());
        messages.drain(..number).collect()
    }

    fn note(&self, sent: Sent) {
        self.lock().seen.sent.push(sent);
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a test may answer for a stage: it brings records in, or makes them.
pub fn can_be_answered(stage: &StageConfig) -> bool {
    !matches!(
        stage.kind.as_str(),
        "store" | "send" | "configuration" | "link"
    )
}

/// Where a `send` stage sends to: the topic, the address, or the function.
fn receiver_of(config: &wiredflow_core::node::Node) -> (String, Option<Arc<str>>) {
    let field = config
        .entry("field")
        .and_then(|entry| entry.value.as_text());
    let field = field.map(Arc::from);
    let NodeKind::Map(entries) = &config.kind else {
        return (String::new(), field);
    };
    let mut kinds = entries
        .iter()
        .filter(|entry| !matches!(entry.key.as_str(), "field" | "required"));
    let to = kinds.next().map(|kind| {
        let inner = ["topic", "url"]
            .iter()
            .find_map(|key| kind.value.entry(key));
        let text = inner.map_or(&kind.value, |entry| &entry.value).as_text();
        text.unwrap_or(&kind.key).to_owned()
    });
    (to.unwrap_or_default(), field)
}
