//! Whose the storages of a run are, and the word that another has taken them over.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use wiredflow_core::Error;
use wiredflow_core::storage::{Epoch, Fence};

/// Who owns the storages of a run, as which epoch. A cheap clone; the default owns nothing, and is fenced by nobody.
#[derive(Clone, Default)]
pub struct Ownership {
    flow: Arc<str>,
    epoch: Epoch,
    pipelines: Arc<[Arc<str>]>,
    lost: Arc<Lost>,
}

/// Whether it is over.
#[derive(Default)]
struct Lost {
    why: Mutex<Option<Error>>,
    told: CancellationToken,
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ownership({} at {})", self.flow, self.epoch.0)
    }
}

impl Ownership {
    /// That of some pipelines of a flow.
    pub fn new(
        flow: Arc<str>,
        epoch: Epoch,
        pipelines: impl IntoIterator<Item = Arc<str>>,
    ) -> Self {
        Self {
            flow,
            epoch,
            pipelines: pipelines.into_iter().collect(),
            lost: Arc::default(),
        }
    }

    /// The owner's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Notes that it is over, where this is what an error says. The first such word stands.
    pub(crate) fn note(&self, error: &Error) {
        if error.fenced_by().is_none() {
            return;
        }
        let mut why = self.lost.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.get_or_insert_with(|| error.clone());
        drop(why);
        self.lost.told.cancel();
    }

    /// Why it is over, if it is.
    pub(crate) fn why_lost(&self) -> Option<Error> {
        let why = self.lost.why.lock();
        why.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it is over.
    pub(crate) async fn lost(&self) {
        self.lost.told.cancelled().await;
    }

    /// The fence of all that is owned.
    pub(crate) fn fence(&self) -> Fence {
        self.fence_around(self.pipelines.iter())
    }

    /// The fence of a commit with rows of these pipelines; none where no other can be the owner.
    pub(crate) fn fence_of<'p>(&self, pipelines: impl Iterator<Item = &'p Arc<str>>) -> Fence {
        match self.epoch == Epoch::default() {
            true => Fence::default(),
            false => self.fence_around(pipelines),
        }
    }

    fn fence_around<'p>(&self, pipelines: impl Iterator<Item = &'p Arc<str>>) -> Fence {
        let owned = pipelines.filter(|pipeline| self.pipelines.contains(pipeline));
        let mut of: Vec<Arc<str>> = owned
            .map(|pipeline| format!("{}/{pipeline}", self.flow).into())
            .collect();
        // In one order: of two who take over the same, none waits for the other in a circle.
        of.sort_unstable();
        of.dedup();
        Fence {
            epoch: self.epoch,
            of,
        }
    }
}
