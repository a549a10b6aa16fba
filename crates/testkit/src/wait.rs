//! Waiting with a deadline, free ports and seeds.

use std::{
    fs::OpenOptions,
    hash::{BuildHasher, Hasher, RandomState},
    io::Write,
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

/// Says what a test has found beside that it passed; its runner shows it with `--no-capture`.
#[expect(clippy::print_stderr, reason = "a test has no other voice")]
pub fn tell(text: &str) {
    eprintln!("{text}");
}

/// Says that a case cannot be tried here, and why. `cargo xtask ci` counts these and shows them at its end.
pub fn skipped(case: &str, reason: &str) {
    let line = format!("skipped: {case}, because {}", reason.trim());
    tell(&line);
    if let Some(file) = std::env::var_os("SKIPPED_CASES") {
        let list = OpenOptions::new().create(true).append(true).open(file);
        list.and_then(|mut list| writeln!(list, "{line}"))
            .expect("the list of skipped cases can be written");
    }
}

/// Whether the long form of a test is asked for, by `SOAK=1`, as `cargo xtask soak` does.
pub fn soaking() -> bool {
    std::env::var_os("SOAK").is_some_and(|word| word == "1")
}

/// Whether also the tests are to run that want much: other programs, or a minute. `scripts/test --all` says so.
pub fn thorough() -> bool {
    std::env::var_os("TEST_ALL").is_some_and(|word| word == "1")
}

/// Random numbers from a seed: the same for the same one.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Numbers that `SEED` repeats.
    pub fn new() -> Self {
        Self(seed())
    }

    /// Those of a seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // SplitMix64, by Sebastiano Vigna: good enough to choose test cases, and three lines.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let number = mixed ^ (mixed >> 31);
        usize::try_from(number % limit as u64).expect("below a usize")
    }

    /// Puts the items in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
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
