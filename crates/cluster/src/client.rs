//! What the verbs ask of a cluster: deploy, stop, see.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use wiredflow_core::engine::{Engine, If, Name, Seen, Shelf};
use wiredflow_core::{Error, Result};

use crate::documents::{Assignment, Deployed, NodeCard, Phase, Report, Wanted, Wish};
use crate::shelf::{Key, read, write};

/// How often a change is tried that others make at the same time.
const TRIES: usize = 10;

/// A cluster as it is seen from outside.
#[derive(Clone, Debug)]
pub struct Client {
    engine: Arc<dyn Engine>,
}

/// All that stands in the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The nodes that are there.
    pub nodes: BTreeMap<String, NodeCard>,
    /// The deployed flows.
    pub flows: BTreeMap<String, Deployed>,
    /// Where their parts stand and how they are, by flow and part.
    pub parts: BTreeMap<(String, String), PartStatus>,
}

/// How a part is.
#[derive(Clone, Debug, PartialEq)]
pub struct PartStatus {
    /// The node that has it; none where none can take it, or the one that has its files is away.
    pub node: Option<String>,
    /// The node that has its files.
    pub home: Option<String>,
    /// The version that it is to run.
    pub version: Option<String>,
    /// What its node says, if that is about the present assignment.
    pub phase: Option<Phase>,
    /// Whether the node is to let go of it.
    pub leaves: bool,
}

impl Status {
    /// Whether each part of a flow runs in its present version, or has run to its end.
    pub fn is_open(&self, flow: &str) -> bool {
        let Some(deployed) = self.flows.get(flow) else {
            return false;
        };
        let open = |part: &str| {
            let status = self.parts.get(&(flow.to_owned(), part.to_owned()));
            status.is_some_and(|status| {
                status.version.as_ref() == Some(&deployed.version)
                    && matches!(status.phase, Some(Phase::Open | Phase::Done))
            })
        };
        deployed.wanted == Wanted::Running && deployed.parts.iter().all(|part| open(&part.name))
    }

    /// Whether nothing of a flow runs any more.
    pub fn is_gone(&self, flow: &str) -> bool {
        let of_flow = |((of, _), status): (&(String, String), &PartStatus)| {
            of == flow && status.node.is_some()
        };
        !self.parts.iter().any(of_flow)
    }
}

impl Client {
    /// Over an engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    /// Puts a flow there, or a new version of one.
    ///
    /// # Errors
    /// As [`Engine::put`], and `Remote` where others deploy the same flow all the time.
    pub async fn deploy(&self, flow: &str, deployed: &Deployed) -> Result<()> {
        let name = Key::Flow(flow.to_owned()).name()?;
        self.engine
            .put(Shelf::Kept, &name, write(deployed)?, If::Any)
            .await
            .map(drop)
    }

    /// Changes a flow; false where there is none of that name.
    ///
    /// # Errors
    /// As [`Client::deploy`].
    pub async fn change(
        &self,
        flow: &str,
        now: Timestamp,
        change: impl Fn(&mut Deployed),
    ) -> Result<bool> {
        let name = Key::Flow(flow.to_owned()).name()?;
        for _ in 0..TRIES {
            let Some(entry) = self.engine.get(Shelf::Kept, &name).await? else {
                return Ok(false);
            };
            let mut deployed: Deployed = read(&name, &entry)?;
            change(&mut deployed);
            deployed.changed = now.max(deployed.changed);
            let condition = If::Revision(entry.revision);
            if self
                .engine
                .put(Shelf::Kept, &name, write(&deployed)?, condition)
                .await?
                .is_some()
            {
                return Ok(true);
            }
        }
        Err(Error::remote(format!(
            "others change flow `{flow}` at the same time: try again"
        )))
    }

    /// Says that a flow is not to run; its parts end in good order. False where there is none of that name.
    ///
    /// # Errors
    /// As [`Client::deploy`].
    pub async fn stop(&self, flow: &str, now: Timestamp) -> Result<bool> {
        self.change(flow, now, |deployed| {
            deployed.wanted = Wanted::Stopped;
            deployed.failure = None;
        })
        .await
    }

    /// Forgets a flow that was stopped, with the word on which nodes have its files; these stay where they are.
    ///
    /// # Errors
    /// As [`Client::deploy`]; `Config` while parts of it run.
    pub async fn forget(&self, flow: &str) -> Result<()> {
        let status = self.status().await?;
        if !status.is_gone(flow) {
            return Err(Error::config(format!(
                "flow `{flow}` runs still: stop it first"
            )));
        }
        for (of, part) in status.parts.keys().filter(|(of, _)| of == flow) {
            let home = Key::Home(of.clone(), part.clone()).name()?;
            self.engine.remove(Shelf::Kept, &home, If::Any).await?;
        }
        let name = Key::Flow(flow.to_owned()).name()?;
        self.engine
            .remove(Shelf::Kept, &name, If::Any)
            .await
            .map(drop)
    }

    /// Reads all that there is.
    ///
    /// # Errors
    /// As [`Engine::watch`].
    pub async fn status(&self) -> Result<Status> {
        let mut status = Status::default();
        let (mut assignments, mut reports, mut homes) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for shelf in [Shelf::Kept, Shelf::Presence] {
            for (name, entry) in self.entries(shelf).await? {
                match Key::of(&name) {
                    Some(Key::Flow(flow)) => drop(status.flows.insert(flow, read(&name, &entry)?)),
                    Some(Key::Assignment(flow, part)) => {
                        let assignment: Assignment = read(&name, &entry)?;
                        assignments.insert((flow, part), (assignment, entry.revision));
                    }
                    Some(Key::Report(flow, part)) => {
                        let report: Report = read(&name, &entry)?;
                        reports.insert((flow, part), report);
                    }
                    Some(Key::Node(node)) => drop(status.nodes.insert(node, read(&name, &entry)?)),
                    Some(Key::Home(flow, part)) => {
                        let home: Option<String> = serde_json::from_slice(&entry.value).ok();
                        homes.insert((flow, part), home);
                    }
                    None => {}
                }
            }
        }
        let wanted = status.flows.iter().flat_map(|(flow, deployed)| {
            let parts = deployed.parts.iter();
            parts.map(|part| (flow.clone(), part.name.clone()))
        });
        let names: Vec<_> = wanted.chain(assignments.keys().cloned()).collect();
        for name in names {
            let assigned = assignments.get(&name);
            let report: Option<&Report> = reports.get(&name);
            let report =
                report.filter(|report| assigned.is_some_and(|(_, epoch)| report.epoch == *epoch));
            let part = PartStatus {
                node: assigned.map(|(assignment, _)| assignment.node.clone()),
                home: homes.get(&name).cloned().flatten(),
                version: assigned.map(|(assignment, _)| assignment.version.clone()),
                phase: report.map(|report| report.phase.clone()),
                leaves: assigned.is_some_and(|(assignment, _)| assignment.wish == Wish::Leave),
            };
            status.parts.insert(name, part);
        }
        Ok(status)
    }

    async fn entries(&self, shelf: Shelf) -> Result<BTreeMap<Name, wiredflow_core::engine::Entry>> {
        let mut watch = self.engine.watch(shelf, None).await?;
        let mut entries = BTreeMap::new();
        loop {
            match watch.next().await? {
                Seen::Put(name, entry) => drop(entries.insert(name, entry)),
                Seen::Removed(name, _) => drop(entries.remove(&name)),
                Seen::UpToDate => return Ok(entries),
            }
        }
    }
}
