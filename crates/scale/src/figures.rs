//! What is counted of a running flow, from its start on: the difference of two such figures is the profile
//! of the time between them.

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::profile::Seconds;

/// All figures of a flow since its start, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowFigures {
    /// The flow.
    pub flow: String,
    /// Seconds since the start.
    pub seconds: f64,
    /// The machine, as this process sees it.
    pub host: HostFigures,
    /// Each stage, in the order of the file.
    pub stages: Vec<StageFigures>,
    /// Each pipeline, in the order of the file.
    pub pipelines: Vec<PipelineFigures>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFigures {
    /// Cores that this process may use: what its affinity and its control group leave it.
    pub cores: f64,
    /// Core seconds in which any process worked.
    pub busy_seconds: f64,
    /// CPU seconds of this process and its children.
    pub own_cpu_seconds: f64,
    /// Seconds in which a thread of this process or of its children was ready and had no core, as the kernel counts.
    pub run_delay_seconds: f64,
    /// Bytes resident now, of this process and its children.
    pub memory_bytes: u64,
    /// The share of the machine's (or the control group's) memory that is in use now, 0 to 1.
    pub memory_used: f64,
    /// Pages that had to be read from a disk.
    pub major_faults: u64,
}

/// One stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageFigures {
    /// Its pipeline.
    pub pipeline: String,
    /// Its name.
    pub stage: String,
    /// Its component: `http`, `core_logic` …
    pub kind: String,
    /// Where it runs: `local`, or the name of a remote.
    #[serde(rename = "where")]
    pub place: String,
    /// How many calls can run at once.
    pub replicas: usize,
    /// Worker processes that its calls share; 0 where it has none.
    pub processes: usize,
    /// Calls a second that its `rate_limit` allows.
    pub rate_limit: Option<f64>,
    /// Attempts.
    pub calls: u64,
    /// Records that came in.
    pub records_in: u64,
    /// Records that it handed on.
    pub records_out: u64,
    /// Bytes of the records that came in, as JSON; none where they are not counted.
    pub bytes_in: Option<u64>,
    /// Bytes of the records that it handed on, as JSON; none where they are not counted.
    pub bytes_out: Option<u64>,
    /// Attempts that failed.
    pub errors: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Answers 429, and 503 with `Retry-After`.
    pub limited: u64,
    /// Looks at which the clocks of a replica did not add up to its time.
    #[serde(default)]
    pub clock_faults: u64,
    /// The six clocks of all replicas.
    pub seconds: Seconds,
    /// CPU seconds that its calls took, of threads and child processes.
    pub cpu_seconds: f64,
    /// Seconds in which its calls were ready and had no core.
    pub run_delay_seconds: f64,
    /// Times of single attempts, in microseconds.
    pub service: Histogram,
    /// Records in each batch.
    pub batch: Histogram,
    /// How long each batch has waited before it, in microseconds.
    pub queue_wait: Histogram,
    /// Batches × seconds that they have waited before it, those that wait now included: over the seconds of
    /// a time, its mean queue.
    pub queue_seconds: f64,
    /// Batches that wait before it now.
    pub queued: usize,
    /// Batches that can wait before it.
    pub queue_room: usize,
    /// Calls that run now.
    pub in_flight: usize,
    /// How long the oldest of them has run.
    pub oldest_call_seconds: f64,
    /// Records that wait in its outbox now, where nothing waits for it (`required: false`).
    pub outbox: Option<u64>,
    /// How many more these are than at the beginning.
    pub outbox_growth: i64,
    /// The share of the most frequent key among its records, 0 to 1; for keyed stages.
    pub hottest_key: Option<f64>,
    /// Bytes resident now of its own child processes.
    pub memory_bytes: Option<u64>,
}

/// What starts the deliveries of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A schedule; the mean time from tick to tick where it has one.
    Schedule {
        /// Seconds from one tick to the next.
        period_seconds: Option<f64>,
    },
    /// Once at the start.
    #[default]
    Once,
    /// A source without an end.
    Stream,
}

/// One pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineFigures {
    /// Its name.
    pub pipeline: String,
    /// What starts its deliveries.
    pub trigger: Trigger,
    /// Deliveries that have ended.
    pub runs: u64,
    /// From the start of each delivery to its end, in microseconds.
    pub run_time: Histogram,
    /// Deliveries under way.
    pub under_way: u64,
    /// How long the oldest of them has been under way.
    pub oldest_run_seconds: f64,
    /// Ticks that came while the delivery before still ran.
    pub ticks_skipped: u64,
    /// Records that came in.
    pub records_in: u64,
    /// Seconds in which its source, or the trigger, waited for the first stage to take what it had.
    pub source_blocked_seconds: f64,
    /// Deliveries that wait in its inbox now.
    pub waiting: u64,
}
