//! Work for pools: the queues that flows announce, and the tasks that are taken from those this node may take from.

pub(crate) mod code;
pub(crate) mod contact;
pub(crate) mod run;
pub(crate) mod shop;
pub(crate) mod stations;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wiredflow_core::engine::{Engine, LEASE, Name, RENEW_EACH, Seen, Settlement, Shelf, Taken};
use wiredflow_core::{Error, Result};
use wiredflow_engine::pool::words::{Cancel, Queue};
use wiredflow_engine::pool::{RULES, TRIAL, queue_of, queues};
use wiredflow_engine::tasks::Tasks;

use crate::{Options, Surroundings};
use contact::Contact;
use shop::Shop;

/// How long a pull waits for a message.
const PULL_WITHIN: Duration = Duration::from_secs(20);

/// How long is waited after an engine has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// The queues that are taken from: when they were last announced, and what ends that.
type Pulled = HashMap<Name, (Instant, CancellationToken)>;

/// A node's work for pools.
pub(crate) struct Pool {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) options: Options,
    pub(crate) shop: Arc<dyn Shop>,
    pub(crate) around: Surroundings,
    /// Where it hears of its own accord.
    pub(crate) address: Name,
    slots: Arc<Semaphore>,
    /// What runs, by its token.
    running: Mutex<HashMap<String, Arc<Contact>>>,
    /// The tasks of what runs.
    pub(crate) runs: Tasks,
    /// Fires when it takes no more.
    pub(crate) drains: CancellationToken,
    /// Fires when it leaves what runs to others.
    pub(crate) leaves: CancellationToken,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({})", self.options.name)
    }
}

impl Pool {
    /// Listens to what flows say of their own accord.
    pub(crate) async fn open(
        engine: Arc<dyn Engine>,
        options: Options,
        shop: Arc<dyn Shop>,
        around: Surroundings,
    ) -> Result<Arc<Self>> {
        let id = format!("{:016x}", around.dice.number());
        let address = Name::new(["nodes", &id])?;
        let pool = Arc::new(Self {
            engine,
            slots: Arc::new(Semaphore::new(options.slots)),
            options,
            shop,
            address,
            running: Mutex::default(),
            runs: around.tasks.child(),
            around,
            drains: CancellationToken::new(),
            leaves: CancellationToken::new(),
        });
        // That it can be reached is found out before it says that it is there.
        drop(pool.engine.listen(&pool.address).await?);
        Ok(pool)
    }

    /// Takes work from now on.
    pub(crate) fn begin(self: &Arc<Self>) {
        let (pool, ear) = (Arc::clone(self), Arc::clone(self));
        let drains = self.drains.clone();
        self.around.tasks.spawn("node queues", async move {
            drains.run_until_cancelled(pool.watch_always()).await;
        });
        self.around
            .tasks
            .spawn("node ear", async move { ear.listen_always().await });
    }

    /// How many calls it works on.
    pub(crate) fn busy(&self) -> usize {
        self.options
            .slots
            .saturating_sub(self.slots.available_permits())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Contact>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task runs until the guard is dropped, and can be told to end by its token.
    pub(crate) fn runs(self: &Arc<Self>, token: &str, contact: &Arc<Contact>) -> Runs {
        self.running().insert(token.to_owned(), Arc::clone(contact));
        Runs(Arc::clone(self), token.to_owned())
    }

    /// Hears that calls are not wanted any more.
    async fn listen_always(&self) {
        loop {
            if let Ok(mut ear) = self.engine.listen(&self.address).await {
                while let Ok(asked) = ear.next().await {
                    if let Ok(cancel) = serde_json::from_slice::<Cancel>(&asked.body) {
                        let known = self.running().get(&cancel.token).map(Arc::clone);
                        if let Some(known) = known.filter(|known| known.task() == cancel.task) {
                            known.is_unwanted();
                        }
                    }
                    // A lost answer does no harm.
                    drop(asked.reply.send(bytes::Bytes::new()).await);
                }
            }
            self.around.clock.sleep(PAUSE).await;
        }
    }

    /// Pulls from the queues that are announced and that this node may take from, each as long as it is.
    async fn watch_always(self: &Arc<Self>) {
        let pulled = Mutex::default();
        let watched = async {
            loop {
                let error = self.watch(&pulled).await;
                tracing::debug!("the queues cannot be watched: {error}");
                self.around.clock.sleep(PAUSE).await;
            }
        };
        // Beside each other, since a watch that is asked anew all the time cannot notice that it is silent.
        tokio::select! {
            () = watched => {}
            () = self.forget(&pulled) => {}
        }
    }

    /// Takes from no queue any more whose flows have gone: who publishes there says so again and again, and entries go without a
    /// word.
    async fn forget(&self, pulled: &Mutex<Pulled>) {
        let clock = &self.around.clock;
        loop {
            clock.sleep(RENEW_EACH).await;
            let now = clock.monotonic();
            let mut pulled = pulled.lock().unwrap_or_else(PoisonError::into_inner);
            pulled.retain(|_, (since, stop)| {
                let there = now - *since < 2 * LEASE;
                if !there {
                    stop.cancel();
                }
                there
            });
        }
    }

    async fn watch(self: &Arc<Self>, pulled: &Mutex<Pulled>) -> Error {
        let watched = async {
            let below = queues()?;
            let mut watch = self.engine.watch(Shelf::Presence, Some(&below)).await?;
            loop {
                if let Seen::Put(name, entry) = watch.next().await?
                    && let Ok(queue) = serde_json::from_slice::<Queue>(&entry.value)
                    && self.may_take(&name, &queue)
                {
                    let mut pulled = pulled.lock().unwrap_or_else(PoisonError::into_inner);
                    self.announced(name, &mut pulled);
                }
            }
        };
        let Err::<Infallible, _>(error) = watched.await;
        error
    }

    /// Somebody publishes at a queue.
    fn announced(self: &Arc<Self>, name: Name, pulled: &mut Pulled) {
        let now = self.around.clock.monotonic();
        if let Some((since, _)) = pulled.get_mut(&name) {
            *since = now;
            return;
        }
        let stop = self.drains.child_token();
        pulled.insert(name.clone(), (now, stop.clone()));
        let pool = Arc::clone(self);
        self.around.tasks.spawn("node pull", async move {
            stop.run_until_cancelled(pool.pull_always(&name)).await;
        });
    }

    /// Whether this node takes from a queue: its labels are among its own, and its kind is allowed. One whose name says other
    /// than what it says of itself is nobody's.
    fn may_take(&self, name: &Name, queue: &Queue) -> bool {
        let named = queue_of(&queue.labels, &queue.kind);
        let labels = &self.options.labels;
        named.is_ok_and(|named| named == *name)
            && queue.labels.iter().all(|label| labels.contains(label))
            && (self.options.kinds.contains(&queue.kind) || queue.kind == TRIAL)
    }

    async fn pull_always(self: &Arc<Self>, queue: &Name) {
        let clock = &self.around.clock;
        while let Err(error) = self.engine.open_queue(queue, RULES).await {
            tracing::debug!("the queue `{queue}` cannot be opened: {error}");
            clock.sleep(PAUSE).await;
        }
        loop {
            if let Err(error) = self.pull(queue).await {
                tracing::debug!("nothing can be taken from `{queue}`: {error}");
                clock.sleep(PAUSE).await;
            }
        }
    }

    /// Takes what is there for all places that are free, else the first that comes.
    async fn pull(self: &Arc<Self>, queue: &Name) -> Result<()> {
        // With the places held: two queues that take each other's place away would give back for ever.
        let mut places = Vec::new();
        let slots = Arc::clone(&self.slots).acquire_owned();
        places.extend(slots.await.ok());
        while let Ok(place) = Arc::clone(&self.slots).try_acquire_owned() {
            places.push(place);
        }
        let there = self
            .engine
            .pull(queue, places.len(), Duration::ZERO)
            .await?;
        let found = !there.is_empty();
        for taken in there {
            self.take(queue, taken, places.pop()).await;
        }
        drop(places);
        if found {
            return Ok(());
        }
        // And without one while nothing is there, so that another queue can have it.
        for taken in self.engine.pull(queue, 1, PULL_WITHIN).await? {
            let place = Arc::clone(&self.slots).try_acquire_owned().ok();
            self.take(queue, taken, place).await;
        }
        Ok(())
    }

    /// Works on a task in a place; without one it is given back.
    async fn take(
        self: &Arc<Self>,
        queue: &Name,
        taken: Taken,
        place: Option<OwnedSemaphorePermit>,
    ) {
        let Some(place) = place else {
            // What cannot be given back comes again by itself.
            let again = Settlement::Again(Duration::ZERO);
            drop(self.engine.settle(&taken.token, again).await);
            return;
        };
        let (pool, queue) = (Arc::clone(self), queue.clone());
        self.runs.spawn("node run", async move {
            run::work(&pool, &queue, taken).await;
            drop(place);
        });
    }
}

/// See [`Pool::runs`].
pub(crate) struct Runs(Arc<Pool>, String);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.running().remove(&self.1);
    }
}
