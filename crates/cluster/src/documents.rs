//! What stands in the engine: JSON, each with the number of its format.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The format of these documents. Who reads one of a later format leaves it alone and says so.
pub const FORMAT: u32 = 1;

/// A flow that somebody has deployed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployed {
    /// See [`FORMAT`].
    pub format: u32,
    /// The digest of its file and code, by which nodes get them.
    pub version: String,
    /// Whether it is to run.
    pub wanted: Wanted,
    /// Why it was stopped, where nobody asked for that.
    #[serde(default)]
    pub failure: Option<String>,
    /// How its pipelines stand together.
    pub parts: Vec<PartSpec>,
    /// When this version came.
    pub deployed: Timestamp,
    /// When somebody last asked for something else: the later one counts where two are known.
    pub changed: Timestamp,
    /// Who brought it: `user@machine`.
    pub by: String,
}

/// Whether a flow is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// It is.
    Running,
    /// It is not; what runs of it ends.
    Stopped,
}

/// Pipelines that stand on one node together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartSpec {
    /// Its name, which stays the same from one version to the next.
    pub name: String,
    /// Its pipelines.
    pub pipelines: Vec<String>,
    /// Why it stays where its files are; empty where it may be moved.
    #[serde(default)]
    pub pinned_by: Vec<String>,
    /// Labels that its node must have.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// The cores that it keeps busy, of a machine of speed 1.
    #[serde(default = "least")]
    pub cores: f64,
}

fn least() -> f64 {
    0.01
}

/// Where a part stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// See [`FORMAT`].
    pub format: u32,
    /// The node.
    pub node: String,
    /// The version of the flow.
    pub version: String,
    /// The part's pipelines in that version.
    pub pipelines: Vec<String>,
    /// What the node is to do.
    pub wish: Wish,
    /// Whether its files are there, so that no other node can go on with it.
    pub pinned: bool,
}

/// What a node is to do with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Run it.
    Run,
    /// End it in good order and say so.
    Leave,
}

/// What a node says of a part. It is written when something has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// See [`FORMAT`].
    pub format: u32,
    /// The node that says so.
    pub node: String,
    /// The revision of the assignment that it follows.
    pub epoch: u64,
    /// The version that runs.
    pub version: String,
    /// How it is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
}

/// How a part is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "why")]
pub enum Phase {
    /// On its way: code is fetched, pipelines are opened. What it waits for, if that is known.
    Opening(Option<String>),
    /// All its pipelines are open.
    Open,
    /// It has ended well: it had a beginning and an end.
    Done,
    /// It has failed, and its policy was to stop.
    Failed(String),
    /// It was told to leave, and has.
    Left,
}

/// What a node says of itself as long as it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeCard {
    /// See [`FORMAT`].
    pub format: u32,
    /// The program's version.
    pub program: String,
    /// What it can: `gpu`.
    pub labels: BTreeSet<String>,
    /// Its cores.
    pub cores: usize,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// How fast one core is, as measured at the start; 1 is the machine of the benchmark.
    pub speed: f64,
    /// The cores of a machine of speed 1 that parts kept busy of late, by `FLOW/PART`; small ones are left out.
    #[serde(default)]
    pub load: BTreeMap<String, f64>,
    /// Since when it is there.
    pub since: Timestamp,
    /// Whether it takes no more and wants to be rid of what can be moved.
    pub drains: bool,
}

impl NodeCard {
    /// The cores of a machine of speed 1 that it stands for.
    pub fn capacity(&self) -> f64 {
        (self.cores as f64 * self.speed).max(0.01)
    }
}
