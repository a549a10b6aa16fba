//! What a worker says, handed to whom it concerns.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use wiredflow_core::frame::{
    self, Done, Failure, Frame, FrameError, Hello, Level, Load, Output, Payload, Rows, Save,
};
use wiredflow_core::storage::Query;
use wiredflow_core::{Error, Map, Result, Value};

use super::{Event, Given, Loss, Open, Shared, StartError, WorkerHost, encoded};
use crate::clock::Clock;
use crate::tasks::Tasks;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// How many loads and saves of one worker may be worked on at once.
const REQUESTS: usize = 64;

/// How long the stream of a worker that has gone may still hold what it said before.
const REST: Duration = Duration::from_millis(200);

pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) host: Arc<dyn WorkerHost>,
    pub(super) frames: mpsc::Sender<Vec<u8>>,
    pub(super) tasks: Tasks,
    pub(super) stop: CancellationToken,
    pub(super) clock: Clock,
    pub(super) limit: usize,
    pub(super) silence: Option<Duration>,
    pub(super) ready: Option<oneshot::Sender<Result<Hello, StartError>>>,
}

impl Reader {
    /// Reads until the worker has gone or breaks the protocol, and tells all calls.
    pub(super) async fn run(
        mut self,
        reader: impl AsyncRead + Unpin,
        ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) {
        let loss = self.read(reader, ended).await;
        self.shared.gate.open();
        if let Some(ready) = self.ready.take() {
            // Nobody waits when the start was given up.
            drop(ready.send(Err(StartError::Lost(loss.clone()))));
        }
        self.shared.lose(loss);
    }

    /// Says why it has stopped.
    async fn read(
        &mut self,
        mut reader: impl AsyncRead + Unpin,
        mut ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Loss {
        let gone = |reason: &str| Loss::Gone(reason.to_owned());
        let mut bytes = BytesMut::with_capacity(CHUNK);
        let mut patience = self.silence;
        let mut has_ended = false;
        loop {
            if let Err(reason) = self.take_all(&mut bytes) {
                return Loss::Broke(reason);
            }
            bytes.reserve(CHUNK);
            let silence = async {
                match patience {
                    Some(patience) => self.clock.sleep(patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                read = reader.read_buf(&mut bytes) => match read {
                    Ok(0) if bytes.is_empty() => return gone("it has gone"),
                    Ok(0) => return gone("it went away in the middle of a frame"),
                    Ok(_) => {}
                    Err(error) => return Loss::Gone(format!("it cannot be read: {error}")),
                },
                () = &mut ended, if !has_ended => {
                    has_ended = true;
                    patience = Some(REST);
                }
                () = silence => return match has_ended {
                    true => gone("it has gone"),
                    false => Loss::Broke("it gives no sign of life".to_owned()),
                },
            }
        }
    }

    /// Handles all whole frames.
    fn take_all(&mut self, bytes: &mut BytesMut) -> Result<(), String> {
        loop {
            match frame::decode(bytes, self.limit) {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => self.take(frame)?,
                Err(error) => self.take_unreadable(&error)?,
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Output(output) => self.take_output(output),
            Frame::Done(end) => self.end_call(end.id, Event::Done(Box::new(end))),
            Frame::Error(failure) => self.take_failure(failure),
            Frame::Log(log) => {
                self.shared.gate.log(log.level, &log.message);
                Ok(())
            }
            Frame::Progress(progress) => {
                self.shared.gate.log(Level::Info, &progress.note);
                Ok(())
            }
            Frame::Heartbeat(_) => Ok(()),
            Frame::Load(load) => self.answer_load(load),
            Frame::Save(save) => self.answer_save(save),
            Frame::Hello(hello) => match self.ready.take() {
                Some(ready) => {
                    let checked = frame::check_version(hello.version)
                        .map_err(|error| StartError::Refused(Error::config(error.to_string())));
                    drop(ready.send(checked.map(|()| hello)));
                    Ok(())
                }
                None => Err("it said `hello` twice".to_owned()),
            },
            Frame::Start(_)
            | Frame::Call(_)
            | Frame::More(_)
            | Frame::Rows(_)
            | Frame::Saved(_)
            | Frame::Cancel(_) => Err("it sent a frame that only a host sends".to_owned()),
        }
    }

    fn take_output(&mut self, output: Output) -> Result<(), String> {
        let Output {
            id,
            seq,
            batch,
            params,
        } = output;
        let mut calls = self.shared.lock();
        let Some(open) = calls.open.get_mut(&id) else {
            return Err(format!("it gave an output of call {id}, which is not open"));
        };
        if seq != open.outputs {
            return Err(format!(
                "it gave output {seq} of call {id} where {} was due",
                open.outputs
            ));
        }
        if seq >= open.asked.load(Ordering::Relaxed) {
            return Err(format!(
                "it gave more outputs of call {id} than were asked for"
            ));
        }
        open.outputs += 1;
        let event = Event::Output(Given {
            batch: Payload::into_batch(batch),
            params,
        });
        // There is a place for each output that was asked for; and nobody may wait for the call any more.
        drop(open.events.try_send(event));
        drop(calls);
        self.shared.gate.open();
        Ok(())
    }

    fn end_call(&mut self, id: u64, end: Event) -> Result<(), String> {
        let open = self.shared.lock().open.remove(&id);
        match open {
            Some(Open { events, .. }) => {
                // There is a place for it beside the outputs; and nobody may wait any more.
                drop(events.try_send(end));
                Ok(())
            }
            None => Err(format!("it ended call {id}, which is not open")),
        }
    }

    fn take_failure(&mut self, failure: Failure) -> Result<(), String> {
        match (failure.id, self.ready.take()) {
            (Some(id), ready) => {
                self.ready = ready;
                let used = failure.used;
                self.end_call(id, Event::Failed(failure.into_error(), used))
            }
            (None, Some(ready)) => {
                drop(ready.send(Err(StartError::Refused(failure.into_error()))));
                Err("it refused to start".to_owned())
            }
            (None, None) => Err(format!("it gave up: {}", failure.message)),
        }
    }

    /// An output that is no JSON, too deep or not exact fails its call only, when it says which.
    fn take_unreadable(&mut self, error: &FrameError) -> Result<(), String> {
        let FrameError::Malformed {
            message,
            call: Some(id),
        } = error
        else {
            return Err(error.to_string());
        };
        let mut calls = self.shared.lock();
        let Some(open) = calls.open.get_mut(id) else {
            return Err(error.to_string());
        };
        open.outputs += 1;
        // What still comes of the call goes nowhere, until the worker ends it.
        let (nowhere, _) = mpsc::channel(1);
        let events = std::mem::replace(&mut open.events, nowhere);
        drop(calls);
        let failed = Error::data(format!("its output cannot be read: {message}"));
        drop(events.try_send(Event::Failed(failed, None)));
        self.cancel(*id);
        Ok(())
    }

    fn answer_load(&self, load: Load) -> Result<(), String> {
        let host = Arc::clone(&self.host);
        self.answer(load.id, async move {
            let loaded = host.load(&load.storage, query_of(&load.query)?).await?;
            Ok(Frame::Rows(Rows {
                id: load.id,
                batch: Payload::of_loaded(loaded),
            }))
        })
    }

    fn answer_save(&self, save: Save) -> Result<(), String> {
        let host = Arc::clone(&self.host);
        self.answer(save.id, async move {
            host.save(&save.storage, Payload::into_batch(save.batch))
                .await?;
            Ok(Frame::Saved(Done { id: save.id }))
        })
    }

    /// Works on a load or save beside the reading, and sends its answer.
    fn answer(
        &self,
        id: u64,
        work: impl Future<Output = Result<Frame>> + Send + 'static,
    ) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        if shared.requests.fetch_add(1, Ordering::Relaxed) >= REQUESTS {
            return Err(format!("it has more than {REQUESTS} loads and saves open"));
        }
        let (frames, stop, limit) = (self.frames.clone(), self.stop.clone(), self.limit);
        self.tasks.spawn("worker request", async move {
            let answered = stop.run_until_cancelled(async {
                let failed = |error: &Error| Frame::Error(Failure::of(Some(id), error));
                let answer = work.await.unwrap_or_else(|error| failed(&error));
                let bytes = encoded(&answer, limit)
                    .or_else(|reason| encoded(&failed(&Error::data(reason)), limit));
                // The writer is gone when the worker is; nobody needs the answer then.
                drop(frames.send(bytes.unwrap_or_default()).await);
            });
            answered.await;
            shared.requests.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(())
    }

    fn cancel(&self, id: u64) {
        let (frames, stop) = (self.frames.clone(), self.stop.clone());
        self.tasks.spawn("worker cancel", async move {
            let bytes = super::small(&Frame::Cancel(Done { id }));
            stop.run_until_cancelled(async { drop(frames.send(bytes).await) })
                .await;
        });
    }
}

/// Also when the reader's task is ended from outside no call waits for ever.
impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.lose(Loss::Gone("the pipeline ends".to_owned()));
    }
}

/// What a load asks for.
///
/// # Errors
/// `Data`, for what it cannot be asked for.
pub(crate) fn query_of(query: &Map) -> Result<Query> {
    let mut result = Query::default();
    for (name, value) in query {
        let limit = value.as_u64().and_then(|limit| usize::try_from(limit).ok());
        match (name.as_str(), limit) {
            ("limit", Some(limit)) => result.limit = Some(limit),
            ("limit", None) if *value == Value::Null => {}
            ("limit", None) => {
                return Err(Error::data(format!(
                    "`limit` of a load must be a whole number, not {value}"
                )));
            }
            _ => {
                return Err(Error::data(format!(
                    "a load cannot be asked for `{name}`, only for `limit`"
                )));
            }
        }
    }
    Ok(result)
}
