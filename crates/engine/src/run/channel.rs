//! The bounded channel before a stage.
//!
//! A stage whose calls take any number of deliveries joins what waits for it: one sync for all of it, and not one for each
//! parcel that a function before it has made. So many small parcels may wait there; they are bounded by their records.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use wiredflow_core::delivery::Parcel;

/// How many batches wait between two stages.
pub(crate) const QUEUE: usize = 2;

/// How many records wait before a stage that joins them: two of the largest batches that a source gives.
const ROOM: usize = 512;

/// A channel into a stage, which joins what waits, or takes it as it comes.
pub(crate) fn channel(joins: bool) -> (Sender, Receiver) {
    let (parcels, queue) = mpsc::channel(if joins { ROOM } else { QUEUE });
    let room = joins.then(|| Arc::new(Semaphore::new(ROOM)));
    let sender = Sender {
        parcels,
        room: room.clone(),
    };
    (sender, Receiver { queue, room })
}

/// What a parcel takes of the room.
fn weight(parcel: &Parcel) -> usize {
    parcel.batch.len().clamp(1, ROOM)
}

/// The way in. A cheap clone; the channel ends when the last is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    parcels: mpsc::Sender<Parcel>,
    room: Option<Arc<Semaphore>>,
}

/// Why a parcel is not in the channel.
pub(crate) enum NotSent {
    /// There is no room: it waits outside.
    Full(Parcel),
    /// Nobody takes it any more. It was dropped: its deliveries count as lost, as they should.
    Closed,
}

impl Sender {
    /// Puts a parcel in, if there is room.
    pub(crate) fn try_send(&self, parcel: Parcel) -> Result<(), NotSent> {
        if let Some(room) = &self.room {
            match room.try_acquire_many(weight(&parcel) as u32) {
                Ok(taken) => taken.forget(),
                Err(tokio::sync::TryAcquireError::NoPermits) => return Err(NotSent::Full(parcel)),
                Err(tokio::sync::TryAcquireError::Closed) => return Err(NotSent::Closed),
            }
        }
        self.parcels.try_send(parcel).map_err(|error| match error {
            mpsc::error::TrySendError::Full(parcel) => NotSent::Full(parcel),
            mpsc::error::TrySendError::Closed(_) => NotSent::Closed,
        })
    }

    /// Waits for room, and puts a parcel in; false when nobody takes it any more. Dropping the future drops the parcel.
    pub(crate) async fn send(&self, parcel: Parcel) -> bool {
        if let Some(room) = &self.room {
            match room.acquire_many(weight(&parcel) as u32).await {
                Ok(taken) => taken.forget(),
                Err(_) => return false,
            }
        }
        self.parcels.send(parcel).await.is_ok()
    }

    /// A way in that does not keep the channel open.
    pub(crate) fn downgrade(&self) -> WeakSender {
        WeakSender {
            parcels: self.parcels.downgrade(),
            room: self.room.clone(),
        }
    }
}

/// A way in while others keep the channel open.
#[derive(Clone, Debug)]
pub(crate) struct WeakSender {
    parcels: mpsc::WeakSender<Parcel>,
    room: Option<Arc<Semaphore>>,
}

impl WeakSender {
    /// The way in, if there is one still.
    pub(crate) fn upgrade(&self) -> Option<Sender> {
        Some(Sender {
            parcels: self.parcels.upgrade()?,
            room: self.room.clone(),
        })
    }
}

/// The way out. Dropping it drops what waits, and lets go of those who wait for room.
#[derive(Debug)]
pub(crate) struct Receiver {
    queue: mpsc::Receiver<Parcel>,
    room: Option<Arc<Semaphore>>,
}

impl Receiver {
    /// Whether what waits is to be joined.
    pub(crate) fn joins(&self) -> bool {
        self.room.is_some()
    }

    /// The next parcel; `None` when there will be no more. Dropping the future loses nothing.
    pub(crate) async fn recv(&mut self) -> Option<Parcel> {
        let parcel = self.queue.recv().await?;
        self.leaves(&parcel);
        Some(parcel)
    }

    /// The next parcel, if one waits.
    pub(crate) fn try_recv(&mut self) -> Option<Parcel> {
        let parcel = self.queue.try_recv().ok()?;
        self.leaves(&parcel);
        Some(parcel)
    }

    fn leaves(&self, parcel: &Parcel) {
        if let Some(room) = &self.room {
            room.add_permits(weight(parcel));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.close();
        }
    }
}
