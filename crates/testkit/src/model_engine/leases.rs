//! Leases: who holds what, until when, with which fence.

use std::sync::Arc;

use tokio::time::Instant;
use wiredflow_core::engine::{LEASE, Lease, Name};
use wiredflow_core::storage::Epoch;

use super::State;

/// A lease as the engine knows it.
pub(super) struct Held {
    holder: Arc<str>,
    fence: u64,
    until: Instant,
}

impl State {
    fn tidy_leases(&mut self) {
        let now = Instant::now();
        self.leases.retain(|_, held| held.until > now);
    }

    pub(super) fn acquire(&mut self, name: &Name, holder: &str) -> Option<Lease> {
        self.tidy_leases();
        if self.leases.contains_key(name) {
            return None;
        }
        Some(self.hold(name, holder.into()))
    }

    pub(super) fn renew(&mut self, lease: &Lease) -> Option<Lease> {
        self.tidy_leases();
        let held = self.leases.get(&lease.name)?;
        // The answer to an earlier renewal may have been lost: then its fence is not known.
        if held.holder != lease.holder || held.fence < lease.fence.0 {
            return None;
        }
        Some(self.hold(&lease.name, Arc::clone(&lease.holder)))
    }

    pub(super) fn release(&mut self, lease: &Lease) {
        let held = self.leases.get(&lease.name);
        if held.is_some_and(|held| held.fence == lease.fence.0) {
            self.leases.remove(&lease.name);
        }
    }

    pub(super) fn holder(&mut self, name: &Name) -> Option<Arc<str>> {
        self.tidy_leases();
        self.leases.get(name).map(|held| Arc::clone(&held.holder))
    }

    fn hold(&mut self, name: &Name, holder: Arc<str>) -> Lease {
        let fence = self.next_revision();
        let held = Held {
            holder: Arc::clone(&holder),
            fence,
            until: Instant::now() + LEASE,
        };
        self.leases.insert(name.clone(), held);
        Lease {
            name: name.clone(),
            holder,
            fence: Epoch(fence),
        }
    }
}
