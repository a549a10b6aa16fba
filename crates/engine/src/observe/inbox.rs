//! What an inbox has taken, and what waits in it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// The figures of an inbox.
#[derive(Debug, Default)]
pub struct InboxMeter {
    taken: AtomicU64,
    waiting: AtomicU64,
}

impl InboxMeter {
    /// Counts deliveries that the inbox has taken.
    pub fn taken(&self, deliveries: usize) {
        self.taken.fetch_add(deliveries as u64, Ordering::Relaxed);
    }

    /// Notes how many wait.
    pub fn waiting(&self, deliveries: u64) {
        self.waiting.store(deliveries, Ordering::Relaxed);
    }

    pub(super) fn report(&self) -> InboxReport {
        InboxReport {
            taken: self.taken.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// How an inbox did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InboxReport {
    /// Deliveries that it took from the source, which was told so.
    pub taken: u64,
    /// Deliveries that are in it, those under way included.
    pub waiting: u64,
}
