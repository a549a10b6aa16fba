//! Entries: one message for each name, with conditions by its number.

use async_nats::HeaderMap;
use bytes::Bytes;
use wiredflow_core::engine::{Entry, If, Name};
use wiredflow_core::{Error, Result};

use crate::api::{Found, Put, Stored};
use crate::failure;
use crate::names::Bucket;
use crate::objects::{Known, Objects};
use crate::put::Place;

/// The header that says that an entry was removed, as the tools of NATS write it.
const OPERATION: &str = "KV-Operation";

/// How often a change is tried whose condition others change in between.
const TRIES: usize = 8;

/// An entry, or the mark of one that was removed.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) sequence: u64,
    pub(crate) value: Option<Bytes>,
}

impl Known {
    /// The revision of a message: it grows also when the stream is lost and made again.
    pub(crate) fn revision(&self, sequence: u64) -> u64 {
        self.made.saturating_add(sequence)
    }

    /// The message of a revision; none where it is one of a stream that was lost.
    pub(crate) fn sequence(&self, revision: u64) -> Option<u64> {
        revision
            .checked_sub(self.made)
            .filter(|sequence| *sequence > 0)
    }
}

/// Whether headers say that their entry was removed.
pub(crate) fn is_removal(operation: Option<&str>) -> bool {
    operation.is_some_and(|operation| operation == "DEL" || operation == "PURGE")
}

impl Seat {
    fn of(stored: Stored) -> Self {
        let removed = is_removal(stored.header(OPERATION));
        Self {
            sequence: stored.sequence,
            value: (!removed).then_some(stored.body),
        }
    }
}

/// The header of an operation on a message that came.
pub(crate) fn operation(headers: Option<&HeaderMap>) -> Option<&str> {
    let operation = headers.and_then(|headers| headers.get(OPERATION));
    operation.map(async_nats::HeaderValue::as_str)
}

impl Objects {
    /// What is at a name, and the stream that says so.
    pub(crate) async fn seat(&self, bucket: Bucket, name: &Name) -> Result<(Known, Option<Seat>)> {
        let subject = self.names.entry(bucket, name)?;
        for _ in 0..2 {
            let (stream, known) = self.bucket(bucket).await?;
            match self.link.last(&stream, &subject).await? {
                Found::Message(stored) => return Ok((known, Some(Seat::of(stored)))),
                Found::None => return Ok((known, None)),
                Found::NoStream => self.doubt(&stream),
            }
        }
        Err(gone(bucket))
    }

    pub(crate) async fn get(&self, bucket: Bucket, name: &Name) -> Result<Option<Entry>> {
        let (known, seat) = self.seat(bucket, name).await?;
        Ok(seat.and_then(|seat| {
            Some(Entry {
                value: seat.value?,
                revision: known.revision(seat.sequence),
            })
        }))
    }

    pub(crate) async fn put_entry(
        &self,
        bucket: Bucket,
        name: &Name,
        value: &Bytes,
        when: If,
    ) -> Result<Option<u64>> {
        let mut expected = None;
        for _ in 0..TRIES {
            let (_, known) = self.bucket(bucket).await?;
            let sequence = match when {
                If::Any => None,
                If::Absent => Some(expected.unwrap_or(0)),
                If::Revision(revision) => match known.sequence(revision) {
                    Some(sequence) => Some(sequence),
                    None => return Ok(None),
                },
            };
            match self
                .write(bucket, name, HeaderMap::new(), value.clone(), sequence)
                .await?
            {
                Written::At(revision) => return Ok(Some(revision)),
                Written::Gone => {}
                Written::Other if when != If::Absent => return Ok(None),
                // It may be the mark of one that was removed.
                Written::Other => match self.seat(bucket, name).await?.1 {
                    Some(seat) if seat.value.is_some() => return Ok(None),
                    seat => expected = seat.map(|seat| seat.sequence),
                },
            }
        }
        Err(busy(name))
    }

    pub(crate) async fn remove_entry(&self, bucket: Bucket, name: &Name, when: If) -> Result<bool> {
        for _ in 0..TRIES {
            let (known, seat) = self.seat(bucket, name).await?;
            let seat = seat.filter(|seat| seat.value.is_some());
            let sequence = match (when, seat) {
                (If::Any | If::Absent, None) => return Ok(true),
                (If::Absent, Some(_)) | (If::Revision(_), None) => return Ok(false),
                (If::Any, Some(seat)) => seat.sequence,
                (If::Revision(revision), Some(seat)) => match known.sequence(revision) {
                    Some(sequence) if sequence == seat.sequence => sequence,
                    _ => return Ok(false),
                },
            };
            match self.mark_removed(bucket, name, sequence).await? {
                Written::At(_) => return Ok(true),
                Written::Other if when != If::Any => return Ok(false),
                Written::Other | Written::Gone => {}
            }
        }
        Err(busy(name))
    }

    /// Puts the mark of a removal in the place of a message. Those who watch see it; it goes when it is old.
    pub(crate) async fn mark_removed(
        &self,
        bucket: Bucket,
        name: &Name,
        sequence: u64,
    ) -> Result<Written> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        self.write(bucket, name, headers, Bytes::new(), Some(sequence))
            .await
    }

    /// Writes a message over the one of this number, over none where it is 0, or over whichever there is.
    pub(crate) async fn write(
        &self,
        bucket: Bucket,
        name: &Name,
        headers: HeaderMap,
        value: Bytes,
        over: Option<u64>,
    ) -> Result<Written> {
        let (stream, known) = self.bucket(bucket).await?;
        let subject = self.names.entry(bucket, name)?;
        let place = Place {
            stream: &stream,
            made: known.made,
            subject: &subject,
        };
        let put = match over {
            None => self.put_at(place, headers, value).await?,
            Some(over) => self.put_over(place, headers, value, over).await?,
        };
        match put {
            Put::At(sequence, _) => Ok(Written::At(known.revision(sequence))),
            Put::Other => Ok(Written::Other),
            Put::Nowhere => {
                self.doubt(&stream);
                Ok(Written::Gone)
            }
            Put::Refused(refusal) => Err(failure::refused(&refusal)),
        }
    }
}

/// What has become of a write.
#[derive(Debug)]
pub(crate) enum Written {
    /// It is there, as this revision.
    At(u64),
    /// Another message is there than was expected.
    Other,
    /// The stream has gone, and is made again by who wants it next.
    Gone,
}

fn gone(bucket: Bucket) -> Error {
    Error::remote(format!(
        "the bucket {bucket:?} is made and removed by others all the time"
    ))
}

fn busy(name: &Name) -> Error {
    Error::remote(format!("`{name}` is changed by others all the time"))
}
