//! What waits for a stage that nothing waits for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// The figures of the outbox of a stage with `required: false`.
#[derive(Debug, Default)]
pub struct OutboxMeter {
    waiting: AtomicU64,
    /// How many waited when that was known first.
    first: OnceLock<u64>,
    bytes: AtomicU64,
    set_aside: AtomicU64,
}

impl OutboxMeter {
    /// Notes how many records wait, and their bytes.
    pub fn waiting(&self, records: u64, bytes: u64) {
        self.first.get_or_init(|| records);
        self.waiting.store(records, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Counts records that found it full.
    pub fn set_aside(&self, records: usize) {
        self.set_aside.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// How many more wait than at the beginning.
    pub(super) fn growth(&self) -> i64 {
        let first = self.first.get().copied().unwrap_or_default();
        let waiting = self.waiting.load(Ordering::Relaxed);
        (waiting as i64).saturating_sub(first as i64)
    }

    pub(super) fn report(&self) -> OutboxReport {
        OutboxReport {
            waiting: self.waiting.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            set_aside: self.set_aside.load(Ordering::Relaxed),
        }
    }
}

/// How the outbox of a stage with `required: false` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutboxReport {
    /// Records that are in it, those under way included.
    pub waiting: u64,
    /// Their bytes, as JSON.
    pub bytes: u64,
    /// Records that found it full and are dead letters.
    pub set_aside: u64,
}
