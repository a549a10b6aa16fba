//! Every task belongs to a pipeline and ends with it: the only place that spawns.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// The handles that are kept before the first look for those that have ended.
const LOOK_AT: usize = 32;

/// The tasks of one owner: of the flow, of a pipeline, of a component. A cheap clone.
///
/// Owners form a tree: to wait for an owner or to abort it is to wait for or abort all below it too.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Owner>);

#[derive(Default)]
struct Owner {
    tracker: TaskTracker,
    parent: Option<Tasks>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    aborted: bool,
    tasks: Vec<AbortHandle>,
    children: Vec<Weak<Owner>>,
    /// How many tasks and children there may be before those that have ended are looked for.
    look_at: usize,
}

impl Tasks {
    /// An owner below this one.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Arc::new(Owner {
            parent: Some(self.clone()),
            ..Owner::default()
        });
        let mut held = self.held();
        held.tidy();
        held.children.push(Arc::downgrade(&child));
        child.lock().aborted = held.aborted;
        drop(held);
        Self(child)
    }

    /// Starts a task. What it returns is dropped; a panic in it is logged by the runtime's hook. After
    /// [`Tasks::abort`] nothing is started any more.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let counted: Vec<_> = self
            .with_parents()
            .map(|owner| owner.0.tracker.token())
            .collect();
        // Parents know their children only while these live, and must find those that have tasks.
        let owner = self.clone();
        let task = held_until_end(task, (counted, owner));
        let mut held = self.held();
        if held.aborted {
            tracing::trace!(task = name, "not started: its owner has ended");
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that spawns"
        )]
        let handle = tokio::spawn(task);
        tracing::trace!(task = name, "started");
        held.tidy();
        held.tasks.push(handle.abort_handle());
    }

    /// Starts what a dropped call has to tell a peer. Unlike all others it is started after [`Tasks::abort`] too, and is not
    /// ended by it: [`Tasks::finished`] waits for it, so it must have a limit of its own.
    pub(crate) fn farewell(&self, task: impl Future<Output = ()> + Send + 'static) {
        let counted: Vec<_> = self
            .with_parents()
            .map(|owner| owner.0.tracker.token())
            .collect();
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that spawns"
        )]
        drop(tokio::spawn(held_until_end(task, (counted, self.clone()))));
    }

    /// Waits until all tasks have ended, those of owners below included.
    pub async fn finished(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// Ends all tasks at their next await, without their consent, and those of owners below.
    pub fn abort(&self) {
        let (tasks, children) = {
            let mut held = self.held();
            held.aborted = true;
            (
                std::mem::take(&mut held.tasks),
                std::mem::take(&mut held.children),
            )
        };
        tasks.iter().for_each(AbortHandle::abort);
        for child in children {
            if let Some(child) = child.upgrade() {
                Self(child).abort();
            }
        }
    }

    fn with_parents(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |owner| owner.0.parent.as_ref())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock()
    }
}

/// Keeps something until the task has ended. Mapped, not awaited: an async block would have room for the task
/// twice.
fn held_until_end<T>(task: impl Future<Output = ()>, kept: T) -> impl Future<Output = ()> {
    task.map(move |()| drop(kept))
}

impl Owner {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Forgets what has ended. Looks only when there is twice as much as after the last look, so that
    /// a task costs the same however many there are.
    fn tidy(&mut self) {
        if self.tasks.len() + self.children.len() < self.look_at.max(LOOK_AT) {
            return;
        }
        self.tasks.retain(|task| !task.is_finished());
        self.children.retain(|child| child.strong_count() > 0);
        self.look_at = 2 * (self.tasks.len() + self.children.len());
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tasks({})", self.0.tracker.len())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn aborting_an_owner_ends_the_tasks_of_all_below_it() {
        let root = Tasks::default();
        let below = root.child().child();
        below.spawn("endless", pending());
        root.spawn("endless", pending());
        root.abort();
        root.finished().await;
        below.finished().await;
    }

    #[tokio::test]
    async fn aborting_an_owner_ends_the_tasks_of_those_below_that_nobody_holds() {
        let root = Tasks::default();
        root.child().spawn("endless", pending());
        root.child().child().spawn("endless", pending());
        root.abort();
        root.finished().await;
    }

    #[tokio::test]
    async fn nothing_is_started_after_the_abort() {
        let root = Tasks::default();
        let early = root.child();
        root.abort();
        let ran = Arc::new(AtomicUsize::new(0));
        for owner in [&root, &early, &root.child()] {
            let ran = Arc::clone(&ran);
            owner.spawn("late", async move {
                ran.fetch_add(1, Ordering::Relaxed);
            });
        }
        root.finished().await;
        assert_eq!(ran.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_farewell_of_an_aborted_task_is_waited_for() {
        struct Says(Tasks, Arc<AtomicUsize>);
        impl Drop for Says {
            fn drop(&mut self) {
                let said = Arc::clone(&self.1);
                self.0.farewell(async move {
                    tokio::task::yield_now().await;
                    said.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
        let root = Tasks::default();
        let said = Arc::default();
        let says = Says(root.child(), Arc::clone(&said));
        root.child().spawn("endless", async move {
            pending::<()>().await;
            drop(says);
        });
        tokio::task::yield_now().await;
        root.abort();
        root.finished().await;
        assert_eq!(said.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_owner_waits_for_its_own_and_those_below_and_for_no_other() {
        let root = Tasks::default();
        let (one, other) = (root.child(), root.child());
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        other.spawn("endless", pending());
        one.child().spawn("short", async move {
            drop(ended.await);
        });
        tokio::select! {
            biased;
            () = one.finished() => panic!("it did not wait"),
            () = tokio::task::yield_now() => {}
        }
        drop(end);
        one.finished().await;
    }

    #[test]
    fn a_task_takes_its_room_once() {
        let large = [1_u8; 4096];
        let task = async move {
            tokio::task::yield_now().await;
            assert_eq!(large.len(), 4096);
        };
        let own = size_of_val(&task);
        assert!(own > 4096);
        assert!(size_of_val(&held_until_end(task, 0_u64)) < own + 64);
    }

    #[tokio::test]
    async fn tasks_that_have_ended_are_forgotten() {
        let root = Tasks::default();
        for _ in 0..10_000 {
            root.spawn("short", async {});
            drop(root.child());
            root.finished().await;
        }
        let held = root.held();
        assert!(held.tasks.len() + held.children.len() < 4 * LOOK_AT);
    }
}
