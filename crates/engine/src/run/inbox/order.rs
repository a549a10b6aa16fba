//! What is in an inbox and in which order it leaves, without the disk: what is taken, under way, dealt with, known
//! again, and how much there may be.
//!
//! ```text
//!          low                taken                 next
//! ──────────┼───────────────────┼─────────────────────┼──>  numbers
//!  dealt    │ under way, ended, │ waits               │ not here yet
//!  with     │ or dealt with     │                     │
//! ```
//!
//! From `low` to the last that is under way there are never more numbers than storages remember deliveries: one that
//! comes again after a crash is known to them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use wiredflow_core::delivery::{Identity, MOST_UNDER_WAY};

/// How many deliveries may be under way, and how many that were dealt with are known when they come again.
pub(super) const WINDOW: u64 = MOST_UNDER_WAY as u64;

/// A body of more bytes does not stay on the disk until its row goes.
pub(super) const LARGE: usize = 4096;

/// How much an inbox holds before its source is read no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLimits {
    /// The most deliveries that wait.
    pub rows: u64,
    /// The most bytes of their payloads; what has arrived already when they are reached is kept too.
    pub bytes: u64,
}

impl Default for InboxLimits {
    fn default() -> Self {
        Self {
            rows: 1_000_000,
            bytes: 1 << 30,
        }
    }
}

/// What the disk has of an inbox when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) low: u64,
    pub(super) next: u64,
    /// What is dealt with though a lower number is not.
    pub(super) dealt: Vec<u64>,
    /// How many wait, and their bytes.
    pub(super) waiting: (u64, u64),
    /// What the newest are known by.
    pub(super) known: Vec<(u64, Identity)>,
}

/// What is to be written of the deliveries that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Write {
    /// All lower numbers are dealt with.
    pub(super) low: u64,
    /// These are to be marked as dealt with, and lose their bodies: from `low` on, or large ones below it.
    pub(super) mark: Vec<u64>,
    /// All lower numbers are removed.
    pub(super) forget: u64,
    ended: Vec<u64>,
}

/// How many deliveries may be taken from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// So many. `news`: there was none before.
    For { most: usize, news: bool },
    /// None. `news`: there was some before.
    Full { news: bool },
}

/// The order of one inbox.
#[derive(Debug)]
pub(super) struct Order {
    limits: InboxLimits,
    /// See [`WINDOW`].
    window: u64,
    /// The number of the next that arrives.
    next: u64,
    /// All lower numbers are dealt with, and the disk knows.
    low: u64,
    /// Dealt with from `low` on, and the disk knows.
    dealt: BTreeSet<u64>,
    /// Dealt with, and the disk does not know yet; with the sizes.
    ended: BTreeMap<u64, usize>,
    /// The next number to be handed out.
    taken: u64,
    /// Handed out and not ended, with the sizes.
    under_way: BTreeMap<u64, usize>,
    /// Lower numbers may have been handed out by an earlier session.
    again_below: u64,
    waiting: u64,
    bytes: u64,
    /// Taken from the source and not yet kept: how many, and their bytes.
    arriving: (u64, u64),
    full: bool,
    known: Known,
}

impl Order {
    /// As the disk has it.
    pub(super) fn new(limits: InboxLimits, found: Found) -> Self {
        Self::with_window(limits, found, WINDOW)
    }

    fn with_window(limits: InboxLimits, found: Found, window: u64) -> Self {
        let mut known = Known::default();
        for (number, identity) in found.known {
            known.add(number, identity);
        }
        Self {
            limits,
            window,
            next: found.next,
            low: found.low,
            dealt: found.dealt.into_iter().collect(),
            ended: BTreeMap::new(),
            taken: found.low,
            under_way: BTreeMap::new(),
            again_below: found.next,
            waiting: found.waiting.0,
            bytes: found.waiting.1,
            arriving: (0, 0),
            full: false,
            known,
        }
    }

    // Where deliveries come in.

    /// The source is opened: what it had brought before, and was not kept, is gone.
    pub(super) fn open_intake(&mut self) {
        self.arriving = (0, 0);
    }

    /// How many may be taken from the source now. Once full, there is no room until a tenth is free.
    pub(super) fn room(&mut self) -> Room {
        let InboxLimits { rows, bytes } = self.limits;
        let held = self.waiting + self.arriving.0;
        let held_bytes = self.bytes + self.arriving.1;
        let was_full = self.full;
        self.full = match was_full {
            false => held >= rows || held_bytes >= bytes,
            true => held > rows - rows.div_ceil(10) || held_bytes > bytes - bytes / 10,
        };
        match self.full {
            true => Room::Full { news: !was_full },
            false => Room::For {
                most: usize::try_from(rows - held).unwrap_or(usize::MAX),
                news: was_full,
            },
        }
    }

    /// So many were taken from the source, with so many bytes.
    pub(super) fn arriving(&mut self, deliveries: usize, bytes: usize) {
        self.arriving.0 += deliveries as u64;
        self.arriving.1 += bytes as u64;
    }

    /// Numbers for deliveries that arrived together; none for one that is here already and comes again.
    pub(super) fn numbers(
        &self,
        arrived: impl Iterator<Item = Option<Identity>>,
    ) -> Vec<Option<u64>> {
        let mut next = self.next;
        let mut number = |identity: Option<Identity>| {
            if identity.is_some_and(|identity| self.known.is_known(&identity)) {
                return None;
            }
            next += 1;
            Some(next - 1)
        };
        arrived.map(&mut number).collect()
    }

    /// Deliveries are kept under the next numbers; `came` is how many came for that, and their bytes, with those that
    /// were here already.
    pub(super) fn kept(
        &mut self,
        came: (usize, usize),
        kept: impl Iterator<Item = (Option<Identity>, usize)>,
    ) {
        let (deliveries, bytes) = self.arriving;
        self.arriving = (
            deliveries.saturating_sub(came.0 as u64),
            bytes.saturating_sub(came.1 as u64),
        );
        for (identity, size) in kept {
            if let Some(identity) = identity {
                self.known.add(self.next, identity);
            }
            self.next += 1;
            self.waiting += 1;
            self.bytes += size as u64;
        }
        self.known
            .forget_below(self.next.saturating_sub(self.window));
    }

    /// The number of the next that arrives.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    // Where deliveries go out.

    /// Those who work are there anew: what was under way comes again, in order.
    pub(super) fn open_work(&mut self) {
        self.under_way.clear();
        self.taken = self.low;
        self.again_below = self.next;
    }

    /// From which number on deliveries are wanted now, if any may be handed out.
    pub(super) fn wanted(&self) -> Option<u64> {
        (self.taken < self.next && self.taken < self.low.saturating_add(self.window))
            .then_some(self.taken)
    }

    /// Hands out a number; all lower ones were handed out before or are dealt with.
    pub(super) fn hand_out(&mut self, number: u64, size: usize) -> HandOut {
        if number < self.taken || self.dealt.contains(&number) || self.ended.contains_key(&number) {
            self.taken = self.taken.max(number.saturating_add(1)).min(self.next);
            return HandOut::DealtWith;
        }
        if number >= self.next || number >= self.low.saturating_add(self.window) {
            return HandOut::NotYet;
        }
        self.taken = number + 1;
        self.under_way.insert(number, size);
        HandOut::Yes {
            again: number < self.again_below,
        }
    }

    /// There is nothing to hand out below this number.
    pub(super) fn nothing_below(&mut self, number: u64) {
        self.taken = self.taken.max(number.min(self.next));
    }

    /// A delivery is dealt with.
    pub(super) fn ended(&mut self, number: u64) {
        if let Some(size) = self.under_way.remove(&number) {
            self.ended.insert(number, size);
        }
    }

    /// What is to be written; nothing where the disk knows all.
    pub(super) fn to_write(&self) -> Option<Write> {
        if self.ended.is_empty() {
            return None;
        }
        let mut low = self.low;
        while low < self.next && (self.dealt.contains(&low) || self.ended.contains_key(&low)) {
            low += 1;
        }
        let forget = low.min(self.next.saturating_sub(self.window));
        let marked = |(number, size): &(&u64, &usize)| {
            **number >= low || (**size > LARGE && **number >= forget)
        };
        Some(Write {
            low,
            mark: self
                .ended
                .iter()
                .filter(marked)
                .map(|(number, _)| *number)
                .collect(),
            forget,
            ended: self.ended.keys().copied().collect(),
        })
    }

    /// The disk has that.
    pub(super) fn written(&mut self, write: &Write) {
        for number in &write.ended {
            let Some(size) = self.ended.remove(number) else {
                continue;
            };
            self.waiting = self.waiting.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(size as u64);
            self.dealt.insert(*number);
        }
        self.low = self.low.max(write.low);
        self.dealt = self.dealt.split_off(&self.low);
        self.taken = self.taken.max(self.low);
    }

    /// How many are kept and not dealt with.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }
}

/// Whether a number is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandOut {
    /// It is. `again`: it may have been before.
    Yes { again: bool },
    /// Others must end first, or it is not there yet.
    NotYet,
    /// It needs nothing more.
    DealtWith,
}

/// What the newest deliveries are known by.
#[derive(Debug, Default)]
struct Known {
    /// By session and place: the print, and the number.
    places: HashMap<(u64, u32), (u64, u64)>,
    order: VecDeque<(u64, (u64, u32))>,
}

impl Known {
    fn add(&mut self, number: u64, identity: Identity) {
        let place = (identity.session, identity.place);
        self.places.insert(place, (identity.print, number));
        self.order.push_back((number, place));
    }

    fn is_known(&self, identity: &Identity) -> bool {
        let known = self.places.get(&(identity.session, identity.place));
        identity.again && known.is_some_and(|(print, _)| *print == identity.print)
    }

    fn forget_below(&mut self, low: u64) {
        while let Some((number, place)) = self.order.front().copied().filter(|one| one.0 < low) {
            self.order.pop_front();
            if self
                .places
                .get(&place)
                .is_some_and(|(_, last)| *last == number)
            {
                self.places.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests;
