//! Counters and clocks of a running flow: the only place that counts.

mod inbox;
pub(crate) mod repeats;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::delivery::Outcome;
use wiredflow_scale::histogram::Histogram;
use wiredflow_scale::profile::{Clocks, Seconds, Spread, StageProfile};

use crate::clock::Clock;

pub use inbox::{InboxMeter, InboxReport};

/// The six clocks of one replica of a stage.
#[derive(Debug)]
pub struct ReplicaClock {
    clock: Clock,
    started: Instant,
    state: Mutex<ClockState>,
}

#[derive(Clone, Copy, Debug)]
struct ClockState {
    now: Activity,
    since: Instant,
    totals: Clocks,
}

impl ReplicaClock {
    fn start(clock: &Clock) -> Self {
        let since = clock.monotonic();
        let state = ClockState {
            now: Activity::Starved,
            since,
            totals: Clocks::default(),
        };
        Self {
            clock: clock.clone(),
            started: since,
            state: Mutex::new(state),
        }
    }

    /// What time is charged to now.
    pub fn activity(&self) -> Activity {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .now
    }

    /// The times until now, the running one included.
    pub fn read(&self) -> Clocks {
        self.measure().0
    }

    /// The times until now, and the time since the start at the same moment.
    fn measure(&self) -> (Clocks, Duration) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        let mut clocks = state.totals;
        clocks.add(state.now, now - state.since);
        (clocks, now - self.started)
    }
}

impl Charge for ReplicaClock {
    fn enter(&self, activity: Activity) -> Activity {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        let (before, since) = (state.now, state.since);
        state.totals.add(before, now - since);
        (state.now, state.since) = (activity, now);
        before
    }
}

/// The figures of one stage.
#[derive(Debug)]
pub struct StageMeter {
    pipeline: Arc<str>,
    stage: Arc<str>,
    kind: String,
    /// One for each call that can run at once.
    pub replicas: Vec<Arc<ReplicaClock>>,
    /// Attempts.
    pub calls: AtomicU64,
    /// Records that came in.
    pub records_in: AtomicU64,
    /// Records that were handed on.
    pub records_out: AtomicU64,
    /// Attempts that failed.
    pub errors: AtomicU64,
    /// Attempts after the first.
    pub retries: AtomicU64,
    /// Records that had nothing for the stage.
    records_skipped: AtomicU64,
    /// Batches that wait before the stage.
    pub queued: AtomicUsize,
    service: Mutex<Histogram>,
}

impl StageMeter {
    fn new(
        pipeline: &Arc<str>,
        stage: &Arc<str>,
        kind: &str,
        replicas: usize,
        clock: &Clock,
    ) -> Self {
        Self {
            pipeline: Arc::clone(pipeline),
            stage: Arc::clone(stage),
            kind: kind.to_owned(),
            replicas: (0..replicas)
                .map(|_| Arc::new(ReplicaClock::start(clock)))
                .collect(),
            calls: AtomicU64::new(0),
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            records_skipped: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            service: Mutex::default(),
        }
    }

    /// Counts records that had nothing for the stage; says why of the first.
    pub fn passed_over(&self, records: usize, why: &str) {
        if self
            .records_skipped
            .fetch_add(records as u64, Ordering::Relaxed)
            == 0
        {
            tracing::warn!(
                pipeline = %self.pipeline,
                stage = %self.stage,
                "{why}: it is passed over, and so are others like it, which are counted as skipped",
            );
        }
    }

    /// Notes the time of one attempt.
    pub fn served(&self, time: Duration) {
        self.times().note_time(time);
    }

    fn times(&self) -> MutexGuard<'_, Histogram> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self) -> StageProfile {
        let (mut clocks, mut wall) = (Clocks::default(), Duration::ZERO);
        for replica in &self.replicas {
            let (times, elapsed) = replica.measure();
            clocks.merge(&times);
            wall += elapsed;
        }
        let seconds = Seconds::new(wall, &clocks);
        let service_ms = Spread::of(&self.times(), 1e-3);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StageProfile {
            pipeline: self.pipeline.to_string(),
            stage: self.stage.to_string(),
            kind: self.kind.clone(),
            replicas: self.replicas.len(),
            place: "local".to_owned(),
            calls: count(&self.calls),
            records_in: count(&self.records_in),
            records_out: count(&self.records_out),
            bytes_in: None,
            bytes_out: None,
            errors: count(&self.errors),
            retries: count(&self.retries),
            seconds,
            service_ms,
            queue_before: self.queued.load(Ordering::Relaxed) as f64,
            utilisation: seconds.utilisation(),
            ..StageProfile::default()
        }
    }
}

/// The figures of one pipeline.
#[derive(Debug, Default)]
pub struct PipelineMeter {
    committed: AtomicU64,
    failed: AtomicU64,
    dead_lettered: AtomicU64,
    skipped: AtomicU64,
    lost: AtomicU64,
    /// Records that a trigger brought in, or that the first stage made for a tick.
    pub records_in: AtomicU64,
    /// Records that left the last stage.
    pub records_out: AtomicU64,
    /// How often the pipeline was opened again.
    pub restarts: AtomicU64,
    /// Ticks that came while the last delivery still ran.
    pub ticks_skipped: AtomicU64,
    last_error: Mutex<LastError>,
}

/// The newest error of a pipeline, and how many there were.
#[derive(Debug, Default)]
struct LastError {
    number: u64,
    message: Option<String>,
}

impl PipelineMeter {
    /// Counts the end of a delivery.
    pub fn settled(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Committed => &self.committed,
            Outcome::Skipped => &self.skipped,
            Outcome::DeadLettered => &self.dead_lettered,
            Outcome::Failed => &self.failed,
            Outcome::Lost => &self.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps the newest error's words.
    pub fn error(&self, message: &str) {
        let mut last = self.last_error();
        last.number += 1;
        last.message = Some(message.to_owned());
    }

    /// How many errors there were.
    pub(crate) fn errors(&self) -> u64 {
        self.last_error().number
    }

    /// The newest error's words, if it came after so many.
    pub(crate) fn error_after(&self, errors: u64) -> Option<String> {
        let last = self.last_error();
        last.message.clone().filter(|_| last.number > errors)
    }

    fn last_error(&self) -> MutexGuard<'_, LastError> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, stages: &[Arc<StageMeter>]) -> PipelineReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PipelineReport {
            deliveries: Deliveries {
                committed: count(&self.committed),
                failed: count(&self.failed),
                dead_lettered: count(&self.dead_lettered),
                skipped: count(&self.skipped),
                unfinished: count(&self.lost),
            },
            records_in: count(&self.records_in),
            records_out: count(&self.records_out),
            records_skipped: stages
                .iter()
                .map(|stage| count(&stage.records_skipped))
                .sum(),
            restarts: count(&self.restarts),
            ticks_skipped: count(&self.ticks_skipped),
            inbox: None,
            last_error: self.last_error().message.clone(),
        }
    }
}

/// How a flow did, or does: the document of `run --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunReport {
    /// The flow.
    pub flow: String,
    /// Whether nothing failed.
    pub ok: bool,
    /// How long it has run.
    pub seconds: f64,
    /// Why it stopped by itself, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Each pipeline.
    pub pipelines: BTreeMap<String, PipelineReport>,
    /// Each stage.
    pub stages: Vec<StageProfile>,
}

/// How a pipeline did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelineReport {
    /// Its deliveries by their end.
    pub deliveries: Deliveries,
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
    /// Records that had nothing for a stage: without the field that is to be sent.
    pub records_skipped: u64,
    /// How often it was opened again.
    pub restarts: u64,
    /// Ticks that came while the last delivery still ran.
    pub ticks_skipped: u64,
    /// What its inbox did, with `ack: inbox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbox: Option<InboxReport>,
    /// The newest error's words.
    pub last_error: Option<String>,
}

impl PipelineReport {
    /// Adds the counts of an earlier run of the same pipeline.
    pub fn add(&mut self, earlier: &Self) {
        let (now, then) = (&mut self.deliveries, &earlier.deliveries);
        for (count, more) in [
            (&mut now.committed, then.committed),
            (&mut now.failed, then.failed),
            (&mut now.dead_lettered, then.dead_lettered),
            (&mut now.skipped, then.skipped),
            (&mut now.unfinished, then.unfinished),
            (&mut self.records_in, earlier.records_in),
            (&mut self.records_out, earlier.records_out),
            (&mut self.records_skipped, earlier.records_skipped),
            (&mut self.restarts, earlier.restarts),
            (&mut self.ticks_skipped, earlier.ticks_skipped),
        ] {
            *count += more;
        }
        if let (Some(now), Some(then)) = (&mut self.inbox, &earlier.inbox) {
            now.taken += then.taken;
        }
        let last_error = self.last_error.take();
        self.last_error = last_error.or_else(|| earlier.last_error.clone());
    }

    /// Adds what became of the part that takes deliveries into its inbox: its source has those that were not taken.
    fn add_receiving(&mut self, receiving: Self, inbox: InboxReport) {
        self.deliveries.failed += receiving.deliveries.failed;
        self.deliveries.unfinished += receiving.deliveries.unfinished;
        self.restarts += receiving.restarts;
        self.last_error = self.last_error.take().or(receiving.last_error);
        self.inbox = Some(inbox);
    }
}

/// Deliveries by their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deliveries {
    /// Every required sink has committed.
    pub committed: u64,
    /// A stage failed after its last attempt.
    pub failed: u64,
    /// A part is in the dead letters.
    pub dead_lettered: u64,
    /// A policy or the end of the run passed over a part.
    pub skipped: u64,
    /// Dropped by a stop before their end; their source has them still.
    pub unfinished: u64,
}

/// What is to be measured of a stage: its name, its kind and how many calls can run at once.
pub type StageSign = (Arc<str>, String, usize);

/// What is to be measured of a pipeline: its name and its stages.
#[derive(Debug)]
pub struct PipelineSign {
    /// Its name.
    pub name: Arc<str>,
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
}

impl FlowMeter {
    /// Starts the clocks of these pipelines and their stages.
    pub fn start(flow: &str, pipelines: &[PipelineSign], clock: &Clock) -> Self {
        let meters = |sign: &PipelineSign| {
            let PipelineSign { name, stages, .. } = sign;
            let stage = |(stage, kind, replicas): &StageSign| {
                Arc::new(StageMeter::new(name, stage, kind, *replicas, clock))
            };
            Meters {
                name: Arc::clone(name),
                receives_into: sign.receives_into.clone(),
                pipeline: Arc::default(),
                stages: stages.iter().map(stage).collect(),
            }
        };
        Self {
            flow: flow.to_owned(),
            clock: clock.clone(),
            started: clock.monotonic(),
            pipelines: pipelines.iter().map(meters).collect(),
        }
    }

    /// The meters of pipeline number `index`.
    pub fn pipeline(&self, index: usize) -> (Arc<PipelineMeter>, Vec<Arc<StageMeter>>) {
        let meters = &self.pipelines[index];
        (Arc::clone(&meters.pipeline), meters.stages.clone())
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
        let working = |meters: &&Meters| meters.receives_into.is_none();
        let stages = self.pipelines.iter().filter(working);
        let stages = stages.flat_map(|meters| &meters.stages);
        RunReport {
            flow: self.flow.clone(),
            ok: error.is_none(),
            seconds: (self.clock.monotonic() - self.started).as_secs_f64(),
            error,
            pipelines,
            stages: stages.map(|stage| stage.profile()).collect(),
        }
    }
}
