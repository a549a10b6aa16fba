//! What a run says to the flow that it works for, and hears: again and again, until it is answered or nobody wants it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wiredflow_core::engine::{Engine, GIVE_UP_AFTER, Name, RENEW_EACH};
use wiredflow_core::frame::{self, FRAME_LIMIT, Frame, Level, Load, Log, Payload, Save};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::storage::{Loaded, Query};
use wiredflow_core::{Batch, Error, ErrorKind, Map, Result, Value};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::pool::letter;
use wiredflow_engine::pool::words::{Answer, Task, What, Word};
use wiredflow_engine::worker::WorkerHost;

/// How long one question may take: twice that is less than what a silent flow is given.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// The same, where what is said lies as a blob, and has to be fetched first.
const FETCH_WITHIN: Duration = Duration::from_secs(60);

/// How long is waited before a question is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// How many log lines wait to be said.
const LINES: usize = 1000;

/// The run is over: nobody wants it, or its flow is not heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over;

/// The way to the flow of one run.
pub struct Contact {
    engine: Arc<dyn Engine>,
    reply: Name,
    head: Task,
    /// Which of all takings of the task this is.
    by: String,
    node: String,
    clock: Clock,
    /// When the last question was sent that was answered.
    heard: Mutex<Instant>,
    over: CancellationToken,
    unwanted: AtomicBool,
    lines: Mutex<VecDeque<Log>>,
    /// There are lines.
    said: Notify,
    /// Numbers of loads, saves and blobs.
    last: AtomicU64,
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contact({})", self.head.task)
    }
}

/// How the wish to begin was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// Begin; so many outputs may be sent.
    Go(u64),
    NotWanted,
    /// Nobody is there who could say.
    Nobody,
}

impl Contact {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        head: Task,
        (node, by): (&str, String),
        clock: Clock,
    ) -> Result<Self> {
        let reply = Name::new(head.reply.iter().map(String::as_str))?;
        let now = clock.monotonic();
        Ok(Self {
            engine,
            reply,
            head,
            by,
            node: node.to_owned(),
            clock,
            heard: Mutex::new(now),
            over: CancellationToken::new(),
            unwanted: AtomicBool::new(false),
            lines: Mutex::default(),
            said: Notify::new(),
            last: AtomicU64::new(0),
        })
    }

    /// The task's name.
    pub fn task(&self) -> &str {
        &self.head.task
    }

    /// Nobody wants the run any more.
    pub(crate) fn is_unwanted(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
        self.over.cancel();
    }

    /// Whether its end was that nobody wanted it.
    pub(crate) fn was_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Relaxed)
    }

    /// Comes back when the run is over.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Comes back when there are log lines to be said.
    pub(crate) async fn has_lines(&self) {
        self.said.notified().await;
    }

    /// The log lines that were not said yet.
    pub(crate) fn lines(&self) -> Vec<Log> {
        self.kept_lines().drain(..).collect()
    }

    fn kept_lines(&self) -> MutexGuard<'_, VecDeque<Log>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self, what: What) -> Word {
        Word {
            version: self.head.version,
            task: self.head.task.clone(),
            attempt: self.head.attempt,
            token: self.head.token.clone(),
            by: self.by.clone(),
            node: self.node.clone(),
            what,
        }
    }

    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn heard_at(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks once.
    async fn ask_once(&self, word: &Word, frames: Bytes) -> Result<(Answer, Bytes)> {
        let sent = self.clock.monotonic();
        let part = format!("{}-{}", &self.by, self.number());
        let engine = &*self.engine;
        let packed = letter::pack(engine, word, frames, (&self.head.task, &part)).await?;
        let within = match packed.blob {
            None => ASK_WITHIN,
            Some(_) => FETCH_WITHIN,
        };
        let asked = engine.ask(&self.reply, packed.body, within).await;
        if let Some(blob) = packed.blob {
            // It is put anew where the question is asked again.
            drop(engine.remove_blob(&blob).await);
        }
        let (answer, rest) = letter::read::<Answer>(&asked?)?;
        {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            *heard = sent.max(*heard);
        }
        Ok((answer, rest.take(engine, &self.head.task, true).await?))
    }

    /// Asks whether this run may begin, for as long as a silent flow is given.
    pub(crate) async fn begin(&self, address: &Name) -> Begun {
        let address = address.parts().map(str::to_owned).collect();
        let word = self.word(What::Begun { address });
        let begun = self.clock.monotonic();
        let mut nobody = 0;
        loop {
            match self.ask_once(&word, Bytes::new()).await {
                Ok((Answer::Heard { credit }, _)) => return Begun::Go(credit),
                Ok(_) => return Begun::NotWanted,
                Err(error) if error.is_unsent() => nobody += 1,
                Err(_) => {}
            }
            if nobody > 2 || self.clock.monotonic() - begun > GIVE_UP_AFTER {
                return Begun::Nobody;
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    /// Says something with frames after it, until it is answered.
    ///
    /// # Errors
    /// When the run is over. What cannot be said at all, for its length, is said as an error of its call before.
    pub async fn ask(&self, what: What, frames: Bytes) -> Result<(Answer, Bytes), Over> {
        let word = self.word(what);
        let asking = async {
            loop {
                match self.ask_once(&word, frames.clone()).await {
                    Ok((Answer::NotWanted, _)) => {
                        self.is_unwanted();
                        return Err(Over);
                    }
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.kind() == ErrorKind::Remote => {
                        self.clock.sleep(PAUSE).await;
                    }
                    Err(error) => {
                        tracing::error!("a flow cannot be spoken to: {error}");
                        self.over.cancel();
                        return Err(Over);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            () = self.over.cancelled() => Err(Over),
        }
    }

    /// Says once, whatever comes of it; true where it was answered.
    pub(crate) async fn tell(&self, what: What) -> bool {
        self.ask_once(&self.word(what), Bytes::new()).await.is_ok()
    }

    /// Gives signs of life until the run is over; a flow that cannot be reached for as long as a lease may not be renewed ends it.
    pub(crate) async fn beat(&self) {
        let beats = async {
            loop {
                self.clock.sleep(RENEW_EACH).await;
                let silent = self.clock.monotonic() - self.heard_at() >= RENEW_EACH / 2;
                if silent && self.ask(What::Say, Bytes::new()).await.is_err() {
                    return;
                }
            }
        };
        let patience = async {
            loop {
                let left = GIVE_UP_AFTER.saturating_sub(self.clock.monotonic() - self.heard_at());
                if left.is_zero() {
                    self.over.cancel();
                    return;
                }
                self.clock.sleep(left).await;
            }
        };
        tokio::select! {
            () = beats => {}
            () = patience => {}
        }
    }

    /// Asks for rows, or to save some.
    async fn request(&self, frame: &Frame) -> Result<Option<Payload>> {
        let bytes = frame::encode(frame, FRAME_LIMIT);
        let bytes = bytes.map_err(|error| Error::data(error.to_string()))?;
        let over = |_| Error::remote("the flow does not want this call any more");
        let (_, answer) = self.ask(What::Say, bytes.into()).await.map_err(over)?;
        match letter::frames(answer)?.pop() {
            Some(Frame::Rows(rows)) => Ok(rows.batch),
            Some(Frame::Saved(_)) => Ok(None),
            Some(Frame::Error(failure)) => Err(failure.into_error()),
            _ => Err(Error::remote("the flow did not answer a load or save")),
        }
    }
}

impl WorkerHost for Contact {
    fn load<'a>(&'a self, storage: &'a str, query: Query) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(async move {
            let mut asked = Map::new();
            if let Some(limit) = query.limit {
                asked.insert("limit".to_owned(), Value::from(limit));
            }
            let load = Frame::Load(Load {
                id: self.number(),
                call: None,
                storage: storage.to_owned(),
                query: asked,
            });
            Ok(match self.request(&load).await? {
                None => Loaded::Nothing,
                Some(Payload::One(Value::Object(object))) => Loaded::Object(object),
                Some(Payload::One(row)) => Loaded::Rows(vec![row]),
                Some(Payload::Many(rows)) => Loaded::Rows(rows),
            })
        })
    }

    fn save<'a>(&'a self, storage: &'a str, rows: Batch) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let rows: Vec<Value> = rows
                .records()
                .iter()
                .map(|row| row.value().clone())
                .collect();
            let save = Frame::Save(Save {
                id: self.number(),
                call: None,
                storage: storage.to_owned(),
                batch: (!rows.is_empty()).then_some(Payload::Many(rows)),
            });
            self.request(&save).await.map(drop)
        })
    }

    fn log(&self, level: Level, message: &str) {
        let mut lines = self.kept_lines();
        if lines.len() < LINES {
            lines.push_back(Log {
                level,
                message: message.to_owned(),
                id: None,
            });
        }
        drop(lines);
        self.said.notify_one();
    }
}
