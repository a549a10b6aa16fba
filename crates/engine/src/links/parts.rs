//! What the parts of a delivery are known by: a function may have made several batches of it.

use std::collections::{HashMap, VecDeque};

use wiredflow_core::delivery::{Identity, MOST_UNDER_WAY, Mark, Token};

/// How many deliveries are remembered: more than can be under way.
const MOST: usize = 2 * MOST_UNDER_WAY as usize;

/// First parts have the places of their deliveries, which sources draw below this; all others come above.
const FURTHER: u32 = 1 << 31;

/// Counts the parts of each delivery. One that comes again in another connection is counted anew, so that its parts are known
/// by the same as before, if what is made of it is the same.
#[derive(Debug, Default)]
pub(super) struct Parts {
    counts: HashMap<Token, u32>,
    order: VecDeque<Token>,
}

impl Parts {
    /// What the next part of a delivery is known by; none where its source cannot tell it.
    pub(super) fn next(&mut self, mark: Mark) -> Option<Identity> {
        let identity = mark.identity?;
        let count = match self.counts.get_mut(&mark.token) {
            Some(count) => count,
            None => {
                self.order.push_back(mark.token);
                self.counts.entry(mark.token).or_default()
            }
        };
        let part = *count;
        *count = count.saturating_add(1);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        if part == 0 {
            return Some(identity);
        }
        // Two that meet at one place make each other forgotten, at worst: they have prints of their own.
        let mixed = mix(u64::from(identity.place) << 32 | u64::from(part));
        Some(Identity {
            place: FURTHER | mixed as u32,
            print: mix(identity.print ^ mixed),
            ..identity
        })
    }
}

/// Spreads a number over all bits (the finalizer of SplitMix64, by Steele, Lea and Flood).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn mark(id: u64, place: u32) -> Mark {
        let identity = Some(Identity {
            session: 7,
            place,
            print: 1,
            again: false,
        });
        let token = Token { epoch: 1, id };
        Mark { token, identity }
    }

    #[test]
    fn each_part_of_a_delivery_has_a_place_of_its_own_and_the_same_when_it_comes_again() {
        let mut parts = Parts::default();
        let mut known = |id, place| {
            let found = parts.next(mark(id, place)).unwrap();
            (found.place, found.print as u16)
        };
        assert_eq!(known(1, 5), (5, 1));
        assert_eq!(known(2, 6), (6, 1));
        let further: Vec<_> = (0..200).map(|_| known(1, 5)).collect();
        // The same message in another connection.
        assert_eq!(known(9, 5), (5, 1));
        let again: Vec<_> = (0..200).map(|_| known(9, 5)).collect();
        assert_eq!(further, again);
        let other: Vec<_> = (0..200).map(|_| known(2, 6)).collect();
        let all: HashSet<_> = further
            .iter()
            .chain(&other)
            .map(|(place, _)| place)
            .collect();
        assert_eq!(all.len(), 400);
        assert!(all.iter().all(|place| **place >= FURTHER));
        // Through the next link it is a first part.
        assert_eq!(known(3, FURTHER + 9), (FURTHER + 9, 1));
    }

    #[test]
    fn old_deliveries_are_forgotten() {
        let mut parts = Parts::default();
        for id in 0..3 * MOST as u64 {
            parts.next(mark(id, 1));
        }
        assert_eq!(parts.counts.len(), MOST);
        assert_eq!(parts.order.len(), MOST);
        let untold = Mark {
            identity: None,
            ..mark(1, 1)
        };
        assert_eq!(parts.next(untold), None);
    }
}
