//! How a run ends: intake first, then what waits for a peer or for a generator's next batch, and all at
//! once when told twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::Error;

use crate::clock::Clock;

/// The end of a flow or of one pipeline of it. A cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Stopping {
    /// Nothing new is taken in.
    intake: CancellationToken,
    /// Nothing is waited for any more: no back-off, no rate limit, no next batch of a generator.
    waits: CancellationToken,
    /// A delivery of this pipeline has failed: what is queued is dropped.
    failed: CancellationToken,
    /// Calls that run are dropped too.
    calls: CancellationToken,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Stopping {
    /// A flow's.
    pub(crate) fn new() -> Self {
        Self {
            intake: CancellationToken::new(),
            waits: CancellationToken::new(),
            failed: CancellationToken::new(),
            calls: CancellationToken::new(),
            failure: Arc::default(),
        }
    }

    /// One pipeline's: it ends with the flow, or before.
    pub(crate) fn child(&self) -> Self {
        Self {
            intake: self.intake.child_token(),
            waits: self.waits.child_token(),
            ..Self::new()
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

    /// Ends all waiting: what waits in a call's place is dropped, unacknowledged.
    pub(crate) fn end_waits(&self) {
        self.end_intake();
        self.waits.cancel();
    }

    /// Whether nothing is waited for any more.
    pub(crate) fn are_waits_over(&self) -> bool {
        self.waits.is_cancelled()
    }

    /// Waits until nothing is waited for any more.
    pub(crate) async fn waits_over(&self) {
        self.waits.cancelled().await;
    }

    /// Notes why it ends; the first failure stands. Calls that run are finished, all else is dropped.
    pub(crate) fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.failed.cancel();
        self.end_waits();
    }

    /// As [`Stopping::fail`], and calls that run are dropped.
    pub(crate) fn fail_at_once(&self, error: Error) {
        self.fail(error);
        self.calls.cancel();
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
        self.failed.is_cancelled()
    }

    /// Waits for a failure.
    pub(crate) async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Waits until calls that run are to be dropped: at once, or `grace` after a failure.
    pub(crate) async fn calls_over(&self, clock: &Clock, grace: Duration) {
        let late = async {
            self.failed().await;
            clock.sleep(grace).await;
        };
        tokio::select! {
            () = self.calls.cancelled() => {}
            () = late => {}
        }
    }
}
