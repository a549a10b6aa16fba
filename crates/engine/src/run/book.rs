//! The book of open deliveries of one pipeline: who waits for which end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wiredflow_core::delivery::{Outcome, Settle, Settled, Token};

use crate::observe::PipelineMeter;
use crate::since::Positions;
use crate::spans::Traced;
use crate::state::StartedRun;

use super::{PipelineShared, Shared};

/// How many ended deliveries a source may be behind with before it is asked for no more.
const BEHIND: usize = 4096;

/// Counts deliveries in and out, and keeps what their trigger must be told.
///
/// Those who wait make their `notified()` before they look: it hears of every change since it was made,
/// polled or not, so none is missed.
pub(crate) struct Book {
    shared: Arc<Shared>,
    pipeline: Arc<str>,
    meter: Arc<PipelineMeter>,
    traced: Option<Arc<Traced>>,
    open: AtomicUsize,
    next: AtomicU64,
    ended: Mutex<Vec<Settled>>,
    changed: Notify,
    any_settled: AtomicBool,
    /// What belongs to each open delivery of a schedule.
    runs: Mutex<HashMap<u64, RunOf>>,
    for_source: bool,
    /// How far the pipeline's loads have come.
    positions: Positions,
}

/// What is known of a scheduled delivery.
#[derive(Clone, Debug)]
struct RunOf {
    /// Its row in the history.
    run: StartedRun,
    /// Why it has failed though it is still on its way: its time is up.
    overdue: Option<Arc<str>>,
}

impl Book {
    /// An empty book. `for_source`: ended deliveries are kept until the source takes them. `goes_ahead`: others may
    /// wait for its first delivery.
    pub(super) fn new(
        pipeline: &PipelineShared,
        (for_source, goes_ahead): (bool, bool),
    ) -> Arc<Self> {
        Arc::new(Self {
            positions: pipeline.shared.positions(&pipeline.name),
            shared: Arc::clone(&pipeline.shared),
            pipeline: Arc::clone(&pipeline.name),
            meter: Arc::clone(&pipeline.meter),
            traced: pipeline.traced.clone(),
            open: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            ended: Mutex::default(),
            changed: Notify::new(),
            any_settled: AtomicBool::new(!goes_ahead),
            runs: Mutex::default(),
            for_source,
        })
    }

    /// Notes that deliveries are on their way. Each must have a share already, or get one before the
    /// next await, so that none can be forgotten.
    pub(crate) fn opened(&self, number: usize) {
        self.open.fetch_add(number, Ordering::AcqRel);
        self.meter.begins(number);
    }

    /// Notes since when a delivery is on its way, for its span.
    pub(crate) fn begins(&self, token: Token) {
        if let Some(traced) = &self.traced {
            traced.begins(token);
        }
    }

    /// The token of a new scheduled delivery, with its row in the history.
    pub(crate) fn token(&self, run: StartedRun) -> Token {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.runs().insert(id, RunOf { run, overdue: None });
        self.meter.run_begins(id);
        let token = Token { epoch: 0, id };
        self.begins(token);
        token
    }

    /// Notes that a scheduled delivery's time is up, if it is still on its way: then it has failed,
    /// and what is left of it is to be dropped.
    pub(crate) fn overdue(&self, id: u64, reason: &str) -> bool {
        match self.runs().get_mut(&id) {
            Some(run) => {
                run.overdue = Some(reason.into());
                true
            }
            None => false,
        }
    }

    /// How many deliveries are on their way.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until none is on its way.
    pub(crate) async fn all_settled(&self) {
        self.until(|| (self.open() == 0).then_some(())).await;
    }

    /// Waits until a scheduled delivery has been settled.
    pub(crate) async fn settled_one(&self, id: u64) {
        self.until(|| (!self.runs().contains_key(&id)).then_some(()))
            .await;
    }

    /// Waits for ended deliveries and takes them all.
    pub(crate) async fn ended(&self) -> Vec<Settled> {
        let taken = || Some(self.take_ended()).filter(|ended| !ended.is_empty());
        self.until(taken).await
    }

    /// Takes the ended deliveries that nobody has taken.
    pub(crate) fn take_ended(&self) -> Vec<Settled> {
        let ended = std::mem::take(&mut *self.lock_ended());
        if ended.len() >= BEHIND {
            self.changed.notify_waiters();
        }
        ended
    }

    /// Waits while the source is far behind with what has ended.
    pub(crate) async fn room(&self) {
        self.until(|| (self.lock_ended().len() < BEHIND).then_some(()))
            .await;
    }

    async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look() {
                return found;
            }
            changed.await;
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<u64, RunOf>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ended(&self) -> MutexGuard<'_, Vec<Settled>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the end of a scheduled delivery into the history; one that was dropped because its time
    /// was up has failed.
    fn end_run(&self, mut settled: Settled) -> Outcome {
        let Some(run) = self.runs().remove(&settled.token.id) else {
            return settled.outcome;
        };
        self.meter.run_ends(settled.token.id);
        if let (Outcome::Lost, Some(reason)) = (settled.outcome, run.overdue) {
            settled.outcome = Outcome::Failed;
            settled.reason = Some(reason);
        }
        self.span_of(&settled);
        self.shared
            .finish_run(run.run, &self.pipeline, &settled, &self.positions);
        settled.outcome
    }

    fn span_of(&self, settled: &Settled) {
        if let Some(traced) = &self.traced {
            traced.settled(settled);
        }
    }
}

impl Settle for Book {
    fn settled(&self, ended: Vec<Settled>) {
        let number = ended.len();
        if self.for_source {
            for one in &ended {
                self.meter.settled(one.outcome);
                self.span_of(one);
            }
            self.lock_ended().extend(ended);
        } else {
            for one in ended {
                let outcome = self.end_run(one);
                self.meter.settled(outcome);
            }
        }
        if !self.any_settled.swap(true, Ordering::AcqRel) {
            self.shared.first_round.one_is_through(&self.pipeline);
        }
        self.meter.ends(number);
        self.open.fetch_sub(number, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}
