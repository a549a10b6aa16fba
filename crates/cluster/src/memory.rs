//! What outlives the engine's store: a node remembers the flows of its cluster, and puts them back when they are gone.
//!
//! An engine may lose all that it has kept. The service is not in it: code is in the nodes' folders, data in storages and at
//! sources. So every node keeps a copy of what was deployed and of which node has whose files, and the first that finds
//! nothing there founds the cluster anew. Each founding has a higher number than the one before, by which a node knows that it
//! has to put back what it remembers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wiredflow_core::engine::{Engine, If, Name, Seen, Shelf};
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::{Clock, Dice};

use crate::decide::PartName;
use crate::documents::{Deployed, FORMAT};
use crate::host::Host;
use crate::shelf::{Key, read, write};

/// How long changes are gathered before they are written.
const GATHER: Duration = Duration::from_millis(500);

/// A founding that may be younger than this is taken for young.
const YOUNG: Duration = Duration::from_secs(600);

/// How often a founding is tried that others do at the same time.
const TRIES: usize = 10;

/// Where a node keeps what it remembers.
pub trait Memory: Send + Sync + fmt::Debug + 'static {
    /// What was kept last; none at first.
    fn recall(&self) -> Option<Bytes>;

    /// Keeps this in its place, whole or not at all.
    fn keep(&self, bytes: Bytes);
}

/// The beginning of a cluster, as it stands in the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founding {
    format: u32,
    /// Tells this cluster from others.
    id: String,
    /// Grows each time it is founded anew.
    number: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// The servers of the engine, as they were named.
    place: String,
    founding: Founding,
    flows: BTreeMap<String, Deployed>,
    homes: Vec<(PartName, String)>,
}

/// Finds the cluster's founding, or founds it, and puts back what is gone.
pub(crate) async fn found(
    engine: &Arc<dyn Engine>,
    memory: &dyn Memory,
    host: &Arc<dyn Host>,
    (place, now): (&str, Timestamp),
) -> Result<Founding> {
    let remembered = recall(memory);
    let name = Name::new(["cluster"])?;
    for _ in 0..TRIES {
        if let Some(entry) = engine.get(Shelf::Kept, &name).await? {
            let founding: Founding = read(&name, &entry)?;
            if let Some(remembered) = &remembered
                // One that remembers nothing may have founded it, under another id.
                && (remembered.founding.id == founding.id || remembered.place == place)
                && remembered.founding.number < founding.number
            {
                put_back(engine, remembered, host).await?;
            }
            return Ok(founding);
        }
        let known = remembered.as_ref().map(|remembered| &remembered.founding);
        let founding = Founding {
            format: FORMAT,
            id: known.map_or_else(
                || format!("{:016x}", Dice::from_system().number()),
                |known| known.id.clone(),
            ),
            number: number_at(now).max(known.map_or(0, |known| known.number + 1)),
        };
        let put = engine
            .put(Shelf::Kept, &name, write(&founding)?, If::Absent)
            .await?;
        if put.is_some() {
            if let Some(remembered) = &remembered {
                tracing::warn!(
                    "the engine has lost what it kept: flows are put back as this node remembers them"
                );
                put_back(engine, remembered, host).await?;
            }
            return Ok(founding);
        }
    }
    Err(Error::remote("others found the cluster at the same time"))
}

/// Foundings are numbered by their time in seconds, so that one that remembers nothing has a higher number too.
fn number_at(now: Timestamp) -> u64 {
    u64::try_from(now.as_second()).unwrap_or_default()
}

impl Founding {
    /// Whether it may be so young that owners of before, whose leases were lost with all else, have not noticed yet. Machines'
    /// clocks may differ by some minutes.
    pub(crate) fn is_young(&self, now: Timestamp) -> bool {
        number_at(now).abs_diff(self.number) < YOUNG.as_secs()
    }

    /// The one that stands in the engine.
    pub(crate) async fn standing(engine: &Arc<dyn Engine>) -> Result<Option<Self>> {
        let name = Name::new(["cluster"])?;
        let entry = engine.get(Shelf::Kept, &name).await?;
        entry.map(|entry| read(&name, &entry)).transpose()
    }
}

fn recall(memory: &dyn Memory) -> Option<Remembered> {
    let bytes = memory.recall()?;
    let remembered = serde_json::from_slice(&bytes);
    remembered
        .inspect_err(|error| {
            tracing::error!("what this node remembers of its cluster cannot be read: {error}")
        })
        .ok()
}

/// Puts back what is not there, or was known there as it was earlier.
async fn put_back(
    engine: &Arc<dyn Engine>,
    remembered: &Remembered,
    host: &Arc<dyn Host>,
) -> Result<()> {
    for ((flow, part), node) in &remembered.homes {
        let name = Key::Home(flow.clone(), part.clone()).name()?;
        engine
            .put(Shelf::Kept, &name, write(node)?, If::Absent)
            .await?;
    }
    for (flow, deployed) in &remembered.flows {
        // First the code: who reads of a flow asks for it.
        host.give_back(&deployed.version).await?;
        let name = Key::Flow(flow.clone()).name()?;
        for _ in 0..TRIES {
            let condition = match engine.get(Shelf::Kept, &name).await? {
                None => If::Absent,
                // Another may have put back what he remembered, which may be older.
                Some(entry) => match read::<Deployed>(&name, &entry) {
                    Ok(known) if known.changed < deployed.changed => If::Revision(entry.revision),
                    Ok(_) | Err(_) => break,
                },
            };
            let put = engine.put(Shelf::Kept, &name, write(deployed)?, condition);
            if put.await?.is_some() {
                break;
            }
        }
    }
    Ok(())
}

/// Keeps what there is in memory, whenever it changes; ends with an error of the engine.
pub(crate) async fn remember(
    engine: &Arc<dyn Engine>,
    memory: &dyn Memory,
    (place, founding): (&str, &Founding),
    clock: &Clock,
) -> Result<std::convert::Infallible> {
    let mut remembered = Remembered {
        place: place.to_owned(),
        founding: founding.clone(),
        flows: BTreeMap::new(),
        homes: Vec::new(),
    };
    let mut homes: BTreeMap<PartName, String> = BTreeMap::new();
    let (flows_below, homes_below) = (Name::new([Key::FLOWS])?, Name::new([Key::HOMES])?);
    let mut watches = [
        engine.watch(Shelf::Kept, Some(&flows_below)).await?,
        engine.watch(Shelf::Kept, Some(&homes_below)).await?,
    ];
    for watch in &mut watches {
        loop {
            match watch.next().await? {
                Seen::UpToDate => break,
                seen => note(seen, &mut remembered.flows, &mut homes),
            }
        }
    }
    let [flows_watch, homes_watch] = &mut watches;
    let cluster = Name::new(["cluster"])?;
    let mut kept = None;
    loop {
        remembered.homes = homes.clone().into_iter().collect();
        if kept.as_ref() != Some(&remembered) {
            // What was lost between must not be forgotten with it.
            let entry = engine.get(Shelf::Kept, &cluster).await?;
            let found = entry.and_then(|entry| read::<Founding>(&cluster, &entry).ok());
            if found.as_ref() != Some(founding) {
                return Err(Error::remote("the engine has lost what it kept"));
            }
            memory.keep(write(&remembered)?);
            kept = Some(remembered.clone());
        }
        let seen = tokio::select! {
            seen = flows_watch.next() => seen?,
            seen = homes_watch.next() => seen?,
        };
        note(seen, &mut remembered.flows, &mut homes);
        clock.sleep(GATHER).await;
    }
}

fn note(
    seen: Seen,
    flows: &mut BTreeMap<String, Deployed>,
    homes: &mut BTreeMap<PartName, String>,
) {
    match seen {
        Seen::Put(name, entry) => match Key::of(&name) {
            Some(Key::Flow(flow)) => match read(&name, &entry) {
                Ok(deployed) => drop(flows.insert(flow, deployed)),
                Err(error) => tracing::error!("{error}"),
            },
            Some(Key::Home(flow, part)) => {
                if let Ok(node) = serde_json::from_slice(&entry.value) {
                    homes.insert((flow, part), node);
                }
            }
            _ => {}
        },
        Seen::Removed(name, _) => match Key::of(&name) {
            Some(Key::Flow(flow)) => drop(flows.remove(&flow)),
            Some(Key::Home(flow, part)) => drop(homes.remove(&(flow, part))),
            _ => {}
        },
        Seen::UpToDate => {}
    }
}
