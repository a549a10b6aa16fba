//! The flow's side of a pool: it has the calls of one stage done, by whoever takes them.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use wiredflow_core::charge::Used;
use wiredflow_core::engine::{ANSWER_WITHIN, Engine, If, Name, Published, Seen, Shelf};
use wiredflow_core::frame::{self, CREDIT, CallRef, FRAME_LIMIT, Passed, PayloadRef};
use wiredflow_core::{Error, ErrorKind, Result};

use super::book::{Book, Counts, Due, Event, Open};
use super::words::{Cancel, Node, Queue, Setting, Task};
use super::{RELEASE, RULES, VERSION, letter, nodes, queue_of, sorted, unwritten};
use crate::clock::{Clock, Dice};
use crate::pack::{Pack, hex};
use crate::tasks::Tasks;
use crate::worker::{Given, Missed, Request, WorkerHost};

/// How many questions of nodes are worked on at once.
const QUESTIONS: usize = 256;

/// How long the nodes may take to be told of.
const LOOK: Duration = ANSWER_WITHIN;

/// The stage whose calls are done, and by whom.
#[derive(Clone, Debug)]
pub struct Order {
    /// The name of the remote, for messages.
    pub remote: String,
    /// What a node must have.
    pub labels: Vec<String>,
    /// The kind of the stage.
    pub kind: String,
    /// What the process list of the node shows.
    pub label: String,
    /// What a node must know to run the stage.
    pub setting: Setting,
    /// The flow's code; its hash stands in the setting.
    pub pack: Option<Arc<Pack>>,
}

/// What a coordinator stands in.
#[derive(Clone)]
pub struct Surroundings {
    /// Its loads, saves and log lines.
    pub host: Arc<dyn WorkerHost>,
    /// The one clock.
    pub clock: Clock,
    /// Chance, for names and tokens.
    pub dice: Dice,
    /// What owns its tasks.
    pub tasks: Tasks,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surroundings")
    }
}

/// Has the calls of one stage done. Dropping it ends that; nodes that work for it end by themselves.
#[derive(Debug)]
pub struct Coordinator {
    shared: Arc<Shared>,
    _ends_tasks: DropGuard,
}

/// What its tasks share.
pub(super) struct Shared {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) order: Order,
    /// The setting as it travels, and its hash.
    pub(super) setting: (Bytes, String),
    pub(super) queue: Name,
    pub(super) reply: Name,
    pub(super) around: Surroundings,
    pub(super) book: Mutex<Book>,
    pub(super) questions: Arc<Semaphore>,
    /// Something is to be published.
    pub(super) kick: Notify,
    /// Since when the engine answers; none while it does not.
    pub(super) there_since: Mutex<Option<Instant>>,
    /// Whether a full queue was told of.
    full: AtomicBool,
    /// The refusals that were told of.
    pub(super) refusals: Mutex<HashSet<String>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}", self.queue)
    }
}

impl Coordinator {
    /// Opens the queue and listens. Must be called inside a runtime.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn open(engine: Arc<dyn Engine>, order: Order, around: Surroundings) -> Result<Self> {
        let queue = queue_of(&order.labels, &order.kind)?;
        let setting = serde_json::to_vec(&order.setting).map_err(|error| unwritten(&error))?;
        let hash = hex(&Sha256::digest(&setting));
        let reply = Name::new(["flow", &name(&around.dice)])?;
        engine.open_queue(&queue, RULES).await?;
        let listener = engine.listen(&reply).await?;
        let now = around.clock.monotonic();
        let tasks = around.tasks.clone();
        let shared = Arc::new(Shared {
            engine,
            order,
            setting: (setting.into(), hash),
            queue,
            reply,
            around,
            book: Mutex::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            kick: Notify::new(),
            there_since: Mutex::new(Some(now)),
            full: AtomicBool::new(false),
            refusals: Mutex::default(),
        });
        shared.announce().await?;
        let stop = CancellationToken::new();
        tasks.spawn("pool desk", {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move {
                stop.run_until_cancelled(shared.answer_all(listener)).await;
            }
        });
        tasks.spawn("pool sweep", {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move {
                stop.run_until_cancelled(shared.sweep_always()).await;
            }
        });
        Ok(Self {
            shared,
            _ends_tasks: stop.drop_guard(),
        })
    }

    /// Begins a call. Dropping what it gives ends the call wherever it is.
    ///
    /// While the engine does not answer the call waits; one that `can_go_elsewhere` is [`Missed::Away`] then, and was certainly
    /// never published.
    ///
    /// # Errors
    /// `Failed` for what cannot be published at all.
    pub async fn call(
        &self,
        request: Request<'_>,
        can_go_elsewhere: bool,
    ) -> Result<Called, Missed> {
        let shared = &self.shared;
        if can_go_elsewhere && shared.there_since().is_none() {
            return Err(Missed::Away(shared.away().as_unsent()));
        }
        let call = CallRef {
            id: 1,
            attempt: request.attempt,
            epoch: request.epoch.0,
            function: request.function,
            params: request.params,
            batch: PayloadRef::of(request.batch),
            deadline: request.deadline.map(super::words::millis),
            keys: request
                .keys
                .map(|keys| keys.iter().map(|key| &**key).collect()),
            credit: CREDIT,
        };
        let call = frame::encode(&call, FRAME_LIMIT)
            .map_err(|error| Missed::Failed(Error::data(error.to_string())))?;
        let task: Arc<str> = name(&shared.around.dice).into();
        let (events, receiver) = mpsc::channel(CREDIT as usize + 1);
        let began = CancellationToken::new();
        let token = name(&shared.around.dice);
        let now = shared.around.clock.monotonic();
        let due = {
            let mut book = shared.book();
            let open = Open::new(token, call.into(), events, began.clone().drop_guard());
            book.add(Arc::clone(&task), open);
            book.first(&task, now)
        };
        let called = Called {
            shared: Arc::clone(shared),
            task,
            events: receiver,
            began,
            ended: false,
            used: None,
            passed: None,
        };
        let Some(due) = due else {
            return Err(Missed::Failed(Error::bug("a task that is not in its book")));
        };
        match shared.publish(due).await {
            Err(error) if can_go_elsewhere && error.is_unsent() => Err(Missed::Away(error)),
            _ => Ok(called),
        }
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.shared.book().counts
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.shared.engine
    }

    /// Why none of these nodes takes calls, and what to do.
    pub fn objections(&self, nodes: &[(Node, Option<String>)]) -> String {
        self.shared.objections(nodes)
    }

    /// The nodes that are there, each with what speaks against it for this stage.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn nodes(&self) -> Result<Vec<(Node, Option<String>)>> {
        self.shared.nodes().await
    }
}

/// A name or token that nobody can foresee.
fn name(dice: &Dice) -> String {
    format!("{:016x}{:016x}", dice.number(), dice.number())
}

impl Shared {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn there_since(&self) -> Option<Instant> {
        *self
            .there_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn away(&self) -> Error {
        Error::remote(format!(
            "the engine of the pool `{}` does not answer",
            self.order.remote
        ))
    }

    pub(super) fn token(&self) -> String {
        name(&self.around.dice)
    }

    /// Says that somebody publishes at the queue.
    pub(super) async fn announce(&self) -> Result<()> {
        let queue = Queue {
            labels: sorted(&self.order.labels),
            kind: self.order.kind.clone(),
        };
        let value = serde_json::to_vec(&queue).map_err(|error| unwritten(&error))?;
        let put = self
            .engine
            .put(Shelf::Presence, &self.queue, value.into(), If::Any);
        put.await.map(drop)
    }

    /// Publishes a task. What may not have come to pass is tried again by the sweep, what cannot come to pass ends the task.
    pub(super) async fn publish(&self, due: Due) -> Result<()> {
        let published = self.try_publish(&due).await;
        match &published {
            Ok(Published::New | Published::Again) => {
                self.full.store(false, Ordering::Relaxed);
            }
            Ok(Published::Full) => {
                self.book().unsent(&due.task, due.attempt);
                if !self.full.swap(true, Ordering::Relaxed) {
                    let (remote, queue) = (&self.order.remote, &self.queue);
                    tracing::warn!(
                        "the queue `{queue}` of the pool `{remote}` is full: calls wait"
                    );
                }
            }
            Err(error) if error.kind() == ErrorKind::Remote => {
                self.book().unsent(&due.task, due.attempt);
            }
            Err(error) => self.fail(&due.task, error.clone()),
        }
        published.map(drop)
    }

    async fn try_publish(&self, due: &Due) -> Result<Published> {
        let head = Task {
            version: VERSION,
            release: RELEASE.to_owned(),
            task: due.task.to_string(),
            attempt: due.attempt,
            token: due.token.clone(),
            setting: self.setting.1.clone(),
            kind: self.order.kind.clone(),
            label: self.order.label.clone(),
            reply: self.reply.parts().map(str::to_owned).collect(),
        };
        let packed = letter::pack(&*self.engine, &head, due.call.clone(), (&due.task, "call"));
        let packed = packed.await?;
        if let Some(blob) = packed.blob {
            let left = self.book().keep(&due.task, blob);
            self.forget(left);
        }
        let id = match due.times {
            0 => format!("{}#{}", due.task, due.attempt),
            times => format!("{}#{}.{times}", due.task, due.attempt),
        };
        self.engine.publish(&self.queue, &id, packed.body).await
    }

    /// Ends a task by an error.
    pub(super) fn fail(&self, task: &str, error: Error) {
        let open = self.book().remove(task);
        if let Some(open) = open {
            // Nobody may wait for it any more.
            drop(open.events.try_send(Event::Failed(error, None)));
            self.forget(open.blobs);
        }
    }

    /// Removes blobs that nobody needs any more, as far as that can be.
    pub(super) fn forget(&self, blobs: impl IntoIterator<Item = Name>) {
        for blob in blobs {
            let engine = Arc::clone(&self.engine);
            self.around.tasks.farewell(async move {
                drop(engine.remove_blob(&blob).await);
            });
        }
    }

    pub(super) async fn nodes(&self) -> Result<Vec<(Node, Option<String>)>> {
        let queue = Queue {
            labels: sorted(&self.order.labels),
            kind: self.order.kind.clone(),
        };
        let below = nodes()?;
        let look = async {
            let mut watch = self.engine.watch(Shelf::Presence, Some(&below)).await?;
            let mut found = Vec::new();
            loop {
                match watch.next().await? {
                    // One that cannot be read is of a release that says it in another way.
                    Seen::Put(_, entry) => {
                        if let Ok(node) = serde_json::from_slice::<Node>(&entry.value) {
                            let objection = node.objection(&queue);
                            found.push((node, objection));
                        }
                    }
                    Seen::Removed(..) => {}
                    Seen::UpToDate => return Ok(found),
                }
            }
        };
        tokio::select! {
            found = look => found,
            () = self.around.clock.sleep(LOOK) => Err(self.away()),
        }
    }
}

/// A call on its way. Dropping it before its end ends it wherever it is.
#[derive(Debug)]
pub struct Called {
    shared: Arc<Shared>,
    task: Arc<str>,
    events: mpsc::Receiver<Event>,
    began: CancellationToken,
    ended: bool,
    used: Option<Used>,
    passed: Option<Passed>,
}

impl Called {
    /// Comes back when a worker has begun it, or it has ended. Dropping the future loses nothing.
    pub async fn begun(&self) {
        self.began.cancelled().await;
    }

    /// The next output; `None` when the call has ended well. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Why it has failed: `Remote`, where its worker was lost after it had given something.
    pub async fn next(&mut self) -> Result<Option<Given>, Missed> {
        if self.ended {
            return Ok(None);
        }
        match self.events.recv().await {
            Some(Event::Output(given)) => Ok(Some(given)),
            Some(Event::Done(end)) => {
                (self.ended, self.used, self.passed) = (true, end.used, end.passed);
                Ok(None)
            }
            Some(Event::Failed(error, used)) => {
                (self.ended, self.used) = (true, used);
                Err(Missed::Failed(error))
            }
            None => {
                self.ended = true;
                Err(Missed::Failed(Error::bug("a task without an end")))
            }
        }
    }

    /// What became of its input, once it has ended and where the stage hands that on itself.
    pub fn passed(&self) -> Option<&Passed> {
        self.passed.as_ref()
    }

    /// What the call has used, once it has ended and where its worker knows.
    pub fn used(&self) -> Option<Used> {
        self.used
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        let open = self.shared.book().remove(&self.task);
        let Some(open) = open else { return };
        let runs_at = open.runs_at();
        self.shared.forget(open.blobs);
        let Some(runs_at) = runs_at else { return };
        let cancel = Cancel {
            task: self.task.to_string(),
            token: runs_at.token,
        };
        let Ok(cancel) = serde_json::to_vec(&cancel) else {
            return;
        };
        let engine = Arc::clone(&self.shared.engine);
        self.shared.around.tasks.farewell(async move {
            // One that does not hear it learns it by the answer to its next word.
            let asked = engine.ask(&runs_at.address, cancel.into(), Duration::from_secs(1));
            drop(asked.await);
        });
    }
}
