//! Records on their way through an outbox, in the parts in which they are called.

use std::collections::VecDeque;
use std::sync::Arc;

use wiredflow_core::delivery::{Identity, Mark, Parcel, Settle, Settled, Token};
use wiredflow_core::{Params, Record, Value};

use crate::state::OutboxRow;

/// A part of a parcel, and its rows in the outbox, if it has any.
pub(in crate::run) struct Part {
    pub(in crate::run) parcel: Parcel,
    pub(in crate::run) rows: Vec<Row>,
    /// The peer has it already: it is only to be handed on.
    pub(in crate::run) is_sent: bool,
}

/// A record in the outbox.
#[derive(Clone, Debug)]
pub(in crate::run) struct Row {
    pub(super) number: u64,
    /// Pipeline, stage and key.
    pub(in crate::run) key: Arc<str>,
    pub(super) bytes: usize,
}

impl Part {
    /// A part without an outbox.
    pub(in crate::run) fn of(parcel: Parcel) -> Self {
        Self {
            parcel,
            rows: Vec::new(),
            is_sent: false,
        }
    }

    /// The parts of a parcel in order: runs of records that are to be sent, and of those that have been.
    pub(super) fn by_what_is_sent(parcel: Parcel, sent: &[bool]) -> Vec<Self> {
        let runs: Vec<&[bool]> = sent.chunk_by(|a, b| a == b).collect();
        let whole = |parcel, is_sent| Self {
            is_sent,
            ..Self::of(parcel)
        };
        match &runs[..] {
            [] => vec![whole(parcel, false)],
            [run] => vec![whole(parcel, run[0])],
            _ => {
                let lengths: Vec<usize> = runs.iter().map(|run| run.len()).collect();
                let parcels = parcel.split_by_lengths(&lengths).into_iter();
                let parts = parcels.zip(&runs);
                parts.map(|(parcel, run)| whole(parcel, run[0])).collect()
            }
        }
    }

    /// One part for each record.
    pub(in crate::run) fn split_by_record(self) -> Vec<Self> {
        let mut rows = self.rows.into_iter();
        let parcels = self.parcel.split_by_record().into_iter();
        let part = |parcel| Self {
            rows: rows.by_ref().take(1).collect(),
            ..Self::of(parcel)
        };
        parcels.map(part).collect()
    }

    /// One part for each delivery, or the part as it is.
    pub(in crate::run) fn split_by_delivery(self) -> Vec<Self> {
        let records = self.parcel.batch.records().iter();
        let of: Vec<Option<usize>> = records.map(Record::delivery).collect();
        let mut rows = self.rows;
        let parcels = self.parcel.split_by_delivery();
        if parcels.len() == 1 {
            let part = |parcel| Self {
                rows: std::mem::take(&mut rows),
                ..Self::of(parcel)
            };
            return parcels.into_iter().map(part).collect();
        }
        let part = |(place, parcel)| {
            let mine = rows.iter().zip(&of).filter(|(_, of)| **of == Some(place));
            Self {
                rows: mine.map(|(row, _)| row.clone()).collect(),
                ..Self::of(parcel)
            }
        };
        parcels.into_iter().enumerate().map(part).collect()
    }

    /// What its records are known by at the peer.
    pub(in crate::run) fn keys(&self) -> Option<Arc<[Arc<str>]>> {
        let keys = || self.rows.iter().map(|row| Arc::clone(&row.key)).collect();
        (!self.rows.is_empty()).then(keys)
    }
}

/// Which rows of several parcels may go into one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::run) enum Together {
    /// All that have the same params.
    Any,
    /// Those that came together.
    AsTheyCame,
}

/// Whose rows they are.
pub(super) struct Owner<'a> {
    /// What stands before each key.
    pub(super) prefix: &'a str,
    /// The outbox's own number.
    pub(super) session: u64,
    /// Counts how often it was opened: what was handed out before is another arrival.
    pub(super) epoch: u64,
}

impl Owner<'_> {
    /// Rows as the parts of work that they were.
    pub(super) fn parts(&self, rows: Vec<OutboxRow>, together: Together) -> VecDeque<Part> {
        let mut parts = VecDeque::new();
        let mut rows = rows.into_iter().peekable();
        while let Some(first) = rows.next() {
            let mut part = vec![first];
            while let Some(row) = rows.next_if(|row| {
                let last = &part[part.len() - 1];
                let same = row.parcel == last.parcel;
                same || (together == Together::Any && row.params == last.params)
            }) {
                part.push(row);
            }
            parts.push_back(self.part(&part));
        }
        parts
    }

    /// One part of rows that are to be called with the same params.
    fn part(&self, rows: &[OutboxRow]) -> Part {
        let settle: Arc<dyn Settle> = Arc::new(Nobody);
        let deliveries = rows.chunk_by(|a, b| a.delivery == b.delivery);
        let deliveries: Vec<(Mark, Vec<Value>)> = deliveries
            .map(|rows| {
                let number = rows[0].number;
                let identity = Identity {
                    session: self.session,
                    place: number as u32,
                    print: number >> 32,
                    again: true,
                };
                let mark = Mark {
                    token: Token {
                        epoch: self.epoch,
                        id: number,
                    },
                    identity: Some(identity),
                };
                (mark, rows.iter().map(|row| value(&row.body)).collect())
            })
            .collect();
        let mut parcel = Parcel::arrived(deliveries.into_iter(), &settle);
        let list = rows.first().is_some_and(|row| row.list);
        parcel.batch = std::mem::take(&mut parcel.batch).as_list(list);
        let params = rows.first().and_then(|row| row.params.as_deref());
        if let Some(Value::Object(params)) = params.and_then(|text| serde_json::from_str(text).ok())
        {
            parcel.params = Params::new(params);
        }
        Part {
            parcel,
            rows: rows.iter().map(|row| Row::of(row, self.prefix)).collect(),
            is_sent: false,
        }
    }
}

impl Row {
    pub(super) fn of(row: &OutboxRow, prefix: &str) -> Self {
        Self {
            number: row.number,
            key: format!("{prefix}{}", row.key).into(),
            bytes: row.body.len(),
        }
    }
}

/// A record as it was. One that is nested deeper than is read is a text.
fn value(body: &[u8]) -> Value {
    serde_json::from_slice(body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into()))
}

/// What came out of an outbox has no source that waits for it.
struct Nobody;

impl Settle for Nobody {
    fn settled(&self, _: Vec<Settled>) {}
}
