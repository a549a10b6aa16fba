//! The worker's side of the worker protocol for one whole stage: `start` brings an errand, calls run the stage.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wiredflow_core::charge::{Activity, Charge, Used};
use wiredflow_core::frame::{self, Call, Failure, Frame, Hello, Passed, Payload, Start};
use wiredflow_core::stage::{Cx, Emitter};
use wiredflow_core::storage::Epoch;
use wiredflow_core::{Batch, Error, Result};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::clock::Clock;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::{Metering, ReplicaClock};
use wiredflow_engine::remotes::{Errand, Opened};
use wiredflow_engine::storages::{Entrusted, Ownership, StorageHandles, Writers};
use wiredflow_engine::tasks::Tasks;

use crate::desk::{Desk, OpenCall};
use crate::outlet::FarOutlet;
use crate::storage::HostStorage;
use crate::voice;

/// How many frames may wait to be written before calls wait.
const QUEUE: usize = 1024;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// How long a call that is not wanted any more may take to end in good order.
const CLOSING: Duration = Duration::from_secs(1);

/// How long the stage may take to end after its host has gone.
const FAREWELL: Duration = Duration::from_secs(3);

/// How many calls are worked on at once: the host has its own measure.
const SLOTS: u32 = 1024;

/// What a far end stands in.
#[derive(Debug)]
pub struct Surroundings {
    /// The Rust functions that are linked in.
    pub functions: Functions,
    /// Where the stage's functions run, in the place of the folder that the host names.
    pub folder: Option<PathBuf>,
    /// The one clock.
    pub clock: Clock,
    /// What this process prints, for the flow's log.
    pub prints: Option<pipe::Receiver>,
}

/// How a far end ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The host has closed the stream.
    Left,
    /// The host said what the protocol does not allow, and was told so.
    Broke,
}

/// Serves one host over a pair of byte streams until that closes them; all that the stage has started is ended then.
///
/// Log lines of the whole process go to the host from now on. Dropping the future ends the stage at once.
///
/// # Errors
/// `Remote`, where the system gives no thread.
pub async fn serve<R, W>(reader: R, writer: W, mut surroundings: Surroundings) -> Result<Ended>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (frames, queue) = mpsc::channel(QUEUE);
    voice::speak(frames.clone());
    let tasks = Tasks::default();
    let _ends = Ends(tasks.clone());
    tasks.spawn("far writer", write(writer, queue));
    if let Some(prints) = surroundings.prints.take() {
        tasks.spawn("far prints", voice::pass_on(prints, frames.clone()));
    }
    let mut host = Host {
        reader,
        bytes: BytesMut::with_capacity(CHUNK),
        limit: frame::FRAME_LIMIT,
    };
    let clock = surroundings.clock.clone();
    let start = match host.next().await {
        Ok(Some(Frame::Start(start))) => start,
        Ok(None) => return Ok(Ended::Left),
        Ok(Some(_)) => return refuse(&frames, "the first frame must be `start`", &clock).await,
        Err(reason) => return refuse(&frames, &reason, &clock).await,
    };
    if let Err(error) = frame::check_version(start.version) {
        return refuse(&frames, &error.to_string(), &clock).await;
    }
    host.limit = start.limit;
    let desk = Desk::new(frames.clone(), start.limit);
    if let Some(beat) = start.heartbeat {
        tasks.spawn("far heartbeat", {
            let (desk, clock) = (desk.clone(), clock.clone());
            async move { be_alive(&desk, Duration::from_millis(beat), &clock).await }
        });
    }
    let ended = work(&mut host, start, &desk, &tasks, surroundings).await;
    desk.close();
    drop(desk);
    if let Err(reason) = ended? {
        return refuse(&frames, &reason, &clock).await;
    }
    Ok(Ended::Left)
}

/// Opens the stage and hands it calls until the host has gone; `Err` inside says what the host did wrong.
async fn work<R: AsyncRead + Send + Unpin>(
    host: &mut Host<R>,
    start: Start,
    desk: &Desk,
    tasks: &Tasks,
    surroundings: Surroundings,
) -> Result<Result<(), String>> {
    let (stage_tasks, calls) = (tasks.child(), tasks.child());
    let clock = surroundings.clock.clone();
    let (ready, mut opened) = tokio::sync::oneshot::channel();
    tasks.spawn("far opening", {
        let (desk, tasks) = (desk.clone(), stage_tasks.clone());
        async move {
            let opened = open(start, &desk, tasks, surroundings).await;
            match opened {
                Ok(opened) => {
                    let hello = Frame::Hello(Hello {
                        version: frame::VERSION,
                        functions: vec!["stage".to_owned()],
                        slots: SLOTS,
                    });
                    // In this order: no call comes before it is told.
                    drop(ready.send(opened));
                    drop(desk.say(&hello).await);
                }
                Err(error) => drop(desk.say(&Frame::Error(Failure::of(None, &error))).await),
            }
        }
    });
    let mut stage = None;
    let ended = loop {
        let frame = match host.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(reason) => break Err(reason),
        };
        if stage.is_none() {
            stage = opened.try_recv().ok();
        }
        match (frame, &stage) {
            (Frame::Call(call), Some((stage, _writers))) => {
                let open = desk.begin(call.id, call.credit);
                let (stage, desk) = (Arc::clone(stage), desk.clone());
                let clock = clock.clone();
                calls.spawn("far call", run(stage, call, open, desk, clock));
            }
            (Frame::Call(_), None) => break Err("a call before `hello`".to_owned()),
            (Frame::More(more), _) => desk.more(more.id, more.count),
            (Frame::Cancel(done), _) => desk.cancel(done.id),
            (Frame::Rows(rows), _) => desk.answer(rows.id, Ok(rows.batch)),
            (Frame::Saved(done), _) => desk.answer(done.id, Ok(None)),
            (Frame::Error(failure), _) => match failure.id {
                Some(id) => desk.answer(id, Err(failure.into_error())),
                None => break Err("an error of nothing".to_owned()),
            },
            (Frame::Heartbeat(_), _) => {}
            _ => break Err("a frame that only a worker sends".to_owned()),
        }
    };
    desk.close();
    // Each call ends in good order, or by the end of its time; what it has started ends with it.
    calls.finished().await;
    drop((stage, opened));
    tokio::select! {
        () = stage_tasks.finished() => {}
        () = clock.sleep(FAREWELL) => {}
    }
    Ok(ended)
}

/// Says so again and again: the host takes a silence for the end.
async fn be_alive(desk: &Desk, beat: Duration, clock: &Clock) {
    while desk
        .say(&Frame::Heartbeat(frame::Heartbeat {}))
        .await
        .is_ok()
    {
        clock.sleep(beat).await;
    }
}

/// The stage, and what holds its storages.
type OpenStage = (Arc<Opened>, Writers);

async fn open(
    start: Start,
    desk: &Desk,
    tasks: Tasks,
    surroundings: Surroundings,
) -> Result<OpenStage> {
    let Surroundings {
        functions,
        folder,
        clock,
        ..
    } = surroundings;
    let errand = start
        .errand
        .ok_or_else(|| Error::config("this worker runs whole stages, and `start` brings none"))?;
    let errand = Errand::from_value(errand)?;
    let folder = folder
        .or(start.folder.map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("."));
    let held = errand.storages().iter().map(|held| {
        let (held, desk) = (held.clone(), desk.clone());
        (held.name.clone(), move || {
            Ok(Box::new(HostStorage::new(&held, &desk))
                as Box<dyn wiredflow_core::storage::Storage>)
        })
    });
    let held: Vec<_> = held.collect();
    let entrusted = held.iter().map(|(name, opener)| Entrusted {
        name,
        opener: Arc::new(opener.clone()),
        apart: false,
    });
    let (writers, handles) = Writers::start(entrusted, &Ownership::default())?;
    let storages = StorageHandles::new(handles);
    let opened = errand
        .open(&folder, &functions, storages, (clock, tasks))
        .await?;
    Ok((Arc::new(opened), writers))
}

/// Runs the stage once, and says how that ended.
async fn run(opened: Arc<Opened>, call: Call, open: OpenCall, desk: Desk, clock: Clock) {
    let charge = Arc::new(ReplicaClock::start(&clock, Metering::On));
    let id = call.id;
    let result = tokio::select! {
        biased;
        result = call_stage(&opened, call, &open, &desk, &charge) => result,
        // Dropping the call ends what it has started: a Python process is killed with it.
        () = outlives(&open.closing, &clock) => Ok(None),
    };
    charge.enter(Activity::Starved);
    let used = Some(used(&charge));
    let end = match result {
        Ok(passed) => Frame::Done(frame::Ended { id, passed, used }),
        Err(error) => Frame::Error(Failure {
            used,
            ..Failure::of(Some(id), &error)
        }),
    };
    desk.end(id, end).await;
}

async fn call_stage(
    opened: &Opened,
    call: Call,
    open: &OpenCall,
    desk: &Desk,
    charge: &Arc<ReplicaClock>,
) -> Result<Option<Passed>> {
    let keys = call
        .keys
        .map(|keys| keys.into_iter().map(Arc::from).collect());
    let cx = Cx {
        flow: Arc::clone(&opened.flow),
        pipeline: Arc::clone(&opened.pipeline),
        stage: Arc::clone(&opened.name),
        params: Arc::new(call.params),
        attempt: call.attempt,
        epoch: Epoch(call.epoch),
        marks: None,
        keys,
        deadline: call.deadline.map(Duration::from_millis),
        charge: Arc::clone(charge) as Arc<dyn Charge>,
    };
    let batch = batch_of(call.batch);
    let mut outlet = FarOutlet {
        desk: desk.clone(),
        id: call.id,
        call: open.clone(),
        charge: Arc::clone(charge),
        next: 0,
        passed: None,
    };
    charge.enter(match opened.work {
        Work::Peer | Work::PeerSink | Work::Sink => Activity::External,
        Work::Function | Work::Records => Activity::Compute,
    });
    let mut emitter = Emitter::new(&mut outlet);
    let run = AssertUnwindSafe(opened.stage.run_boxed(&batch, &mut emitter, &cx));
    let ran = run.catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no message");
        Err(Error::bug(format!("the stage panicked: {text}")))
    });
    ran.map(|()| outlet.passed)
}

/// Comes true when a call that is not wanted any more has had its time to end.
async fn outlives(closing: &CancellationToken, clock: &Clock) {
    closing.cancelled().await;
    clock.sleep(CLOSING).await;
}

/// The host's batch, a list of one kept apart from one.
fn batch_of(payload: Option<Payload>) -> Batch {
    let list = matches!(payload, Some(Payload::Many(_)));
    Payload::into_batch(payload).as_list(list)
}

/// What a call has used: the wait for its host to take outputs is not in it.
fn used(charge: &ReplicaClock) -> Used {
    let clocks = charge.read();
    let nanos = |activity| u64::try_from(clocks.of(activity).as_nanos()).unwrap_or(u64::MAX);
    let (cpu, external, delay) = (
        nanos(Activity::Compute),
        nanos(Activity::External),
        nanos(Activity::Overhead),
    );
    Used {
        wall: cpu.saturating_add(external).saturating_add(delay),
        cpu,
        delay,
    }
}

/// Tells the host what it did wrong, and waits a moment until it is on its way.
async fn refuse(frames: &mpsc::Sender<Vec<u8>>, reason: &str, clock: &Clock) -> Result<Ended> {
    let failure = Frame::Error(Failure::of(None, &Error::config(reason)));
    if let Ok(bytes) = frame::encode(&failure, usize::MAX) {
        drop(frames.send(bytes).await);
        clock.sleep(Duration::from_millis(100)).await;
    }
    Ok(Ended::Broke)
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        let mut written = writer.write_all(&frame).await;
        while written.is_ok()
            && let Ok(frame) = queue.try_recv()
        {
            written = writer.write_all(&frame).await;
        }
        if written.is_err() || writer.flush().await.is_err() {
            // The reader sees the end too.
            return;
        }
    }
}

/// Frames from the host.
struct Host<R> {
    reader: R,
    bytes: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Host<R> {
    /// The next frame; `None` when the host has gone. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Option<Frame>, String> {
        loop {
            if let Some(frame) =
                frame::decode(&mut self.bytes, self.limit).map_err(|error| error.to_string())?
            {
                return Ok(Some(frame));
            }
            self.bytes.reserve(CHUNK);
            match self.reader.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }
}

/// Ends all tasks when it is dropped.
struct Ends(Tasks);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}
