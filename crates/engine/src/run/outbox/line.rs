//! The line in front of a stage that nothing waits for: what comes is kept and done with, and called when its turn is.
//!
//! ```text
//!   what comes ─> keep: state.db ─> goes on to the next stage
//!                      │
//!                      └─ … ─> read ─> call ─> leaves
//! ```
//!
//! What waits is on the disk alone: a peer that is away for days costs no memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wiredflow_core::Result;
use wiredflow_core::delivery::Parcel;
use wiredflow_core::storage::CommitReceipt;

use super::order::REMEMBERED;
use super::{Outbox, Part, READ, Together};
use crate::observe::OutboxMeter;
use crate::run::InboxLimits;

/// The most rows that are called at once, so that a storage knows all of them that come again after a crash.
const MOST: usize = REMEMBERED / 2;

/// The line of one stage, while a session of its pipeline lasts.
pub(in crate::run) struct Line {
    pub(in crate::run) outbox: Arc<Outbox>,
    pub(in crate::run) meter: Arc<OutboxMeter>,
    limits: InboxLimits,
    /// How many rows are read at a time.
    most: usize,
    place: tokio::sync::Mutex<Place>,
    /// What is replayed goes past the line.
    ahead: Mutex<VecDeque<Part>>,
    /// There is more to be had.
    more: Notify,
    /// The outbox is open, or will not be.
    opened: CancellationToken,
    /// Nothing more comes in.
    closed: CancellationToken,
    /// What waits is left to the next start.
    left: AtomicBool,
    /// How many of those who call have ended.
    ended: AtomicUsize,
}

/// How far the line is read.
#[derive(Default)]
struct Place {
    /// The number of the next row to be read.
    from: u64,
    read: VecDeque<Part>,
}

impl Line {
    pub(in crate::run) fn new(
        outbox: &Arc<Outbox>,
        meter: &Arc<OutboxMeter>,
        (limits, parallel): (InboxLimits, usize),
    ) -> Self {
        Self {
            outbox: Arc::clone(outbox),
            meter: Arc::clone(meter),
            limits,
            most: (MOST / parallel.max(1)).clamp(1, READ),
            place: tokio::sync::Mutex::default(),
            ahead: Mutex::default(),
            more: Notify::new(),
            opened: CancellationToken::new(),
            closed: CancellationToken::new(),
            left: AtomicBool::new(false),
            ended: AtomicUsize::new(0),
        }
    }

    /// Asks the disk what waits from before; then those who call may take it.
    pub(in crate::run) async fn open(&self) -> Result<()> {
        self.outbox.open().await?;
        self.tell_meter();
        self.opened.cancel();
        Ok(())
    }

    /// Whether no more may be kept.
    pub(in crate::run) fn is_full(&self) -> bool {
        let (rows, bytes) = self.outbox.waiting();
        rows >= self.limits.rows || bytes >= self.limits.bytes
    }

    /// Keeps the records of a parcel. Returns when the disk has them, with the receipt for it.
    pub(in crate::run) async fn keep(&self, parcel: &Parcel) -> Result<CommitReceipt> {
        self.outbox.put_in(parcel).await?;
        self.tell_meter();
        self.more.notify_waiters();
        Ok(self.outbox.receipt(parcel.batch.len()))
    }

    /// Puts something before all that waits. It is not kept: its place on the disk is another.
    pub(in crate::run) fn put_ahead(&self, parcel: Parcel) {
        self.ahead().push_back(Part::of(parcel));
        self.more.notify_waiters();
    }

    /// Nothing more comes in.
    pub(in crate::run) fn close(&self) {
        self.closed.cancel();
        self.opened.cancel();
    }

    /// Waits until nothing more comes in.
    pub(in crate::run) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// The next part that is to be called, waited for; `None` when nothing waits and nothing more comes in.
    ///
    /// # Errors
    /// The state's, where waiting does not help.
    pub(in crate::run) async fn next(&self, together: Together) -> Result<Option<Part>> {
        self.opened.cancelled().await;
        let mut place = self.place.lock().await;
        loop {
            // Before looking: what comes after the look is heard.
            let mut more = std::pin::pin!(self.more.notified());
            more.as_mut().enable();
            let is_last = self.closed.is_cancelled();
            let ahead = self.ahead().pop_front();
            if let Some(part) = ahead.or_else(|| place.read.pop_front()) {
                return Ok(Some(part));
            }
            self.tell_meter();
            if self.outbox.has_from(place.from)
                && !self.is_left()
                && let Some((parts, next)) =
                    self.outbox.read(place.from, self.most, together).await?
            {
                (place.read, place.from) = (parts, next);
                // What the disk has not been told of is called again after a crash: no more than was read at once.
                self.outbox.tell_taken().await;
                continue;
            }
            if is_last {
                return Ok(None);
            }
            tokio::select! {
                () = more => {}
                () = self.closed.cancelled() => {}
                () = self.rest() => {}
            }
        }
    }

    /// Tells the disk what has left, while nothing comes. Does not end.
    async fn rest(&self) {
        loop {
            // Others call on what they have: it leaves while this one waits.
            let left = self.outbox.changed.notified();
            tokio::select! {
                () = self.outbox.rest() => {}
                () = left => {}
            }
        }
    }

    /// What waits is not given out any more, but for what is replayed.
    pub(in crate::run) fn leave_what_waits(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether what waits is left to the next start.
    pub(in crate::run) fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// One who calls has ended; true for the last of so many.
    pub(in crate::run) fn one_ends(&self, of: usize) -> bool {
        self.ended.fetch_add(1, Ordering::AcqRel) + 1 == of
    }

    /// Says how many wait.
    pub(in crate::run) fn tell_meter(&self) {
        let (rows, bytes) = self.outbox.waiting();
        self.meter.waiting(rows, bytes);
    }

    fn ahead(&self) -> MutexGuard<'_, VecDeque<Part>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
