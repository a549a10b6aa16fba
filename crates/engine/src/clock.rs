//! The one clock and the one source of chance: everything that waits, measures or rolls dice asks here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

/// Wall time, monotonic time and waiting. A cheap clone.
///
/// The simulated clock follows Tokio's test time: with a paused runtime, hours pass in milliseconds.
#[derive(Clone, Debug)]
pub struct Clock {
    simulated: Option<(Timestamp, Instant)>,
}

impl Clock {
    /// The machine's clocks.
    pub fn real() -> Self {
        Self { simulated: None }
    }

    /// Wall time starts at `start` and goes on with the runtime's (paused) time. Must be called inside
    /// a Tokio runtime.
    pub fn simulated(start: Timestamp) -> Self {
        Self {
            simulated: Some((start, Self::instant())),
        }
    }

    /// Wall time: for schedules, records and people. It can jump.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub fn now(&self) -> Timestamp {
        match self.simulated {
            None => Timestamp::now(),
            Some((start, since)) => start
                .saturating_add(since.elapsed())
                .unwrap_or(Timestamp::MAX),
        }
    }

    /// Monotonic time: for measuring and waiting.
    pub fn monotonic(&self) -> Instant {
        Self::instant()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn instant() -> Instant {
        Instant::now()
    }

    /// Waits.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until a moment of monotonic time.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub async fn sleep_until(&self, moment: Instant) {
        tokio::time::sleep_until(moment).await;
    }
}

/// Chance, from a seed: jitter and the order of equal things. A cheap clone of one sequence.
#[derive(Clone, Debug)]
pub struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    /// The sequence of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A sequence that nobody can foresee.
    pub fn from_system() -> Self {
        Self::seeded(rand::random())
    }

    /// A duration from zero up to `most`.
    pub fn up_to(&self, most: Duration) -> Duration {
        let share: f64 = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random();
        most.mul_f64(share)
    }
}
