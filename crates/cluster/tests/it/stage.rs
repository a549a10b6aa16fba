//! Nodes whose parts are played, and what must never happen on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wiredflow_cluster::{
    Agent, AgentEnd, Client, Deployed, FORMAT, Host, Memory, NodeCard, Part, PartEnd, PartPhase,
    PartSpec, PartStart, Wanted,
};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::{Clock, Mark};
use wiredflow_testkit::{Chance, Model};

/// What is true of all nodes together.
#[derive(Default)]
pub(crate) struct World {
    /// Which nodes run each part, and with which epochs.
    running: BTreeMap<(String, String), Vec<(String, u64)>>,
    /// The highest epoch that each part ever had.
    epochs: BTreeMap<(String, String), u64>,
    /// How often each part was started.
    pub(crate) starts: BTreeMap<(String, String), usize>,
    /// What must never happen, and did.
    pub(crate) wrong: Vec<String>,
    /// Parts that fail when they are started.
    pub(crate) broken: BTreeSet<String>,
}

/// A world and its engine.
#[derive(Clone)]
pub(crate) struct Play {
    pub(crate) model: Model,
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) chance: Arc<Mutex<Chance>>,
    memories: Arc<Mutex<BTreeMap<String, Bytes>>>,
    began: Mark,
}

/// What a node of this name remembers, over all of its lives.
struct Remembers(String, Play);

impl std::fmt::Debug for Remembers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Memory for Remembers {
    fn recall(&self) -> Option<Bytes> {
        self.1.memories().get(&self.0).cloned()
    }

    fn keep(&self, bytes: Bytes) {
        self.1.memories().insert(self.0.clone(), bytes);
    }
}

impl Play {
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            model: Model::new(seed),
            world: Arc::default(),
            chance: Arc::new(Mutex::new(Chance::of(seed ^ 1))),
            memories: Arc::default(),
            began: Clock::real().mark(),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memories(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn below(&self, end: usize) -> usize {
        self.chance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .below(end)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.model.client("test"))
    }

    /// A node that joins; its client has its name.
    pub(crate) fn node(&self, name: &str, instance: usize) -> Node {
        self.node_with(name, instance, &[])
    }

    pub(crate) fn node_with(&self, name: &str, instance: usize, labels: &[&str]) -> Node {
        let agent = Agent {
            engine: self.model.client(name),
            node: name.to_owned(),
            instance: format!("{name}-{instance}"),
            card: card(labels),
            host: Arc::new(Played {
                node: name.to_owned(),
                play: self.clone(),
            }),
            place: "here".to_owned(),
            memory: Arc::new(Remembers(name.to_owned(), self.clone())),
            clock: Clock::real(),
            began: self.began,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(agent.run(stop.clone()));
        Node {
            name: name.to_owned(),
            stop,
            running,
        }
    }

    /// Where each part runs.
    pub(crate) fn running(&self) -> BTreeMap<String, Vec<String>> {
        let world = self.world();
        let running = world.running.iter().filter(|(_, nodes)| !nodes.is_empty());
        let names =
            |nodes: &Vec<(String, u64)>| nodes.iter().map(|(node, _)| node.clone()).collect();
        running
            .map(|((flow, part), nodes)| (format!("{flow}/{part}"), names(nodes)))
            .collect()
    }

    /// Waits until something is so, by the clock of the play.
    pub(crate) async fn until(
        &self,
        limit: u64,
        what: &str,
        is_so: impl AsyncFn() -> bool,
    ) -> Duration {
        let clock = Clock::real();
        let begin = clock.monotonic();
        while !is_so().await {
            let passed = clock.monotonic() - begin;
            assert!(
                passed < Duration::from_secs(limit),
                "SEED={}: after {limit}s not so: {what}; running: {:?}; {:#?}",
                self.model.seed(),
                self.running(),
                self.client().status().await
            );
            clock.sleep(Duration::from_millis(100)).await;
        }
        clock.monotonic() - begin
    }

    /// Waits until a flow is open, and looks that each part runs once.
    pub(crate) async fn open(&self, limit: u64, flow: &str) -> Duration {
        let passed = self
            .until(limit, "the flow is open", async || {
                let status = self.client().status().await;
                let open = status.is_ok_and(|status| status.is_open(flow));
                open && self.world().running.values().all(|nodes| nodes.len() <= 1)
            })
            .await;
        let world = self.world();
        assert!(
            world.wrong.is_empty(),
            "SEED={}: {:#?}",
            self.model.seed(),
            world.wrong
        );
        passed
    }
}

pub(crate) fn card(labels: &[&str]) -> NodeCard {
    NodeCard {
        format: FORMAT,
        program: "test".to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        cores: 4,
        memory_mib: 4096,
        speed: 1.0,
        load: BTreeMap::new(),
        since: Timestamp::UNIX_EPOCH,
        drains: false,
    }
}

/// A flow of so many parts, each of one pipeline.
pub(crate) fn flow(version: &str, parts: usize) -> Deployed {
    let part = |number: usize| PartSpec {
        name: format!("p{number}"),
        pipelines: vec![format!("p{number}")],
        pinned_by: Vec::new(),
        labels: BTreeSet::new(),
        cores: 0.1,
    };
    Deployed {
        format: FORMAT,
        version: version.to_owned(),
        wanted: Wanted::Running,
        failure: None,
        parts: (0..parts).map(part).collect(),
        deployed: Timestamp::UNIX_EPOCH,
        changed: Timestamp::UNIX_EPOCH,
        by: "test".to_owned(),
    }
}

/// A node of a play. Dropping it is a kill.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<AgentEnd>>,
}

impl Node {
    /// Ends in good order.
    pub(crate) async fn end(mut self) -> AgentEnd {
        self.stop.cancel();
        (&mut self.running).await.unwrap().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Plays parts.
struct Played {
    node: String,
    play: Play,
}

impl std::fmt::Debug for Played {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Played")
    }
}

impl Host for Played {
    fn give_back<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn start(&self, part: PartStart) -> BoxFuture<'_, Result<Box<dyn Part>>> {
        Box::pin(async move {
            let clock = Clock::real();
            let fetch = self.play.below(500) as u64;
            clock.sleep(Duration::from_millis(fetch)).await;
            if self.play.world().broken.contains(&part.part) {
                return Err(Error::config("it is broken"));
            }
            let name = (part.flow.clone(), part.part.clone());
            {
                let mut world = self.play.world();
                *world.starts.entry(name.clone()).or_default() += 1;
                let epoch = world.epochs.entry(name.clone()).or_default();
                let highest = *epoch;
                *epoch = highest.max(part.epoch.0);
                let mine = (self.node.clone(), part.epoch.0);
                let others = world.running.entry(name.clone()).or_default();
                let found = others.clone();
                others.push(mine);
                if !found.is_empty() {
                    let what =
                        format!("{name:?} runs on {found:?} and is started on {}", self.node);
                    world.wrong.push(what);
                }
                if part.epoch.0 < highest {
                    let what = format!("{name:?} is started with {} after {highest}", part.epoch.0);
                    world.wrong.push(what);
                }
            }
            let (phase, _) = watch::channel(PartPhase::Opening);
            let playing = Playing {
                name,
                mine: (self.node.clone(), part.epoch.0),
                play: self.play.clone(),
                phase: phase.clone(),
                stop: CancellationToken::new(),
            };
            let opening = self.play.below(1_000) as u64;
            tokio::spawn(async move {
                clock.sleep(Duration::from_millis(opening)).await;
                phase.send_replace(PartPhase::Open);
            });
            Ok(Box::new(playing) as Box<dyn Part>)
        })
    }
}

struct Playing {
    name: (String, String),
    mine: (String, u64),
    play: Play,
    phase: watch::Sender<PartPhase>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Playing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

impl Part for Playing {
    fn phase(&self) -> watch::Receiver<PartPhase> {
        self.phase.subscribe()
    }

    fn cores(&self) -> f64 {
        0.0
    }

    fn stop(&self) {
        self.stop.cancel();
    }

    fn ended(&mut self) -> BoxFuture<'_, PartEnd> {
        Box::pin(async {
            self.stop.cancelled().await;
            let grace = self.play.below(3_000) as u64;
            Clock::real().sleep(Duration::from_millis(grace)).await;
            PartEnd::Well
        })
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        let mut world = self.play.world();
        if let Some(running) = world.running.get_mut(&self.name) {
            running.retain(|one| *one != self.mine);
        }
    }
}
