//! What the parts of a running flow share.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wiredflow_core::delivery::{Outcome, Settled};
use wiredflow_core::secret::Scrubber;
use wiredflow_core::{Error, ErrorKind, Result};

use crate::clock::{Clock, Dice};
use crate::engines::Engines;
use crate::functions::{FunctionThreads, Functions};
use crate::http::HttpClients;
use crate::links::Links;
use crate::observe::repeats::{self, Repeats};
use crate::observe::{FlowMeter, PipelineMeter, RunReport, StageMeter};
use crate::plan::TriggerPlan;
use crate::since::Positions;
use crate::spans::{Spans, Traced};
use crate::state::{DeadLetter, RunEnd, RunOutcome, StartedRun, StateHandle};
use crate::storages::{Ownership, StorageHandles};
use crate::tasks::Tasks;

use super::control::{Switch, Switches};
use super::first_round::FirstRound;
use super::inbox::InboxLimits;
use super::kept::Since;
use super::ledger::Ledger;
use super::policy;
use super::replay::Desk;
use super::stopping::Stopping;

/// What all pipelines of a run share.
pub(crate) struct Shared {
    pub(super) flow: Arc<str>,
    pub(super) folder: Arc<Path>,
    pub(super) state_folder: Arc<Path>,
    pub(super) clock: Clock,
    pub(super) dice: Dice,
    pub(super) spans: Option<Arc<dyn Spans>>,
    pub(super) http: HttpClients,
    pub(super) engines: Engines,
    /// What the user's Rust functions run on.
    pub(super) threads: FunctionThreads,
    pub(super) scrubber: Scrubber,
    /// How much an outbox holds that is worked off on its own.
    pub(super) limits: InboxLimits,
    pub(super) state: StateHandle,
    /// Starts and ends of runs on their way into the state.
    pub(super) ledger: Ledger,
    /// How far the loads of each pipeline have come.
    pub(super) positions: Mutex<HashMap<Arc<str>, Positions>>,
    /// Dead letters that are replayed.
    pub(super) desk: Arc<Desk>,
    /// What pauses and triggers pipelines.
    pub(super) switches: Switches,
    pub(super) links: Links,
    pub(super) storages: StorageHandles,
    /// Who owns what is stored, and whether another does by now.
    pub(super) ownership: Ownership,
    pub(super) functions: Functions,
    pub(super) meters: FlowMeter,
    /// Since when what is measured is not kept yet.
    pub(super) measured: Since,
    /// What the log has said of late.
    pub(super) repeats: Repeats,
    pub(super) first_round: FirstRound,
    pub(super) stopping: Stopping,
    /// All tasks of the run but `records`.
    pub(super) tasks: Tasks,
    /// What must end before the state closes: the keeping of the ledger.
    pub(super) records: Tasks,
    /// Whether the run was ended at once: what it drops is as if the process had been killed.
    pub(super) dropped: AtomicBool,
    pub(super) failure: Mutex<Option<Error>>,
}

/// What the parts of one pipeline's session share.
pub(crate) struct PipelineShared {
    pub(super) name: Arc<str>,
    pub(super) shared: Arc<Shared>,
    pub(super) stopping: Stopping,
    pub(super) trigger: TriggerPlan,
    pub(super) switch: Arc<Switch>,
    pub(super) meter: Arc<PipelineMeter>,
    pub(super) first_stage: Arc<StageMeter>,
    /// What makes spans, where somebody wants them.
    pub(super) traced: Option<Arc<Traced>>,
    /// All tasks of the session.
    pub(super) tasks: Tasks,
}

impl Shared {
    pub(super) fn report(&self) -> RunReport {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        self.meters
            .report(failure.as_ref().map(|error| error.message().to_owned()))
    }

    /// Whether the log says this failure; if not, it is counted with its like, and the count is said within the
    /// minute.
    pub(super) fn is_news(self: &Arc<Self>, failure: &repeats::Failure<'_>) -> bool {
        let noted = self.repeats.note(failure);
        if noted.to_watch {
            let shared = Arc::clone(self);
            self.tasks.spawn("count repeated failures", async move {
                loop {
                    shared.clock.sleep(repeats::EACH).await;
                    if !shared.repeats.say() {
                        return;
                    }
                }
            });
        }
        noted.is_news
    }

    /// Notes why the run is not ok; the first failure stands.
    pub(super) fn note_failure(&self, error: Error) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// Calls the state again while its disk is full or away, until waiting is over for the caller.
    pub(super) async fn patiently<T, F: Future<Output = Result<T>>>(
        &self,
        stopping: &Stopping,
        call: impl Fn() -> F,
    ) -> Result<T> {
        let mut failure: u32 = 0;
        loop {
            let working = self.clock.working();
            let called = call().await;
            drop(working);
            let error = match called {
                Err(error) if error.kind() == ErrorKind::Remote => error,
                result => return result,
            };
            failure = failure.saturating_add(1);
            if failure.is_power_of_two() {
                tracing::warn!("the state cannot be written: {error}; trying again");
            }
            let (first, max) = policy::BACKOFF;
            let wait = policy::backoff(failure, first, max, &self.dice);
            tokio::select! {
                biased;
                () = stopping.waits_over() => return Err(error),
                () = self.clock.sleep(wait) => {}
            }
        }
    }

    /// How far the loads of a pipeline have come, for as long as the flow runs.
    pub(super) fn positions(&self, pipeline: &Arc<str>) -> Positions {
        let mut all = self
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(Arc::clone(pipeline));
        known
            .or_insert_with(|| Positions::of(Arc::clone(pipeline), Some(self.state.clone())))
            .clone()
    }

    /// Keeps a dead letter; returns when it is safe. `Remote`: the disk was full or away for as long
    /// as the caller could wait.
    pub(super) async fn dead_letter(&self, letter: DeadLetter, stopping: &Stopping) -> Result<()> {
        self.patiently(stopping, || self.state.dead_letter(letter.clone()))
            .await
            .map(drop)
    }

    /// Notes the end of a run, for the history.
    ///
    /// One that an end at once has dropped is left open: the next start finds it interrupted, as after
    /// a kill, and `catch_up` decides about its tick.
    pub(super) fn finish_run(
        &self,
        run: StartedRun,
        pipeline: &Arc<str>,
        settled: &Settled,
        positions: &Positions,
    ) {
        // Before anything else: the next run asks for them.
        let cursors = positions.end(settled.outcome.is_acknowledged());
        if settled.outcome == Outcome::Lost && self.dropped.load(Ordering::Relaxed) {
            return;
        }
        let outcome = match settled.outcome {
            Outcome::Committed => RunOutcome::Committed,
            Outcome::DeadLettered => RunOutcome::DeadLettered,
            Outcome::Skipped => RunOutcome::Skipped,
            Outcome::Failed | Outcome::Lost => RunOutcome::Failed,
        };
        let lost = || (settled.outcome == Outcome::Lost).then(|| "dropped unfinished".to_owned());
        let error = settled.reason.as_deref().map(str::to_owned).or_else(lost);
        let end = RunEnd {
            outcome,
            records_in: settled.tally.records_in,
            records_out: settled.tally.records_out,
            error: error.filter(|_| outcome != RunOutcome::Committed),
        };
        self.ledger.end(run, pipeline, end, cursors);
    }
}
