//! One worker over any byte stream: handshake, calls by id, outputs with credit, loads and saves.

mod outbox;
mod reader;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use wiredflow_core::charge::Used;
use wiredflow_core::frame::{
    self, CREDIT, CallRef, Done, Ended, Frame, FrameError, Hello, More, Passed, PayloadRef, Start,
};
use wiredflow_core::{Batch, Error, Map};

use self::outbox::Outbox;
use self::reader::Reader;
pub(crate) use self::reader::query_of;
use super::gate::Gate;
use super::{Request, WorkerHost};
use crate::clock::Clock;
use crate::tasks::Tasks;

/// How many frames may wait to be written before callers wait.
const QUEUE: usize = 8;

/// What a client stands on, besides the byte stream.
pub struct Link {
    /// The one clock.
    pub clock: Clock,
    /// Owns the client's reader and writer; dropping the client ends them.
    pub tasks: Tasks,
    /// Written before the first frame; the Python worker's own source, or nothing.
    pub preamble: Vec<u8>,
    /// Comes true when the far end has gone though the stream may still be open.
    pub ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

/// A worker that is ready for calls. Dropping it closes the stream, which ends the worker.
#[derive(Debug)]
pub struct Client {
    frames: mpsc::Sender<Vec<u8>>,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    hello: Hello,
    limit: usize,
    _ends_tasks: DropGuard,
}

/// Why there is no worker.
#[derive(Debug)]
pub enum StartError {
    /// It said so itself: a function that cannot be loaded, another version.
    Refused(Error),
    /// It went away, or spoke no protocol.
    Lost(Loss),
}

/// Why a call has not ended well.
#[derive(Debug)]
pub enum CallError {
    /// The call failed; the worker is ready for the next.
    Failed(Error),
    /// The worker has gone or broke the protocol; it takes no more calls.
    Lost(Loss),
}

/// How a worker was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its stream has ended or cannot be used any more.
    Gone(String),
    /// It said what the protocol does not allow, or fell silent.
    Broke(String),
}

/// One output of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The records; where there are params, the call's own batch is meant and this is empty.
    pub batch: Batch,
    /// The params for the stages that follow, where the worker runs a whole stage that makes some.
    pub params: Option<Map>,
}

/// What the reader tells a call.
#[derive(Debug)]
enum Event {
    Output(Given),
    Done(Box<Ended>),
    Failed(Error, Option<Used>),
}

/// What the client, its reader and its calls share.
#[derive(Debug)]
struct Shared {
    gate: Gate,
    calls: Mutex<Calls>,
    requests: AtomicUsize,
}

#[derive(Debug, Default)]
struct Calls {
    open: HashMap<u64, Open>,
    last: u64,
    /// Why there are no more calls.
    lost: Option<Loss>,
}

/// A call that the worker has not ended yet. It stays here though nobody waits for it any more.
#[derive(Debug)]
struct Open {
    events: mpsc::Sender<Event>,
    outputs: u64,
    /// How many outputs were asked for so far.
    asked: Arc<AtomicU64>,
}

impl Client {
    /// Introduces the two sides to each other, and returns when the worker is ready.
    ///
    /// `start.heartbeat` makes the worker give signs of life; a worker that is silent for three times as long is lost.
    /// Dropping the future ends the attempt. No time limit: that is the caller's.
    pub async fn connect<R, W>(
        reader: R,
        writer: W,
        start: &Start,
        host: Arc<dyn WorkerHost>,
        link: Link,
    ) -> Result<Self, StartError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared {
            gate: Gate::new(Arc::clone(&host)),
            calls: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let ends_tasks = stop.clone().drop_guard();
        let (frames, queue) = mpsc::channel(QUEUE);
        let (ready, hello) = oneshot::channel();

        let mut first = link.preamble;
        first.extend(
            encoded(&Frame::Start(start.clone()), start.limit)
                .map_err(|reason| StartError::Lost(Loss::Broke(reason)))?,
        );
        let outbox = Arc::new(Outbox::new(writer, first));
        link.tasks.spawn("worker writer", {
            let (stop, shared, outbox) = (stop.clone(), Arc::clone(&shared), Arc::clone(&outbox));
            async move {
                stop.run_until_cancelled(outbox.work_off(queue, &shared))
                    .await;
            }
        });
        let task = Reader {
            shared: Arc::clone(&shared),
            host,
            frames: frames.clone(),
            tasks: link.tasks.clone(),
            stop: stop.clone(),
            clock: link.clock,
            limit: start.limit,
            silence: start.heartbeat.map(|beat| 3 * Duration::from_millis(beat)),
            ready: Some(ready),
        }
        .run(reader, link.ended);
        link.tasks.spawn("worker reader", async move {
            stop.run_until_cancelled(task).await;
        });

        let hello = hello
            .await
            .unwrap_or_else(|_| Err(StartError::Lost(Loss::Gone("the flow ends".to_owned()))))?;
        Ok(Self {
            frames,
            outbox,
            shared,
            hello,
            limit: start.limit,
            _ends_tasks: ends_tasks,
        })
    }

    /// What the worker said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Whether the worker takes calls.
    pub fn is_alive(&self) -> bool {
        self.shared.lock().lost.is_none()
    }

    /// Sends a call. At most [`Hello::slots`] are worked on at once, more wait at the worker.
    ///
    /// Dropping the future before it is ready sends nothing.
    pub async fn call(&self, request: Request<'_>) -> Result<Call, CallError> {
        let Ok(place) = self.frames.reserve().await else {
            return Err(self.shared.lost());
        };
        let (events, receiver) = mpsc::channel(CREDIT as usize + 1);
        let id = {
            let mut calls = self.shared.lock();
            if let Some(loss) = &calls.lost {
                return Err(CallError::Lost(loss.clone()));
            }
            calls.last += 1;
            calls.last
        };
        let call = CallRef {
            id,
            attempt: request.attempt,
            epoch: request.epoch.0,
            function: request.function,
            params: request.params,
            batch: PayloadRef::of(request.batch),
            deadline: request
                .deadline
                .map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
            keys: request
                .keys
                .map(|keys| keys.iter().map(|key| &**key).collect()),
            credit: CREDIT,
        };
        let bytes = match frame::encode(&call, self.limit) {
            Ok(bytes) => bytes,
            Err(error) => return Err(CallError::Failed(Error::data(error.to_string()))),
        };
        let asked = Arc::new(AtomicU64::new(u64::from(CREDIT)));
        let open = Open {
            events,
            outputs: 0,
            asked: Arc::clone(&asked),
        };
        self.shared.lock().open.insert(id, open);
        self.shared.gate.open();
        if let Some(bytes) = self.outbox.try_write(bytes, &self.shared) {
            place.send(bytes);
        }
        Ok(Call {
            id,
            events: receiver,
            asked,
            taken: 0,
            ended: false,
            used: None,
            passed: None,
            frames: self.frames.clone(),
            shared: Arc::clone(&self.shared),
        })
    }
}

/// A call on its way. Dropping it before its end cancels it: the worker may go on to its next output, whose
/// results go nowhere.
#[derive(Debug)]
pub struct Call {
    id: u64,
    events: mpsc::Receiver<Event>,
    asked: Arc<AtomicU64>,
    /// Outputs that were taken and that the worker has not been told of.
    taken: u32,
    ended: bool,
    used: Option<Used>,
    passed: Option<Passed>,
    frames: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Call {
    /// The next output; `None` when the call has ended well. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Given>, CallError> {
        if self.ended {
            return Ok(None);
        }
        // Only a stream gets here with outputs taken. Asking for more by halves keeps the worker busy, and spares
        // most calls, which give one output, this frame.
        if self.taken >= CREDIT / 2 {
            if let Ok(place) = self.frames.reserve().await {
                let taken = u64::from(self.taken);
                self.asked.fetch_add(taken, Ordering::Relaxed);
                place.send(small(&Frame::More(More {
                    id: self.id,
                    count: self.taken,
                })));
            }
            self.taken = 0;
        }
        match self.events.recv().await {
            Some(Event::Output(given)) => {
                self.taken += 1;
                Ok(Some(given))
            }
            Some(Event::Done(end)) => {
                self.note_end(*end);
                Ok(None)
            }
            Some(Event::Failed(error, used)) => {
                (self.ended, self.used) = (true, used);
                Err(CallError::Failed(error))
            }
            None => {
                self.ended = true;
                Err(self.shared.lost())
            }
        }
    }

    /// Asks the worker to end the call, and waits until it has: a generator is closed after its current output.
    /// Outputs that are on their way are dropped.
    pub async fn cancel(&mut self) -> Result<(), CallError> {
        // What has arrived is often the end already, and then the worker need not be told.
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Output(_) => {}
                Event::Done(end) => self.note_end(*end),
                Event::Failed(error, used) => {
                    (self.ended, self.used) = (true, used);
                    return Err(CallError::Failed(error));
                }
            }
        }
        if !self.ended
            && let Ok(place) = self.frames.reserve().await
        {
            place.send(small(&Frame::Cancel(Done { id: self.id })));
        }
        while self.next().await?.is_some() {}
        Ok(())
    }

    fn note_end(&mut self, end: Ended) {
        (self.ended, self.used, self.passed) = (true, end.used, end.passed);
    }

    /// What became of its input, once it has ended and where the stage hands that on itself.
    pub fn passed(&self) -> Option<&Passed> {
        self.passed.as_ref()
    }

    /// What its function has used, once it has ended and where the worker knows.
    pub fn used(&self) -> Option<Used> {
        self.used
    }

    /// Whether the call has ended, well or not.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            // A full queue means a worker that does not listen; there the call's outputs stop for want of credit.
            drop(
                self.frames
                    .try_send(small(&Frame::Cancel(Done { id: self.id }))),
            );
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all calls, once they have taken what has arrived.
    fn lose(&self, loss: Loss) {
        let mut calls = self.lock();
        calls.lost.get_or_insert(loss);
        calls.open.clear();
    }

    fn lost(&self) -> CallError {
        let closed = || Loss::Gone("its host has closed the stream".to_owned());
        CallError::Lost(self.lock().lost.clone().unwrap_or_else(closed))
    }
}

/// A frame without a batch, which cannot be too long.
fn small(frame: &Frame) -> Vec<u8> {
    encoded(frame, usize::MAX).unwrap_or_default()
}

fn encoded(frame: &Frame, limit: usize) -> Result<Vec<u8>, String> {
    frame::encode(frame, limit).map_err(|error: FrameError| error.to_string())
}
