//! `rate_limit`: calls at even distances, whoever makes them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest distance; longer ones would run out of the calendar.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The turns of all replicas of a stage. One call each 1/n seconds and no burst after a rest: a peer's
/// limit is a rate, not a budget.
#[derive(Debug)]
pub(crate) struct Pace {
    distance: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most this many calls in a second; above 0.
    pub(crate) fn new(per_second: f64) -> Self {
        let distance = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(LONGEST);
        Self {
            distance: distance.min(LONGEST),
            next: Mutex::default(),
        }
    }

    /// When the caller may call; nobody else is given that turn.
    pub(crate) fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.distance);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_even_and_a_rest_saves_up_none() {
        let pace = Pace::new(4.0);
        let start = crate::clock::Clock::real().monotonic();
        let quarter = Duration::from_millis(250);
        assert_eq!(pace.turn(start), start);
        assert_eq!(pace.turn(start), start + quarter);
        assert_eq!(pace.turn(start), start + 2 * quarter);
        let later = start + 40 * quarter;
        assert_eq!(pace.turn(later), later);
        assert_eq!(pace.turn(later), later + quarter);
    }

    #[test]
    fn the_slowest_pace_has_turns_too() {
        let (pace, start) = (
            Pace::new(f64::MIN_POSITIVE),
            crate::clock::Clock::real().monotonic(),
        );
        assert_eq!(pace.turn(start), start);
        assert_eq!(pace.turn(start), start + LONGEST);
    }
}
