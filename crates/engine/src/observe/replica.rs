//! The six clocks of a stage's calls.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_core::charge::{Activity, Charge, Probe, Used};
use wiredflow_scale::profile::Clocks;

use crate::clock::Clock;

use super::Metering;

/// The six clocks of one replica of a stage.
#[derive(Debug)]
pub struct ReplicaClock {
    clock: Clock,
    metering: Metering,
    started: Instant,
    state: Mutex<ClockState>,
}

#[derive(Debug)]
struct ClockState {
    now: Activity,
    since: Instant,
    totals: Clocks,
    /// Since when a call runs.
    call: Option<Instant>,
    /// The user's function that runs.
    function: Option<Function>,
    /// What functions have used until now.
    usual: Parts,
    /// CPU that functions took beyond their time, with several threads at once.
    beyond: Duration,
    /// Time in which functions were ready and had no core.
    run_delay: Duration,
}

/// A function of the user's, whose time is charged as compute until it says what it has used.
struct Function {
    /// The time as compute from which on it is not parted.
    from: Duration,
    /// How the time before that was parted, as somebody looked at the clocks meanwhile.
    parted: Parts,
    /// What tells what it uses while it runs.
    probe: Option<Probe>,
    /// What that told at the first look, and how the time until then was parted.
    seen: Option<(Used, Parts)>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({:?}, {:?})", self.from, self.parted)
    }
}

/// The time of functions by what it was spent on.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    compute: Duration,
    external: Duration,
    overhead: Duration,
}

impl Parts {
    fn sum(&self) -> Duration {
        self.compute + self.external + self.overhead
    }

    fn add(&mut self, other: &Self) {
        self.compute += other.compute;
        self.external += other.external;
        self.overhead += other.overhead;
    }

    /// What is missing in `given` for it.
    fn beyond(&self, given: &Self) -> Self {
        Self {
            compute: self.compute.saturating_sub(given.compute),
            external: self.external.saturating_sub(given.external),
            overhead: self.overhead.saturating_sub(given.overhead),
        }
    }

    /// So much time in the same proportions; all of it external where there are none: a first call that goes on waits
    /// for something more often than not.
    fn of(&self, time: Duration) -> Self {
        let sum = self.sum().as_secs_f64();
        if sum == 0.0 {
            return Self {
                external: time,
                ..Self::default()
            };
        }
        let part = |part: Duration| time.mul_f64(part.as_secs_f64() / sum).min(time);
        let compute = part(self.compute);
        let overhead = part(self.overhead).min(time - compute);
        Self {
            compute,
            external: time - compute - overhead,
            overhead,
        }
    }
}

impl ReplicaClock {
    /// The clocks of a replica that starts now, at rest.
    pub fn start(clock: &Clock, metering: Metering) -> Self {
        let since = clock.monotonic();
        let state = ClockState {
            now: Activity::Starved,
            since,
            totals: Clocks::default(),
            call: None,
            function: None,
            usual: Parts::default(),
            beyond: Duration::ZERO,
            run_delay: Duration::ZERO,
        };
        Self {
            clock: clock.clone(),
            metering,
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
        if self.metering == Metering::On {
            let now = self.clock.monotonic();
            self.lock().call = Some(now);
        }
        Calling(self)
    }

    /// How long the call that runs now has run.
    pub(super) fn call_age(&self) -> Option<Duration> {
        let since = self.lock().call?;
        Some(self.clock.monotonic() - since)
    }

    /// CPU beyond its time as compute, and time in which it was ready and had no core.
    pub(super) fn cpu_beyond_and_run_delay(&self) -> (Duration, Duration) {
        let state = self.lock();
        (state.beyond, state.run_delay)
    }

    fn lock(&self) -> MutexGuard<'_, ClockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The times until now, the running one included.
    pub fn read(&self) -> Clocks {
        let state = self.lock();
        let mut clocks = state.totals;
        clocks.add(state.now, self.clock.monotonic() - state.since);
        clocks
    }

    /// The times until now, and the time since the start at the same moment.
    pub(super) fn measure(&self) -> (Clocks, Duration) {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        state.charge_until(now);
        state.part_until_now();
        (state.totals, now - self.started)
    }
}

impl ClockState {
    fn charge_until(&mut self, now: Instant) {
        self.totals
            .add(self.now, now.saturating_duration_since(self.since));
        self.since = now;
    }

    /// Parts the time of the function that runs and that was not parted before. What was told once stays: looks at the
    /// clocks one after the other never see one go back.
    fn part_function(&mut self, parts: impl FnOnce(Duration, &Parts) -> Parts) -> Option<Parts> {
        let compute = self.totals.of(Activity::Compute);
        let function = self.function.as_mut()?;
        let parts = parts(compute.saturating_sub(function.from), &function.parted);
        function.parted.add(&parts);
        let totals = &mut self.totals;
        totals.shift(Activity::Compute, Activity::External, parts.external);
        totals.shift(Activity::Compute, Activity::Overhead, parts.overhead);
        function.from = totals.of(Activity::Compute);
        Some(parts)
    }

    /// Parts the time of a function that runs: by what its thread or process has used since the last look, and before
    /// the first look as those before it.
    fn part_until_now(&mut self) {
        let Some(function) = &mut self.function else {
            return;
        };
        let now = function.probe.as_ref().and_then(|probe| probe());
        let first = function.seen;
        let usual = self.usual;
        self.part_function(|time, parted| match (&first, now) {
            (Some((first, before)), Some(now)) => {
                // Since the first look, and not since the last: the kernel counts a moment later.
                let parted = parted.beyond(before);
                let all = parted.sum() + time;
                let since = |now: u64, first: u64| Duration::from_nanos(now.saturating_sub(first));
                let compute = since(now.cpu, first.cpu).min(all);
                let overhead = since(now.delay, first.delay).min(all - compute);
                let all = Parts {
                    compute,
                    external: all - compute - overhead,
                    overhead,
                };
                all.beyond(&parted).of(time)
            }
            (None, _) | (_, None) => usual.of(time),
        });
        if let (Some(function), None, Some(now)) = (&mut self.function, &first, now) {
            function.seen = Some((now, function.parted));
        }
    }

    fn end_function(&mut self, used: &Used) {
        let nanos = Duration::from_nanos;
        let mut ended = None;
        self.part_function(|time, parted| {
            // The clocks here are the truth: what the other side has measured parts the time, and adds none.
            let charged = time + parted.sum();
            let wall = nanos(used.wall).min(charged);
            let compute = nanos(used.cpu).min(wall);
            let delay = nanos(used.delay).min(wall - compute);
            let true_parts = Parts {
                compute,
                external: wall - compute - delay,
                // Ready without a core; and what lies between that side and this one.
                overhead: charged - wall + delay,
            };
            ended = Some((true_parts, delay));
            true_parts.beyond(parted).of(time)
        });
        if let Some((parts, delay)) = ended {
            self.usual.add(&parts);
            self.beyond += nanos(used.cpu).saturating_sub(nanos(used.wall));
            self.run_delay += delay;
        }
    }
}

impl Charge for ReplicaClock {
    fn enter(&self, activity: Activity) -> Activity {
        if self.metering == Metering::Off {
            return Activity::Overhead;
        }
        let mut state = self.lock();
        let now = self.clock.monotonic();
        let (before, since) = (state.now, state.since);
        state.totals.add(before, now - since);
        (state.now, state.since) = (activity, now);
        before
    }

    fn function_begins(&self) {
        if self.metering == Metering::Off {
            return;
        }
        let mut state = self.lock();
        state.charge_until(self.clock.monotonic());
        state.function = Some(Function {
            from: state.totals.of(Activity::Compute),
            parted: Parts::default(),
            probe: None,
            seen: None,
        });
    }

    fn function_watched(&self, probe: Probe) {
        if let Some(function) = &mut self.lock().function {
            function.probe = Some(probe);
        }
    }

    fn function_used(&self, used: &Used) {
        if self.metering == Metering::Off {
            return;
        }
        let mut state = self.lock();
        state.charge_until(self.clock.monotonic());
        state.end_function(used);
    }

    fn function_is_over(&self) {
        self.lock().function = None;
    }
}

/// A call that runs.
#[derive(Debug)]
pub struct Calling<'a>(&'a ReplicaClock);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if self.0.metering == Metering::On {
            self.0.lock().call = None;
        }
    }
}
