//! What coordinators and nodes say to each other. Each letter has one of these as its head.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wiredflow_core::frame::Start;

use super::{RELEASE, VERSION, sorted};

/// Only the version, which every head has: it is looked at before anything else.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Versioned {
    /// See [`VERSION`].
    pub version: u32,
}

/// The head of a task in its queue. What follows it is one frame `call`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// See [`VERSION`].
    pub version: u32,
    /// The flow's release.
    pub release: String,
    /// The task's name, which no other task has.
    pub task: String,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// What every word about this attempt must bring.
    pub token: String,
    /// The hash of the [`Setting`].
    pub setting: String,
    /// The kind of the stage.
    pub kind: String,
    /// What the process list of the node shows.
    pub label: String,
    /// Where the coordinator listens.
    pub reply: Vec<String>,
}

/// What a node must know to run a stage. It is asked for by its hash, and goes from the flow to the node without being
/// kept anywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The first frame for the process that runs the stage.
    pub start: Start,
    /// The hash of the flow's code; none where it has none.
    pub code: Option<String>,
    /// The Python that runs functions.
    pub python: String,
    /// Variables for the user's code.
    pub env: BTreeMap<String, String>,
}

/// The head of what a node says to a coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// See [`VERSION`].
    pub version: u32,
    /// See [`Task::task`].
    pub task: String,
    /// See [`Task::attempt`].
    pub attempt: u32,
    /// See [`Task::token`].
    pub token: String,
    /// Who speaks: another one for each time that a task was taken.
    pub by: String,
    /// The node's name, for people.
    pub node: String,
    /// What is said.
    pub what: What,
}

/// What a node says of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// May I begin?
    Begun {
        /// Where the node hears that the task is not wanted any more.
        address: Vec<String>,
    },
    /// A sign of life, with the frames that follow: outputs, log lines, a load or save, the end.
    Say,
    /// A part of a setting or of code, by its hash.
    Fetch {
        /// The hash.
        hash: String,
        /// From this byte on.
        offset: u64,
    },
    /// The process that ran the stage has died.
    Died {
        /// How.
        words: String,
    },
    /// The node ends, and leaves the task to others.
    Left,
    /// The node does not take the task.
    Refused {
        /// Why.
        words: String,
    },
}

/// The head of a coordinator's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nobody wants to hear of this attempt: end it, and let go of its message.
    NotWanted,
    /// It was heard, and so many outputs of the attempt may be sent in all.
    Heard {
        /// How many, from its first one on.
        credit: u64,
    },
    /// What follows is a part of what was asked for.
    Part {
        /// Its whole length in bytes.
        total: u64,
    },
}

/// What a coordinator tells a node of its own accord: a task is not wanted any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cancel {
    /// See [`Task::task`].
    pub task: String,
    /// See [`Task::token`].
    pub token: String,
}

/// A queue with somebody who publishes there, as it stands on the shelf of those who are present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// What a node must have to take from it.
    pub labels: Vec<String>,
    /// The kind of the stages.
    pub kind: String,
}

/// A node, as it stands on the shelf of those who are present.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// See [`VERSION`].
    pub version: u32,
    /// Its release.
    pub release: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// The kinds of stages that it takes.
    pub kinds: Vec<String>,
    /// How many calls it works on at once.
    pub slots: usize,
    /// How many of them are under way.
    pub busy: usize,
    /// Its cores.
    pub cores: usize,
    /// Its memory in bytes.
    pub memory: u64,
    /// How quick one core is: MiB of SHA-256 in a second.
    pub speed: f64,
    /// Whether it takes no more.
    pub draining: bool,
}

impl Node {
    /// In words, for people.
    pub fn told(&self) -> String {
        let Self {
            name,
            slots,
            busy,
            cores,
            speed,
            ..
        } = self;
        let labels = match self.labels.is_empty() {
            true => "no labels".to_owned(),
            false => self.labels.join(", "),
        };
        let gib = self.memory as f64 / f64::from(1 << 30);
        format!(
            "node `{name}` with {labels}: {busy} of {slots} slots taken, {cores} cores of {speed:.0} MiB/s, {gib:.1} GiB"
        )
    }

    /// Why it takes nothing of such a queue; none where it does.
    pub fn objection(&self, queue: &Queue) -> Option<String> {
        let missing = sorted(&queue.labels);
        let missing = missing.iter().find(|label| !self.labels.contains(label));
        if self.version != VERSION || self.release != RELEASE {
            return Some(format!(
                "is of release {}, and this is {RELEASE}",
                self.release
            ));
        }
        if let Some(missing) = missing {
            return Some(format!("has no label `{missing}`"));
        }
        if !self.kinds.contains(&queue.kind) && queue.kind != super::TRIAL {
            return Some(format!("takes no `{}` (`--allow`)", queue.kind));
        }
        self.draining.then(|| "is about to end".to_owned())
    }
}

/// Milliseconds for a frame.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
