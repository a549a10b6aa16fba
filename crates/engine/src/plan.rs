//! A checked flow: everything that running needs, nothing opened yet.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::config::{Ack, OnFailure, StagePolicy};
use wiredflow_core::schedule::{CatchUp, Overlap, Schedule};
use wiredflow_core::secret::Scrubber;

use crate::catalogue::{OpenSource, OpenStage, OpenStorage, Work};
use crate::functions::Functions;
use crate::links::LinkPlan;
use crate::listen::Listen;
use crate::payload::Shaping;
use crate::remotes::Remote;

/// A flow that can run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: Arc<str>,
    /// The folder of its file: relative paths start here.
    pub folder: PathBuf,
    /// The folder of its state.
    pub state: PathBuf,
    /// Where its API listens.
    pub listen: Listen,
    /// Its storages, inline ones included.
    pub storages: Vec<StoragePlan>,
    /// What its pipelines hand over to each other.
    pub links: Vec<LinkPlan>,
    /// The places where its stages may run.
    pub remotes: Vec<Remote>,
    /// Its pipelines, in the order of the file.
    pub pipelines: Vec<PipelinePlan>,
    /// The Rust functions that are linked in.
    pub functions: Functions,
    /// Takes the secrets of the file out of texts.
    pub scrubber: Scrubber,
}

impl Plan {
    /// Adds the pipelines that take what these hand over, and what those hand over.
    pub fn add_takers(&self, pipelines: &mut BTreeSet<Arc<str>>) {
        loop {
            let takes =
                |link: &&LinkPlan| link.senders.iter().any(|sender| pipelines.contains(sender));
            let takers = self.links.iter().filter(takes);
            let takers: Vec<Arc<str>> = takers.map(|link| Arc::clone(&link.receiver)).collect();
            let before = pipelines.len();
            pipelines.extend(takers);
            if pipelines.len() == before {
                return;
            }
        }
    }
}

/// A storage that can be opened.
#[derive(Clone, Debug)]
pub struct StoragePlan {
    /// Its name.
    pub name: String,
    /// Opens it, on its writer thread.
    pub open: OpenStorage,
}

/// A pipeline that can be opened.
#[derive(Clone, Debug)]
pub struct PipelinePlan {
    /// Its name.
    pub name: Arc<str>,
    /// What starts a delivery.
    pub trigger: TriggerPlan,
    /// The wait before the first delivery; `None` where the user said nothing.
    pub delay: Option<Duration>,
    /// The longest random wait before each delivery.
    pub jitter: Duration,
    /// What happens to a tick that comes while the last delivery still runs.
    pub overlap: Overlap,
    /// What happens to missed ticks.
    pub catch_up: CatchUp,
    /// The longest time of one delivery.
    pub timeout: Option<Duration>,
    /// What a failed delivery does.
    pub on_failure: OnFailure,
    /// When its source is acknowledged.
    pub ack: Ack,
    /// Whether it only takes what its source brings into the inbox of the pipeline of its name.
    pub is_receiving: bool,
    /// The stages, in order.
    pub stages: Vec<StagePlan>,
    /// Whether its first stage gives only what is new.
    pub(crate) since: bool,
    /// How payloads of its source become records, where the engine's reading of JSON is not enough.
    pub(crate) shaping: Option<Arc<Shaping>>,
    /// Whether it reads what other pipelines store first, so that they go ahead at the start.
    pub waits_for_others: bool,
}

/// What starts a delivery.
#[derive(Clone, Debug)]
pub enum TriggerPlan {
    /// A schedule.
    Schedule(Schedule, Steady),
    /// Once at each start.
    Once,
    /// A stream.
    Source {
        /// The component.
        kind: String,
        /// Opens it.
        open: OpenSource,
    },
}

/// Whether a schedule is a fixed grid, which follows the monotonic clock between its ticks; all others
/// follow the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steady {
    /// A fixed grid.
    Yes,
    /// Times of day.
    No,
}

/// A stage that can be opened.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// Its name.
    pub name: Arc<str>,
    /// The component.
    pub kind: String,
    /// What it does with its time.
    pub work: Work,
    /// Opens it.
    pub open: OpenStage,
    /// What the engine does around its calls.
    pub policy: StagePolicy,
    /// Whether its input is done with only when it is: else its records wait in an outbox, and it works on its own.
    pub required: bool,
}

impl StagePlan {
    /// Whether its records are kept on the disk until they are where they go.
    pub fn has_outbox(&self) -> bool {
        !self.required || self.work == Work::PeerSink
    }

    /// Whether a call takes all that waits, as one batch. Not where calls are counted or work side by side, nor where
    /// a peer has a time for each.
    pub fn joins(&self) -> bool {
        let policy = &self.policy;
        let in_one = match self.work {
            Work::Sink | Work::Records => policy.parallel == 1 && policy.rate_limit.is_none(),
            Work::PeerSink | Work::Peer | Work::Function => false,
        };
        // What only keeps records for later takes all that it finds.
        let keeps = !self.required && self.work.takes_many_deliveries();
        policy.batch.is_none() && (in_one || keeps)
    }
}
