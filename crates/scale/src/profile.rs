//! The profile: measured figures of each stage and pipeline, in the shape that `--json` prints.

use serde::{Deserialize, Serialize};

use crate::bottleneck::{self, Bottleneck};
use crate::figures::{FlowFigures, HostFigures, PipelineFigures, StageFigures, Trigger};
use crate::histogram::Histogram;

pub use crate::clocks::{Clocks, Seconds};

/// What was measured of a flow in a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The flow.
    pub flow: String,
    /// How long the time was.
    pub seconds: f64,
    /// The machine.
    pub host: Host,
    /// Each stage.
    pub stages: Vec<StageProfile>,
    /// Each pipeline.
    pub pipelines: Vec<PipelineProfile>,
    /// What limits the flow; none where nothing does.
    pub bottleneck: Option<Bottleneck>,
}

/// The machine in that time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Cores that the flow may use.
    pub cores: f64,
    /// The share of them that worked, for anybody: 0 to 1.
    pub cpu_used: f64,
    /// The share of them that worked for the flow and its children: 0 to 1.
    pub cpu_own: f64,
    /// Seconds in which threads of the flow and its children were ready and had no core, for each second.
    pub run_delay: f64,
    /// Resident memory of the flow and its children.
    pub memory_mib: f64,
    /// The share of all memory that was in use at the end, 0 to 1.
    pub memory_used: f64,
    /// Pages read from a disk, for each second.
    pub major_faults: f64,
}

/// The figures of one stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageProfile {
    /// The pipeline.
    pub pipeline: String,
    /// The stage.
    pub stage: String,
    /// Its component.
    pub kind: String,
    /// How many calls can run at once.
    pub replicas: usize,
    /// Worker processes that its calls share; 0 where it has none.
    pub processes: usize,
    /// Where it runs.
    #[serde(rename = "where")]
    pub place: String,
    /// Calls that were made, attempts counted once each.
    pub calls: u64,
    /// Records that came in.
    pub records_in: u64,
    /// Records that it handed on.
    pub records_out: u64,
    /// Bytes that came in, as JSON; none where they are not counted.
    pub bytes_in: Option<u64>,
    /// Bytes that it handed on, as JSON; none where they are not counted.
    pub bytes_out: Option<u64>,
    /// Attempts that failed.
    pub errors: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Answers that asked for less: 429, and 503 with `Retry-After`.
    pub limited: u64,
    /// Calls a second that its `rate_limit` allows.
    pub rate_limit: Option<f64>,
    /// Looks at which the clocks of a replica did not add up to its time: each is a fault of the measuring.
    pub clock_faults: u64,
    /// Where the time went.
    pub seconds: Seconds,
    /// CPU seconds of its calls, in threads and child processes.
    pub cpu_seconds: f64,
    /// Seconds in which its calls were ready and had no core.
    pub run_delay_seconds: f64,
    /// The time of one attempt, in milliseconds.
    pub service_ms: Spread,
    /// How long a batch waited before it, in milliseconds.
    pub queue_wait_ms: Spread,
    /// Records in a batch.
    pub batch: Spread,
    /// Batches that waited before it, on the mean.
    pub queue_before: f64,
    /// Batches that waited behind it, on the mean: before the next stage. None for the last.
    pub queue_after: Option<f64>,
    /// Batches that can wait before it.
    pub queue_room: usize,
    /// Calls that ran at the end of the time.
    pub in_flight: usize,
    /// How long the oldest of them had run.
    pub oldest_call_seconds: f64,
    /// What waits in its outbox, where nothing waits for it (`required: false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox: Option<Outbox>,
    /// The share of the most frequent key, for keyed stages.
    pub hottest_key: Option<f64>,
    /// Resident memory of its own processes.
    pub memory_mib: Option<f64>,
    /// (compute + external + overhead) / wall.
    pub utilisation: f64,
}

/// What waits for a stage that nothing waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Records that waited at the end of the time.
    pub waiting: u64,
    /// How many more these were than at its beginning.
    pub growth: i64,
}

/// The figures of one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineProfile {
    /// Its name.
    pub pipeline: String,
    /// What starts its deliveries.
    pub trigger: Trigger,
    /// Deliveries that ended.
    pub runs: u64,
    /// From the start of a delivery to its end.
    pub run_seconds: Spread,
    /// From tick to tick.
    pub period_seconds: Option<f64>,
    /// Mean run time / period, runs that go on included: a schedule with more than 1 falls behind.
    pub load: Option<f64>,
    /// Ticks that came while the delivery before still ran.
    pub ticks_skipped: u64,
    /// Deliveries under way at the end of the time.
    pub under_way: u64,
    /// How long the oldest of them had been under way.
    pub oldest_run_seconds: f64,
    /// Records that came in, a second.
    pub rate_per_second: f64,
    /// The share of the time in which the source waited for the first stage.
    pub source_blocked: f64,
    /// Deliveries that wait in its inbox.
    pub waiting: u64,
}

impl Profile {
    /// What was measured between two looks at the same run, and what limited the flow in that time; without an earlier
    /// look, since the start. Figures of a stage or pipeline that `before` does not know begin at 0.
    pub fn between(before: Option<&FlowFigures>, now: &FlowFigures) -> Self {
        let nothing = FlowFigures::default();
        let before = before.unwrap_or(&nothing);
        let seconds = (now.seconds - before.seconds).max(0.0);
        let queue_after = |index: usize| {
            let (this, next) = (&now.stages[index], now.stages.get(index + 1)?);
            let queue = |stage: &StageFigures| {
                let then = before.stage(&stage.pipeline, &stage.stage);
                (stage.queue_seconds - then.map_or(0.0, |then| then.queue_seconds)).max(0.0)
            };
            (this.pipeline == next.pipeline).then(|| ratio(queue(next), seconds))
        };
        let stages = now.stages.iter().enumerate();
        let stages = stages.map(|(index, stage)| {
            let then = before.stage(&stage.pipeline, &stage.stage);
            StageProfile {
                queue_after: queue_after(index),
                ..StageProfile::between(then, stage, seconds)
            }
        });
        let pipelines = now.pipelines.iter().map(|pipeline| {
            let mut known = before.pipelines.iter();
            let then = known.find(|known| known.pipeline == pipeline.pipeline);
            PipelineProfile::between(then, pipeline, seconds)
        });
        let profile = Self {
            flow: now.flow.clone(),
            seconds,
            host: Host::between(&before.host, &now.host, seconds),
            stages: stages.collect(),
            pipelines: pipelines.collect(),
            bottleneck: None,
        };
        Self {
            bottleneck: bottleneck::find(&profile),
            ..profile
        }
    }
}

impl FlowFigures {
    fn stage(&self, pipeline: &str, stage: &str) -> Option<&StageFigures> {
        let mut stages = self.stages.iter();
        stages.find(|known| known.pipeline == pipeline && known.stage == stage)
    }
}

impl Host {
    fn between(before: &HostFigures, now: &HostFigures, seconds: f64) -> Self {
        let core_seconds = seconds * now.cores;
        let since = |now: f64, then: f64| (now - then).max(0.0);
        Self {
            cores: now.cores,
            cpu_used: ratio(since(now.busy_seconds, before.busy_seconds), core_seconds),
            cpu_own: ratio(
                since(now.own_cpu_seconds, before.own_cpu_seconds),
                core_seconds,
            ),
            run_delay: ratio(
                since(now.run_delay_seconds, before.run_delay_seconds),
                seconds,
            ),
            memory_mib: mebibytes(now.memory_bytes),
            memory_used: now.memory_used,
            major_faults: ratio(
                now.major_faults.saturating_sub(before.major_faults) as f64,
                seconds,
            ),
        }
    }
}

impl StageProfile {
    fn between(before: Option<&StageFigures>, now: &StageFigures, elapsed: f64) -> Self {
        let nothing = StageFigures::default();
        let before = before.unwrap_or(&nothing);
        let seconds = now.seconds.since(&before.seconds);
        let bytes = |now: Option<u64>, then: Option<u64>| {
            now.map(|now| now.saturating_sub(then.unwrap_or_default()))
        };
        let queue_seconds = (now.queue_seconds - before.queue_seconds).max(0.0);
        Self {
            pipeline: now.pipeline.clone(),
            stage: now.stage.clone(),
            kind: now.kind.clone(),
            replicas: now.replicas,
            processes: now.processes,
            place: now.place.clone(),
            calls: now.calls.saturating_sub(before.calls),
            records_in: now.records_in.saturating_sub(before.records_in),
            records_out: now.records_out.saturating_sub(before.records_out),
            bytes_in: bytes(now.bytes_in, before.bytes_in),
            bytes_out: bytes(now.bytes_out, before.bytes_out),
            errors: now.errors.saturating_sub(before.errors),
            retries: now.retries.saturating_sub(before.retries),
            limited: now.limited.saturating_sub(before.limited),
            rate_limit: now.rate_limit,
            clock_faults: now.clock_faults.saturating_sub(before.clock_faults),
            seconds,
            cpu_seconds: (now.cpu_seconds - before.cpu_seconds).max(0.0),
            run_delay_seconds: (now.run_delay_seconds - before.run_delay_seconds).max(0.0),
            service_ms: Spread::of(&now.service.since(&before.service), 1e-3),
            queue_wait_ms: Spread::of(&now.queue_wait.since(&before.queue_wait), 1e-3),
            batch: Spread::of(&now.batch.since(&before.batch), 1.0),
            queue_before: ratio(queue_seconds, elapsed),
            queue_after: None,
            queue_room: now.queue_room,
            in_flight: now.in_flight,
            oldest_call_seconds: now.oldest_call_seconds,
            outbox: now.outbox.map(|waiting| Outbox {
                waiting,
                growth: now.outbox_growth.saturating_sub(before.outbox_growth),
            }),
            hottest_key: now.hottest_key,
            memory_mib: now.memory_bytes.map(mebibytes),
            utilisation: seconds.utilisation(),
        }
    }
}

impl PipelineProfile {
    fn between(before: Option<&PipelineFigures>, now: &PipelineFigures, seconds: f64) -> Self {
        let nothing = PipelineFigures::default();
        let before = before.unwrap_or(&nothing);
        let run_time = now.run_time.since(&before.run_time);
        let period = match now.trigger {
            Trigger::Schedule { period_seconds } => period_seconds,
            Trigger::Once | Trigger::Stream => None,
        };
        let profile = Self {
            pipeline: now.pipeline.clone(),
            trigger: now.trigger,
            runs: now.runs.saturating_sub(before.runs),
            run_seconds: Spread::of(&run_time, 1e-6),
            period_seconds: period,
            load: None,
            ticks_skipped: now.ticks_skipped.saturating_sub(before.ticks_skipped),
            under_way: now.under_way,
            oldest_run_seconds: now.oldest_run_seconds,
            rate_per_second: ratio(
                now.records_in.saturating_sub(before.records_in) as f64,
                seconds,
            ),
            source_blocked: ratio(
                (now.source_blocked_seconds - before.source_blocked_seconds).max(0.0),
                seconds,
            ),
            waiting: now.waiting,
        };
        Self {
            load: period.map(|period| profile.load_with_open_runs(period)),
            ..profile
        }
    }

    /// Run time over period, runs that have not ended included. One that is late by much counts at once.
    pub(crate) fn load_with_open_runs(&self, period: f64) -> f64 {
        let (ended, mean) = (self.runs as f64, self.run_seconds.mean);
        let oldest = self.oldest_run_seconds;
        let hangs = oldest > 3.0 * period && oldest > 1.0 && oldest > 3.0 * mean;
        let seconds = match () {
            () if hangs || ended == 0.0 => oldest,
            () if oldest > mean => (ended * mean + oldest) / (ended + 1.0),
            () => mean,
        };
        ratio(seconds, period)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// How values are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// Half of them are no larger.
    pub p50: f64,
    /// All but one in a hundred are no larger.
    pub p99: f64,
}

impl Spread {
    /// Of a histogram whose values are this many units each.
    pub fn of(histogram: &Histogram, unit: f64) -> Self {
        let quantile = |share| histogram.quantile(share) as f64 * unit;
        Self {
            mean: histogram.mean() * unit,
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}
