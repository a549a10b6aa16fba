//! Leases: an entry that goes by itself when it is not put again, taken and renewed on condition.

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use wiredflow_core::engine::{If, Lease, Name};
use wiredflow_core::storage::Epoch;
use wiredflow_core::{Error, Result};

use crate::names::Bucket;
use crate::objects::{Known, Objects};
use crate::shelf::{Seat, Written};

/// The longest name of a holder.
const LONGEST_HOLDER: usize = 256;

impl Objects {
    pub(crate) async fn acquire(&self, name: &Name, holder: &str) -> Result<Option<Lease>> {
        if holder.is_empty()
            || holder.len() > LONGEST_HOLDER
            || holder.chars().any(char::is_control)
        {
            return Err(Error::config(format!(
                "the holder of a lease has a name of 1 to {LONGEST_HOLDER} bytes without control characters"
            )));
        }
        let value = written(holder, 0);
        let revision = self
            .put_entry(Bucket::Lease, name, &value, If::Absent)
            .await?;
        Ok(revision.map(|revision| lease(name, holder.into(), revision)))
    }

    pub(crate) async fn renew(&self, held: &Lease) -> Result<Option<Lease>> {
        let (_, known) = self.bucket(Bucket::Lease).await?;
        let Some(sequence) = known.sequence(held.fence.0) else {
            return Ok(None);
        };
        let value = written(&held.holder, held.fence.0);
        let write = |over| {
            self.write(
                Bucket::Lease,
                &held.name,
                HeaderMap::new(),
                value.clone(),
                Some(over),
            )
        };
        let wrote = match write(sequence).await? {
            Written::At(revision) => Some(revision),
            Written::Gone => None,
            // The answer of the renewal before may have been lost: then the one that is there is ours.
            Written::Other => match self.own(held).await? {
                Some((_, seat)) => match write(seat.sequence).await? {
                    Written::At(revision) => Some(revision),
                    Written::Other | Written::Gone => None,
                },
                None => None,
            },
        };
        Ok(wrote.map(|revision| lease(&held.name, Arc::clone(&held.holder), revision)))
    }

    pub(crate) async fn release(&self, held: &Lease) -> Result<()> {
        if let Some((_, seat)) = self.own(held).await? {
            self.mark_removed(Bucket::Lease, &held.name, seat.sequence)
                .await?;
        }
        Ok(())
    }

    pub(crate) async fn holder(&self, name: &Name) -> Result<Option<Arc<str>>> {
        let (_, seat) = self.seat(Bucket::Lease, name).await?;
        let value = seat.and_then(|seat| seat.value);
        Ok(value.map(|value| read(&value).0.into()))
    }

    /// The lease as it is there, where it is the one that is held or a renewal of it whose answer was lost.
    async fn own(&self, held: &Lease) -> Result<Option<(Known, Seat)>> {
        let (known, seat) = self.seat(Bucket::Lease, &held.name).await?;
        let Some(seat) = seat else { return Ok(None) };
        let Some(value) = &seat.value else {
            return Ok(None);
        };
        let value = value.clone();
        let (holder, before) = read(&value);
        let same = known.revision(seat.sequence) == held.fence.0;
        let renewed = *holder == *held.holder && before == held.fence.0;
        Ok((same || renewed).then_some((known, seat)))
    }
}

fn lease(name: &Name, holder: Arc<str>, revision: u64) -> Lease {
    Lease {
        name: name.clone(),
        holder,
        fence: Epoch(revision),
    }
}

/// What stands in a lease: its holder, and the fence that it had before it was renewed.
fn written(holder: &str, before: u64) -> Bytes {
    format!("{holder}\n{before}").into()
}

fn read(value: &Bytes) -> (String, u64) {
    let text = String::from_utf8_lossy(value);
    let (holder, before) = text.split_once('\n').unwrap_or((&text, ""));
    (holder.to_owned(), before.parse().unwrap_or_default())
}
