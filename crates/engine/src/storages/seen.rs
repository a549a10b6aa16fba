//! What a storage has of the last deliveries of a source, so that one that comes again is not stored twice.
//!
//! It is kept as a cursor, made safe with the rows that it tells of. It holds as many deliveries as a source may
//! have unacknowledged: one that comes again is among them.

use std::collections::VecDeque;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use wiredflow_core::delivery::{Identity, Mark, Token};
use wiredflow_core::{Error, Result};

/// How many deliveries are remembered: the most that a source has unacknowledged at a time.
const MOST: usize = 256;

/// The bytes of a delivery's print that are kept.
const PRINT: usize = 6;

/// The deliveries, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(VecDeque<Entry>);

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    place: u32,
    print: u64,
    /// How many of its rows are stored.
    rows: u32,
    /// How many rows of the present arrival have passed here.
    passed: u32,
    /// The present arrival; none for one of an earlier process.
    token: Option<Token>,
}

impl Seen {
    /// Passes the rows of a commit: `deliveries` has, for each row, the place of its delivery's mark. Gives the places of
    /// the rows that are not stored yet; `None` when that is all of them.
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
        let print = short(identity.print);
        let present = self.0.iter_mut().rev();
        let mut entry = match present
            .enumerate()
            .find(|(_, entry)| entry.token == Some(token))
        {
            Some((0, entry)) => return entry.pass(rows),
            Some((back, _)) => self.take(self.0.len() - 1 - back),
            None => self.before(identity, print),
        };
        entry.token = Some(token);
        let stored = entry.pass(rows);
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(entry);
        stored
    }

    /// What is known of a delivery that has just come: nothing, unless it has come before.
    fn before(&mut self, identity: Identity, print: u64) -> Entry {
        let new = Entry {
            place: identity.place,
            print,
            rows: 0,
            passed: 0,
            token: None,
        };
        let had = self
            .0
            .iter()
            .rposition(|entry| entry.place == identity.place);
        let Some(had) = had else { return new };
        let had = self.take(had);
        match identity.again && had.print == print {
            true => Entry { passed: 0, ..had },
            false => new,
        }
    }

    fn take(&mut self, index: usize) -> Entry {
        self.0.remove(index).unwrap_or_default()
    }

    /// As it is kept.
    pub(super) fn text(&self) -> String {
        let mut bytes = Vec::with_capacity(self.0.len() * (PRINT + 4));
        for entry in &self.0 {
            write_number(entry.place, &mut bytes);
            bytes.extend_from_slice(&entry.print.to_le_bytes()[..PRINT]);
            write_number(entry.rows, &mut bytes);
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
        let mut rest = &bytes[..];
        let mut entries = VecDeque::new();
        while !rest.is_empty() {
            let entry = read_entry(&mut rest).ok_or_else(unknown)?;
            if entries.len() == MOST {
                entries.pop_front();
            }
            entries.push_back(entry);
        }
        Ok(Self(entries))
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

/// The part of a print that is kept.
fn short(print: u64) -> u64 {
    print & (u64::MAX >> (64 - 8 * PRINT))
}

fn read_entry(bytes: &mut &[u8]) -> Option<Entry> {
    let place = read_number(bytes)?;
    let (print, rest) = bytes.split_at_checked(PRINT)?;
    *bytes = rest;
    let mut whole = [0; 8];
    whole[..PRINT].copy_from_slice(print);
    Some(Entry {
        place,
        print: u64::from_le_bytes(whole),
        rows: read_number(bytes)?,
        passed: 0,
        token: None,
    })
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
        let mut other = seen.clone();
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
        for text in ["?", "gICAgICA", "AQI"] {
            Seen::read(text).unwrap_err();
        }
        assert_eq!(Seen::read("").unwrap().0.len(), 0);
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
                        let identity = Identity { place: message.id, print: 5, again: message.sent };
                        if seen.pass(token, identity, 1) == 0 {
                            stored.push(message.number);
                        }
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
