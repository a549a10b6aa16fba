//! How a run ends: intake first, then the work in flight, and all at once when told twice.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use wiredflow_core::Error;

/// The end of a flow or of one pipeline of it. A cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Stopping {
    intake: CancellationToken,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Stopping {
    /// A flow's.
    pub(crate) fn new() -> Self {
        Self {
            intake: CancellationToken::new(),
            failure: Arc::default(),
        }
    }

    /// One pipeline's: it ends with the flow, or before.
    pub(crate) fn child(&self) -> Self {
        Self {
            intake: self.intake.child_token(),
            failure: Arc::default(),
        }
    }

    /// Ends intake; what is in flight is finished.
    pub(crate) fn end_intake(&self) {
        self.intake.cancel();
    }

    /// Whether intake has ended.
    pub(crate) fn is_intake_over(&self) -> bool {
        self.intake.is_cancelled()
    }

    /// Waits for the end of intake.
    pub(crate) async fn intake_over(&self) {
        self.intake.cancelled().await;
    }

    /// Notes why it ends; the first failure stands.
    pub(crate) fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.end_intake();
    }

    /// Why it ended, if by a failure.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether it ended by a failure: what is still queued is dropped, unacknowledged.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}
