//! Links: what a pipeline hands over to another one, in one process; `far` leads them to others.
//!
//! ```text
//! stage `link` ─ share of each delivery ─> [waiting] ─> source `link` ─> [given] ─> stages ─> settled
//!      └──────────── the share is closed with the receipts of the other pipeline <──────────┘
//! ```
//!
//! The sender's delivery is settled when the receiver's is. What the receiver could not commit is given to it again when it
//! is opened anew. Nothing is kept on the disk: the source of the sender brings again what a crash has cut short.

mod far;
mod parts;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wiredflow_core::delivery::{Identity, Parcel};
use wiredflow_core::{Error, Result};

pub(crate) use far::Far;
use parts::Parts;

/// How many records wait in a link: as many as before a stage that joins what waits. A batch more may be on its way in
/// from each sender.
const ROOM: usize = 512;

/// A link as `check` has found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPlan {
    /// Its name.
    pub name: Arc<str>,
    /// The pipelines that hand over.
    pub senders: Vec<Arc<str>>,
    /// The one that takes.
    pub receiver: Arc<str>,
}

/// The links of a flow by name. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Links(Arc<BTreeMap<Arc<str>, Arc<Link>>>);

impl Links {
    /// Links into which nobody sends yet.
    pub(crate) fn of(plans: &[LinkPlan]) -> Self {
        let link = |plan: &LinkPlan| (Arc::clone(&plan.name), Link::new(plan));
        Self(Arc::new(plans.iter().map(link).collect()))
    }

    /// The link of a name.
    ///
    /// # Errors
    /// `Bug`: `check` has let through one that is not there.
    pub(crate) fn named(&self, name: &str) -> Result<Arc<Link>> {
        let link = self.0.get(name).map(Arc::clone);
        link.ok_or_else(|| Error::bug(format!("there is no link `{name}`")))
    }

    /// Holds the links open into which a pipeline sends; they end when the last such hold is dropped.
    pub(crate) fn sends(&self, pipeline: &str) -> Sends {
        let sends = |link: &&Arc<Link>| link.senders.iter().any(|sender| **sender == *pipeline);
        let links: Vec<Arc<Link>> = self.0.values().filter(sends).map(Arc::clone).collect();
        for link in &links {
            link.lock().senders += 1;
        }
        Sends(links)
    }

    /// Holds the links open that a pipeline takes from; when it is dropped, nobody will take what waits.
    pub(crate) fn takes(&self, pipeline: &str) -> Takes {
        let takes = |link: &&Arc<Link>| *link.receiver == *pipeline;
        Takes(self.0.values().filter(takes).map(Arc::clone).collect())
    }
}

/// See [`Links::sends`].
#[derive(Debug)]
pub(crate) struct Sends(Vec<Arc<Link>>);

impl Drop for Sends {
    fn drop(&mut self) {
        for link in &self.0 {
            let mut state = link.lock();
            state.senders = state.senders.saturating_sub(1);
            drop(state);
            link.changed.notify_waiters();
        }
    }
}

/// See [`Links::takes`].
#[derive(Debug)]
pub(crate) struct Takes(Vec<Arc<Link>>);

impl Drop for Takes {
    fn drop(&mut self) {
        for link in &self.0 {
            let mut state = link.lock();
            state.is_taken = false;
            state.records = 0;
            let left = std::mem::take(&mut state.waiting);
            drop(state);
            link.changed.notify_waiters();
            // Outside the lock: the books of the senders hear of it.
            let why: Arc<str> = link.nobody_takes().into();
            for item in left {
                item.parcel.lineage.explain(&why);
            }
        }
    }
}

/// One link.
pub(crate) struct Link {
    pub(crate) name: Arc<str>,
    senders: Vec<Arc<str>>,
    receiver: Arc<str>,
    state: Mutex<State>,
    /// Something came, or left, or somebody has ended: everybody looks again.
    changed: Notify,
}

struct State {
    waiting: VecDeque<Item>,
    /// What waits, in records; a batch of none counts as one.
    records: usize,
    /// How many pipelines may still send.
    senders: usize,
    is_taken: bool,
    /// The next item's number.
    next: u64,
    /// How often the receiver was opened.
    sessions: u64,
    parts: Parts,
}

/// What is handed over: the records of one delivery, or of several that cannot be told apart.
#[derive(Debug)]
pub(crate) struct Item {
    /// Counts up in the order in which they came.
    pub(crate) number: u64,
    /// The records, and the sender's shares.
    pub(crate) parcel: Parcel,
    /// What it is known by when it comes again.
    pub(crate) identity: Option<Identity>,
}

impl Item {
    fn weight(&self) -> usize {
        self.parcel.batch.len().max(1)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.name)
    }
}

impl Link {
    fn new(plan: &LinkPlan) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::clone(&plan.name),
            senders: plan.senders.clone(),
            receiver: Arc::clone(&plan.receiver),
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                records: 0,
                senders: 0,
                is_taken: true,
                next: 0,
                sessions: 0,
                parts: Parts::default(),
            }),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until<T>(&self, look: impl Fn(&mut State) -> Option<T>) -> T {
        loop {
            // It hears of every change since it was made, polled or not.
            let changed = self.changed.notified();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    fn nobody_takes(&self) -> String {
        format!(
            "pipeline `{}`, which takes from link `{}`, has ended",
            self.receiver, self.name
        )
    }

    /// Waits while the link is full.
    ///
    /// # Errors
    /// `Remote`, when the receiver has ended for good.
    pub(crate) async fn room(&self) -> Result<()> {
        let looked = self.until(|state| match state.is_taken {
            false => Some(false),
            true => (state.records < ROOM).then_some(true),
        });
        match looked.await {
            true => Ok(()),
            false => Err(Error::remote(self.nobody_takes())),
        }
    }

    /// Hands parcels over, in this order. What nobody will take any more is dropped: lost, as it should be.
    pub(crate) fn put(&self, parcels: Vec<Parcel>) {
        let mut state = self.lock();
        if !state.is_taken {
            drop(state);
            let why: Arc<str> = self.nobody_takes().into();
            parcels
                .iter()
                .for_each(|parcel| parcel.lineage.explain(&why));
            return;
        }
        for parcel in parcels {
            let mark = parcel.lineage.mark_of(None);
            let identity = mark.and_then(|mark| state.parts.next(mark));
            let number = state.next;
            state.next += 1;
            let item = Item {
                number,
                parcel,
                identity,
            };
            state.records += item.weight();
            state.waiting.push_back(item);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Opens the receiver's side; gives the number of its session.
    pub(crate) fn open(&self) -> u64 {
        let mut state = self.lock();
        state.sessions += 1;
        state.sessions
    }

    /// Waits for items and takes them, `most` at most; none when there will be no more. Dropping the future loses nothing.
    pub(crate) async fn take(&self, most: usize) -> Vec<Item> {
        let taken = self.until(|state| {
            if state.waiting.is_empty() {
                return (state.senders == 0).then(Vec::new);
            }
            let number = most.min(state.waiting.len());
            let taken: Vec<Item> = state.waiting.drain(..number).collect();
            state.records -= taken.iter().map(Item::weight).sum::<usize>();
            Some(taken)
        });
        let taken = taken.await;
        self.changed.notify_waiters();
        taken
    }

    /// Puts items back that were taken and not dealt with, before all others; `items` are in order. Whoever gets them has
    /// had them before.
    pub(crate) fn put_back(&self, items: impl DoubleEndedIterator<Item = Item>) {
        let mut state = self.lock();
        let mut dropped = Vec::new();
        for mut item in items.rev() {
            if !state.is_taken {
                dropped.push(item);
                continue;
            }
            if let Some(identity) = &mut item.identity {
                identity.again = true;
            }
            state.records += item.weight();
            state.waiting.push_front(item);
        }
        drop(state);
        self.changed.notify_waiters();
    }
}
