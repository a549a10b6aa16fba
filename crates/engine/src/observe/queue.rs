//! What waits before a stage, and for how long.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_scale::histogram::Histogram;

use crate::clock::Clock;

/// The batches that wait before a stage, those included that its full queue keeps outside.
#[derive(Debug)]
pub struct QueueMeter {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When each of them has come, in order.
    arrived: VecDeque<Instant>,
    /// How long those have waited that were taken.
    waits: Histogram,
    /// The same, as a sum.
    waited: Duration,
}

/// What is told of a queue.
#[derive(Clone, Debug)]
pub(super) struct QueueFigures {
    /// Batches that wait now.
    pub(super) queued: usize,
    /// Batches × time, those that wait now included.
    pub(super) waited: Duration,
    /// How long each has waited that was taken.
    pub(super) waits: Histogram,
}

impl QueueMeter {
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            state: Mutex::default(),
        }
    }

    /// A batch has come. It waits until it is taken; dropped before it [stays](Waiting::stays), it has not come.
    pub fn arrives(&self) -> Waiting<'_> {
        let now = self.clock.monotonic();
        self.lock().arrived.push_back(now);
        Waiting(self)
    }

    /// The one that has waited longest is taken.
    pub fn taken(&self) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        if let Some(arrived) = state.arrived.pop_front() {
            let wait = now.saturating_duration_since(arrived);
            state.waits.note_time(wait);
            state.waited += wait;
        }
    }

    /// So many of those that have waited longest have become so many others, which came when the first of them did.
    pub fn regrouped(&self, from: usize, to: usize) {
        let mut state = self.lock();
        let Some(first) = state.arrived.front().copied() else {
            return;
        };
        for _ in 0..from {
            state.arrived.pop_front();
        }
        for _ in 0..to {
            state.arrived.push_front(first);
        }
    }

    /// Nothing waits any more: the stage is gone, with what was in its queue.
    pub fn gone(&self) {
        self.lock().arrived.clear();
    }

    /// How many wait.
    pub fn queued(&self) -> usize {
        self.lock().arrived.len()
    }

    pub(super) fn figures(&self) -> QueueFigures {
        let now = self.clock.monotonic();
        let state = self.lock();
        let waiting = state.arrived.iter();
        let until_now: Duration = waiting
            .map(|arrived| now.saturating_duration_since(*arrived))
            .sum();
        QueueFigures {
            queued: state.arrived.len(),
            waited: state.waited + until_now,
            waits: state.waits.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch on its way into a queue.
#[derive(Debug)]
pub struct Waiting<'a>(&'a QueueMeter);

impl Waiting<'_> {
    /// It is in the queue.
    pub fn stays(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Those that come at the same time are as good as each other.
        self.0.lock().arrived.pop_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_counts_until_it_is_taken_and_what_does_not_come_never_did() {
        let clock = Clock::paused("2026-01-01T00:00:00Z".parse().unwrap());
        let queue = QueueMeter::new(&clock);
        queue.arrives().stays();
        queue.arrives().stays();
        drop(queue.arrives());
        assert_eq!(queue.queued(), 2);
        queue.taken();
        let figures = queue.figures();
        assert_eq!((figures.queued, figures.waits.len()), (1, 1));
        queue.regrouped(1, 3);
        assert_eq!(queue.queued(), 3);
        (0..4).for_each(|_| queue.taken());
        assert_eq!(queue.queued(), 0);
        queue.arrives().stays();
        queue.gone();
        assert_eq!((queue.queued(), queue.figures().waits.len()), (0, 4));
        assert_eq!(queue.figures().waited, Duration::ZERO);
    }
}
