//! What the far end's calls share: the way out to the host, and the answers that are waited for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use wiredflow_core::frame::{self, Failure, Frame, Payload};
use wiredflow_core::{Error, Result};

/// How many loads and saves may wait for their answers: what the protocol allows.
const REQUESTS: usize = 64;

/// The way to the host. A cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Desk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    frames: mpsc::Sender<Vec<u8>>,
    limit: usize,
    waiting: Mutex<Waiting>,
    requests: Semaphore,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: HashMap<u64, OpenCall>,
    answers: HashMap<u64, oneshot::Sender<Result<Option<Payload>>>>,
    last: u64,
    /// The host has gone: nobody answers any more.
    over: bool,
}

/// A call that has not ended yet.
#[derive(Clone, Debug)]
pub(crate) struct OpenCall {
    /// The outputs that may still be sent.
    pub(crate) credit: Arc<Semaphore>,
    /// Fires when the host wants no more of it.
    pub(crate) closing: CancellationToken,
}

impl Desk {
    /// One whose frames go out by `frames`, none of them longer than `limit` bytes.
    pub(crate) fn new(frames: mpsc::Sender<Vec<u8>>, limit: usize) -> Self {
        Self(Arc::new(Inner {
            frames,
            limit,
            waiting: Mutex::default(),
            requests: Semaphore::new(REQUESTS),
        }))
    }

    /// Sends a frame. A host that has gone is no error: its end is told by the reader.
    ///
    /// # Errors
    /// `Data`, for a frame over the limit.
    pub(crate) async fn say(&self, frame: &impl serde::Serialize) -> Result<()> {
        let bytes = self.encoded(frame)?;
        drop(self.0.frames.send(bytes).await);
        Ok(())
    }

    fn encoded(&self, frame: &impl serde::Serialize) -> Result<Vec<u8>> {
        frame::encode(frame, self.0.limit).map_err(|error| Error::data(error.to_string()))
    }

    /// Ends a call, well or not; with words that are too long for a frame it ends all the same.
    pub(crate) async fn end(&self, id: u64, end: Frame) {
        self.waiting().calls.remove(&id);
        if let Err(error) = self.say(&end).await {
            let failure = Frame::Error(Failure::of(Some(id), &error));
            // It has no payload, so that it is not too long.
            drop(self.say(&failure).await);
        }
    }

    /// A call begins.
    pub(crate) fn begin(&self, id: u64, credit: u32) -> OpenCall {
        let call = OpenCall {
            credit: Arc::new(Semaphore::new(credit as usize)),
            closing: CancellationToken::new(),
        };
        self.waiting().calls.insert(id, call.clone());
        call
    }

    /// The host takes more outputs of a call.
    pub(crate) fn more(&self, id: u64, count: u32) {
        if let Some(call) = self.waiting().calls.get(&id) {
            let room = Semaphore::MAX_PERMITS - call.credit.available_permits();
            call.credit.add_permits((count as usize).min(room));
        }
    }

    /// The host wants no more of a call.
    pub(crate) fn cancel(&self, id: u64) {
        if let Some(call) = self.waiting().calls.get(&id) {
            call.closing.cancel();
        }
    }

    /// Asks the host, from a thread that may wait: `question` makes the frame with the number of the request.
    ///
    /// # Errors
    /// The host's answer, or `Remote` when there is none any more.
    pub(crate) fn ask_blocking(
        &self,
        question: impl FnOnce(u64) -> Frame,
    ) -> Result<Option<Payload>> {
        let gone = || Error::remote("the flow that this stage belongs to has gone");
        // Storages ask from a few threads of their own, one question each.
        let _place = self
            .0
            .requests
            .try_acquire()
            .map_err(|_| Error::bug("too many loads and saves"))?;
        let (say, answer) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            if waiting.over {
                return Err(gone());
            }
            waiting.last += 1;
            let id = waiting.last;
            waiting.answers.insert(id, say);
            id
        };
        let bytes = self.encoded(&question(id)).inspect_err(|_| {
            self.waiting().answers.remove(&id);
        })?;
        self.0.frames.blocking_send(bytes).map_err(|_| gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    /// The host's answer to a load or save.
    pub(crate) fn answer(&self, id: u64, answer: Result<Option<Payload>>) {
        if let Some(say) = self.waiting().answers.remove(&id) {
            // Who has asked may have been ended meanwhile.
            drop(say.send(answer));
        }
    }

    /// The host has gone: calls end, and nobody waits for answers any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.over = true;
        waiting.answers.clear();
        for call in waiting.calls.values() {
            call.closing.cancel();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
