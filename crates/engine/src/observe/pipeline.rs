//! The figures of a pipeline.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use wiredflow_core::delivery::Outcome;
use wiredflow_scale::figures::{PipelineFigures, Trigger};
use wiredflow_scale::histogram::Histogram;

use crate::clock::Clock;

use super::report::{Deliveries, PipelineReport};
use super::stage::StageMeter;

/// The figures of one pipeline.
#[derive(Debug)]
pub struct PipelineMeter {
    name: Arc<str>,
    trigger: Trigger,
    clock: Clock,
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
    under_way: AtomicUsize,
    runs: Mutex<Runs>,
    held: Mutex<Held>,
}

/// The deliveries of a schedule.
#[derive(Debug, Default)]
struct Runs {
    /// Those under way, and since when.
    open: Vec<(u64, Instant)>,
    /// How long those took that have ended.
    time: Histogram,
}

/// How long what starts deliveries had to wait for the first stage.
#[derive(Debug, Default)]
struct Held {
    time: Duration,
    since: Option<Instant>,
}

/// The newest error of a pipeline, and how many there were.
#[derive(Debug, Default)]
struct LastError {
    number: u64,
    message: Option<String>,
    at: Option<Timestamp>,
}

impl PipelineMeter {
    pub(super) fn new(name: &Arc<str>, trigger: Trigger, clock: &Clock) -> Self {
        Self {
            name: Arc::clone(name),
            trigger,
            clock: clock.clone(),
            committed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            ticks_skipped: AtomicU64::new(0),
            last_error: Mutex::default(),
            under_way: AtomicUsize::new(0),
            runs: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// Counts deliveries that begin.
    pub fn begins(&self, deliveries: usize) {
        self.under_way.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// Counts deliveries that are under way no more.
    pub fn ends(&self, deliveries: usize) {
        self.under_way.fetch_sub(deliveries, Ordering::Relaxed);
    }

    /// The run of a schedule begins, under a number that no other has at the same time.
    pub fn run_begins(&self, number: u64) {
        let now = self.clock.monotonic();
        self.runs().open.push((number, now));
    }

    /// It has ended.
    pub fn run_ends(&self, number: u64) {
        let now = self.clock.monotonic();
        let mut runs = self.runs();
        if let Some(place) = runs.open.iter().position(|(known, _)| *known == number) {
            let (_, since) = runs.open.swap_remove(place);
            runs.time.note_time(now.saturating_duration_since(since));
        }
    }

    /// What starts deliveries waits for the first stage, until the guard is dropped.
    pub fn held(&self) -> Holding<'_> {
        self.lock_held().since = Some(self.clock.monotonic());
        Holding(self)
    }

    fn lock_held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn figures(&self, waiting: u64) -> PipelineFigures {
        let now = self.clock.monotonic();
        let deliveries = self.deliveries();
        let (run_time, oldest) = {
            let runs = self.runs();
            let oldest = runs.open.iter().map(|(_, since)| *since).min();
            (runs.time.clone(), oldest)
        };
        let source_blocked = {
            let held = self.lock_held();
            held.time + held.since.map_or(Duration::ZERO, |since| now - since)
        };
        PipelineFigures {
            pipeline: self.name.to_string(),
            trigger: self.trigger,
            runs: deliveries.sum(),
            run_time,
            under_way: self.under_way.load(Ordering::Relaxed) as u64,
            oldest_run_seconds: oldest.map_or(0.0, |since| (now - since).as_secs_f64()),
            ticks_skipped: self.ticks_skipped.load(Ordering::Relaxed),
            records_in: self.records_in.load(Ordering::Relaxed),
            source_blocked_seconds: source_blocked.as_secs_f64(),
            waiting,
        }
    }

    fn deliveries(&self) -> Deliveries {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Deliveries {
            committed: count(&self.committed),
            failed: count(&self.failed),
            dead_lettered: count(&self.dead_lettered),
            skipped: count(&self.skipped),
            unfinished: count(&self.lost),
        }
    }

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
        last.at = Some(self.clock.now());
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

    pub(super) fn report(&self, stages: &[Arc<StageMeter>]) -> PipelineReport {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (last_error, last_error_at) = {
            let last = self.last_error();
            (last.message.clone(), last.at)
        };
        PipelineReport {
            deliveries: self.deliveries(),
            records_in: count(&self.records_in),
            records_out: count(&self.records_out),
            records_skipped: stages.iter().map(|stage| stage.records_skipped()).sum(),
            restarts: count(&self.restarts),
            ticks_skipped: count(&self.ticks_skipped),
            inbox: None,
            outboxes: stages
                .iter()
                .filter_map(|stage| stage.outbox_report())
                .collect(),
            last_error,
            last_error_at,
        }
    }
}

/// What starts deliveries waits.
#[derive(Debug)]
pub struct Holding<'a>(&'a PipelineMeter);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        let now = self.0.clock.monotonic();
        let mut held = self.0.lock_held();
        if let Some(since) = held.since.take() {
            held.time += now.saturating_duration_since(since);
        }
    }
}
