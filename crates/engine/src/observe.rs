//! Counters and clocks of a running flow: the only place that counts.

mod bytes;
mod host;
mod inbox;
mod outbox;
mod pipeline;
mod queue;
pub(crate) mod repeats;
mod replica;
mod report;
mod stage;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;
use wiredflow_core::charge::Activity;
use wiredflow_scale::figures::{FlowFigures, Trigger};
use wiredflow_scale::profile::Profile;

use crate::clock::Clock;

use host::HostMeter;

pub use inbox::{InboxMeter, InboxReport};
pub use outbox::{OutboxMeter, OutboxReport};
pub use pipeline::{Holding, PipelineMeter};
pub use queue::{QueueMeter, Waiting};
pub use replica::{Calling, ReplicaClock};
pub use report::{Deliveries, PipelineReport, RunReport};
pub use stage::StageMeter;
pub use workers::{Worker, Workers};

/// Whether times are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metering {
    /// Always, but for the benchmark of what that costs.
    #[default]
    On,
    /// Counts go on, and all times stay at zero.
    Off,
}

/// What is to be measured of a stage.
#[derive(Clone, Debug)]
pub struct StageSign {
    /// Its name.
    pub name: Arc<str>,
    /// Its component.
    pub kind: String,
    /// How many calls can run at once.
    pub replicas: usize,
    /// Batches that can wait before it.
    pub queue_room: usize,
    /// Whether a call takes all that waits.
    pub joins: bool,
    /// Calls a second that its `rate_limit` allows.
    pub rate_limit: Option<f64>,
    /// Whether its input is done with only when it is.
    pub required: bool,
}

/// What is to be measured of a pipeline: its name and its stages.
#[derive(Debug)]
pub struct PipelineSign {
    /// Its name.
    pub name: Arc<str>,
    /// What starts its deliveries.
    pub trigger: Trigger,
    /// Its stages.
    pub stages: Vec<StageSign>,
    /// The inbox that it takes deliveries into, for the pipeline of its name, which comes before it.
    pub receives_into: Option<Arc<InboxMeter>>,
}

/// The meters of one pipeline and its stages.
#[derive(Debug)]
struct Meters {
    name: Arc<str>,
    receives_into: Option<Arc<InboxMeter>>,
    pipeline: Arc<PipelineMeter>,
    stages: Vec<Arc<StageMeter>>,
}

/// All meters of a flow.
#[derive(Debug)]
pub struct FlowMeter {
    flow: String,
    clock: Clock,
    started: Instant,
    pipelines: Vec<Meters>,
    host: HostMeter,
}

impl FlowMeter {
    /// Starts the clocks of these pipelines and their stages.
    pub fn start(
        flow: &str,
        pipelines: &[PipelineSign],
        clock: &Clock,
        metering: Metering,
    ) -> Self {
        let meters = |sign: &PipelineSign| {
            let PipelineSign { name, stages, .. } = sign;
            let stage =
                |stage: &StageSign| Arc::new(StageMeter::new(name, stage, (clock, metering)));
            Meters {
                name: Arc::clone(name),
                receives_into: sign.receives_into.clone(),
                pipeline: Arc::new(PipelineMeter::new(name, sign.trigger, clock)),
                stages: stages.iter().map(stage).collect(),
            }
        };
        Self {
            flow: flow.to_owned(),
            clock: clock.clone(),
            started: clock.monotonic(),
            pipelines: pipelines.iter().map(meters).collect(),
            host: HostMeter::start(),
        }
    }

    /// The meters of pipeline number `index`.
    pub fn pipeline(&self, index: usize) -> (Arc<PipelineMeter>, Vec<Arc<StageMeter>>) {
        let meters = &self.pipelines[index];
        (Arc::clone(&meters.pipeline), meters.stages.clone())
    }

    /// What counts the worker processes of a stage.
    pub fn workers(&self, pipeline: &str, stage: &str) -> Workers {
        let pipelines = self.pipelines.iter().filter(|one| *one.name == *pipeline);
        let mut stages = pipelines.flat_map(|one| &one.stages);
        let stage = stages.find(|known| known.is_called(stage));
        stage.map_or_else(Workers::default, |stage| stage.workers.clone())
    }

    /// Whether any stage works now.
    pub(crate) fn is_working(&self) -> bool {
        let stages = self.pipelines.iter().flat_map(|meters| &meters.stages);
        let mut replicas = stages.flat_map(|stage| &stage.replicas);
        replicas.any(|replica| match replica.activity() {
            Activity::Compute | Activity::External | Activity::Overhead => true,
            Activity::Blocked | Activity::Starved | Activity::Throttled => false,
        })
    }

    /// A number that changes whenever a call begins, fails or hands something on.
    pub(crate) fn moved(&self) -> u64 {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stages = self.pipelines.iter().flat_map(|meters| &meters.stages);
        stages
            .map(|stage| count(&stage.calls) + count(&stage.errors) + count(&stage.records_out))
            .sum()
    }

    /// The figures now.
    pub fn report(&self, error: Option<String>) -> RunReport {
        let mut pipelines: BTreeMap<String, PipelineReport> = BTreeMap::new();
        for meters in &self.pipelines {
            let report = meters.pipeline.report(&meters.stages);
            match (&meters.receives_into, pipelines.get_mut(&*meters.name)) {
                (Some(inbox), Some(working)) => working.add_receiving(report, inbox.report()),
                (None, _) | (Some(_), None) => {
                    pipelines.insert(meters.name.to_string(), report);
                }
            }
        }
        let figures = self.figures_of_stages();
        let profile = Profile::between(None, &figures);
        RunReport {
            flow: self.flow.clone(),
            ok: error.is_none(),
            seconds: figures.seconds,
            error,
            pipelines,
            stages: profile.stages,
        }
    }

    /// All figures since the start. Those of the machine are read from the system: some tens of microseconds for
    /// each of its threads and children.
    pub fn figures(&self) -> FlowFigures {
        FlowFigures {
            host: self.host.figures(),
            ..self.figures_of_stages()
        }
    }

    /// All figures but those of the machine.
    fn figures_of_stages(&self) -> FlowFigures {
        let mut figures = FlowFigures {
            flow: self.flow.clone(),
            seconds: (self.clock.monotonic() - self.started).as_secs_f64(),
            ..FlowFigures::default()
        };
        for meters in &self.pipelines {
            if meters.receives_into.is_some() {
                continue;
            }
            let stages = meters.stages.iter().map(|stage| stage.figures());
            figures.stages.extend(stages);
            let mut all = self.pipelines.iter();
            let inbox = all
                .find(|other| other.name == meters.name && other.receives_into.is_some())
                .and_then(|other| other.receives_into.as_ref());
            let waiting = inbox.map_or(0, |inbox| inbox.report().waiting);
            figures.pipelines.push(meters.pipeline.figures(waiting));
        }
        figures
    }
}
