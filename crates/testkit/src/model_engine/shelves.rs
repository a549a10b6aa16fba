//! Entries on shelves, and those who watch them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use wiredflow_core::engine::{Entry, If, LEASE, Name, Seen, Shelf, Watch};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};

use super::{Client, LONGEST, State, World, away};

/// The entries of one shelf.
#[derive(Default)]
pub(super) struct Entries {
    entries: BTreeMap<Name, Put>,
    /// All changes, oldest first.
    changes: Vec<Change>,
    /// Whether entries go by themselves.
    passing: bool,
}

struct Put {
    entry: Entry,
    at: Instant,
}

#[derive(Clone)]
struct Change {
    name: Name,
    value: Option<Bytes>,
    revision: u64,
}

impl Entries {
    fn tidy(&mut self) {
        if self.passing {
            let now = Instant::now();
            self.entries.retain(|_, put| now - put.at < LEASE);
        }
    }

    pub(super) fn get(&self, name: &Name) -> Option<Entry> {
        self.entries.get(name).map(|put| put.entry.clone())
    }

    fn holds(&self, name: &Name, condition: If) -> bool {
        let there = self.entries.get(name).map(|put| put.entry.revision);
        match condition {
            If::Any => true,
            If::Absent => there.is_none(),
            If::Revision(revision) => there == Some(revision),
        }
    }
}

impl State {
    pub(super) fn shelf(&mut self, shelf: Shelf) -> &mut Entries {
        let entries = match shelf {
            Shelf::Kept => &mut self.shelves[0],
            Shelf::Presence => &mut self.shelves[1],
        };
        entries.passing = shelf == Shelf::Presence;
        entries.tidy();
        entries
    }

    pub(super) fn put(
        &mut self,
        shelf: Shelf,
        name: &Name,
        value: Bytes,
        condition: If,
    ) -> Result<Option<u64>> {
        if value.len() > LONGEST {
            return Err(Error::data(format!(
                "an entry of {} bytes is too long",
                value.len()
            )));
        }
        if !self.shelf(shelf).holds(name, condition) {
            return Ok(None);
        }
        let revision = self.next_revision();
        let shelf = self.shelf(shelf);
        shelf.changes.push(Change {
            name: name.clone(),
            value: Some(value.clone()),
            revision,
        });
        let at = Instant::now();
        let entry = Entry { value, revision };
        shelf.entries.insert(name.clone(), Put { entry, at });
        Ok(Some(revision))
    }

    pub(super) fn remove(&mut self, shelf: Shelf, name: &Name, condition: If) -> bool {
        if !self.shelf(shelf).holds(name, condition) {
            return false;
        }
        let revision = self.next_revision();
        let shelf = self.shelf(shelf);
        if shelf.entries.remove(name).is_some() {
            shelf.changes.push(Change {
                name: name.clone(),
                value: None,
                revision,
            });
        }
        true
    }
}

/// Tells of the changes of one shelf from a place on.
struct Watcher {
    world: Arc<World>,
    client: Arc<str>,
    shelf: Shelf,
    below: Option<Name>,
    /// What is still to be told of the beginning, the last first.
    beginning: Vec<Seen>,
    next: usize,
    wipes: u64,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watcher({:?})", self.below)
    }
}

fn is_below(name: &Name, below: Option<&Name>) -> bool {
    below.is_none_or(|below| {
        let mut parts = name.parts();
        below.parts().all(|part| parts.next() == Some(part))
    })
}

impl Client {
    pub(super) async fn watch_of(
        &self,
        shelf: Shelf,
        below: Option<Name>,
    ) -> Result<Box<dyn Watch>> {
        let (world, client) = (Arc::clone(&self.world), Arc::clone(&self.name));
        self.call(move |state| {
            let wipes = state.wipes;
            let entries = state.shelf(shelf);
            let mut beginning: Vec<Seen> = entries
                .entries
                .iter()
                .filter(|(name, _)| is_below(name, below.as_ref()))
                .map(|(name, put)| Seen::Put(name.clone(), put.entry.clone()))
                .collect();
            beginning.push(Seen::UpToDate);
            beginning.reverse();
            let next = entries.changes.len();
            let watcher = Watcher {
                world,
                client,
                shelf,
                below,
                beginning,
                next,
                wipes,
            };
            Ok(Box::new(watcher) as Box<dyn Watch>)
        })
        .await
    }
}

impl Watch for Watcher {
    fn next(&mut self) -> BoxFuture<'_, Result<Seen>> {
        Box::pin(async move {
            let mut changes = self.world.changed.subscribe();
            loop {
                changes.mark_unchanged();
                {
                    let mut state = self.world.lock();
                    if state.cut.contains(&*self.client) || state.wipes != self.wipes {
                        return Err(away());
                    }
                    if let Some(seen) = self.beginning.pop() {
                        return Ok(seen);
                    }
                    let entries = state.shelf(self.shelf);
                    while let Some(change) = entries.changes.get(self.next) {
                        self.next += 1;
                        if !is_below(&change.name, self.below.as_ref()) {
                            continue;
                        }
                        let Change {
                            name,
                            value,
                            revision,
                        } = change.clone();
                        return Ok(match value {
                            Some(value) => Seen::Put(name, Entry { value, revision }),
                            None => Seen::Removed(name, revision),
                        });
                    }
                }
                if changes.changed().await.is_err() {
                    return Err(away());
                }
            }
        })
    }
}
