//! The six clocks of a stage: as they are added up, and in seconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wiredflow_core::charge::Activity;

/// The time that a look at a clock may take.
const LOOK: Duration = Duration::from_millis(2);

/// Time by activity. The six are exclusive: their sum is the time since the clock was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks([Duration; 6]);

impl Clocks {
    /// Adds time to one of them.
    pub fn add(&mut self, activity: Activity, time: Duration) {
        self.0[activity as usize] += time;
    }

    /// Charges time to another activity than it was charged to; no more than it has.
    pub fn shift(&mut self, from: Activity, to: Activity, time: Duration) {
        let time = time.min(self.of(from));
        self.0[from as usize] -= time;
        self.add(to, time);
    }

    /// The time of one of them.
    pub fn of(&self, activity: Activity) -> Duration {
        self.0[activity as usize]
    }

    /// The time of all six.
    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Whether they do not add up to the time `wall` since they were started: they are out by over a hundredth, and
    /// by more than a look takes.
    pub fn are_out(&self, wall: Duration) -> bool {
        self.sum().abs_diff(wall) > (wall / 100).max(LOOK)
    }

    /// Adds another's times.
    pub fn merge(&mut self, other: &Self) {
        for activity in Activity::ALL {
            self.add(activity, other.of(activity));
        }
    }
}

/// The six clocks in seconds; `wall` is elapsed time × replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Elapsed time × replicas.
    pub wall: f64,
    /// Working on data.
    pub compute: f64,
    /// Waiting for something outside.
    pub external: f64,
    /// Waiting for the next stage.
    pub blocked: f64,
    /// Waiting for input.
    pub starved: f64,
    /// Waiting for a limit or a back-off.
    pub throttled: f64,
    /// The engine itself.
    pub overhead: f64,
}

impl Seconds {
    /// The figures of clocks that were started `wall` (elapsed × replicas) ago.
    pub fn new(wall: Duration, clocks: &Clocks) -> Self {
        let of = |activity| clocks.of(activity).as_secs_f64();
        Self {
            wall: wall.as_secs_f64(),
            compute: of(Activity::Compute),
            external: of(Activity::External),
            blocked: of(Activity::Blocked),
            starved: of(Activity::Starved),
            throttled: of(Activity::Throttled),
            overhead: of(Activity::Overhead),
        }
    }

    /// What came after `earlier`, which was taken of the same clocks.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |of: fn(&Self) -> f64| (of(self) - of(earlier)).max(0.0);
        Self {
            wall: since(|seconds| seconds.wall),
            compute: since(|seconds| seconds.compute),
            external: since(|seconds| seconds.external),
            blocked: since(|seconds| seconds.blocked),
            starved: since(|seconds| seconds.starved),
            throttled: since(|seconds| seconds.throttled),
            overhead: since(|seconds| seconds.overhead),
        }
    }

    /// The share of its time in which the stage was busy.
    pub fn utilisation(&self) -> f64 {
        if self.wall > 0.0 {
            (self.compute + self.external + self.overhead) / self.wall
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_do_not_add_up_are_noticed() {
        let mut clocks = Clocks::default();
        for (activity, seconds) in Activity::ALL.into_iter().zip(1..) {
            clocks.add(activity, Duration::from_secs(seconds));
        }
        let wall = Duration::from_secs(1 + 2 + 3 + 4 + 5 + 6);
        assert!(!clocks.are_out(wall));
        // Charged nowhere, and charged twice.
        assert!(clocks.are_out(wall + Duration::from_millis(250)));
        assert!(clocks.are_out(wall - Duration::from_millis(250)));
        assert!(
            !clocks.are_out(wall + Duration::from_millis(150)),
            "within a hundredth"
        );
        let begun = Duration::from_millis(1);
        assert!(!Clocks::default().are_out(begun), "a look takes its time");
        assert!(Clocks::default().are_out(3 * begun));
    }

    #[test]
    fn the_clocks_add_up() {
        let mut clocks = Clocks::default();
        for (index, activity) in Activity::ALL.into_iter().enumerate() {
            clocks.add(activity, Duration::from_millis(1 << index));
        }
        let mut twice = clocks;
        twice.merge(&clocks);
        assert_eq!(clocks.sum(), Duration::from_millis(63));
        assert_eq!(twice.sum(), Duration::from_millis(126));
        let seconds = Seconds::new(clocks.sum(), &clocks);
        assert!((seconds.utilisation() - (1.0 + 2.0 + 32.0) / 63.0).abs() < 1e-9);
    }
}
