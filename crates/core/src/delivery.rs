//! Deliveries and how they are settled: exactly once, and as committed only with receipts.
//!
//! ```text
//! source ── Delivery ──> Parcel (batch + lineage) ──> stage ──> Parcel ──> … ──> last stage
//!    ^                                                                             │
//!    └────────────── Settled {token, outcome, proof} <── last share closed ────────┘
//! ```
//!
//! A lineage holds one share of each delivery that its records came from. A delivery is settled when
//! its last share is closed, with the worst outcome of all of them. A share that is dropped without
//! being closed counts as lost, so a panic, an abort or a forgotten path can never look like a commit.

mod lineage;
mod parcel;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::record::{Batch, Params, Value};
use crate::storage::CommitReceipt;

pub use lineage::Lineage;
pub use parcel::Parcel;

/// What a source uses to know its delivery again: numbers of its own, and the connection they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token {
    /// Counts the connections; a token of an earlier one is never acknowledged.
    pub epoch: u64,
    /// The source's own number within the connection.
    pub id: u64,
}

/// The most unacknowledged deliveries on their way to a source, where that can be said. It is what a broker sends on
/// while the disk is slow for a moment, besides what it keeps (docs/adr/0013). Storages remember as many, to know one
/// that comes again.
pub const MOST_UNDER_WAY: u16 = 2048;

/// What a delivery is known by when it comes again after this process, or a connection, has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The session at the peer that it belongs to: others have names of their own.
    pub session: u64,
    /// The source's place for it: no two unacknowledged deliveries have the same at a time.
    pub place: u32,
    /// Tells it from others that had the place before: a digest of what arrived.
    pub print: u64,
    /// Whether the peer says that it may have delivered it before.
    pub again: bool,
}

impl fmt::Display for Identity {
    /// A name that is the same when it comes again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x}-{}-{:016x}",
            self.session, self.place, self.print
        )
    }
}

/// A delivery as a sink knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Tells it apart while this process lives.
    pub token: Token,
    /// Tells it apart for longer, where its source can.
    pub identity: Option<Identity>,
}

/// What a trigger starts.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The source's own mark.
    pub token: Token,
    /// What it is known by when it comes again; none where nothing comes again, or cannot be told from another.
    pub identity: Option<Identity>,
    /// What arrived.
    pub payload: Payload,
    /// Where it came from, for the dead letter: a topic, an address.
    pub origin: Option<Arc<str>>,
}

/// What arrived with a delivery.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing: a tick.
    Empty,
    /// Values that the source made itself.
    Values(Vec<Value>),
    /// What another pipeline hands over, as it stands there: its records may be a list of one, or none.
    Handed(Batch, Params),
    /// Bytes from outside that must be one JSON document; the engine reads them, and what cannot be
    /// read becomes a dead letter.
    Json(Bytes),
    /// Bytes that the source itself could not read; a dead letter.
    Unreadable {
        /// The bytes; none where they were not kept.
        bytes: Bytes,
        /// Why, in words that follow "cannot be read: ".
        reason: String,
    },
}

/// How a delivery ended. The order is from good to bad: the worst of its shares decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// Every required sink has committed.
    Committed,
    /// A policy, or the end of a run, passed over a part.
    Skipped,
    /// A part is in the dead letters.
    DeadLettered,
    /// It was dropped unfinished: a stop, a panic. Not acknowledged.
    Lost,
    /// A stage failed after its last attempt. Not acknowledged.
    Failed,
}

impl Outcome {
    const ALL: [Self; 5] = [
        Self::Committed,
        Self::Skipped,
        Self::DeadLettered,
        Self::Lost,
        Self::Failed,
    ];

    /// Whether the source may forget the delivery.
    pub fn is_acknowledged(self) -> bool {
        matches!(self, Self::Committed | Self::Skipped | Self::DeadLettered)
    }

    /// The word used in state and output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Skipped => "skipped",
            Self::DeadLettered => "dead_lettered",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }
}

/// The end of a delivery, told to its source.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The source's own mark.
    pub token: Token,
    /// How it ended.
    pub outcome: Outcome,
    /// The receipts of the sinks that its last batch passed. Empty where nothing had to be committed.
    pub proof: Arc<[CommitReceipt]>,
    /// Why it did not go well: the first that was said of it, scrubbed of secrets.
    pub reason: Option<Arc<str>>,
    /// What was counted on its way.
    pub tally: Tally,
}

/// How many records a delivery brought in, and how many left the last stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
}

/// Which way records are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They come in.
    In,
    /// They go out.
    Out,
}

/// Who is told that deliveries are settled. Called from any thread; must not block.
pub trait Settle: Send + Sync {
    /// These deliveries ended together; each is told exactly once.
    fn settled(&self, ended: Vec<Settled>);
}

#[cfg(test)]
mod tests;
