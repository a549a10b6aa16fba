//! What is in an outbox, without the disk: what waits, what is known when it comes again, and what is to be taken out.
//!
//! ```text
//!   put ─> waits ─┬─> sent ──────> known for a while, then forgotten
//!                 └─> not sent ──> forgotten at once
//! ```
//!
//! What is taken out is remembered here until the disk has it: it is written with the next rows, in one commit.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use wiredflow_core::delivery::{MOST_UNDER_WAY, Token};

use crate::state::{FoundOutbox, TakenOut};

/// How many of the newest rows are known when they come again: as many as deliveries may be under way.
pub(super) const REMEMBERED: usize = MOST_UNDER_WAY as usize;

/// What is known of a record that may have come before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing.
    New,
    /// It is in the outbox.
    Waiting,
    /// The peer has confirmed it, or it was set aside.
    Sent,
}

/// How a row leaves the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// It is done with, and known when it comes again.
    Sent,
    /// It was not sent: when it comes again it is new.
    Unsent,
}

/// The order of one outbox.
#[derive(Debug)]
pub(super) struct Order {
    next: u64,
    waiting: u64,
    bytes: u64,
    /// The newest rows that may come again, oldest first.
    newest: VecDeque<(u64, Arc<str>)>,
    known: HashMap<Arc<str>, Known>,
    remembered: usize,
    places: Places,
    taken: TakenOut,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    number: u64,
    digest: u64,
    sent: bool,
}

impl Order {
    /// As the disk has it.
    pub(super) fn new(found: &FoundOutbox) -> Self {
        Self::remembering(found, REMEMBERED)
    }

    fn remembering(found: &FoundOutbox, remembered: usize) -> Self {
        let mut order = Self {
            next: found.next,
            waiting: found.waiting.0,
            bytes: found.waiting.1,
            newest: VecDeque::new(),
            known: HashMap::new(),
            remembered,
            places: Places::default(),
            taken: TakenOut::default(),
        };
        for (number, key, digest, sent) in &found.known {
            order.remember(*number, key, *digest);
            if let Some(known) = order.known.get_mut(key) {
                known.sent = *sent;
            }
        }
        order
    }

    /// The place of the next record of a delivery, counted from 0.
    pub(super) fn place(&mut self, of: Token) -> u32 {
        self.places.next(of)
    }

    /// What is known of a record that may have come before. Another content under the same key is another record.
    pub(super) fn seen(&self, key: &str, digest: u64) -> Seen {
        match self.known.get(key).filter(|known| known.digest == digest) {
            None => Seen::New,
            Some(Known { sent: true, .. }) => Seen::Sent,
            Some(Known { sent: false, .. }) => Seen::Waiting,
        }
    }

    /// The number of the next row.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// A number for a row.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// A row is put in. `digest`: it may come again.
    pub(super) fn put(&mut self, number: u64, key: &Arc<str>, digest: Option<u64>, bytes: usize) {
        self.waiting += 1;
        self.bytes += bytes as u64;
        if let Some(digest) = digest {
            self.remember(number, key, digest);
        }
    }

    /// A row leaves.
    pub(super) fn take_out(&mut self, number: u64, key: &str, bytes: usize, leaves: Leaves) {
        self.waiting = self.waiting.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
        match self.known.get_mut(key) {
            Some(known) if known.number == number && leaves == Leaves::Sent => {
                known.sent = true;
                self.taken.sent.push(number);
            }
            Some(known) if known.number == number => {
                self.known.remove(key);
                self.taken.removed.push(number);
            }
            Some(_) | None => self.taken.removed.push(number),
        }
    }

    /// What the disk is to be told of rows that have left: it is told once, unless it comes back.
    pub(super) fn taken(&mut self) -> TakenOut {
        std::mem::take(&mut self.taken)
    }

    /// Whether the disk is to be told of rows that have left.
    pub(super) fn has_taken(&self) -> bool {
        !self.taken.sent.is_empty() || !self.taken.removed.is_empty()
    }

    /// The disk could not be told.
    pub(super) fn not_told(&mut self, mut taken: TakenOut) {
        self.taken.sent.append(&mut taken.sent);
        self.taken.removed.append(&mut taken.removed);
    }

    /// How many rows wait, and their bytes.
    pub(super) fn waiting(&self) -> (u64, u64) {
        (self.waiting, self.bytes)
    }

    fn remember(&mut self, number: u64, key: &Arc<str>, digest: u64) {
        let known = Known {
            number,
            digest,
            sent: false,
        };
        // An older row of the same name is known no more.
        if let Some(older) = self.known.insert(Arc::clone(key), known)
            && older.sent
        {
            self.taken.removed.push(older.number);
        }
        self.newest.push_back((number, Arc::clone(key)));
        while self.newest.len() > self.remembered {
            let Some((number, key)) = self.newest.pop_front() else {
                break;
            };
            if let Some(known) = self.known.get(&key)
                && known.number == number
            {
                if known.sent {
                    self.taken.removed.push(number);
                }
                self.known.remove(&key);
            }
        }
    }
}

/// How many records of each of the newest deliveries have come.
#[derive(Debug, Default)]
struct Places {
    counts: HashMap<Token, u32>,
    newest: VecDeque<Token>,
}

impl Places {
    fn next(&mut self, of: Token) -> u32 {
        if let Some(count) = self.counts.get_mut(&of) {
            *count += 1;
            return *count - 1;
        }
        self.counts.insert(of, 1);
        self.newest.push_back(of);
        if self.newest.len() > 2 * REMEMBERED
            && let Some(oldest) = self.newest.pop_front()
        {
            self.counts.remove(&oldest);
        }
        0
    }
}

#[cfg(test)]
mod tests;
