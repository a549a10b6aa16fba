//! The shares that a batch holds of its deliveries.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Identity, Mark, Outcome, Settle, Settled, Tally, Token, Way};
use crate::record::{Batch, Origin, Record};
use crate::storage::CommitReceipt;

/// What is known of deliveries that arrived together: one piece of memory for all of them.
struct Arrival {
    deliveries: Vec<DeliveryState>,
    settle: Arc<dyn Settle>,
}

struct DeliveryState {
    mark: Mark,
    open: AtomicUsize,
    worst: AtomicU8,
    reason: OnceLock<Arc<str>>,
    records_in: AtomicU64,
    records_out: AtomicU64,
}

impl DeliveryState {
    fn new(mark: Mark) -> Self {
        Self {
            mark,
            open: AtomicUsize::new(1),
            worst: AtomicU8::new(Outcome::Committed as u8),
            reason: OnceLock::new(),
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
        }
    }

    fn tally(&self) -> Tally {
        Tally {
            records_in: self.records_in.load(Ordering::Relaxed),
            records_out: self.records_out.load(Ordering::Relaxed),
        }
    }
}

/// One of the parts that a delivery is in. Dropping it open means lost.
pub(super) struct Share {
    /// `None` once it is closed.
    arrival: Option<Arc<Arrival>>,
    place: usize,
}

impl Share {
    /// The first share of each of the deliveries that arrived together.
    pub(super) fn first(marks: Vec<Mark>, settle: &Arc<dyn Settle>) -> Vec<Self> {
        let arrival = Arc::new(Arrival {
            deliveries: marks.into_iter().map(DeliveryState::new).collect(),
            settle: Arc::clone(settle),
        });
        let share = |place| Self {
            arrival: Some(Arc::clone(&arrival)),
            place,
        };
        (0..arrival.deliveries.len()).map(share).collect()
    }

    fn state(&self) -> Option<&DeliveryState> {
        Some(&self.arrival.as_ref()?.deliveries[self.place])
    }

    fn another(&self) -> Self {
        if let Some(state) = self.state() {
            state.open.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            arrival: self.arrival.clone(),
            place: self.place,
        }
    }

    fn mark(&self, outcome: Outcome) {
        if let Some(state) = self.state() {
            state.worst.fetch_max(outcome as u8, Ordering::Relaxed);
        }
    }

    fn explain(&self, reason: &Arc<str>) {
        if let Some(state) = self.state() {
            // The first word stands.
            drop(state.reason.set(Arc::clone(reason)));
        }
    }

    fn count(&self, records: usize, way: Way) {
        if let Some(state) = self.state() {
            let counter = match way {
                Way::In => &state.records_in,
                Way::Out => &state.records_out,
            };
            counter.fetch_add(records as u64, Ordering::Relaxed);
        }
    }

    fn close(&mut self, outcome: Outcome, proof: &Arc<[CommitReceipt]>, ended: &mut Ended) {
        let Some(arrival) = self.arrival.take() else {
            return;
        };
        let state = &arrival.deliveries[self.place];
        state.worst.fetch_max(outcome as u8, Ordering::Relaxed);
        // AcqRel: the one that closes the last share must see the marks of all others.
        if state.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            let worst = state.worst.load(Ordering::Relaxed);
            let outcome = Outcome::ALL[usize::from(worst)];
            let settled = Settled {
                token: state.mark.token,
                outcome,
                proof: Arc::clone(proof),
                reason: state.reason.get().cloned(),
                tally: state.tally(),
            };
            ended.add(&arrival.settle, settled);
        }
    }
}

/// Deliveries that end together, told in one call for each book that they stand in. Tells what is left
/// when it is dropped.
#[derive(Default)]
struct Ended {
    book: Option<Arc<dyn Settle>>,
    settled: Vec<Settled>,
}

impl Ended {
    fn of(most: usize) -> Self {
        Self {
            book: None,
            settled: Vec::with_capacity(most),
        }
    }

    fn add(&mut self, book: &Arc<dyn Settle>, settled: Settled) {
        if !self
            .book
            .as_ref()
            .is_some_and(|other| Arc::ptr_eq(other, book))
        {
            self.tell();
            self.book = Some(Arc::clone(book));
        }
        self.settled.push(settled);
    }

    fn tell(&mut self) {
        if let Some(book) = self.book.take()
            && !self.settled.is_empty()
        {
            book.settled(std::mem::take(&mut self.settled));
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.arrival.is_some() {
            self.close(Outcome::Lost, &Arc::default(), &mut Ended::default());
        }
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.state().map(|state| state.mark.token))
    }
}

/// The deliveries that a batch came from, and the receipts it has collected on its way.
#[derive(Debug, Default)]
pub struct Lineage {
    pub(super) shares: Vec<Share>,
    pub(super) receipts: Vec<CommitReceipt>,
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
            .filter_map(|share| share.state().map(|state| state.mark.token))
    }

    /// Its deliveries by their places in the batch, as a sink knows them; none where no source can tell one
    /// that comes again.
    pub fn marks(&self) -> Option<Arc<[Mark]>> {
        let mark = |share: &Share| share.state().map(|state| state.mark);
        let told = |share: &Share| mark(share).is_some_and(|mark| mark.identity.is_some());
        if !self.shares.iter().any(told) {
            return None;
        }
        self.shares.iter().map(mark).collect()
    }

    /// What the delivery of a record is known by when it comes again; that of the only delivery there is, where no
    /// record is meant.
    pub fn identity(&self, record: Option<&Record>) -> Option<Identity> {
        self.mark_of(record)?.identity
    }

    /// The delivery of a record as a sink knows it; the only one there is, where no record is meant.
    pub fn mark_of(&self, record: Option<&Record>) -> Option<Mark> {
        let only = (self.shares.len() == 1).then_some(0);
        let place = record.and_then(Record::delivery).or(only)?;
        Some(self.shares.get(place)?.state()?.mark)
    }

    /// Adds a sink's receipt; it joins an earlier one of the same sink, so that there is one for each.
    pub fn add_receipt(&mut self, receipt: CommitReceipt) {
        let same = |other: &&mut CommitReceipt| other.sink() == receipt.sink();
        match self.receipts.iter_mut().find(same) {
            Some(earlier) => earlier.join(&receipt),
            None => self.receipts.push(receipt),
        }
    }

    /// Notes an outcome, and why, for the deliveries of one record that is taken out.
    pub fn mark(&self, record: &Record, outcome: Outcome, reason: &Arc<str>) {
        let mark = |share: &Share| {
            share.mark(outcome);
            share.explain(reason);
        };
        match record.origin {
            Origin::One(index) if (index as usize) < self.shares.len() => {
                mark(&self.shares[index as usize]);
            }
            Origin::One(_) | Origin::All => self.shares.iter().for_each(mark),
        }
    }

    /// Says why its deliveries will not end well; the first word about each stands.
    pub fn explain(&self, reason: &Arc<str>) {
        self.shares.iter().for_each(|share| share.explain(reason));
    }

    /// Counts the records of a batch for the deliveries that they belong to.
    pub fn count(&self, batch: &Batch, way: Way) {
        if let [only] = &self.shares[..] {
            return only.count(batch.len(), way);
        }
        for record in batch.records() {
            match record.origin {
                Origin::One(index) if (index as usize) < self.shares.len() => {
                    self.shares[index as usize].count(1, way);
                }
                Origin::One(_) | Origin::All => {
                    self.shares.iter().for_each(|share| share.count(1, way));
                }
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
        let mut ended = Ended::of(self.shares.len());
        for share in &mut self.shares {
            share.close(outcome, &proof, &mut ended);
        }
    }

    /// How many sinks have given a receipt.
    pub fn receipts(&self) -> usize {
        self.receipts.len()
    }
}
