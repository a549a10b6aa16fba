//! A flow at work: opens a plan, runs its pipelines, and ends in good order.
//!
//! ```text
//! start ─> state.db, writer threads ─> one supervisor for each pipeline ─> sessions
//!   session: trigger or source ─> queue ─> stage loops ─> … ─> settled, acknowledged, recorded
//! ```

mod book;
mod first_round;
mod pipeline;
mod policy;
mod port;
mod queue;
mod source;
mod stage;
mod stopping;
mod trigger;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::delivery::Outcome;
use wiredflow_core::secret::Scrubber;
use wiredflow_core::{Error, ErrorKind, Result};

use crate::clock::{Clock, Dice};
use crate::functions::Functions;
use crate::http::HttpClients;
use crate::observe::{FlowMeter, PipelineMeter, RunReport, StageMeter};
use crate::plan::{PipelinePlan, Plan, TriggerPlan};
use crate::state::{
    DeadLetter, Past, RunEnd, RunId, RunOutcome, SessionOutcome, State, StateHandle,
};
use crate::storages::{StorageHandles, Writers};
use crate::tasks::Tasks;

use first_round::FirstRound;
use stopping::Stopping;

/// How long a stop waits for what is in flight.
const GRACE: Duration = Duration::from_secs(10);

/// How often old history is dropped.
const PRUNE_EACH: Duration = Duration::from_secs(3600);

/// How a flow is to be run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Intake ends after this time.
    pub limit: Option<Duration>,
    /// Each scheduled pipeline runs once, now, and the flow ends.
    pub once: bool,
    /// Only these pipelines; all when empty.
    pub pipelines: Vec<String>,
    /// The folder of the state, instead of the file's.
    pub state: Option<PathBuf>,
    /// The clock.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            limit: None,
            once: false,
            pipelines: Vec::new(),
            state: None,
            clock: Clock::real(),
            dice: Dice::from_system(),
        }
    }
}

/// What all pipelines of a run share.
pub(crate) struct Shared {
    flow: Arc<str>,
    folder: Arc<Path>,
    state_folder: Arc<Path>,
    clock: Clock,
    dice: Dice,
    scrubber: Scrubber,
    state: StateHandle,
    storages: StorageHandles,
    http: HttpClients,
    functions: Functions,
    meters: FlowMeter,
    first_round: FirstRound,
    stopping: Stopping,
    /// Short tasks that must end before the state closes: the ends of runs.
    records: Tasks,
    failure: Mutex<Option<Error>>,
}

/// What the parts of one pipeline's session share.
pub(crate) struct PipelineShared {
    name: Arc<str>,
    shared: Arc<Shared>,
    stopping: Stopping,
    meter: Arc<PipelineMeter>,
    first_stage: Arc<StageMeter>,
    tasks: Tasks,
}

/// A running flow.
pub struct Running {
    shared: Arc<Shared>,
    supervisors: Tasks,
    background: Tasks,
    state: State,
    writers: Writers,
    now: CancellationToken,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({})", self.shared.flow)
    }
}

/// Stops a running flow. A cheap clone.
#[derive(Clone, Debug)]
pub struct Stopper {
    stopping: Stopping,
    now: CancellationToken,
}

impl Stopper {
    /// Ends intake; what is in flight is finished. The second call ends at once, and loses nothing
    /// that was acknowledged.
    pub fn stop(&self) {
        if self.stopping.is_intake_over() {
            self.now.cancel();
        }
        self.stopping.end_intake();
    }

    /// Waits until intake has ended, for whatever reason.
    pub async fn stopped(&self) {
        self.stopping.intake_over().await;
    }
}

/// Reads the figures of a running flow, also while its end is awaited. A cheap clone.
#[derive(Clone)]
pub struct Figures(Weak<Shared>);

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

impl Figures {
    /// The figures now; none after the end.
    pub fn snapshot(&self) -> Option<RunReport> {
        self.0.upgrade().map(|shared| shared.report())
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The figures.
    pub report: RunReport,
    /// Whether it was ended at once, with work in flight.
    pub at_once: bool,
}

/// Opens the state and starts all pipelines.
///
/// # Errors
/// `Config` when the state folder is in use, or an option names no pipeline. What goes wrong later ends
/// the run and is told by [`Running::finished`].
pub fn start(plan: &Plan, options: &RunOptions) -> Result<Running> {
    let pipelines = chosen(plan, options)?;
    let state_folder = options.state.clone().unwrap_or_else(|| plan.state.clone());
    let clock = options.clock.clone();
    let (state, opening) = State::open(&state_folder, &plan.name, clock.now())?;
    tell_opening(&opening);
    let writers = Writers::start(plan.storages.len())?;
    let own = |(index, storage): (usize, &crate::plan::StoragePlan)| {
        writers.own(index, &storage.name, Arc::clone(&storage.open.0))
    };
    let storages = StorageHandles::new(plan.storages.iter().enumerate().map(own));
    let stages = |pipeline: &PipelinePlan| {
        let stage = |stage: &crate::plan::StagePlan| {
            (
                Arc::clone(&stage.name),
                stage.kind.clone(),
                stage.policy.parallel,
            )
        };
        (
            Arc::clone(&pipeline.name),
            pipeline.stages.iter().map(stage).collect(),
        )
    };
    let names: Vec<_> = pipelines.iter().map(stages).collect();
    let ahead = pipelines
        .iter()
        .filter(|pipeline| !pipeline.waits_for_others);
    let shared = Arc::new(Shared {
        flow: Arc::clone(&plan.name),
        folder: plan.folder.as_path().into(),
        state_folder: state_folder.as_path().into(),
        meters: FlowMeter::start(&plan.name, &names, &clock),
        first_round: FirstRound::of(ahead.map(|pipeline| Arc::clone(&pipeline.name))),
        clock,
        dice: options.dice.clone(),
        scrubber: plan.scrubber.clone(),
        state: state.handle(),
        storages,
        http: HttpClients::default(),
        functions: plan.functions.clone(),
        stopping: Stopping::new(),
        records: Tasks::default(),
        failure: Mutex::default(),
    });
    let supervisors = Tasks::default();
    for (index, pipeline) in pipelines.into_iter().enumerate() {
        let shared = Arc::clone(&shared);
        supervisors.spawn(
            "pipeline",
            pipeline::supervise(pipeline, index, shared, options.once),
        );
    }
    let background = Tasks::default();
    background.spawn("prune", prune(Arc::clone(&shared)));
    if let Some(limit) = options.limit {
        let shared = Arc::clone(&shared);
        let stopping = shared.stopping.clone();
        background.spawn("limit", async move {
            tokio::select! {
                () = stopping.intake_over() => {}
                () = shared.clock.sleep(limit) => stopping.end_intake(),
            }
        });
    }
    Ok(Running {
        shared,
        supervisors,
        background,
        state,
        writers,
        now: CancellationToken::new(),
    })
}

/// Drops what is older than its retention, at the start and each hour, until intake ends.
async fn prune(shared: Arc<Shared>) {
    loop {
        match shared.state.prune(shared.clock.now()).await {
            Ok(pruned) => tracing::debug!(?pruned, "old history dropped"),
            Err(error) => tracing::warn!("old history could not be dropped: {error}"),
        }
        tokio::select! {
            () = shared.stopping.intake_over() => return,
            () = shared.clock.sleep(PRUNE_EACH) => {}
        }
    }
}

/// The pipelines that are to run.
fn chosen(plan: &Plan, options: &RunOptions) -> Result<Vec<PipelinePlan>> {
    for name in &options.pipelines {
        if !plan
            .pipelines
            .iter()
            .any(|pipeline| *pipeline.name == **name)
        {
            let known = plan.pipelines.iter().map(|pipeline| pipeline.name.as_ref());
            let help = wiredflow_core::problem::possible(name, known);
            return Err(Error::config(format!(
                "there is no pipeline `{name}`: {help}"
            )));
        }
    }
    let wanted = |pipeline: &&PipelinePlan| {
        options.pipelines.is_empty()
            || options
                .pipelines
                .iter()
                .any(|name| **name == *pipeline.name)
    };
    let mut pipelines: Vec<PipelinePlan> = plan.pipelines.iter().filter(wanted).cloned().collect();
    if options.once {
        pipelines.retain(|pipeline| !matches!(pipeline.trigger, TriggerPlan::Source { .. }));
        if pipelines.is_empty() {
            let help =
                "`--once` runs scheduled pipelines, and there is none; use `--for 10s` for streams";
            return Err(Error::config(help));
        }
    }
    Ok(pipelines)
}

fn tell_opening(opening: &crate::state::Opening) {
    if let Past::Lost(since) = opening.past {
        tracing::warn!(
            %since,
            "state.db is gone: ticks, cursors and dead letters from before are forgotten, and what was \
             handled before may be handled again",
        );
    }
    if let Some(crash) = &opening.crash {
        tracing::warn!(
            started = %crash.started,
            pid = crash.pid,
            unfinished_runs = crash.runs,
            "the last start ended without a word: a crash, a kill or a power cut; going on from what was committed",
        );
    }
}

impl Running {
    /// The figures now.
    pub fn snapshot(&self) -> RunReport {
        self.shared.report()
    }

    /// What reads the figures while the end is awaited.
    pub fn figures(&self) -> Figures {
        Figures(Arc::downgrade(&self.shared))
    }

    /// What stops it.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            stopping: self.shared.stopping.clone(),
            now: self.now.clone(),
        }
    }

    /// Waits for the end: of all pipelines, of a stop and its grace of 10 s, or of the second stop.
    pub async fn finished(self) -> Ended {
        let mut at_once = false;
        let stopping = self.shared.stopping.clone();
        tokio::select! {
            () = self.supervisors.finished() => {}
            () = async {
                stopping.intake_over().await;
                self.shared.clock.sleep(GRACE).await;
            } => {
                tracing::warn!("work in flight did not end within the grace period: it is dropped, unacknowledged");
                at_once = true;
            }
            () = self.now.cancelled() => at_once = true,
        }
        let report = self.shared.report();
        self.background.abort();
        if at_once {
            self.supervisors.abort();
        }
        self.shared.records.finished().await;
        let now = self.shared.clock.now();
        let outcome = if report.ok {
            SessionOutcome::Ended
        } else {
            SessionOutcome::Failed
        };
        if let Err(error) = self.state.close(outcome, now).await {
            tracing::error!("the state was not closed in order: {error}");
        }
        drop(self.shared);
        if !at_once {
            // Other handles may live in tasks that were aborted; then the threads end with the process.
            self.writers.close().await;
        }
        Ended { report, at_once }
    }
}

impl Shared {
    fn report(&self) -> RunReport {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        self.meters
            .report(failure.as_ref().map(|error| error.message().to_owned()))
    }

    /// Notes why the run is not ok; the first failure stands.
    fn note_failure(&self, error: Error) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// Calls the state again while its disk is full or away.
    async fn patiently<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        for failure in 1_u32.. {
            match call().await {
                Err(error) if error.kind() == ErrorKind::Remote => {
                    if failure.is_power_of_two() {
                        tracing::warn!("the state cannot be written: {error}; trying again");
                    }
                    let (first, max) = policy::BACKOFF;
                    self.clock
                        .sleep(policy::backoff(failure, first, max, &self.dice))
                        .await;
                }
                result => return result,
            }
        }
        Err(Error::bug("counted past the end"))
    }

    /// Keeps a dead letter; returns when it is safe.
    async fn dead_letter(&self, letter: DeadLetter) -> Result<()> {
        self.patiently(|| self.state.dead_letter(letter.clone()))
            .await
            .map(drop)
    }

    /// Records the end of a run, in the background.
    fn finish_run(&self, run: RunId, outcome: Outcome) {
        let (state, now) = (self.state.clone(), self.clock.now());
        let outcome = match outcome {
            Outcome::Committed => RunOutcome::Committed,
            Outcome::DeadLettered => RunOutcome::DeadLettered,
            Outcome::Skipped => RunOutcome::Skipped,
            Outcome::Failed | Outcome::Lost => RunOutcome::Failed,
        };
        let end = RunEnd {
            outcome,
            records_in: 0,
            records_out: 0,
            error: None,
        };
        self.records.spawn("finish run", async move {
            if let Err(error) = state.finish_run(run, end, now).await {
                tracing::warn!("the end of a run was not recorded: {error}");
            }
        });
    }
}
