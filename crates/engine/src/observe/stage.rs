//! The figures of a stage.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wiredflow_core::Batch;
use wiredflow_core::charge::Activity;
use wiredflow_scale::figures::StageFigures;
use wiredflow_scale::histogram::Histogram;
use wiredflow_scale::profile::{Clocks, Seconds};

use crate::clock::Clock;

use super::bytes::BytesMeter;
use super::outbox::{OutboxMeter, OutboxReport};
use super::queue::QueueMeter;
use super::replica::ReplicaClock;
use super::workers::Workers;
use super::{Metering, StageSign};

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
    records_in: AtomicU64,
    pub(super) records_out: AtomicU64,
    bytes_in: BytesMeter,
    bytes_out: BytesMeter,
    /// Attempts that failed.
    pub errors: AtomicU64,
    /// Attempts after the first.
    pub retries: AtomicU64,
    /// Records that had nothing for the stage.
    records_skipped: AtomicU64,
    /// Attempts that a limit of the peer has ended.
    pub limited: AtomicU64,
    /// What waits before the stage.
    pub queue: QueueMeter,
    /// Its worker processes.
    pub workers: Workers,
    /// What waits for it, where nothing waits for it to be done.
    pub outbox: Option<Arc<OutboxMeter>>,
    queue_room: usize,
    rate_limit: Option<f64>,
    metering: Metering,
    clock_faults: AtomicU64,
    spread: Mutex<Spreads>,
}

/// What varies from call to call.
#[derive(Debug, Default)]
struct Spreads {
    /// Times of attempts.
    service: Histogram,
    /// Records in a batch.
    batch: Histogram,
}

impl StageMeter {
    pub(super) fn new(
        pipeline: &Arc<str>,
        sign: &StageSign,
        (clock, metering): (&Clock, Metering),
    ) -> Self {
        Self {
            pipeline: Arc::clone(pipeline),
            stage: Arc::clone(&sign.name),
            kind: sign.kind.clone(),
            replicas: (0..sign.replicas)
                .map(|_| Arc::new(ReplicaClock::start(clock, metering)))
                .collect(),
            calls: AtomicU64::new(0),
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            bytes_in: BytesMeter::default(),
            bytes_out: BytesMeter::default(),
            errors: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            records_skipped: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            queue: QueueMeter::new(clock, metering, sign.joins),
            workers: Workers::default(),
            outbox: (!sign.required).then(Arc::default),
            queue_room: sign.queue_room,
            rate_limit: sign.rate_limit,
            metering,
            clock_faults: AtomicU64::new(0),
            spread: Mutex::default(),
        }
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        *self.stage == *name
    }

    /// Counts a batch that comes in.
    pub fn takes(&self, batch: &Batch) {
        self.records_in
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        if self.metering == Metering::On {
            self.bytes_in.note(batch);
        }
    }

    /// Counts a batch that is handed on.
    pub fn gives(&self, batch: &Batch) {
        self.records_out
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        if self.metering == Metering::On {
            self.bytes_out.note(batch);
        }
    }

    /// Counts a batch that is taken up.
    pub fn begins(&self, records: usize) {
        if self.metering == Metering::Off {
            return;
        }
        self.spreads().batch.note(records as u64);
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
        if self.metering == Metering::Off {
            return;
        }
        self.spreads().service.note_time(time);
    }

    pub(super) fn outbox_report(&self) -> Option<(String, OutboxReport)> {
        let outbox = self.outbox.as_ref()?;
        Some((self.stage.to_string(), outbox.report()))
    }

    pub(super) fn records_skipped(&self) -> u64 {
        self.records_skipped.load(Ordering::Relaxed)
    }

    fn spreads(&self) -> MutexGuard<'_, Spreads> {
        self.spread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn figures(&self) -> StageFigures {
        let (mut clocks, mut wall) = (Clocks::default(), Duration::ZERO);
        let (mut beyond, mut run_delay) = (Duration::ZERO, Duration::ZERO);
        let (mut in_flight, mut oldest) = (0, Duration::ZERO);
        for replica in &self.replicas {
            let (times, elapsed) = replica.measure();
            if self.metering == Metering::On && times.are_out(elapsed) {
                self.clock_faults.fetch_add(1, Ordering::Relaxed);
            }
            clocks.merge(&times);
            let (more_cpu, delay) = replica.cpu_beyond_and_run_delay();
            beyond += more_cpu;
            run_delay += delay;
            wall += elapsed;
            if let Some(age) = replica.call_age() {
                in_flight += 1;
                oldest = oldest.max(age);
            }
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (service, batch) = {
            let spreads = self.spreads();
            (spreads.service.clone(), spreads.batch.clone())
        };
        let queue = self.queue.figures();
        let outbox = self.outbox.as_ref().map(|outbox| outbox.report());
        let (processes, memory) = self.workers.figures();
        StageFigures {
            pipeline: self.pipeline.to_string(),
            stage: self.stage.to_string(),
            kind: self.kind.clone(),
            place: self.workers.place(),
            replicas: self.replicas.len(),
            processes,
            rate_limit: self.rate_limit,
            calls: count(&self.calls),
            records_in: count(&self.records_in),
            records_out: count(&self.records_out),
            bytes_in: Some(self.bytes_in.count()),
            bytes_out: Some(self.bytes_out.count()),
            errors: count(&self.errors),
            retries: count(&self.retries),
            limited: count(&self.limited),
            clock_faults: count(&self.clock_faults),
            seconds: Seconds::new(wall, &clocks),
            cpu_seconds: (clocks.of(Activity::Compute) + beyond).as_secs_f64(),
            run_delay_seconds: run_delay.as_secs_f64(),
            service,
            batch,
            queue_wait: queue.waits,
            queue_seconds: queue.waited.as_secs_f64(),
            queued: queue.queued,
            queue_room: self.queue_room,
            in_flight,
            oldest_call_seconds: oldest.as_secs_f64(),
            outbox: outbox.map(|report| report.waiting),
            outbox_growth: self.outbox.as_ref().map_or(0, |outbox| outbox.growth()),
            hottest_key: None,
            memory_bytes: (processes > 0).then_some(memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    #[test]
    fn a_stage_that_rests_takes_less_than_two_kilobytes() {
        let sign = StageSign {
            name: "store".into(),
            kind: "store".to_owned(),
            replicas: 1,
            queue_room: 2,
            joins: false,
            rate_limit: None,
            required: false,
        };
        let clock = Clock::real();
        let meter = StageMeter::new(&"numbers".into(), &sign, (&clock, Metering::On));
        let spreads = meter.spreads();
        // What grows with what was met holds nothing yet: the rest is what the types take.
        assert_eq!(
            spreads.service.values().count() + spreads.batch.values().count(),
            0
        );
        drop(spreads);
        let counted = 2 * size_of::<usize>();
        let replicas = meter.replicas.capacity() * size_of::<Arc<ReplicaClock>>()
            + meter.replicas.len() * (counted + size_of::<ReplicaClock>());
        let outbox = counted + size_of::<OutboxMeter>();
        let names = meter.kind.capacity() + 2 * counted + meter.stage.len() + meter.pipeline.len();
        let bytes = size_of::<StageMeter>() + replicas + outbox + names;
        assert!(bytes < 2_000, "{bytes} bytes");
    }
}
