//! An engine in memory that keeps every promise of the contract, and breaks connections when it is told to.
//!
//! Its time is tokio's clock, so that a test with paused time passes hours in a moment. Many clients share one [`Model`];
//! each sees only its own faults. Chance comes from the seed, and the same seed gives the same faults for the same calls.

mod leases;
mod queues;
mod shelves;
mod talk;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use wiredflow_core::engine::{
    ANSWER_WITHIN, About, Engine, Entry, If, Lease, Listener, Name, Published, QueueRules,
    Settlement, Shelf, Taken, TakenToken, Watch,
};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};

use crate::wait::Chance;

/// The longest message of a model.
const LONGEST: usize = 1 << 20;

/// What goes wrong by chance, of the calls of each client that has them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mishaps {
    /// Calls take up to so long.
    pub delay: Duration,
    /// So many of a hundred answers are lost after the deed was done.
    pub lost_answers: u32,
    /// So many of a hundred calls fail before anything was done.
    pub refused: u32,
    /// So many of a hundred messages that are given are given to another too.
    pub twice: u32,
}

/// A model of an engine and all that it holds. A cheap clone.
#[derive(Clone)]
pub struct Model(Arc<World>);

struct World {
    seed: u64,
    state: Mutex<State>,
    /// Grows with each change, for those who wait for one.
    changed: watch::Sender<u64>,
    about: About,
}

struct State {
    chance: Chance,
    /// Grows with each change, over everything and over the loss of the store.
    revision: u64,
    mishaps: HashMap<String, Mishaps>,
    cut: HashSet<String>,
    /// How often the store was lost.
    wipes: u64,
    queues: BTreeMap<Name, queues::Queue>,
    shelves: [shelves::Entries; 2],
    leases: BTreeMap<Name, leases::Held>,
    blobs: BTreeMap<Name, Bytes>,
    talk: talk::Talk,
}

/// One process's way to the model.
#[derive(Clone)]
struct Client {
    world: Arc<World>,
    name: Arc<str>,
}

impl Model {
    /// An engine that holds nothing.
    pub fn new(seed: u64) -> Self {
        let about = About {
            server: "model".to_owned(),
            replicas: 1,
            longest: LONGEST,
            weaknesses: Vec::new(),
        };
        Self(Arc::new(World {
            seed,
            state: Mutex::new(State {
                chance: Chance::of(seed),
                revision: 0,
                mishaps: HashMap::new(),
                cut: HashSet::new(),
                wipes: 0,
                queues: BTreeMap::new(),
                shelves: Default::default(),
                leases: BTreeMap::new(),
                blobs: BTreeMap::new(),
                talk: talk::Talk::default(),
            }),
            changed: watch::channel(0).0,
            about,
        }))
    }

    /// The seed, for the message of a test that fails.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// A connection of a process of this name. Two of one name have the same faults.
    pub fn client(&self, name: &str) -> Arc<dyn Engine> {
        Arc::new(Client {
            world: Arc::clone(&self.0),
            name: name.into(),
        })
    }

    /// What goes wrong by chance for a client from now on.
    pub fn mishaps(&self, client: &str, mishaps: Mishaps) {
        self.0.change(|state| {
            state.mishaps.insert(client.to_owned(), mishaps);
        });
    }

    /// Cuts a client off: its calls fail after their time, what it asks and answers is lost, its watches and listeners end.
    pub fn cut(&self, client: &str) {
        self.0.change(|state| {
            state.cut.insert(client.to_owned());
            state.talk.end_of(client);
        });
    }

    /// Joins a client again.
    pub fn mend(&self, client: &str) {
        self.0.change(|state| {
            state.cut.remove(client);
        });
    }

    /// Loses all that is stored: queues, entries, leases and blobs. Connections stay.
    pub fn wipe(&self) {
        self.0.change(|state| {
            state.wipes += 1;
            state.queues.values_mut().for_each(queues::Queue::lose);
            state.shelves = Default::default();
            state.leases.clear();
            state.blobs.clear();
        });
    }

    /// Gives all messages that are taken to others at once, as if their takers had been silent.
    pub fn expire(&self) {
        self.0.change(|state| {
            for queue in state.queues.values_mut() {
                queue.expire();
            }
        });
    }

    /// How many messages are in all queues together.
    pub fn messages(&self) -> usize {
        let state = self.0.lock();
        state.queues.values().map(queues::Queue::len).sum()
    }

    /// The names of all blobs.
    pub fn blobs(&self) -> Vec<Name> {
        self.0.lock().blobs.keys().cloned().collect()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model(SEED={})", self.0.seed)
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, and wakes those who wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
        result
    }
}

impl State {
    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn mishaps_of(&self, client: &str) -> Mishaps {
        self.mishaps.get(client).copied().unwrap_or_default()
    }

    fn happens(&mut self, percent: u32) -> bool {
        percent > 0 && self.chance.below(100) < percent as usize
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} of SEED={})", self.name, self.world.seed)
    }
}

fn away() -> Error {
    Error::remote("the engine does not answer")
}

impl Client {
    fn is_cut(&self) -> bool {
        self.world.lock().cut.contains(&*self.name)
    }

    /// The way there: it takes its time, and may be cut or lead nowhere.
    async fn go(&self) -> Result<()> {
        let (delay, refused) = {
            let mut state = self.world.lock();
            let mishaps = state.mishaps_of(&self.name);
            let most = usize::try_from(mishaps.delay.as_micros()).unwrap_or(usize::MAX - 1);
            let delay = Duration::from_micros(state.chance.below(most + 1) as u64);
            (delay, state.happens(mishaps.refused))
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if self.is_cut() || refused {
            sleep(ANSWER_WITHIN).await;
            return Err(away());
        }
        Ok(())
    }

    /// The way back: the answer may be lost, though all was done.
    async fn back<T>(&self, answer: T) -> Result<T> {
        let lost = {
            let mut state = self.world.lock();
            let mishaps = state.mishaps_of(&self.name);
            state.happens(mishaps.lost_answers)
        };
        if lost || self.is_cut() {
            sleep(ANSWER_WITHIN).await;
            return Err(away());
        }
        Ok(answer)
    }

    /// A call: there, the deed, and back.
    async fn call<T>(&self, deed: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.go().await?;
        let answer = self.world.change(deed)?;
        self.back(answer).await
    }

    /// Waits until `look` finds something, `within` this time: it is looked again after each change, and at the moment that
    /// `look` names.
    async fn wait_for<T>(
        &self,
        within: Duration,
        mut look: impl FnMut(&mut State) -> Look<T>,
    ) -> Option<T> {
        let mut changes = self.world.changed.subscribe();
        let found = async {
            loop {
                changes.mark_unchanged();
                let next = match look(&mut self.world.lock()) {
                    Look::Found(found) => return found,
                    Look::Again(next) => next,
                };
                let changed = async { drop(changes.changed().await) };
                match next {
                    Some(next) => drop(timeout(next, changed).await),
                    None => changed.await,
                }
            }
        };
        timeout(within, found).await.ok()
    }
}

/// What a look has found.
enum Look<T> {
    Found(T),
    /// Nothing yet; after this time there may be something without a change.
    Again(Option<Duration>),
}

fn boxed<'a, T>(call: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    Box::pin(call)
}

impl Engine for Client {
    fn about(&self) -> &About {
        &self.world.about
    }

    fn open_queue<'a>(&'a self, queue: &'a Name, rules: QueueRules) -> BoxFuture<'a, Result<()>> {
        boxed(self.call(move |state| state.open_queue(queue, rules)))
    }

    fn publish<'a>(
        &'a self,
        queue: &'a Name,
        id: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Published>> {
        boxed(self.call(move |state| state.publish(queue, id, body)))
    }

    fn pull<'a>(
        &'a self,
        queue: &'a Name,
        most: usize,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>>> {
        boxed(self.pull_from(queue, most, within))
    }

    fn extend<'a>(&'a self, taken: &'a TakenToken) -> BoxFuture<'a, Result<()>> {
        boxed(self.call(move |state| state.extend(taken)))
    }

    fn settle<'a>(&'a self, taken: &'a TakenToken, how: Settlement) -> BoxFuture<'a, Result<()>> {
        boxed(self.call(move |state| state.settle(taken, how)))
    }

    fn spent<'a>(&'a self, queue: &'a Name, most: usize) -> BoxFuture<'a, Result<Vec<Taken>>> {
        boxed(self.call(move |state| state.spent(queue, most)))
    }

    fn waiting<'a>(&'a self, queue: &'a Name) -> BoxFuture<'a, Result<u64>> {
        boxed(self.call(move |state| state.waiting(queue)))
    }

    fn remove_queue<'a>(&'a self, queue: &'a Name) -> BoxFuture<'a, Result<()>> {
        boxed(self.call(move |state| {
            state.queues.remove(queue);
            Ok(())
        }))
    }

    fn get<'a>(&'a self, shelf: Shelf, name: &'a Name) -> BoxFuture<'a, Result<Option<Entry>>> {
        boxed(self.call(move |state| Ok(state.shelf(shelf).get(name))))
    }

    fn put<'a>(
        &'a self,
        shelf: Shelf,
        name: &'a Name,
        value: Bytes,
        condition: If,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        boxed(self.call(move |state| state.put(shelf, name, value, condition)))
    }

    fn remove<'a>(
        &'a self,
        shelf: Shelf,
        name: &'a Name,
        condition: If,
    ) -> BoxFuture<'a, Result<bool>> {
        boxed(self.call(move |state| Ok(state.remove(shelf, name, condition))))
    }

    fn watch<'a>(
        &'a self,
        shelf: Shelf,
        below: Option<&'a Name>,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        boxed(self.watch_of(shelf, below.cloned()))
    }

    fn acquire<'a>(
        &'a self,
        name: &'a Name,
        holder: &'a str,
    ) -> BoxFuture<'a, Result<Option<Lease>>> {
        boxed(self.call(move |state| state.acquire(name, holder)))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Option<Lease>>> {
        boxed(self.call(move |state| Ok(state.renew(lease))))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        boxed(self.call(move |state| {
            state.release(lease);
            Ok(())
        }))
    }

    fn holder<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Arc<str>>>> {
        boxed(self.call(move |state| Ok(state.holder(name))))
    }

    fn put_blob<'a>(&'a self, name: &'a Name, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        boxed(self.call(move |state| {
            state.blobs.insert(name.clone(), bytes);
            Ok(())
        }))
    }

    fn get_blob<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Bytes>>> {
        boxed(self.call(move |state| Ok(state.blobs.get(name).cloned())))
    }

    fn remove_blob<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        boxed(self.call(move |state| {
            state.blobs.remove(name);
            Ok(())
        }))
    }

    fn ask<'a>(
        &'a self,
        address: &'a Name,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'a, Result<Bytes>> {
        boxed(self.ask_at(address, body, within))
    }

    fn listen<'a>(&'a self, address: &'a Name) -> BoxFuture<'a, Result<Box<dyn Listener>>> {
        boxed(self.listen_at(address))
    }
}
