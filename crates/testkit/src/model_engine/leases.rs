//! Leases: who holds what, until when, with which fence.

use std::sync::Arc;

use tokio::time::Instant;
use wiredflow_core::engine::{LEASE, Lease, Name};
use wiredflow_core::storage::Epoch;
use wiredflow_core::{Error, Result};

use super::State;

/// The longest name of a holder.
const LONGEST: usize = 500;

/// A lease as the engine knows it.
pub(super) struct Held {
    holder: Arc<str>,
    fence: u64,
    /// The fence of the lease that was renewed to this one: its holder may not have got the answer.
    before: Option<u64>,
    until: Instant,
}

impl State {
    fn tidy_leases(&mut self) {
        let now = Instant::now();
        self.leases.retain(|_, held| held.until > now);
    }

    pub(super) fn acquire(&mut self, name: &Name, holder: &str) -> Result<Option<Lease>> {
        if holder.is_empty() || holder.len() > LONGEST || holder.chars().any(char::is_control) {
            let holder = holder.escape_debug();
            return Err(Error::config(format!("`{holder}` is no name of a holder")));
        }
        self.tidy_leases();
        if self.leases.contains_key(name) {
            return Ok(None);
        }
        Ok(Some(self.hold(name, holder.into(), None)))
    }

    pub(super) fn renew(&mut self, lease: &Lease) -> Option<Lease> {
        self.tidy_leases();
        let held = self.leases.get(&lease.name)?;
        let is_its = held.fence == lease.fence.0 || held.before == Some(lease.fence.0);
        if held.holder != lease.holder || !is_its {
            return None;
        }
        Some(self.hold(&lease.name, Arc::clone(&lease.holder), Some(lease.fence.0)))
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

    fn hold(&mut self, name: &Name, holder: Arc<str>, before: Option<u64>) -> Lease {
        let fence = self.next_revision();
        let held = Held {
            holder: Arc::clone(&holder),
            fence,
            before,
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
