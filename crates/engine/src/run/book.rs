//! The book of open deliveries of one pipeline: who waits for which end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use wiredflow_core::delivery::{Settle, Settled, Token};

use crate::observe::PipelineMeter;
use crate::state::RunId;

use super::Shared;

/// Counts deliveries in and out, and keeps what their trigger must be told.
pub(crate) struct Book {
    shared: Arc<Shared>,
    pipeline: Arc<str>,
    meter: Arc<PipelineMeter>,
    open: AtomicUsize,
    next: AtomicU64,
    ended: Mutex<Vec<Settled>>,
    changed: Notify,
    any_settled: AtomicBool,
    /// What belongs to each open delivery of a schedule.
    runs: Mutex<HashMap<u64, RunOf>>,
    for_source: bool,
}

/// What is recorded about a scheduled delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunOf {
    /// Its row in the history.
    pub(crate) run: RunId,
}

impl Book {
    /// An empty book. `for_source`: ended deliveries are kept until the source takes them.
    pub(crate) fn new(
        shared: Arc<Shared>,
        pipeline: Arc<str>,
        meter: Arc<PipelineMeter>,
        for_source: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            pipeline,
            meter,
            open: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            ended: Mutex::default(),
            changed: Notify::new(),
            any_settled: AtomicBool::new(false),
            runs: Mutex::default(),
            for_source,
        })
    }

    /// Notes that deliveries are on their way.
    pub(crate) fn opened(&self, number: usize) {
        self.open.fetch_add(number, Ordering::AcqRel);
    }

    /// The token of a new scheduled delivery, with what is recorded about it.
    pub(crate) fn token(&self, run: RunOf) -> Token {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, run);
        Token { epoch: 0, id }
    }

    /// How many deliveries are on their way.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until none is on its way.
    pub(crate) async fn all_settled(&self) {
        loop {
            let changed = self.changed.notified();
            if self.open() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Waits until a scheduled delivery has been settled.
    pub(crate) async fn settled_one(&self, id: u64) {
        loop {
            let changed = self.changed.notified();
            if !self
                .runs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(&id)
            {
                return;
            }
            changed.await;
        }
    }

    /// Waits for ended deliveries and takes them all.
    pub(crate) async fn ended(&self) -> Vec<Settled> {
        loop {
            let changed = self.changed.notified();
            let ended =
                std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
            if !ended.is_empty() {
                return ended;
            }
            changed.await;
        }
    }

    /// Takes the ended deliveries that nobody has taken.
    pub(crate) fn take_ended(&self) -> Vec<Settled> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Settle for Book {
    fn settled(&self, settled: Settled) {
        self.meter.settled(settled.outcome);
        let outcome = settled.outcome;
        if self.for_source {
            self.ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(settled);
        } else {
            let run = self
                .runs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&settled.token.id);
            if let Some(run) = run {
                self.shared.finish_run(run.run, outcome);
            }
        }
        if !self.any_settled.swap(true, Ordering::AcqRel) {
            self.shared.first_round.one_is_through(&self.pipeline);
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}
