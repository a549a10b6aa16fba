//! The six clocks of a stage's calls.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_scale::profile::Clocks;

use crate::clock::Clock;

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
    /// Since when a call runs.
    call: Option<Instant>,
}

impl ReplicaClock {
    pub(super) fn start(clock: &Clock) -> Self {
        let since = clock.monotonic();
        let state = ClockState {
            now: Activity::Starved,
            since,
            totals: Clocks::default(),
            call: None,
        };
        Self {
            clock: clock.clone(),
            started: since,
            state: Mutex::new(state),
        }
    }

    /// What time is charged to now.
    pub fn activity(&self) -> Activity {
        self.lock().now
    }

    /// A call begins now. It is one until its guard is dropped.
    pub fn calling(&self) -> Calling<'_> {
        let now = self.clock.monotonic();
        self.lock().call = Some(now);
        Calling(self)
    }

    /// How long the call that runs now has run.
    pub(super) fn call_age(&self) -> Option<Duration> {
        let since = self.lock().call?;
        Some(self.clock.monotonic() - since)
    }

    fn lock(&self) -> MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The times until now, the running one included.
    pub fn read(&self) -> Clocks {
        self.measure().0
    }

    /// The times until now, and the time since the start at the same moment.
    pub(super) fn measure(&self) -> (Clocks, Duration) {
        let state = self.lock();
        let now = self.clock.monotonic();
        let mut clocks = state.totals;
        clocks.add(state.now, now - state.since);
        (clocks, now - self.started)
    }
}

impl Charge for ReplicaClock {
    fn enter(&self, activity: Activity) -> Activity {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        let (before, since) = (state.now, state.since);
        state.totals.add(before, now - since);
        (state.now, state.since) = (activity, now);
        before
    }
}

/// A call that runs.
#[derive(Debug)]
pub struct Calling<'a>(&'a ReplicaClock);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.lock().call = None;
    }
}
