//! The profile: measured figures of each stage and pipeline, in the shape that `--json` prints.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use wiredflow_core::charge::Activity;

/// Time by activity. The six are exclusive: their sum is the time since the clock was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks([Duration; 6]);

impl Clocks {
    /// Adds time to one of them.
    pub fn add(&mut self, activity: Activity, time: Duration) {
        self.0[activity as usize] += time;
    }

    /// The time of one of them.
    pub fn of(&self, activity: Activity) -> Duration {
        self.0[activity as usize]
    }

    /// The time of all six.
    pub fn sum(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Adds another's times.
    pub fn merge(&mut self, other: &Self) {
        for activity in Activity::ALL {
            self.add(activity, other.of(activity));
        }
    }
}

/// The figures of one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageProfile {
    /// The pipeline.
    pub pipeline: String,
    /// The stage.
    pub stage: String,
    /// Its component.
    pub kind: String,
    /// How many calls can run at once.
    pub replicas: usize,
    /// Where it runs.
    #[serde(rename = "where")]
    pub place: String,
    /// Calls that were made, attempts counted once each.
    pub calls: u64,
    /// Records that came in.
    pub records_in: u64,
    /// Records that it handed on.
    pub records_out: u64,
    /// Not measured yet.
    pub bytes_in: Option<u64>,
    /// Not measured yet.
    pub bytes_out: Option<u64>,
    /// Attempts that failed.
    pub errors: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Where the time went.
    pub seconds: Seconds,
    /// The time of one attempt, in milliseconds.
    pub service_ms: ServiceTime,
    /// Batches that wait before it now.
    pub queue_before: f64,
    /// (compute + external + overhead) / wall.
    pub utilisation: f64,
}

/// The six clocks in seconds; `wall` is elapsed time × replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
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

    /// The share of its time in which the stage was busy.
    pub fn utilisation(&self) -> f64 {
        if self.wall > 0.0 {
            (self.compute + self.external + self.overhead) / self.wall
        } else {
            0.0
        }
    }
}

/// The time of one attempt in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ServiceTime {
    /// The mean.
    pub mean: f64,
    /// Half of the attempts were faster.
    pub p50: f64,
    /// All but one in a hundred were faster.
    pub p99: f64,
}

impl ServiceTime {
    /// From a histogram of microseconds.
    pub fn from_micros(histogram: &Histogram<u32>) -> Self {
        let quantile = |share| histogram.value_at_quantile(share) as f64 / 1000.0;
        Self {
            mean: histogram.mean() / 1000.0,
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
