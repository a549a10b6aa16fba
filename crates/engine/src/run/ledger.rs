//! The ledger: starts and ends of runs on their way into the history.
//!
//! A run does not wait for its row. Starts and ends are noted here and written a moment later, those of all
//! pipelines together: a run that is over by then costs one row, one that goes on gets its row then and its end
//! later. While the state cannot be written no run begins, so what a crash can take from the history is what
//! began within that moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wiredflow_core::storage::Cursor;
use wiredflow_core::{Error, ErrorKind, Result};

use crate::clock::Clock;
use crate::state::{RunChange, RunEnd, RunId, StartedRun, StateHandle};

use super::Shared;
use super::policy::{BACKOFF, backoff};
use super::stopping::Stopping;

/// How long starts and ends gather before they are written.
const GATHER: Duration = Duration::from_millis(20);

/// How many changes may wait; who begins a run beyond that waits for room.
const ROOM: usize = 8192;

/// What is noted and not yet written. The module's text says more.
pub(crate) struct Ledger {
    state: StateHandle,
    clock: Clock,
    page: Mutex<Page>,
    /// There is something to write.
    noted: Notify,
    /// Something was written, or could not be.
    moved: Notify,
    closed: CancellationToken,
}

#[derive(Default)]
struct Page {
    changes: BTreeMap<RunId, RunChange>,
    /// How many pages have been taken to be written.
    taken: u64,
    /// How many of them are done with.
    done: u64,
    /// Why the last one could not be written.
    trouble: Option<Error>,
}

impl Ledger {
    /// An empty ledger over a state.
    pub(crate) fn new(state: StateHandle, clock: Clock) -> Self {
        Self {
            state,
            clock,
            page: Mutex::default(),
            noted: Notify::new(),
            moved: Notify::new(),
            closed: CancellationToken::new(),
        }
    }

    /// Notes that a run begins; its tick must be one that nobody has claimed. Waits while the state cannot be
    /// written.
    ///
    /// # Errors
    /// Why the state cannot be written: at once where waiting does not help, else when waiting is over.
    pub(crate) async fn begin(
        &self,
        pipeline: &Arc<str>,
        scheduled_at: Option<Timestamp>,
        stopping: &Stopping,
    ) -> Result<StartedRun> {
        loop {
            let moved = self.moved.notified();
            let trouble = {
                let mut page = self.lock();
                if page.trouble.is_none() && page.changes.len() < ROOM {
                    let run = self.state.begin_run(scheduled_at, self.clock.now());
                    page.changes.insert(run.id, change(run, pipeline, false));
                    self.noted.notify_one();
                    return Ok(run);
                }
                match &page.trouble {
                    // What is ours may concern one run alone: the next one tries again.
                    Some(error) if error.kind() == ErrorKind::Bug => page.trouble.take(),
                    trouble => trouble.clone(),
                }
            };
            let away = |error: &Error| error.kind() == ErrorKind::Remote;
            if let Some(error) = trouble.as_ref().filter(|error| !away(error)) {
                return Err(error.clone());
            }
            let _working = self.clock.working();
            tokio::select! {
                biased;
                () = stopping.waits_over() => {
                    let behind = || Error::remote("the state is behind with what it has to write");
                    return Err(trouble.unwrap_or_else(behind));
                }
                () = moved => {}
            }
        }
    }

    /// Notes how a run ended, now, and how far its loads have come.
    pub(crate) fn end(
        &self,
        run: StartedRun,
        pipeline: &Arc<str>,
        end: RunEnd,
        cursors: Vec<Cursor>,
    ) {
        let ended = (end, self.clock.now());
        let mut page = self.lock();
        let noted = page.changes.entry(run.id);
        let change = noted.or_insert_with(|| change(run, pipeline, true));
        change.end = Some(ended);
        change.cursors = cursors;
        drop(page);
        self.noted.notify_one();
    }

    /// Waits until all that was noted before is written, or will never be.
    pub(crate) async fn written(&self) {
        let until = {
            let page = self.lock();
            page.taken + u64::from(!page.changes.is_empty())
        };
        loop {
            let moved = self.moved.notified();
            if self.lock().done >= until {
                return;
            }
            moved.await;
        }
    }

    /// Lets [`keep`] write what is left, and end.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// The next changes, once they have gathered; none when the ledger is closed and empty.
    async fn next(&self) -> Option<Arc<[RunChange]>> {
        loop {
            tokio::select! {
                biased;
                () = self.noted.notified() => {}
                () = self.closed.cancelled() => {}
            }
            tokio::select! {
                biased;
                () = self.closed.cancelled() => {}
                () = self.clock.gather(GATHER) => {}
            }
            let mut page = self.lock();
            if !page.changes.is_empty() {
                page.taken += 1;
                let changes = std::mem::take(&mut page.changes);
                return Some(changes.into_values().collect());
            }
            if self.closed.is_cancelled() {
                return None;
            }
        }
    }

    /// Notes what came of a page; done with it or not.
    fn tell(&self, trouble: Option<Error>, done: bool) {
        let mut page = self.lock();
        page.trouble = trouble;
        page.done += u64::from(done);
        drop(page);
        self.moved.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn change(run: StartedRun, pipeline: &Arc<str>, is_known: bool) -> RunChange {
    RunChange {
        run,
        pipeline: Arc::clone(pipeline),
        is_known,
        end: None,
        cursors: Vec::new(),
    }
}

/// Writes what is noted in the flow's ledger until that is closed and empty.
pub(crate) async fn keep(shared: Arc<Shared>) {
    while let Some(changes) = shared.ledger.next().await {
        write(&shared, &changes).await;
    }
}

/// Writes a page; again and again while the state is away, until the ledger is closed.
async fn write(shared: &Shared, changes: &Arc<[RunChange]>) {
    let (ledger, clock) = (&shared.ledger, &shared.clock);
    let mut failure: u32 = 0;
    loop {
        let working = clock.working();
        let written = ledger.state.write_runs(Arc::clone(changes)).await;
        drop(working);
        let Err(error) = written else {
            return ledger.tell(None, true);
        };
        if error.kind() != ErrorKind::Remote || ledger.closed.is_cancelled() {
            let runs = changes.len();
            tracing::warn!("{runs} runs were not recorded: {error}");
            if error.kind() == ErrorKind::Config {
                shared.note_failure(error.clone());
                shared.stopping.end_intake();
            }
            return ledger.tell(Some(error), true);
        }
        failure = failure.saturating_add(1);
        if failure.is_power_of_two() {
            tracing::warn!("the state cannot be written: {error}; trying again");
        }
        ledger.tell(Some(error), false);
        let wait = backoff(failure, BACKOFF.0, BACKOFF.1, &shared.dice);
        tokio::select! {
            biased;
            () = ledger.closed.cancelled() => {}
            () = clock.sleep(wait) => {}
        }
    }
}
