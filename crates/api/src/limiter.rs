//! Who shows wrong tokens again and again is not listened to for a while.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many wrong tokens an address may show in [`WINDOW`].
const MOST: u32 = 10;

/// The time in which they count.
const WINDOW: Duration = Duration::from_secs(60);

/// How many addresses are remembered; when there are more, all count as one.
const ADDRESSES: usize = 4096;

/// What one address has shown.
#[derive(Clone, Copy, Debug)]
struct Shown {
    since: Instant,
    wrong: u32,
}

/// Counts wrong tokens by address.
///
/// A right token is always let in: one of 256 bits is not found by trying, and else anybody on a machine could shut
/// out its owner.
#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    all: HashMap<IpAddr, Shown>,
    /// When what is too old was forgotten last.
    swept: Option<Instant>,
}

/// What is said to a wrong token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// That it is wrong.
    Wrong,
    /// To come again after so many seconds. `first`: it is the first time in the window.
    TooMany { after: u64, first: bool },
}

impl Limiter {
    /// Notes a wrong token of `peer`.
    pub(crate) fn wrong(&self, peer: IpAddr, now: Instant) -> Verdict {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Book { all, swept } = &mut *book;
        let is_new = |since: Instant| now.duration_since(since) < WINDOW;
        if !swept.is_some_and(is_new) {
            all.retain(|_, shown| is_new(shown.since));
            *swept = Some(now);
        }
        let mut key = network_of(peer);
        if all.len() >= ADDRESSES && !all.contains_key(&key) {
            key = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        }
        let fresh = Shown {
            since: now,
            wrong: 0,
        };
        let shown = all.entry(key).or_insert(fresh);
        if !is_new(shown.since) {
            *shown = fresh;
        }
        shown.wrong = shown.wrong.saturating_add(1);
        if shown.wrong <= MOST {
            return Verdict::Wrong;
        }
        let left = WINDOW.saturating_sub(now.duration_since(shown.since));
        Verdict::TooMany {
            after: left.as_secs() + 1,
            first: shown.wrong == MOST + 1,
        }
    }
}

/// An IPv6 network is one owner's.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
    }
}

#[cfg(test)]
mod tests {
    use wiredflow_engine::clock::Clock;

    use super::*;

    #[test]
    fn h2_ten_wrong_tokens_a_minute_and_address_are_told_so_and_no_more() {
        let (limiter, start) = (Limiter::default(), Clock::real().monotonic());
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..10 {
            assert_eq!(limiter.wrong(peer, start), Verdict::Wrong);
        }
        let after = |first| Verdict::TooMany { after: 61, first };
        assert_eq!(limiter.wrong(peer, start), after(true));
        for _ in 0..10_000 {
            assert_eq!(limiter.wrong(peer, start), after(false));
        }
        let other = "10.0.0.2".parse().unwrap();
        assert_eq!(limiter.wrong(other, start), Verdict::Wrong);
        let later = start + WINDOW;
        assert_eq!(limiter.wrong(peer, later), Verdict::Wrong);
    }

    #[test]
    fn h2_addresses_without_end_take_no_room_without_end() {
        let (limiter, start) = (Limiter::default(), Clock::real().monotonic());
        for number in 0..100_000_u32 {
            limiter.wrong(IpAddr::V4(number.into()), start);
        }
        let known = limiter.0.lock().unwrap().all.len();
        assert!(known <= ADDRESSES + 1, "{known}");
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let two: IpAddr = "2001:db8::2".parse().unwrap();
        assert_eq!(network_of(one), network_of(two));
        assert_eq!(
            network_of("::ffff:10.0.0.1".parse().unwrap()),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
    }
}
