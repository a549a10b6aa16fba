//! The one clock and the one source of chance: everything that waits, measures or rolls dice asks here.

mod paused;
mod stopwatch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use paused::Paused;
pub use paused::Working;
pub(crate) use stopwatch::{Stopwatch, probe_of_process, probe_of_thread, used_by_process};

/// Wall time, monotonic time and waiting. A cheap clone.
///
/// A paused clock stands still until [`Clock::turn`] moves it to the next moment that somebody waits for:
/// hours of a flow pass in milliseconds, and always in the same way.
#[derive(Clone, Debug)]
pub struct Clock {
    paused: Option<Arc<Paused>>,
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    wall: Timestamp,
    monotonic: Instant,
}

impl Mark {
    /// The moment by the wall clock.
    pub fn wall(&self) -> Timestamp {
        self.wall
    }
}

impl Clock {
    /// The machine's clocks.
    pub fn real() -> Self {
        Self { paused: None }
    }

    /// A clock that stands at `start`; its clones stand with it.
    pub fn paused(start: Timestamp) -> Self {
        let paused = Paused::new(start, Self::instant());
        Self {
            paused: Some(Arc::new(paused)),
        }
    }

    /// The clock by which processes and others outside are waited for: always the machine's.
    #[must_use]
    pub fn outside(&self) -> Self {
        Self::real()
    }

    /// Wall time: for schedules, records and people. It can jump.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub fn now(&self) -> Timestamp {
        match &self.paused {
            None => Timestamp::now(),
            Some(paused) => paused.now(),
        }
    }

    /// Monotonic time: for measuring and waiting.
    pub fn monotonic(&self) -> Instant {
        match &self.paused {
            None => Self::instant(),
            Some(paused) => paused.monotonic(),
        }
    }

    /// A moment by both clocks, for [`Clock::since`].
    pub fn mark(&self) -> Mark {
        Mark {
            wall: self.now(),
            monotonic: self.monotonic(),
        }
    }

    /// Wall time as it goes on from a mark by the monotonic clock: a step of the wall clock does not
    /// move it.
    pub fn since(&self, mark: Mark) -> Timestamp {
        mark.wall
            .saturating_add(self.monotonic() - mark.monotonic)
            .unwrap_or(Timestamp::MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    fn instant() -> Instant {
        Instant::now()
    }

    /// Waits.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub async fn sleep(&self, duration: Duration) {
        match &self.paused {
            None => tokio::time::sleep(duration).await,
            Some(paused) => paused.sleep(duration).await,
        }
    }

    /// Waits, but not longer than `most` by a clock that can jump meanwhile; a paused one never does.
    pub async fn nap(&self, duration: Duration, most: Duration) {
        match &self.paused {
            None => self.sleep(duration.min(most)).await,
            Some(paused) => paused.sleep(duration).await,
        }
    }

    /// Waits so that more can come together; a paused clock saves nothing by that and goes on.
    pub async fn gather(&self, duration: Duration) {
        match &self.paused {
            None => self.sleep(duration).await,
            Some(_) => tokio::task::yield_now().await,
        }
    }

    /// Waits until something outside is to be looked at again; for ever by a paused clock, where nothing outside changes.
    pub async fn pulse(&self, duration: Duration) {
        match &self.paused {
            None => self.sleep(duration).await,
            Some(_) => std::future::pending().await,
        }
    }

    /// Waits until a moment of monotonic time.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub async fn sleep_until(&self, moment: Instant) {
        match &self.paused {
            None => tokio::time::sleep_until(moment).await,
            Some(paused) => paused.sleep_until(moment).await,
        }
    }

    /// Holds the calling thread, which must be one of its own with nothing else to do. A paused clock
    /// holds nobody.
    #[expect(clippy::disallowed_methods, reason = "this is the one clock")]
    pub fn hold(&self, duration: Duration) {
        if self.paused.is_none() {
            std::thread::sleep(duration);
        }
    }

    /// Says that something is done that takes real time, until the value is dropped: a paused clock is not
    /// turned meanwhile.
    pub fn working(&self) -> Working {
        Working::begin(self.paused.as_ref())
    }

    /// Whether somebody works; always false for the machine's clock.
    pub fn is_working(&self) -> bool {
        self.paused
            .as_ref()
            .is_some_and(|paused| paused.is_working())
    }

    /// A number that changes whenever somebody begins or ends to wait or to work by a paused clock.
    pub fn changes(&self) -> u64 {
        self.paused.as_ref().map_or(0, |paused| paused.changes())
    }

    /// Sets the wall time of a paused clock, as a person or a time server sets a machine's; its monotonic time
    /// goes on as it was.
    pub fn set_wall(&self, time: Timestamp) {
        if let Some(paused) = &self.paused {
            paused.set_wall(time);
        }
    }

    /// Turns a paused clock to the next moment that somebody waits for; false where nobody waits.
    pub fn turn(&self) -> bool {
        self.paused.as_ref().is_some_and(|paused| paused.turn())
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

    /// Any number.
    pub fn number(&self) -> u64 {
        let mut dice = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dice.random()
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
