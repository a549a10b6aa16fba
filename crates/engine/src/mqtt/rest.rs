//! Rests of a connection that would be woken for each of many small messages.

use std::time::Duration;

use tokio::time::Instant;

/// So many times within so long a connection is woken by what comes. What comes then waits for the end of
/// that time: up to a thousand messages a second are read at once, more are read together.
const WAKES: u32 = 2;
const WITHIN: Duration = Duration::from_millis(2);

/// When a connection was woken.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// The first time that counts.
    since: Option<Instant>,
    wakes: u32,
    /// Whether nothing was there to read at the last look.
    waits: bool,
}

impl Rest {
    /// There is nothing more to read.
    pub(super) fn waits(&mut self) {
        self.waits = true;
    }

    /// Something was read.
    pub(super) fn has_read(&mut self, now: Instant) {
        // What is read without waiting for it came together.
        if std::mem::take(&mut self.waits) {
            self.since.get_or_insert(now);
            self.wakes += 1;
        }
    }

    /// How long the connection's thread is to be held, if it was woken often enough. A waiting task would not do:
    /// what comes wakes the runtime of a connection, whether anybody reads it or not.
    pub(super) fn due(&mut self, now: Instant) -> Option<Duration> {
        if self.wakes < WAKES {
            return None;
        }
        self.wakes = 0;
        let passed = now - self.since.take()?;
        WITHIN.checked_sub(passed).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const MILLI: Duration = Duration::from_millis(1);

    fn wake(rest: &mut Rest, now: Instant) -> Option<Duration> {
        let due = rest.due(now);
        rest.waits();
        rest.has_read(now);
        due
    }

    #[test]
    fn what_comes_seldom_is_read_at_once() {
        let (mut rest, start) = (Rest::default(), Clock::real().monotonic());
        for number in 0..100 {
            assert_eq!(wake(&mut rest, start + number * MILLI), None);
        }
    }

    #[test]
    fn what_comes_often_is_read_together() {
        let (mut rest, mut now) = (Rest::default(), Clock::real().monotonic());
        for _ in 0..100 {
            assert_eq!(wake(&mut rest, now), None);
            assert_eq!(wake(&mut rest, now + MILLI / 4), None);
            let due = rest.due(now + MILLI / 2);
            assert_eq!(due, Some(MILLI * 3 / 2));
            now += WITHIN;
        }
    }

    #[test]
    fn what_came_together_makes_nobody_wait_however_much_it_is() {
        let (mut rest, now) = (Rest::default(), Clock::real().monotonic());
        rest.waits();
        for _ in 0..100 {
            assert_eq!(rest.due(now), None);
            rest.has_read(now);
        }
    }
}
