//! Every task belongs to a pipeline and ends with it: the only place that spawns.

use std::future::Future;

use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// The tasks of one pipeline or of the flow. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    aborts: std::sync::Arc<std::sync::Mutex<Vec<AbortHandle>>>,
}

impl Tasks {
    /// Starts a task. What it returns is dropped; a panic in it is logged by the runtime's hook.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that spawns"
    )]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(self.tracker.track_future(task));
        tracing::trace!(task = name, "started");
        let mut aborts = self
            .aborts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        aborts.retain(|other| !other.is_finished());
        aborts.push(handle.abort_handle());
    }

    /// Waits until all tasks have ended.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Ends all tasks at their next await, without their consent.
    pub fn abort(&self) {
        let aborts = self
            .aborts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        aborts.iter().for_each(AbortHandle::abort);
    }
}
