//! Waiting with a deadline, free ports and seeds.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until the condition holds, looking every few milliseconds; panics when it does not within the deadline.
#[track_caller]
pub fn wait_until(deadline: Duration, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(deadline, condition),
        "the condition did not come true within {deadline:?}"
    );
}

/// As `wait_until`, but says whether it held. It is looked at once more after the deadline, so that a machine that was
/// asleep gets its chance.
pub(crate) fn holds_within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A port of 127.0.0.1 on which nothing listens now. Another program may take it before it is used: what can bind to
/// port 0 itself should do that.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A seed for random test data: new in each run, printed so that a failure can be repeated by setting `SEED`.
pub fn seed() -> u64 {
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().expect("SEED is a whole number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    #[expect(clippy::print_stderr, reason = "a failed test shows it")]
    {
        eprintln!("SEED={seed}");
    }
    seed
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_condition_that_never_holds_is_a_panic_at_the_deadline() {
        let begun = Instant::now();
        catch_unwind(|| wait_until(Duration::from_millis(50), || false)).unwrap_err();
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_condition_that_comes_true_is_seen() {
        let mut looks = 0;
        wait_until(Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }

    #[test]
    fn seeds_differ_from_one_call_to_the_next() {
        if std::env::var_os("SEED").is_none() {
            assert_ne!(seed(), seed());
        }
    }
}
