//! What another process must know to run a stage as this one would.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use wiredflow_core::config::{FlowConfig, OnFailure, StageConfig};
use wiredflow_core::fields::Reading;
use wiredflow_core::frame::{self, Start};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::problem::any_error;
use wiredflow_core::stage::AnyStage;
use wiredflow_core::{Error, Map, Result, Value};

use crate::catalogue::{CheckCx, Work};
use crate::check::storages;
use crate::clock::Clock;
use crate::functions::Functions;
use crate::resources::Resources;
use crate::stages::STAGES;
use crate::storages::StorageHandles;
use crate::tasks::Tasks;

/// A stage on its way to another process: its kind and config, and the names around it.
///
/// What `${env:}` and `${file:}` stood for is in it: it goes to the far end by a channel of its own, never in arguments.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Errand {
    flow: String,
    pipeline: String,
    stage: String,
    kind: String,
    config: Tree,
    storages: Vec<Held>,
}

/// A storage that the flow holds and that the stage may read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// Whether its values are texts, of numbers too, so that SQL may take them for numbers.
    pub texts: bool,
}

/// A [`Node`] without its places.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Filled(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// An opened errand.
pub struct Opened {
    /// The stage.
    pub stage: Box<dyn AnyStage>,
    /// What it does with its time.
    pub work: Work,
    /// The flow's name.
    pub flow: Arc<str>,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The stage's name.
    pub name: Arc<str>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({}.{})", self.pipeline, self.name)
    }
}

impl Errand {
    /// That of a checked stage.
    pub(super) fn of(config: &StageConfig, cx: &CheckCx<'_>) -> Self {
        let held = |name: &String| Held {
            name: name.clone(),
            texts: storages::has_texts(cx.flow, name),
        };
        Self {
            flow: cx.flow.name.clone(),
            pipeline: cx.pipeline.to_owned(),
            stage: config.name.clone(),
            kind: config.kind.clone(),
            config: Tree::of(&config.config),
            storages: cx.storage_names.iter().map(held).collect(),
        }
    }

    /// A stage that has nothing to do.
    pub(super) fn that_does_nothing(flow: &str) -> Self {
        Self {
            flow: flow.to_owned(),
            pipeline: "remotes".to_owned(),
            stage: "test".to_owned(),
            kind: "drop".to_owned(),
            config: Tree::List(vec![Tree::Text("nothing".to_owned())]),
            storages: Vec::new(),
        }
    }

    /// The kind of the stage.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// What the process list of another machine shows.
    pub(super) fn label(&self) -> String {
        format!("{}/{}/{}", self.flow, self.pipeline, self.stage)
    }

    /// The stage's own params.
    pub(super) fn params(&self) -> Map {
        let Tree::Map(entries) = &self.config else {
            return Map::new();
        };
        let params = entries.iter().find(|(key, _)| key == "params");
        match params.map(|(_, params)| params.node().to_value()) {
            Some(Value::Object(params)) => params,
            _ => Map::new(),
        }
    }

    /// What the far end is told first: functions run in `folder` where that end has no other, and it gives a sign of life
    /// every `heartbeat` milliseconds.
    ///
    /// # Errors
    /// `Bug`, where it cannot be written.
    pub(super) fn start(&self, folder: &Path, heartbeat: Option<u64>) -> Result<Start> {
        let unwritten = |error| Error::bug(format!("an errand cannot be written: {error}"));
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Ok(Start {
            version: frame::VERSION,
            functions: Vec::new(),
            folder: Some(folder.to_string_lossy().into_owned()),
            limit: frame::FRAME_LIMIT,
            heartbeat,
            errand: Some(serde_json::to_value(self).map_err(unwritten)?),
        })
    }

    /// As it arrives.
    ///
    /// # Errors
    /// `Config`, where it is none of this release.
    pub fn from_value(value: Value) -> Result<Self> {
        serde_json::from_value(value).map_err(|error| {
            Error::config(format!(
                "the stage cannot be read: {error}; use the same release of Wiredflow on both"
            ))
        })
    }

    /// The flow's storages that the stage may read.
    pub fn storages(&self) -> &[Held] {
        &self.storages
    }

    /// Opens the stage in this process. Its functions run in `folder`.
    ///
    /// # Errors
    /// As when a stage is checked and opened where its flow runs.
    pub async fn open(
        &self,
        folder: &Path,
        functions: &Functions,
        storages: StorageHandles,
        (clock, tasks): (Clock, Tasks),
    ) -> Result<Opened> {
        let flow = FlowConfig {
            name: self.flow.clone(),
            state: String::new(),
            listen: None,
            on_failure: OnFailure::default(),
            storages: Vec::new(),
            remotes: Vec::new(),
            pipelines: Vec::new(),
        };
        let names: Vec<String> = self.storages.iter().map(|held| held.name.clone()).collect();
        let mut reading = Reading::default();
        let entry = STAGES
            .iter()
            .find(|entry| entry.card.name == self.kind)
            .ok_or_else(|| Error::config(format!("there is no stage `{}` here", self.kind)))?;
        let mut cx = CheckCx {
            reading: &mut reading,
            flow: &flow,
            pipeline: &self.pipeline,
            folder,
            functions,
            storage_names: &names,
        };
        let prepared = (entry.prepare)(&self.config.node(), &mut cx);
        let problems = reading.into_problems();
        let Some(prepared) = prepared.filter(|_| !any_error(&problems)) else {
            let messages = problems.into_iter().map(|problem| match problem.help {
                Some(help) => format!("{} ({help})", problem.message),
                None => problem.message,
            });
            return Err(Error::config(messages.collect::<Vec<_>>().join("; ")));
        };
        let names = [
            self.flow.as_str(),
            self.pipeline.as_str(),
            self.stage.as_str(),
        ];
        let resources = Resources::alone(names, folder, functions, storages, (clock, tasks));
        Ok(Opened {
            flow: Arc::clone(&resources.flow),
            pipeline: Arc::clone(&resources.pipeline),
            name: Arc::clone(&resources.stage),
            stage: (prepared.open.0)(resources).await?,
            work: prepared.work,
        })
    }
}

impl Tree {
    fn of(node: &Node) -> Self {
        match &node.kind {
            NodeKind::Null => Self::Null,
            NodeKind::Bool(flag) => Self::Bool(*flag),
            NodeKind::Number(number) => Self::Number(number.clone()),
            NodeKind::Text(text) => Self::Text(text.clone()),
            NodeKind::Filled(text) => Self::Filled(text.clone()),
            NodeKind::List(items) => Self::List(items.iter().map(Self::of).collect()),
            NodeKind::Map(entries) => {
                let entry = |entry: &wiredflow_core::node::Entry| {
                    (entry.key.clone(), Self::of(&entry.value))
                };
                Self::Map(entries.iter().map(entry).collect())
            }
        }
    }

    fn node(&self) -> Node {
        match self {
            Self::Null => Node::new(NodeKind::Null),
            Self::Bool(flag) => Node::new(NodeKind::Bool(*flag)),
            Self::Number(number) => Node::new(NodeKind::Number(number.clone())),
            Self::Text(text) => Node::text(text),
            Self::Filled(text) => Node::new(NodeKind::Filled(text.clone())),
            Self::List(items) => Node::new(NodeKind::List(items.iter().map(Self::node).collect())),
            Self::Map(entries) => Node::map(entries.iter().map(|(key, tree)| (key, tree.node()))),
        }
    }
}
