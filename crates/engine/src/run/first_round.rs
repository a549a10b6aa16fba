//! At the start, pipelines that read what others store let those go first.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;

/// The longest wait.
const AT_MOST: Duration = Duration::from_secs(10);

/// The pipelines whose first delivery others wait for.
#[derive(Debug)]
pub(crate) struct FirstRound {
    waiting_for: Mutex<BTreeSet<Arc<str>>>,
    changed: Notify,
}

impl FirstRound {
    pub(crate) fn of(pipelines: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self {
            waiting_for: Mutex::new(pipelines.into_iter().collect()),
            changed: Notify::new(),
        }
    }

    /// A pipeline has settled its first delivery, or will never.
    pub(crate) fn one_is_through(&self, pipeline: &str) {
        self.waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(pipeline);
        self.changed.notify_waiters();
    }

    /// Waits until all are through, 10 s at most.
    pub(crate) async fn wait(&self, clock: &Clock) {
        let all = async {
            loop {
                let changed = self.changed.notified();
                if self
                    .waiting_for
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_empty()
                {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            () = all => {}
            () = clock.sleep(AT_MOST) => {}
        }
    }
}
