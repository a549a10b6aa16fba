//! What waits before a stage, and for how long.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_scale::histogram::Histogram;

use crate::clock::Clock;

use super::Metering;

/// The batches that wait before a stage, those included that its full queue keeps outside.
#[derive(Debug)]
pub struct QueueMeter {
    clock: Clock,
    metering: Metering,
    /// Whether a call takes all that waits: it counts as one then.
    joins: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When each of them has come, in order.
    arrived: VecDeque<Instant>,
    /// How many of them the full queue keeps outside.
    outside: usize,
    /// How long those have waited that were taken.
    waits: Histogram,
    /// Batches × time, until `since`.
    waited: Duration,
    since: Instant,
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
    pub(super) fn new(clock: &Clock, metering: Metering, joins: bool) -> Self {
        let state = State {
            arrived: VecDeque::new(),
            outside: 0,
            waits: Histogram::default(),
            waited: Duration::ZERO,
            since: clock.monotonic(),
        };
        Self {
            clock: clock.clone(),
            metering,
            joins,
            state: Mutex::new(state),
        }
    }

    /// A batch has come. It waits until it is taken; dropped before it [stays](Waiting::stays), it has not come.
    pub fn arrives(&self) -> Waiting<'_> {
        if self.metering == Metering::On {
            let (mut state, now) = self.changed();
            state.arrived.push_back(now);
        }
        Waiting {
            queue: self,
            is_outside: false,
        }
    }

    /// The one that has waited longest is taken.
    pub fn taken(&self) {
        if self.metering == Metering::Off {
            return;
        }
        let (mut state, now) = self.changed();
        if let Some(arrived) = state.arrived.pop_front() {
            let wait = now.saturating_duration_since(arrived);
            state.waits.note_time(wait);
        }
    }

    /// So many of those that have waited longest have become so many others, which came when the first of them did.
    pub fn regrouped(&self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let (mut state, _) = self.changed();
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
        let (mut state, _) = self.changed();
        state.arrived.clear();
    }

    /// How many wait.
    pub fn queued(&self) -> usize {
        self.lock().waiting(self.joins)
    }

    pub(super) fn figures(&self) -> QueueFigures {
        let (state, _) = self.changed();
        QueueFigures {
            queued: state.waiting(self.joins),
            waited: state.waited,
            waits: state.waits.clone(),
        }
    }

    /// What is about to change, with the time that has passed since the last change.
    fn changed(&self) -> (MutexGuard<'_, State>, Instant) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        let time = now.saturating_duration_since(state.since);
        let waiting = u32::try_from(state.waiting(self.joins)).unwrap_or(u32::MAX);
        state.waited += time.saturating_mul(waiting);
        state.since = state.since.max(now);
        (state, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Batches that wait. What is in the queue of a stage that joins is one batch, and what is kept outside comes after it.
    fn waiting(&self, joins: bool) -> usize {
        let inside = self.arrived.len().saturating_sub(self.outside);
        match joins {
            true => inside.min(1) + self.outside.min(self.arrived.len()),
            false => self.arrived.len(),
        }
    }
}

/// A batch on its way into a queue.
#[derive(Debug)]
pub struct Waiting<'a> {
    queue: &'a QueueMeter,
    is_outside: bool,
}

impl Waiting<'_> {
    /// The queue is full: it waits before it.
    pub fn is_outside(&mut self) {
        if !std::mem::replace(&mut self.is_outside, true) {
            let (mut state, _) = self.queue.changed();
            state.outside += 1;
        }
    }

    /// It is in the queue.
    pub fn stays(mut self) {
        self.comes_in();
        std::mem::forget(self);
    }

    fn comes_in(&mut self) {
        if std::mem::replace(&mut self.is_outside, false) {
            let (mut state, _) = self.queue.changed();
            state.outside = state.outside.saturating_sub(1);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.comes_in();
        let (mut state, _) = self.queue.changed();
        // Those that come at the same time are as good as each other.
        state.arrived.pop_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_counts_until_it_is_taken_and_what_does_not_come_never_did() {
        let clock = Clock::paused("2026-01-01T00:00:00Z".parse().unwrap());
        let queue = QueueMeter::new(&clock, Metering::On, false);
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

    #[tokio::test]
    async fn what_a_call_takes_together_counts_as_one_and_what_is_kept_outside_comes_on_top() {
        let clock = Clock::paused("2026-01-01T00:00:00Z".parse().unwrap());
        let turned = clock.clone();
        let pass = async |seconds| {
            let mut sleep = std::pin::pin!(turned.sleep(Duration::from_secs(seconds)));
            while futures_util::poll!(sleep.as_mut()).is_pending() {
                assert!(turned.turn());
            }
        };
        let queue = QueueMeter::new(&clock, Metering::On, true);
        (0..5).for_each(|_| queue.arrives().stays());
        pass(2).await;
        let mut outside = queue.arrives();
        outside.is_outside();
        assert_eq!(queue.queued(), 2);
        pass(3).await;
        assert_eq!(queue.figures().waited, Duration::from_secs(2 + 2 * 3));
        queue.regrouped(5, 1);
        queue.taken();
        pass(1).await;
        outside.stays();
        assert_eq!((queue.queued(), queue.figures().waits.len()), (1, 1));
        pass(1).await;
        assert_eq!(queue.figures().waited, Duration::from_secs(8 + 1 + 1));
        queue.taken();
        pass(9).await;
        assert_eq!(queue.figures().waited, Duration::from_secs(10));
    }
}
