//! What a storage has of the last deliveries of a source, so that one that comes again is not stored twice.
//!
//! It is kept as a cursor, made safe with the rows that it tells of. It holds as many deliveries as a source may
//! have unacknowledged: one that comes again is among them.

use std::collections::{HashMap, VecDeque};

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use wiredflow_core::delivery::{Identity, MOST_UNDER_WAY, Mark, Token};
use wiredflow_core::{Error, Result};

/// How many deliveries are remembered: the most that a source has unacknowledged at a time.
const MOST: usize = MOST_UNDER_WAY as usize;

/// The bytes of a delivery's print that are kept: within a session its place tells it already.
const PRINT: usize = 2;

/// What is stored of the deliveries of one session.
#[derive(Debug, Default)]
pub(super) struct Seen {
    session: u64,
    entries: HashMap<u32, Entry>,
    /// The places in the order in which they were taken, each with the number of its taking.
    order: VecDeque<(u64, u32)>,
    taken: u64,
    /// What the commit under way has changed, so that it can be undone.
    undo: Vec<Undo>,
}

/// What is stored of one delivery.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The number of its taking of the place.
    number: u64,
    print: u16,
    /// How many of its rows are stored.
    rows: u32,
    /// How many rows of the present arrival have passed here.
    passed: u32,
    /// The present arrival; none for one of an earlier process.
    token: Option<Token>,
}

#[derive(Debug)]
enum Undo {
    /// What stood in a place.
    Entry(u32, Option<Entry>),
    /// Another session was told of.
    Session(Box<Seen>),
}

impl Seen {
    /// Passes the rows of a commit: `deliveries` has, for each row, the place of its delivery's mark. Gives the places of
    /// the rows that are not stored yet; `None` when that is all of them.
    ///
    /// Ends with [`Seen::keep`] or [`Seen::undo`].
    pub(super) fn fresh(
        &mut self,
        marks: &[Mark],
        deliveries: impl Iterator<Item = Option<usize>> + Clone,
    ) -> Option<Vec<usize>> {
        let mut rows = vec![0; marks.len()];
        for place in deliveries.clone().flatten() {
            if let Some(rows) = rows.get_mut(place) {
                *rows += 1;
            }
        }
        let mut stored = vec![0; marks.len()];
        for ((mark, rows), stored) in marks.iter().zip(rows).zip(&mut stored) {
            if let Some(identity) = mark.identity
                && rows > 0
            {
                *stored = self.pass(mark.token, identity, rows);
            }
        }
        if stored.iter().all(|stored| *stored == 0) {
            return None;
        }
        let mut places = Vec::new();
        for (row, place) in deliveries.enumerate() {
            match place.and_then(|place| stored.get_mut(place)) {
                Some(stored) if *stored > 0 => *stored -= 1,
                Some(_) | None => places.push(row),
            }
        }
        Some(places)
    }

    /// Notes the next rows of a delivery as stored. Gives how many of them, from the first on, are stored already.
    fn pass(&mut self, token: Token, identity: Identity, rows: usize) -> usize {
        if self.session != identity.session {
            let other = Self {
                session: identity.session,
                ..Self::default()
            };
            let earlier = std::mem::replace(self, other);
            self.undo.push(Undo::Session(Box::new(earlier)));
        }
        let (place, print) = (identity.place, identity.print as u16);
        let had = self.entries.get(&place).copied();
        self.undo.push(Undo::Entry(place, had));
        let mut entry = match had {
            Some(entry) if entry.token == Some(token) => entry,
            Some(entry) if identity.again && entry.print == print => Entry {
                passed: 0,
                ..self.take(entry, place)
            },
            Some(_) | None => Entry {
                print,
                ..self.take(Entry::default(), place)
            },
        };
        entry.token = Some(token);
        let stored = entry.pass(rows);
        self.entries.insert(place, entry);
        stored
    }

    /// Takes a place, behind all others.
    fn take(&mut self, entry: Entry, place: u32) -> Entry {
        let number = self.taken;
        self.taken += 1;
        self.order.push_back((number, place));
        Entry { number, ..entry }
    }

    /// The commit counts: what it has changed stays.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
        while self.entries.len() > MOST
            || self
                .order
                .front()
                .is_some_and(|taken| !self.is_last(*taken))
        {
            let Some(taken) = self.order.pop_front() else {
                return;
            };
            if self.is_last(taken) {
                self.entries.remove(&taken.1);
            }
        }
        if self.order.len() > 2 * MOST {
            let entries = &self.entries;
            let is_last = |(number, place): &(u64, u32)| {
                entries
                    .get(place)
                    .is_some_and(|entry| entry.number == *number)
            };
            self.order.retain(is_last);
        }
    }

    /// The commit does not count: what it has changed is as it was before.
    pub(super) fn undo(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Session(earlier) => {
                    *self = *earlier;
                }
                Undo::Entry(place, Some(entry)) => {
                    self.entries.insert(place, entry);
                }
                Undo::Entry(place, None) => {
                    self.entries.remove(&place);
                }
            }
        }
    }

    /// Whether a place was last taken with this number.
    fn is_last(&self, (number, place): (u64, u32)) -> bool {
        self.entries
            .get(&place)
            .is_some_and(|entry| entry.number == number)
    }

    /// As it is kept: the session, then runs of deliveries whose places follow each other and that have as many rows.
    pub(super) fn text(&self) -> String {
        let last = self.order.iter().filter(|taken| self.is_last(**taken));
        let mut entries = last
            .filter_map(|(_, place)| Some((*place, self.entries.get(place)?)))
            .peekable();
        let mut bytes = Vec::with_capacity(self.entries.len() * PRINT + 64);
        bytes.extend_from_slice(&self.session.to_le_bytes());
        let mut prints = Vec::new();
        while let Some((first, entry)) = entries.next() {
            prints.clear();
            prints.extend_from_slice(&entry.print.to_le_bytes());
            let mut next = first.wrapping_add(1);
            while let Some((_, follower)) =
                entries.next_if(|(place, other)| *place == next && other.rows == entry.rows)
            {
                prints.extend_from_slice(&follower.print.to_le_bytes());
                next = next.wrapping_add(1);
            }
            write_number(first, &mut bytes);
            write_number((prints.len() / PRINT) as u32, &mut bytes);
            write_number(entry.rows, &mut bytes);
            bytes.extend_from_slice(&prints);
        }
        BASE64_STANDARD_NO_PAD.encode(bytes)
    }

    /// As it was kept.
    ///
    /// # Errors
    /// `Config` for a text that this version did not write.
    pub(super) fn read(text: &str) -> Result<Self> {
        let unknown = || Error::config("what is known of the last deliveries cannot be read");
        let bytes = BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| unknown())?;
        Self::read_bytes(&bytes).ok_or_else(unknown)
    }

    fn read_bytes(bytes: &[u8]) -> Option<Self> {
        let (session, mut rest) = bytes.split_first_chunk()?;
        let mut seen = Self {
            session: u64::from_le_bytes(*session),
            ..Self::default()
        };
        while !rest.is_empty() {
            let first = read_number(&mut rest)?;
            let count = read_number(&mut rest)?;
            let rows = read_number(&mut rest)?;
            let (prints, behind) = rest.split_at_checked((count as usize).checked_mul(PRINT)?)?;
            rest = behind;
            for (place, print) in (0..count).zip(prints.as_chunks::<PRINT>().0) {
                let place = first.wrapping_add(place);
                let entry = Entry {
                    print: u16::from_le_bytes(*print),
                    rows,
                    ..Entry::default()
                };
                let entry = seen.take(entry, place);
                seen.entries.insert(place, entry);
            }
        }
        Some(seen)
    }
}

impl Entry {
    fn pass(&mut self, rows: usize) -> usize {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let stored = self.rows.saturating_sub(self.passed).min(rows);
        self.passed = self.passed.saturating_add(rows);
        self.rows = self.rows.max(self.passed);
        stored as usize
    }
}

/// Seven bits in each byte, the lowest first.
fn write_number(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number: u32 = 0;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first(place: u32, print: u64) -> Identity {
        Identity {
            session: 3,
            place,
            print,
            again: false,
        }
    }

    fn again(place: u32, print: u64) -> Identity {
        Identity {
            again: true,
            ..first(place, print)
        }
    }

    fn token(id: u64) -> Token {
        Token { epoch: 1, id }
    }

    /// As another process finds it.
    fn restarted(seen: &Seen) -> Seen {
        Seen::read(&seen.text()).unwrap()
    }

    #[test]
    fn a3_what_comes_again_after_a_crash_is_passed_over() {
        let mut seen = Seen::default();
        assert_eq!(seen.pass(token(1), first(7, 70), 3), 0);
        let mut seen = restarted(&seen);
        assert_eq!(seen.pass(token(1), again(7, 70), 2), 2);
        // The fourth of its rows was never stored.
        assert_eq!(seen.pass(token(1), again(7, 70), 2), 1);
        let mut seen = restarted(&seen);
        assert_eq!(seen.pass(token(9), again(7, 70), 5), 4);
    }

    #[test]
    fn c5_another_message_in_the_same_place_is_stored() {
        let mut seen = Seen::default();
        seen.pass(token(1), first(7, 70), 1);
        let mut seen = restarted(&seen);
        let mut other = restarted(&seen);
        assert_eq!(seen.pass(token(1), again(7, 71), 1), 0, "other content");
        assert_eq!(other.pass(token(1), first(7, 70), 1), 0, "said to be new");
        assert_eq!(restarted(&other).pass(token(2), again(7, 70), 1), 1);
    }

    #[test]
    fn rows_that_no_delivery_has_alone_are_all_stored() {
        let mut seen = Seen::default();
        let mark = |id, identity| Mark {
            token: token(id),
            identity: Some(identity),
        };
        let marks = [mark(1, first(1, 10)), mark(2, first(2, 20))];
        let rows = [Some(0), Some(1), None];
        assert_eq!(seen.fresh(&marks, rows.into_iter()), None);
        let mut seen = restarted(&seen);
        let marks = [mark(8, again(1, 10)), mark(9, again(2, 21))];
        let rows = [None, Some(1), Some(0), Some(0)];
        assert_eq!(seen.fresh(&marks, rows.into_iter()), Some(vec![0, 1, 3]));
    }

    #[test]
    fn a_text_of_another_making_is_refused() {
        let session = "AAAAAAAAAAA";
        for text in [
            "?",
            "",
            "AQI",
            &format!("{session}ICAgICAgIA"),
            &format!("{session}QEB"),
        ] {
            Seen::read(text).unwrap_err();
        }
        assert_eq!(Seen::read(session).unwrap().entries.len(), 0);
    }

    #[test]
    fn a_commit_that_does_not_count_changes_nothing() {
        let mut seen = Seen::default();
        seen.pass(token(1), first(1, 10), 2);
        seen.pass(token(2), first(2, 20), 2);
        seen.keep();
        let before = seen.text();
        seen.pass(token(1), first(1, 10), 3);
        seen.pass(token(3), first(2, 21), 1);
        let other = Identity {
            session: 4,
            ..first(2, 20)
        };
        seen.pass(token(4), other, 1);
        seen.pass(token(5), first(9, 90), 1);
        seen.undo();
        assert_eq!(seen.text(), before);
        assert_eq!(
            seen.pass(token(1), first(1, 10), 1),
            0,
            "the third of its rows"
        );
    }

    #[test]
    fn c2_what_another_session_brings_is_another_message() {
        let mut seen = Seen::default();
        seen.pass(token(1), first(1, 10), 1);
        seen.keep();
        let mut seen = restarted(&seen);
        let other = Identity {
            session: 4,
            ..again(1, 10)
        };
        assert_eq!(seen.pass(token(1), other, 1), 0);
        seen.keep();
        assert_eq!(restarted(&seen).pass(token(2), other, 1), 1);
    }

    #[test]
    fn as_many_are_known_as_may_be_under_way() {
        let mut seen = Seen::default();
        let last = 3 * MOST as u32;
        for place in 0..last {
            seen.pass(token(place.into()), first(place, place.into()), 1);
            seen.keep();
        }
        let mut seen = restarted(&seen);
        assert_eq!(seen.entries.len(), MOST);
        let oldest = last - MOST as u32;
        assert_eq!(seen.pass(token(0), again(oldest, oldest.into()), 1), 1);
        assert_eq!(
            seen.pass(token(1), again(oldest - 1, u64::from(oldest) - 1), 1),
            0
        );
    }

    #[test]
    fn the_highest_numbers_are_kept() {
        let mut seen = Seen::default();
        seen.pass(token(1), first(u32::MAX, u64::MAX), usize::MAX);
        assert_eq!(
            restarted(&seen).pass(token(2), again(u32::MAX, u64::MAX), 7),
            7
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send,
        Store(usize),
        Acknowledge,
        Cut,
        Kill,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Send),
            4 => (0..20usize).prop_map(Step::Store),
            3 => Just(Step::Acknowledge),
            1 => Just(Step::Cut),
            1 => Just(Step::Kill),
        ];
        prop::collection::vec(step, 0..400)
    }

    /// A message at a broker whose ids go up, as far as 1,000.
    #[derive(Clone, Copy)]
    struct Message {
        number: usize,
        id: u32,
        sent: bool,
    }

    proptest! {
        /// A broker, a flow that stores what it has in any order, and a storage; every message has the same content.
        #[test]
        fn a3_every_message_is_stored_once_whatever_is_killed(steps in steps()) {
            let (mut seen, mut stored) = (Seen::default(), Vec::new());
            let mut under_way: VecDeque<Message> = VecDeque::new();
            let mut open: Vec<(Token, Message)> = Vec::new();
            let (mut number, mut tokens) = (0, 0);
            let mut done = std::collections::BTreeSet::new();
            let mut steps: Vec<_> = steps;
            steps.push(Step::Kill);
            steps.extend([Step::Store(0); 20]);
            for step in steps {
                let again = match step {
                    Step::Send if under_way.len() < 20 => {
                        under_way.push_back(Message { number, id: number as u32 % 1000, sent: false });
                        number += 1;
                        false
                    }
                    Step::Store(index) if index < open.len() => {
                        let (token, message) = open.remove(index);
                        let identity = Identity { session: 3, place: message.id, print: 5, again: message.sent };
                        if index % 5 == 4 {
                            // The disk fails once.
                            seen.pass(token, identity, 1);
                            seen.undo();
                        }
                        if seen.pass(token, identity, 1) == 0 {
                            stored.push(message.number);
                        }
                        seen.keep();
                        done.insert(message.number);
                        continue;
                    }
                    // In order, and heard or not.
                    Step::Acknowledge => {
                        if under_way.front().is_some_and(|message| done.contains(&message.number)) {
                            under_way.pop_front();
                        }
                        continue;
                    }
                    Step::Cut => true,
                    Step::Kill => {
                        seen = restarted(&seen);
                        true
                    }
                    Step::Send | Step::Store(_) => continue,
                };
                if again {
                    open.clear();
                    under_way.iter_mut().for_each(|message| message.sent = true);
                }
                let from = if again { 0 } else { under_way.len() - 1 };
                for message in under_way.iter().skip(from) {
                    tokens += 1;
                    open.push((token(tokens), *message));
                }
            }
            stored.sort_unstable();
            prop_assert_eq!(stored, (0..number).collect::<Vec<_>>());
        }
    }
}
