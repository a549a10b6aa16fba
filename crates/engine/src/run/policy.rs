//! The failure table, once: what the engine does about an error of a stage's call.
//!
//! | kind | attempts unless told | after the last one |
//! |---|---|---|
//! | `Config` | 1 | the flow stops |
//! | `Remote` | for ever, 1s doubling to 60s, `Retry-After` kept | `on_error` |
//! | `Data`, `Bug` | 1 | `on_error` |

use std::time::Duration;

use wiredflow_core::config::{Attempts, Retry, StagePolicy};
use wiredflow_core::{Error, ErrorKind};

use crate::catalogue::Work;
use crate::clock::Dice;

/// The time limit of one attempt of a peer.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// The first wait for a peer that is away, and the longest.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The waits before a pipeline, or its source, is opened again: nobody listens meanwhile, and what comes may be
/// lost, so they stay short.
pub(crate) const REOPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait, then call again.
    Again(Duration),
    /// The attempts are used up: take the batch apart, or do as `on_error` says.
    GiveUp,
    /// The flow cannot go on.
    StopFlow,
}

/// The time limit of one attempt.
pub(crate) fn timeout(policy: &StagePolicy, work: Work) -> Option<Duration> {
    policy.timeout.or(match work {
        Work::Peer | Work::PeerSink => Some(PEER_TIMEOUT),
        Work::Function | Work::Sink | Work::Records => None,
    })
}

/// Judges the error of attempt number `attempt` (from 1).
///
/// A call that has handed on a part of its output is not repeated: the part cannot be taken back.
pub(crate) fn judge(
    error: &Error,
    attempt: u32,
    emitted: bool,
    policy: &StagePolicy,
    dice: &Dice,
) -> Verdict {
    let default_attempts = match error.kind() {
        ErrorKind::Config => return Verdict::StopFlow,
        ErrorKind::Remote => Attempts::Forever,
        ErrorKind::Data | ErrorKind::Bug => Attempts::Times(1),
    };
    let retry = policy.retry.clone().unwrap_or(Retry {
        attempts: None,
        backoff: BACKOFF.0,
        max: BACKOFF.1,
    });
    let more = match retry.attempts.unwrap_or(default_attempts) {
        Attempts::Forever => true,
        Attempts::Times(times) => attempt < times,
    };
    if emitted || !more {
        return Verdict::GiveUp;
    }
    let wait = backoff(attempt, retry.backoff, retry.max, dice);
    Verdict::Again(wait.max(error.retry_after().unwrap_or_default()))
}

/// The wait after failure number `failure` (from 1): doubling, at most `max`, of which the upper half
/// is left to chance so that many callers do not come back at once.
pub(crate) fn backoff(failure: u32, first: Duration, max: Duration, dice: &Dice) -> Duration {
    let doubled = first.saturating_mul(1 << (failure - 1).min(20)).min(max);
    doubled / 2 + dice.up_to(doubled / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge_default(error: &Error, attempt: u32) -> Verdict {
        judge(
            error,
            attempt,
            false,
            &StagePolicy::default(),
            &Dice::seeded(1),
        )
    }

    #[test]
    fn a_refused_credential_is_never_tried_again() {
        assert_eq!(judge_default(&Error::config("no"), 1), Verdict::StopFlow);
    }

    #[test]
    fn a_peer_that_is_away_is_tried_for_ever_with_growing_waits() {
        let error = Error::remote("away");
        for attempt in [1, 2, 10, 1_000_000] {
            let Verdict::Again(wait) = judge_default(&error, attempt) else {
                panic!("gave up")
            };
            let top = Duration::from_secs(1 << (attempt - 1).min(6)).min(BACKOFF.1);
            assert!(wait >= top / 2 && wait <= top, "{attempt}: {wait:?}");
        }
    }

    #[test]
    fn a_function_is_called_once_and_the_peers_own_wait_is_kept() {
        assert_eq!(judge_default(&Error::data("bad"), 1), Verdict::GiveUp);
        let slow = Error::remote("busy").with_retry_after(Duration::from_secs(500));
        assert_eq!(
            judge_default(&slow, 1),
            Verdict::Again(Duration::from_secs(500))
        );
    }

    #[test]
    fn a_word_on_back_off_alone_leaves_the_attempts_as_they_are() {
        let retry = Retry {
            attempts: None,
            backoff: Duration::from_millis(10),
            max: Duration::from_millis(20),
        };
        let policy = StagePolicy {
            retry: Some(retry),
            ..StagePolicy::default()
        };
        let judge =
            |error: &Error, attempt| judge(error, attempt, false, &policy, &Dice::seeded(1));
        assert_eq!(judge(&Error::data("bad"), 1), Verdict::GiveUp);
        let Verdict::Again(wait) = judge(&Error::remote("away"), 1_000_000) else {
            panic!("gave up")
        };
        assert!(wait <= Duration::from_millis(20));
    }

    #[test]
    fn attempts_count_the_first_call_and_a_half_done_call_is_not_repeated() {
        let retry = Retry {
            attempts: Some(Attempts::Times(2)),
            backoff: BACKOFF.0,
            max: BACKOFF.1,
        };
        let policy = StagePolicy {
            retry: Some(retry),
            ..StagePolicy::default()
        };
        let dice = Dice::seeded(1);
        let error = Error::data("bad");
        assert!(matches!(
            judge(&error, 1, false, &policy, &dice),
            Verdict::Again(_)
        ));
        assert_eq!(judge(&error, 2, false, &policy, &dice), Verdict::GiveUp);
        assert_eq!(judge(&error, 1, true, &policy, &dice), Verdict::GiveUp);
    }
}
