//! A clock that stands still until it is turned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Time since the start, and who waits for which moment of it.
#[derive(Debug)]
pub(super) struct Paused {
    start: Timestamp,
    base: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    elapsed: Duration,
    /// By how much wall time was set away from the start and the time since.
    shift: SignedDuration,
    /// By moment, then in the order of their coming.
    waiting: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
    next: u64,
    working: usize,
    changes: u64,
}

/// Takes a place in the list of those who wait away with it.
struct Waiting<'a>(&'a Paused, (Duration, u64));

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting.remove(&self.1);
        state.changes += 1;
    }
}

impl Paused {
    pub(super) fn new(start: Timestamp, base: Instant) -> Self {
        Self {
            start,
            base,
            state: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        let state = self.lock();
        let (elapsed, shift) = (state.elapsed, state.shift);
        drop(state);
        let steady = self.start.saturating_add(elapsed).unwrap_or(Timestamp::MAX);
        steady.saturating_add(shift).unwrap_or(steady)
    }

    pub(super) fn set_wall(&self, time: Timestamp) {
        let step = time.duration_since(self.now());
        let mut state = self.lock();
        state.shift = state.shift.saturating_add(step);
        state.changes += 1;
    }

    pub(super) fn monotonic(&self) -> Instant {
        self.base + self.lock().elapsed
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        let moment = self.lock().elapsed.saturating_add(duration);
        self.until(moment).await;
    }

    pub(super) async fn sleep_until(&self, moment: Instant) {
        self.until(moment.saturating_duration_since(self.base))
            .await;
    }

    async fn until(&self, moment: Duration) {
        let (waiting, rung) = {
            let mut state = self.lock();
            if moment <= state.elapsed {
                return;
            }
            let (ring, rung) = oneshot::channel();
            let key = (moment, state.next);
            state.next += 1;
            state.changes += 1;
            state.waiting.insert(key, ring);
            drop(state);
            (Waiting(self, key), rung)
        };
        // The sender is dropped with the clock alone, which this borrows.
        drop(rung.await);
        drop(waiting);
    }

    pub(super) fn is_working(&self) -> bool {
        self.lock().working > 0
    }

    pub(super) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Lets the first go on who waits for the next moment. Others who wait for the same moment are let go by
    /// further calls, one by one in the order of their coming: so that all goes the same way each time.
    pub(super) fn turn(&self) -> bool {
        let mut state = self.lock();
        let Some(((moment, _), ring)) = state.waiting.pop_first() else {
            return false;
        };
        state.elapsed = moment;
        state.changes += 1;
        if ring.send(()).is_err() {
            tracing::trace!("one who waited has just given up");
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody works, until this is dropped.
#[derive(Debug)]
#[must_use = "work ends when this is dropped"]
pub struct Working(Option<Arc<Paused>>);

impl Working {
    pub(super) fn begin(paused: Option<&Arc<Paused>>) -> Self {
        if let Some(paused) = paused {
            let mut state = paused.lock();
            state.working += 1;
            state.changes += 1;
        }
        Self(paused.cloned())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(paused) = &self.0 {
            let mut state = paused.lock();
            state.working -= 1;
            state.changes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Clock;
    use super::*;

    #[tokio::test]
    async fn a_paused_clock_goes_from_one_awaited_moment_to_the_next() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::paused(start);
        assert!(!clock.turn(), "nobody waits");
        let (first, second) = (
            clock.sleep(Duration::from_secs(3600)),
            clock.sleep(Duration::from_secs(60)),
        );
        let order = Mutex::new(Vec::new());
        let waits = async {
            tokio::join!(
                async {
                    first.await;
                    order.lock().unwrap().push(("hour", clock.now()));
                },
                async {
                    second.await;
                    order.lock().unwrap().push(("minute", clock.now()));
                },
                async {
                    tokio::task::yield_now().await;
                    while clock.turn() {
                        tokio::task::yield_now().await;
                        tokio::task::yield_now().await;
                    }
                }
            );
        };
        waits.await;
        let seconds = |time: Timestamp| time.duration_since(start).as_secs();
        let order: Vec<_> = order.into_inner().unwrap();
        let order: Vec<_> = order
            .into_iter()
            .map(|(name, time)| (name, seconds(time)))
            .collect();
        assert_eq!(order, [("minute", 60), ("hour", 3600)]);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_forgotten_and_work_is_known() {
        let clock = Clock::paused(Timestamp::UNIX_EPOCH);
        {
            let mut sleep = std::pin::pin!(clock.sleep(Duration::from_secs(1)));
            assert!(futures_util::poll!(sleep.as_mut()).is_pending());
        }
        assert!(!clock.turn());
        let work = clock.working();
        assert!(clock.is_working());
        drop(work);
        assert!(!clock.is_working());
        clock.sleep(Duration::ZERO).await;
    }
}
