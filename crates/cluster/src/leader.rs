//! The leader: sees what there is, and writes where parts stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_core::engine::{Engine, Entry, If, LEASE, Name, RENEW_EACH, Seen, Shelf, Watch};
use wiredflow_core::{Error, ErrorKind, Result};
use wiredflow_engine::clock::{Clock, Mark};
use wiredflow_engine::held::Held;

use crate::agent::lease_of;
use crate::decide::{Action, PartName, View, decide};
use crate::documents::{Assignment, Deployed, NodeCard, Report};
use crate::memory::Founding;
use crate::shelf::{Key, read, write};

/// How often a node looks whether somebody leads, and a leader whether nodes are there.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// How long a new leader gives parts that stand nowhere to nobody: all nodes may have started together. Where the engine may
/// have lost what it kept, leases too, it is as long as a lease: owners of before end their parts in that time.
const SETTLING: Duration = Duration::from_secs(3);

/// A node that has shown its card within this time is there.
const FRESH: Duration = Duration::from_secs(RENEW_EACH.as_secs() + 1);

/// Leads whenever nobody else does, for ever. Dropping the future gives the lead back by letting its lease run out.
///
/// `process` is when this process began.
pub async fn lead(engine: &Arc<dyn Engine>, node: &str, clock: &Clock, process: Mark) {
    let mut said = None;
    loop {
        match lead_once(engine, node, clock, process).await {
            Ok(()) => said = None,
            Err(error) => {
                let words = error.message().to_owned();
                if error.kind() == ErrorKind::Remote {
                    tracing::debug!("not leading: {words}");
                } else if said.as_ref() != Some(&words) {
                    tracing::error!("cannot lead: {words}");
                    said = Some(words);
                }
            }
        }
        clock.sleep(LOOK_EACH).await;
    }
}

/// Leads until the lease is lost, if it can be had.
async fn lead_once(
    engine: &Arc<dyn Engine>,
    node: &str,
    clock: &Clock,
    process: Mark,
) -> Result<()> {
    let Some(held) = Held::take(engine, &Name::new(["leader"])?, node, clock).await? else {
        return Ok(());
    };
    tracing::info!("this node leads");
    let leading = async {
        let mut leader = Leader::begin(engine, clock, process).await?;
        leader.go_on().await
    };
    let lost = held.lost().clone();
    let led: Result<()> = tokio::select! {
        biased;
        () = lost.cancelled() => Ok(()),
        led = leading => led,
    };
    held.release().await;
    led
}

struct Leader<'e> {
    engine: &'e Arc<dyn Engine>,
    clock: &'e Clock,
    kept: Box<dyn Watch>,
    presence: Box<dyn Watch>,
    view: View,
    /// The cards of nodes, and when they were seen.
    cards: BTreeMap<String, (NodeCard, Instant)>,
    /// Nodes that had no lease when they were last looked at.
    gone: BTreeSet<String>,
    /// When parts that stand nowhere are given away.
    settled: Instant,
    /// The newest change of each entry that is known.
    revisions: BTreeMap<Key, u64>,
}

impl<'e> Leader<'e> {
    /// Reads all that there is.
    async fn begin(engine: &'e Arc<dyn Engine>, clock: &'e Clock, process: Mark) -> Result<Self> {
        let founding = Founding::standing(engine).await?;
        let is_young = founding.is_none_or(|founding| founding.is_young(clock.since(process)));
        let settling = if is_young { LEASE } else { SETTLING };
        let below = Name::new([Key::NODES])?;
        let mut leader = Self {
            engine,
            clock,
            kept: engine.watch(Shelf::Kept, None).await?,
            presence: engine.watch(Shelf::Presence, Some(&below)).await?,
            view: View::default(),
            cards: BTreeMap::new(),
            gone: BTreeSet::new(),
            settled: clock.monotonic() + settling,
            revisions: BTreeMap::new(),
        };
        loop {
            match leader.kept.next().await? {
                Seen::UpToDate => break,
                seen => leader.sees(seen),
            }
        }
        loop {
            match leader.presence.next().await? {
                Seen::UpToDate => break,
                seen => leader.sees(seen),
            }
        }
        Ok(leader)
    }

    async fn go_on(&mut self) -> Result<()> {
        loop {
            self.look_for_nodes().await;
            self.view.is_settling = self.clock.monotonic() < self.settled;
            for action in decide(&self.view) {
                self.act(action).await?;
            }
            // Changes come in flocks: all that are there are taken before the next decision.
            let tick = self.clock.sleep(LOOK_EACH);
            let seen = tokio::select! {
                seen = self.kept.next() => Some(seen?),
                seen = self.presence.next() => Some(seen?),
                () = tick => None,
            };
            let Some(seen) = seen else { continue };
            self.sees(seen);
            loop {
                let more = tokio::select! {
                    biased;
                    seen = self.kept.next() => seen?,
                    seen = self.presence.next() => seen?,
                    () = tokio::task::yield_now() => break,
                };
                self.sees(more);
            }
        }
    }

    fn sees(&mut self, seen: Seen) {
        match seen {
            Seen::Put(name, entry) => {
                let Some(key) = Key::of(&name) else { return };
                let known = self.revisions.entry(key.clone()).or_default();
                if matches!(key, Key::Node(_)) || *known < entry.revision {
                    *known = entry.revision;
                    if let Err(error) = self.put(key, &name, &entry) {
                        tracing::error!("{error}");
                    }
                }
            }
            Seen::Removed(name, revision) => {
                let Some(key) = Key::of(&name) else { return };
                let known = self.revisions.entry(key.clone()).or_default();
                if *known < revision {
                    *known = revision;
                    self.removed(&key);
                }
            }
            Seen::UpToDate => {}
        }
    }

    fn put(&mut self, key: Key, name: &Name, entry: &Entry) -> Result<()> {
        let view = &mut self.view;
        match key {
            Key::Flow(flow) => {
                let deployed: Deployed = read(name, entry)?;
                view.flows.insert(flow, (deployed, entry.revision));
            }
            Key::Assignment(flow, part) => {
                let assignment: Assignment = read(name, entry)?;
                view.assignments
                    .insert((flow, part), (assignment, entry.revision));
            }
            Key::Report(flow, part) => {
                let report: Report = read(name, entry)?;
                view.reports.insert((flow, part), report);
            }
            Key::Home(flow, part) => {
                let node = serde_json::from_slice(&entry.value);
                let node = node.map_err(|error| {
                    Error::config(format!("the entry `{name}` cannot be read: {error}"))
                })?;
                view.homes.insert((flow, part), node);
            }
            Key::Node(node) => {
                let card: NodeCard = read(name, entry)?;
                self.gone.remove(&node);
                self.cards.insert(node, (card, self.clock.monotonic()));
            }
        }
        Ok(())
    }

    fn removed(&mut self, key: &Key) {
        let name = |flow: &String, part: &String| (flow.clone(), part.clone());
        match key {
            Key::Flow(flow) => drop(self.view.flows.remove(flow)),
            Key::Assignment(flow, part) => drop(self.view.assignments.remove(&name(flow, part))),
            Key::Report(flow, part) => drop(self.view.reports.remove(&name(flow, part))),
            Key::Home(flow, part) => drop(self.view.homes.remove(&name(flow, part))),
            Key::Node(node) => drop(self.cards.remove(node)),
        }
    }

    /// Tells nodes that are there from those that are gone: that is for their leases to say.
    async fn look_for_nodes(&mut self) {
        let now = self.clock.monotonic();
        let is_fresh = |node: &str, cards: &BTreeMap<String, (NodeCard, Instant)>| {
            cards.get(node).is_some_and(|(_, seen)| now - *seen < FRESH)
        };
        let assigned = self
            .view
            .assignments
            .values()
            .map(|(assignment, _)| assignment.node.clone());
        let named: BTreeSet<String> = assigned.chain(self.cards.keys().cloned()).collect();
        self.view.doubtful.clear();
        for node in named {
            if is_fresh(&node, &self.cards) || self.gone.contains(&node) {
                continue;
            }
            let holder = match lease_of(&node) {
                Ok(lease) => self.engine.holder(&lease).await,
                Err(error) => Err(error),
            };
            match holder {
                Ok(None) => {
                    tracing::warn!(%node, "it is gone");
                    self.cards.remove(&node);
                    self.gone.insert(node);
                }
                Ok(Some(_)) | Err(_) => drop(self.view.doubtful.insert(node)),
            }
        }
        let there = self
            .cards
            .iter()
            .filter(|(node, (_, seen))| now - *seen < LEASE && !self.view.doubtful.contains(*node));
        self.view.nodes = there
            .map(|(node, (card, _))| (node.clone(), card.clone()))
            .collect();
    }

    async fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Assign(name, assignment, condition) => {
                self.assign(name, assignment, condition).await
            }
            Action::Remove(name, revision) => self.remove(name, revision).await,
            Action::Home(name, node) => {
                let key = Key::Home(name.0.clone(), name.1.clone());
                let text = write(&node)?;
                self.engine
                    .put(Shelf::Kept, &key.name()?, text, If::Any)
                    .await?;
                self.view.homes.insert(name, node);
                Ok(())
            }
            Action::Fail(flow, deployed, revision) => {
                tracing::error!(%flow, "it is stopped: {}", deployed.failure.as_deref().unwrap_or_default());
                let name = Key::Flow(flow.clone()).name()?;
                let condition = If::Revision(revision);
                let put = self
                    .engine
                    .put(Shelf::Kept, &name, write(&*deployed)?, condition)
                    .await?;
                if let Some(revision) = put {
                    self.revisions.insert(Key::Flow(flow.clone()), revision);
                    self.view.flows.insert(flow, (*deployed, revision));
                }
                Ok(())
            }
        }
    }

    async fn assign(
        &mut self,
        name: PartName,
        assignment: Assignment,
        condition: If,
    ) -> Result<()> {
        let (flow, part) = name.clone();
        let key = Key::Assignment(flow.clone(), part.clone());
        let text = write(&assignment)?;
        let put = self
            .engine
            .put(Shelf::Kept, &key.name()?, text, condition)
            .await?;
        // Where another was first the watch tells what he has written.
        if let Some(revision) = put {
            tracing::info!(%flow, %part, node = %assignment.node, wish = ?assignment.wish, "assigned");
            self.revisions.insert(key, revision);
            self.view.assignments.insert(name, (assignment, revision));
        }
        Ok(())
    }

    async fn remove(&mut self, name: PartName, revision: u64) -> Result<()> {
        let (flow, part) = name.clone();
        let report = Key::Report(flow.clone(), part.clone());
        let key = Key::Assignment(flow, part);
        let condition = If::Revision(revision);
        if self
            .engine
            .remove(Shelf::Kept, &key.name()?, condition)
            .await?
        {
            self.view.assignments.remove(&name);
            self.engine
                .remove(Shelf::Kept, &report.name()?, If::Any)
                .await?;
            self.view.reports.remove(&name);
        }
        Ok(())
    }
}
