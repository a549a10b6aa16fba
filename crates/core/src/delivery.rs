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

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use bytes::Bytes;

use crate::record::{Batch, Origin, Params, Record, Value};
use crate::storage::CommitReceipt;

/// What a source uses to know its delivery again: numbers of its own, and the connection they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token {
    /// Counts the connections; a token of an earlier one is never acknowledged.
    pub epoch: u64,
    /// The source's own number within the connection.
    pub id: u64,
}

/// What a trigger starts.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The source's own mark.
    pub token: Token,
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
    /// Bytes from outside that must be one JSON document; the engine reads them, and what cannot be
    /// read becomes a dead letter.
    Json(Bytes),
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
}

/// Who is told that a delivery is settled. Called from any thread; must not block.
pub trait Settle: Send + Sync {
    /// A delivery ended; called exactly once for each.
    fn settled(&self, settled: Settled);
}

struct DeliveryState {
    token: Token,
    open: AtomicUsize,
    worst: AtomicU8,
    settle: Arc<dyn Settle>,
}

/// One of the parts that a delivery is in. Dropping it open means lost.
struct Share(Option<Arc<DeliveryState>>);

impl Share {
    fn first(token: Token, settle: Arc<dyn Settle>) -> Self {
        let (open, worst) = (AtomicUsize::new(1), AtomicU8::new(Outcome::Committed as u8));
        Self(Some(Arc::new(DeliveryState {
            token,
            open,
            worst,
            settle,
        })))
    }

    fn another(&self) -> Self {
        if let Some(state) = &self.0 {
            state.open.fetch_add(1, Ordering::Relaxed);
        }
        Self(self.0.clone())
    }

    fn mark(&self, outcome: Outcome) {
        if let Some(state) = &self.0 {
            state.worst.fetch_max(outcome as u8, Ordering::Relaxed);
        }
    }

    fn close(&mut self, outcome: Outcome, proof: &Arc<[CommitReceipt]>) {
        let Some(state) = self.0.take() else { return };
        state.worst.fetch_max(outcome as u8, Ordering::Relaxed);
        // AcqRel: the one that closes the last share must see the marks of all others.
        if state.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            let worst = state.worst.load(Ordering::Relaxed);
            let outcome = Outcome::ALL[usize::from(worst)];
            state.settle.settled(Settled {
                token: state.token,
                outcome,
                proof: Arc::clone(proof),
            });
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.close(Outcome::Lost, &Arc::default());
        }
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.as_ref().map(|state| state.token))
    }
}

/// The deliveries that a batch came from, and the receipts it has collected on its way.
#[derive(Debug, Default)]
pub struct Lineage {
    shares: Vec<Share>,
    receipts: Vec<CommitReceipt>,
}

impl Lineage {
    /// How many deliveries it holds a share of.
    pub fn deliveries(&self) -> usize {
        self.shares.len()
    }

    /// The marks of its deliveries.
    pub fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.shares
            .iter()
            .filter_map(|share| share.0.as_ref().map(|state| state.token))
    }

    /// Adds a sink's receipt.
    pub fn add_receipt(&mut self, receipt: CommitReceipt) {
        self.receipts.push(receipt);
    }

    /// Notes an outcome for the deliveries of one record that is taken out.
    pub fn mark(&self, record: &Record, outcome: Outcome) {
        match record.origin {
            Origin::One(index) if (index as usize) < self.shares.len() => {
                self.shares[index as usize].mark(outcome);
            }
            Origin::One(_) | Origin::All => {
                self.shares.iter().for_each(|share| share.mark(outcome))
            }
        }
    }

    /// Another lineage with shares of the same deliveries: what a stage holds while it works.
    #[must_use]
    pub fn hold(&self) -> Self {
        let shares = self.shares.iter().map(Share::another).collect();
        Self {
            shares,
            receipts: self.receipts.clone(),
        }
    }

    /// The lineage of a batch that a stage made from this one: only the deliveries its records came
    /// from, or all of them where a record is of the stage's own making.
    pub fn child(&self, batch: &mut Batch) -> Self {
        let all = batch.is_empty()
            || self.shares.len() <= 1
            || batch
                .records()
                .iter()
                .any(|record| record.origin == Origin::All);
        if all {
            return self.hold();
        }
        let mut place: Vec<Option<u32>> = vec![None; self.shares.len()];
        let mut shares = Vec::new();
        for record in batch.records_mut() {
            let Origin::One(index) = record.origin else {
                continue;
            };
            let Some(slot) = place.get_mut(index as usize) else {
                return self.hold();
            };
            let new = *slot.get_or_insert_with(|| {
                shares.push(self.shares[index as usize].another());
                (shares.len() - 1) as u32
            });
            record.origin = Origin::One(new);
        }
        Self {
            shares,
            receipts: self.receipts.clone(),
        }
    }

    /// Closes all shares with an outcome and the receipts as proof.
    pub fn close(mut self, outcome: Outcome) {
        let proof: Arc<[CommitReceipt]> = std::mem::take(&mut self.receipts).into();
        for share in &mut self.shares {
            share.close(outcome, &proof);
        }
    }

    /// How many sinks have given a receipt.
    pub fn receipts(&self) -> usize {
        self.receipts.len()
    }
}

/// What travels between stages: records, the deliveries they came from, and the params in force.
#[derive(Debug, Default)]
pub struct Parcel {
    /// The records.
    pub batch: Batch,
    /// Their deliveries.
    pub lineage: Lineage,
    /// The params that a configuration stage made last.
    pub params: Params,
}

impl Parcel {
    /// The first parcel of one delivery, or of several that arrived together: each with its values.
    pub fn start(deliveries: Vec<(Token, Vec<Value>)>, settle: &Arc<dyn Settle>) -> Self {
        let mut records = Vec::with_capacity(deliveries.len());
        let mut shares = Vec::with_capacity(deliveries.len());
        for (token, values) in deliveries {
            let index = shares.len() as u32;
            records.extend(values.into_iter().map(|value| Record::of(value, index)));
            shares.push(Share::first(token, Arc::clone(settle)));
        }
        let lineage = Lineage {
            shares,
            receipts: Vec::new(),
        };
        Self {
            batch: Batch::new(records),
            lineage,
            params: Params::default(),
        }
    }

    /// Joins another parcel to this one, its records last. Receipts are those of both.
    pub fn join(&mut self, mut other: Self) {
        let offset = self.lineage.shares.len() as u32;
        pin_single(&mut self.batch, self.lineage.shares.len());
        pin_single(&mut other.batch, other.lineage.shares.len());
        for record in other.batch.records_mut() {
            if let Origin::One(index) = &mut record.origin {
                *index += offset;
            }
        }
        self.lineage.shares.append(&mut other.lineage.shares);
        self.lineage.receipts.append(&mut other.lineage.receipts);
        self.batch.records_mut().append(other.batch.records_mut());
        self.params = other.params;
    }

    /// One parcel for each delivery, in order of first appearance; the parcel as it is where a record
    /// belongs to several deliveries.
    pub fn split_by_delivery(mut self) -> Vec<Self> {
        let whole = self.lineage.shares.len() <= 1
            || self
                .batch
                .records()
                .iter()
                .any(|record| record.origin == Origin::All);
        if whole {
            return vec![self];
        }
        let receipts = std::mem::take(&mut self.lineage.receipts);
        let shares = std::mem::take(&mut self.lineage.shares);
        let mut parcels: Vec<Self> = shares
            .into_iter()
            .map(|share| Self {
                batch: Batch::default(),
                lineage: Lineage {
                    shares: vec![share],
                    receipts: receipts.clone(),
                },
                params: Params::clone(&self.params),
            })
            .collect();
        for mut record in std::mem::take(&mut self.batch) {
            if let Origin::One(index) = record.origin {
                record.origin = Origin::One(0);
                if let Some(parcel) = parcels.get_mut(index as usize) {
                    parcel.batch.records_mut().push(record);
                }
            }
        }
        parcels
    }

    /// One parcel for each record, in order; each delivery stays open until its last record's parcel is closed.
    pub fn split_by_record(mut self) -> Vec<Self> {
        let records = std::mem::take(&mut self.batch).into_records();
        let single = |record: Record| {
            let mut batch = Batch::new(vec![record]);
            let lineage = self.lineage.child(&mut batch);
            Self {
                batch,
                lineage,
                params: Params::clone(&self.params),
            }
        };
        let parcels = records.into_iter().map(single).collect();
        self.lineage.close(Outcome::Committed);
        parcels
    }

    /// Takes one record out and notes what became of it.
    pub fn take_out(&mut self, index: usize, outcome: Outcome) -> Option<Record> {
        if index >= self.batch.len() {
            return None;
        }
        let record = self.batch.records_mut().remove(index);
        self.lineage.mark(&record, outcome);
        Some(record)
    }
}

/// Records of the stage's own making belong to the one delivery there is, before others join.
fn pin_single(batch: &mut Batch, deliveries: usize) {
    if deliveries == 1 {
        for record in batch.records_mut() {
            record.origin = Origin::One(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Book(Mutex<Vec<(u64, Outcome)>>);

    impl Settle for Book {
        fn settled(&self, settled: Settled) {
            self.0
                .lock()
                .unwrap()
                .push((settled.token.id, settled.outcome));
        }
    }

    fn start(ids: &[u64]) -> (Parcel, Arc<Book>) {
        let book = Arc::new(Book::default());
        let deliveries = ids
            .iter()
            .map(|id| (Token { epoch: 1, id: *id }, vec![json!(id)]))
            .collect();
        let settle: Arc<dyn Settle> = book.clone();
        (Parcel::start(deliveries, &settle), book)
    }

    #[track_caller]
    fn check(book: &Book, expected: &[(u64, Outcome)]) {
        assert_eq!(*book.0.lock().unwrap(), expected);
    }

    #[test]
    fn a_delivery_is_settled_when_its_last_share_closes_with_the_worst_outcome() {
        let (parcel, book) = start(&[7]);
        let hold = parcel.lineage.hold();
        hold.mark(&parcel.batch.records()[0], Outcome::DeadLettered);
        parcel.lineage.close(Outcome::Committed);
        check(&book, &[]);
        hold.close(Outcome::Committed);
        check(&book, &[(7, Outcome::DeadLettered)]);
    }

    #[test]
    fn dropping_a_parcel_means_lost() {
        let (parcel, book) = start(&[1, 2]);
        drop(parcel);
        check(&book, &[(1, Outcome::Lost), (2, Outcome::Lost)]);
    }

    #[test]
    fn a_child_holds_only_the_deliveries_of_its_records() {
        let (parcel, book) = start(&[1, 2, 3]);
        let mut batch = Batch::new(vec![parcel.batch.records()[2].with_value(json!("x"))]);
        let child = parcel.lineage.child(&mut batch);
        assert_eq!(
            child.tokens().map(|token| token.id).collect::<Vec<_>>(),
            [3]
        );
        parcel.lineage.close(Outcome::Committed);
        check(&book, &[(1, Outcome::Committed), (2, Outcome::Committed)]);
        child.close(Outcome::Failed);
        assert_eq!(book.0.lock().unwrap()[2], (3, Outcome::Failed));
    }

    #[test]
    fn joined_and_split_parcels_keep_who_is_whose() {
        let (mut parcel, book) = start(&[1, 2]);
        let (other, other_book) = start(&[9]);
        parcel.join(other);
        let mut parcels = parcel.split_by_delivery();
        assert_eq!(parcels.len(), 3);
        assert_eq!(parcels[2].batch.records()[0].value(), &json!(9));
        parcels.pop().unwrap().lineage.close(Outcome::Failed);
        check(&other_book, &[(9, Outcome::Failed)]);
        parcels
            .into_iter()
            .for_each(|parcel| parcel.lineage.close(Outcome::Committed));
        check(&book, &[(1, Outcome::Committed), (2, Outcome::Committed)]);
    }

    #[test]
    fn a_record_that_is_taken_out_marks_its_own_delivery_only() {
        let (mut parcel, book) = start(&[1, 2]);
        assert!(parcel.take_out(1, Outcome::DeadLettered).is_some());
        parcel.lineage.close(Outcome::Committed);
        check(
            &book,
            &[(1, Outcome::Committed), (2, Outcome::DeadLettered)],
        );
    }

    #[test]
    fn splitting_by_record_settles_a_delivery_once() {
        let book = Arc::new(Book::default());
        let settle: Arc<dyn Settle> = book.clone();
        let values = vec![json!(1), json!(2), json!(3)];
        let parcel = Parcel::start(vec![(Token { epoch: 0, id: 5 }, values)], &settle);
        let parcels = parcel.split_by_record();
        assert_eq!(parcels.len(), 3);
        for parcel in parcels {
            check(&book, &[]);
            parcel.lineage.close(Outcome::Skipped);
        }
        check(&book, &[(5, Outcome::Skipped)]);
    }
}
