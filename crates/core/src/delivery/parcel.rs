//! What travels between stages, and how it is joined and taken apart.

use std::sync::Arc;

use super::lineage::{Lineage, Share};
use super::{Mark, Outcome, Settle, Token};
use crate::record::{Batch, Origin, Params, Record, Value};

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
    pub fn start<Values: IntoIterator<Item = Value>>(
        deliveries: Vec<(Token, Values)>,
        settle: &Arc<dyn Settle>,
    ) -> Self {
        let unknown = |(token, values)| {
            let identity = None;
            (Mark { token, identity }, values)
        };
        Self::arrived(deliveries.into_iter().map(unknown), settle)
    }

    /// As [`Parcel::start`], for deliveries that may come again.
    pub fn arrived<Values: IntoIterator<Item = Value>>(
        deliveries: impl ExactSizeIterator<Item = (Mark, Values)>,
        settle: &Arc<dyn Settle>,
    ) -> Self {
        let mut records = Vec::with_capacity(deliveries.len());
        let mut marks = Vec::with_capacity(deliveries.len());
        for (mark, values) in deliveries {
            let index = marks.len() as u32;
            records.extend(values.into_iter().map(|value| Record::of(value, index)));
            marks.push(mark);
        }
        let shares = Share::first(marks, settle);
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

    /// Whether each record is known to be of one delivery, so that another parcel can be joined without mixing them up.
    pub fn is_told_apart(&self) -> bool {
        let known = |record: &Record| record.delivery().is_some();
        self.lineage.shares.len() <= 1 || self.batch.records().iter().all(known)
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
        for receipt in std::mem::take(&mut other.lineage.receipts) {
            self.lineage.add_receipt(receipt);
        }
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
    pub fn split_by_record(self) -> Vec<Self> {
        let single = vec![1; self.batch.len()];
        self.split_by_lengths(&single)
    }

    /// Parcels of so many records each, in order; each delivery stays open until its last record's parcel is closed.
    /// Records beyond the lengths are dropped.
    pub fn split_by_lengths(mut self, lengths: &[usize]) -> Vec<Self> {
        let mut records = std::mem::take(&mut self.batch).into_records().into_iter();
        let some = |length: &usize| {
            let mut batch = Batch::new(records.by_ref().take(*length).collect());
            let lineage = self.lineage.child(&mut batch);
            Self {
                batch,
                lineage,
                params: Params::clone(&self.params),
            }
        };
        let parcels = lengths.iter().map(some).collect();
        self.lineage.close(Outcome::Committed);
        parcels
    }

    /// Takes one record out and notes what became of it, and why.
    pub fn take_out(
        &mut self,
        index: usize,
        outcome: Outcome,
        reason: &Arc<str>,
    ) -> Option<Record> {
        if index >= self.batch.len() {
            return None;
        }
        let record = self.batch.records_mut().remove(index);
        self.lineage.mark(&record, outcome, reason);
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
