//! What a storage has of the last deliveries of a source, so that one that comes again is not stored twice.
//!
//! It is kept as cursors, made safe with the rows that they tell of. They hold as many deliveries as a source may
//! have unacknowledged: one that comes again is among them. Each cursor holds a segment of the deliveries in the
//! order in which they came, and the newest segment takes the place of the oldest: a commit writes what it changes.

mod segment;

use std::collections::{BTreeSet, HashMap, VecDeque};

use wiredflow_core::delivery::{Identity, MOST_UNDER_WAY, Mark, Token};
use wiredflow_core::{Error, Result};

use segment::Segment;

/// How many deliveries are remembered: the most that a source has unacknowledged at a time.
const MOST: usize = MOST_UNDER_WAY as usize;

/// How many deliveries a segment holds.
const SEGMENT: u64 = 64;

/// How many segments are kept: one more than hold the most deliveries, as the newest is seldom full.
pub(super) const SEGMENTS: u64 = MOST_UNDER_WAY as u64 / SEGMENT + 1;

/// What is stored of the deliveries of one session.
#[derive(Debug, Default)]
pub(super) struct Seen {
    session: u64,
    entries: HashMap<u32, Entry>,
    /// The places in the order in which they were taken, each with the number of its taking. The number tells its
    /// segment.
    order: VecDeque<(u64, u32)>,
    /// The next number.
    taken: u64,
    /// The segments that the commit under way has changed.
    changed: BTreeSet<u64>,
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
    /// So many numbers were given, and so many places were in order.
    Taken(u64, usize),
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
        if self.undo.is_empty() {
            self.undo.push(Undo::Taken(self.taken, self.order.len()));
        }
        if self.session != identity.session {
            let other = Self {
                session: identity.session,
                taken: self.taken.next_multiple_of(SEGMENT),
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
        self.changed.insert(entry.number / SEGMENT);
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
        self.changed.clear();
        self.forget();
    }

    /// Forgets what is older than the most deliveries, and what a newer segment has taken the place of.
    fn forget(&mut self) {
        let newest = self.newest();
        let is_over = |seen: &Self, taken: &(u64, u32)| {
            seen.entries.len() > MOST
                || taken.0 / SEGMENT + SEGMENTS <= newest
                || !seen.is_last(*taken)
        };
        while self.order.front().is_some_and(|taken| is_over(self, taken)) {
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
                Undo::Taken(taken, places) => {
                    self.taken = taken;
                    self.order.truncate(places);
                }
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
        self.changed.clear();
    }

    /// The segment of the last number.
    fn newest(&self) -> u64 {
        self.taken.saturating_sub(1) / SEGMENT
    }

    /// Whether a place was last taken with this number.
    fn is_last(&self, (number, place): (u64, u32)) -> bool {
        self.entries
            .get(&place)
            .is_some_and(|entry| entry.number == number)
    }

    /// The segments that the commit under way has changed, as they are kept, each with the number of the cursor
    /// that keeps it.
    pub(super) fn texts(&self) -> impl Iterator<Item = (u64, String)> {
        let from = self.newest().saturating_sub(SEGMENTS - 1);
        let changed = self.changed.range(from..);
        changed.map(|segment| (segment % SEGMENTS, self.text(*segment)))
    }

    /// A segment as it is kept.
    fn text(&self, segment: u64) -> String {
        let from = self
            .order
            .partition_point(|(number, _)| number / SEGMENT < segment);
        let of_segment = self
            .order
            .range(from..)
            .take_while(|(number, _)| number / SEGMENT == segment);
        let entries = of_segment
            .filter(|taken| self.is_last(**taken))
            .filter_map(|(_, place)| Some((*place, self.entries.get(place)?)));
        segment::text(self.session, segment, entries)
    }

    /// From the segments as they were kept, in any order. Those of an earlier session than the newest, and what was kept
    /// before the last [`SEGMENTS`], do not count.
    ///
    /// # Errors
    /// `Config` for a text that this version did not write.
    pub(super) fn read<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self> {
        let unknown = || Error::config("what is known of the last deliveries cannot be read");
        let mut segments = Vec::new();
        for text in texts {
            let segment = Segment::read(text).ok_or_else(unknown)?;
            segments.push(segment);
        }
        segments.sort_unstable_by_key(|segment| segment.number);
        let mut seen = Self {
            session: segments.last().map_or(0, |newest| newest.session),
            ..Self::default()
        };
        for segment in segments {
            if segment.session != seen.session {
                continue;
            }
            seen.taken = segment.number.checked_mul(SEGMENT).ok_or_else(unknown)?;
            for (place, entry) in segment.entries {
                let entry = seen.take(entry, place);
                seen.entries.insert(place, entry);
            }
        }
        seen.forget();
        Ok(seen)
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

#[cfg(test)]
mod tests;
