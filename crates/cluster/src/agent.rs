//! What on each node does as the assignments say.

mod slot;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::engine::{Engine, If, Name, RENEW_EACH, Seen, Shelf};
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::{Clock, Mark};
use wiredflow_engine::held::Held;
use wiredflow_engine::tasks::Tasks;

use crate::decide::PartName;
use crate::documents::{Assignment, NodeCard};
use crate::host::Host;
use crate::leader;
use crate::memory::{self, Memory};
use crate::shelf::{Key, read, write};

use slot::{Slot, Slots};

/// How soon a node that cannot have its lease, or lost its engine, tries again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How long a node that ends waits until others have what can be moved; it is ended in good order after that all the same.
const HAND_OVER: Duration = Duration::from_secs(15);

/// A node's part in the cluster.
#[derive(Debug)]
pub struct Agent {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The node's name: one process has it at a time.
    pub node: String,
    /// What tells this process from an earlier one of the same name.
    pub instance: String,
    /// What the node says of itself; `load` and `drains` are kept up by the agent.
    pub card: NodeCard,
    /// Runs parts.
    pub host: Arc<dyn Host>,
    /// The servers of the engine, as they were named: one that finds nothing there is at the cluster that it remembers.
    pub place: String,
    /// Where it keeps what it remembers of the cluster.
    pub memory: Arc<dyn Memory>,
    /// The one clock.
    pub clock: Clock,
    /// When this process began: its wall time goes on from there, whatever is done to the machine's clock.
    pub began: Mark,
}

/// How an agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentEnd {
    /// All that could be moved was handed over, and all has ended in good order.
    Clean,
    /// Something was not handed over in time; others have it when its files are free.
    InHaste,
}

/// The lease of a node.
pub(crate) fn lease_of(node: &str) -> Result<Name> {
    Name::new(["node", node])
}

impl Agent {
    /// Takes part until `stop` fires; then hands over, and ends.
    ///
    /// While the engine is away for longer than the lease is good, all parts are ended at once, and started again when the
    /// engine is back and still says so.
    ///
    /// # Errors
    /// `Config`, where the engine refuses this node. Dropping the future ends all parts at once.
    pub async fn run(self, stop: CancellationToken) -> Result<AgentEnd> {
        let lease = lease_of(&self.node)?;
        let mut told = false;
        loop {
            let taken = tokio::select! {
                () = stop.cancelled() => return Ok(AgentEnd::Clean),
                taken = Held::take(&self.engine, &lease, &self.instance, &self.clock) => taken,
            };
            match taken {
                Ok(Some(held)) => {
                    told = false;
                    if let Some(end) = self.with_lease(held, &stop).await? {
                        return Ok(end);
                    }
                }
                Ok(None) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(
                            node = %self.node,
                            "another process has this name, or had it seconds ago: waiting for its lease"
                        );
                    }
                }
                Err(error) => self.bear(&error, &mut told)?,
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(AgentEnd::Clean),
                () = self.clock.sleep(TRY_AGAIN) => {}
            }
        }
    }

    /// An engine that is away is waited for.
    fn bear(&self, error: &Error, told: &mut bool) -> Result<()> {
        if error.kind() != wiredflow_core::ErrorKind::Remote {
            return Err(error.clone());
        }
        if !std::mem::replace(told, true) {
            tracing::warn!(node = %self.node, "the engine is away: {error}; trying again");
        }
        Ok(())
    }

    /// Works until the lease is lost (none), or the agent is stopped.
    async fn with_lease(&self, held: Held, stop: &CancellationToken) -> Result<Option<AgentEnd>> {
        let (slots, tasks) = (Slots::default(), Tasks::default());
        let _ends = Ends(tasks.clone(), slots.clone());
        let (draining, lost) = (CancellationToken::new(), held.lost().clone());
        let founding = tokio::select! {
            biased;
            () = lost.cancelled() => return Ok(None),
            founding = memory::found(&self.engine, &*self.memory, &self.host, (&self.place, self.clock.since(self.began))) => founding,
        };
        let founding = match founding {
            Ok(founding) => founding,
            Err(error) => {
                held.release().await;
                return self.bear(&error, &mut false).map(|()| None);
            }
        };
        tracing::info!(node = %self.node, "joined");
        let card = Card {
            engine: Arc::clone(&self.engine),
            card: self.card.clone(),
            name: Key::Node(self.node.clone()).name()?,
            slots: slots.clone(),
            draining: draining.clone(),
            clock: self.clock.clone(),
        };
        tasks.spawn("node card", card.show());
        tasks.spawn("leader", {
            let (engine, clock) = (Arc::clone(&self.engine), self.clock.clone());
            let (node, draining, began) = (self.instance.clone(), draining.clone(), self.began);
            async move {
                // One that drains leaves the lead to others.
                tokio::select! {
                    () = draining.cancelled() => {}
                    () = leader::lead(&engine, &node, &clock, began) => {}
                }
            }
        });
        tasks.spawn("memory", {
            let (engine, memory) = (Arc::clone(&self.engine), Arc::clone(&self.memory));
            let (place, founding, clock) =
                (self.place.clone(), founding.clone(), self.clock.clone());
            async move {
                loop {
                    let remembering =
                        memory::remember(&engine, &*memory, (&place, &founding), &clock);
                    let Err(error) = remembering.await;
                    tracing::debug!("not remembered: {error}");
                    clock.sleep(TRY_AGAIN).await;
                }
            }
        });
        let following = self.follow(&slots);
        tokio::pin!(following);
        tokio::select! {
            biased;
            () = lost.cancelled() => {}
            refused = &mut following => return refused.map(|never| match never {}),
            () = stop.cancelled() => {
                draining.cancel();
                let end = tokio::select! {
                    biased;
                    () = lost.cancelled() => None,
                    refused = &mut following => return refused.map(|never| match never {}),
                    end = self.hand_over(&slots) => Some(end),
                };
                if let Some(end) = end {
                    tasks.abort();
                    tasks.finished().await;
                    let name = Key::Node(self.node.clone()).name()?;
                    drop(self.engine.remove(Shelf::Presence, &name, If::Any).await);
                    held.release().await;
                    return Ok(Some(end));
                }
            }
        }
        // Before anything else: another may start them from now on.
        slots.drop_all();
        tracing::warn!(node = %self.node, "the lease is lost: all parts are ended at once");
        tasks.abort();
        tasks.finished().await;
        Ok(stop.is_cancelled().then_some(AgentEnd::InHaste))
    }

    /// Does as the assignments say, for ever; an error is one that does not pass.
    async fn follow(&self, slots: &Slots) -> Result<std::convert::Infallible> {
        let mut told = false;
        loop {
            if let Err(error) = self.follow_one_watch(slots, &mut told).await {
                self.bear(&error, &mut told)?;
            }
            self.clock.sleep(TRY_AGAIN).await;
        }
    }

    async fn follow_one_watch(&self, slots: &Slots, told: &mut bool) -> Result<()> {
        let below = Name::new([Key::ASSIGNMENTS])?;
        let mut watch = self.engine.watch(Shelf::Kept, Some(&below)).await?;
        let mut seen = BTreeMap::new();
        let mut is_up_to_date = false;
        loop {
            match watch.next().await? {
                Seen::UpToDate => {
                    *told = false;
                    is_up_to_date = true;
                    // What was removed while nobody watched.
                    slots.retain(|name| seen.contains_key(name));
                }
                Seen::Put(name, entry) => {
                    let Some(Key::Assignment(flow, part)) = Key::of(&name) else {
                        continue;
                    };
                    let of = (flow, part);
                    match read::<Assignment>(&name, &entry) {
                        Ok(assignment) => {
                            if !is_up_to_date {
                                seen.insert(of.clone(), ());
                            }
                            self.assigned(slots, of, (assignment, entry.revision));
                        }
                        Err(error) => tracing::error!("{error}"),
                    }
                }
                Seen::Removed(name, _) => {
                    if let Some(Key::Assignment(flow, part)) = Key::of(&name) {
                        slots.remove(&(flow, part));
                    }
                }
            }
        }
    }

    fn assigned(&self, slots: &Slots, name: PartName, wanted: (Assignment, u64)) {
        if wanted.0.node != self.node {
            return slots.remove(&name);
        }
        slots.assign(name, wanted, |name, wanted| Slot {
            engine: Arc::clone(&self.engine),
            host: Arc::clone(&self.host),
            clock: self.clock.clone(),
            node: self.node.clone(),
            name,
            wanted,
        });
    }

    /// Waits until others have what can be moved, then ends the rest in good order.
    async fn hand_over(&self, slots: &Slots) -> AgentEnd {
        let moved = tokio::select! {
            () = slots.only_pinned() => AgentEnd::Clean,
            () = self.clock.sleep(HAND_OVER) => AgentEnd::InHaste,
        };
        slots.end_all().await;
        moved
    }
}

/// Shows the node's card again and again.
struct Card {
    engine: Arc<dyn Engine>,
    card: NodeCard,
    name: Name,
    slots: Slots,
    draining: CancellationToken,
    clock: Clock,
}

impl Card {
    async fn show(self) {
        loop {
            let card = NodeCard {
                load: self.slots.load(),
                drains: self.card.drains || self.draining.is_cancelled(),
                ..self.card.clone()
            };
            let put = async {
                let text = write(&card)?;
                self.engine
                    .put(Shelf::Presence, &self.name, text, If::Any)
                    .await
            };
            if let Err(error) = put.await {
                tracing::debug!("the node's card is not shown: {error}");
            }
            let drains = card.drains;
            tokio::select! {
                () = self.draining.cancelled(), if !drains => {}
                () = self.clock.sleep(RENEW_EACH) => {}
            }
        }
    }
}

/// Ends all tasks and parts at once when it is dropped.
struct Ends(Tasks, Slots);

impl Drop for Ends {
    fn drop(&mut self) {
        self.1.drop_all();
        self.0.abort();
    }
}
