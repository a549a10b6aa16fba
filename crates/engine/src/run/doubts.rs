//! Which storages a crash may have torn: until a start has opened them, and found out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::catalogue::StorageOpener;
use crate::plan::StoragePlan;
use crate::state::{Opening, Past, StateHandle};
use crate::storages::Left;

/// The storages in doubt.
#[derive(Debug)]
pub(super) struct Doubts {
    /// Each with whether it has been opened since the start.
    opened: BTreeMap<String, Arc<AtomicBool>>,
    /// Those that the state knows of.
    known: BTreeSet<String>,
}

impl Doubts {
    /// After a crash all storages of the flow are in doubt, and in any case those that were so before.
    pub(super) fn new(opening: &Opening, storages: &[StoragePlan]) -> Self {
        let in_order = opening.crash.is_none() && !matches!(opening.past, Past::Lost(_));
        let torn = match in_order {
            true => &[],
            false => storages,
        };
        let torn = torn.iter().map(|storage| storage.name.to_string());
        let names = torn.chain(opening.in_doubt.iter().cloned());
        Self {
            opened: names.map(|name| (name, Arc::default())).collect(),
            known: opening.in_doubt.clone(),
        }
    }

    /// What opens a storage, as it was left.
    pub(super) fn opener(&self, storage: &StoragePlan, state: StateHandle) -> StorageOpener {
        let (left, opened) = match self.opened.get(&*storage.name) {
            Some(opened) => (Left::Unknown, Arc::clone(opened)),
            None => (Left::InOrder, Arc::default()),
        };
        storage.open.opener_that_tells(left, Some(state), opened)
    }

    /// Those that nobody has opened, where the state knows of others.
    pub(super) fn changed(&self) -> Option<BTreeSet<String>> {
        let unopened = |opened: &AtomicBool| !opened.load(Ordering::Relaxed);
        let names = self.opened.iter().filter(|(_, opened)| unopened(opened));
        let left: BTreeSet<String> = names.map(|(name, _)| name.clone()).collect();
        (left != self.known).then_some(left)
    }
}
