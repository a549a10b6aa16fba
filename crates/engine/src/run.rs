//! A flow at work: opens a plan, runs its pipelines, and ends in good order.
//!
//! ```text
//! start ─> state.db, writer threads ─> one supervisor for each pipeline ─> sessions
//!   session: trigger or source ─> queue ─> stage loops ─> … ─> settled, acknowledged, recorded
//! ```

mod book;
mod channel;
mod control;
mod doubts;
mod ending;
mod first_round;
mod inbox;
mod kept;
mod ledger;
mod opening;
mod outbox;
mod pace;
mod pipeline;
mod policy;
mod port;
mod queue;
mod replay;
mod shared;
mod source;
mod stage;
mod stopping;
mod trigger;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use wiredflow_core::engine::Engine;
use wiredflow_core::storage::Epoch;
use wiredflow_core::{Error, Result};
use wiredflow_scale::figures::Trigger;

use crate::clock::{Clock, Dice};
use crate::engines::Engines;
use crate::functions::FunctionThreads;
use crate::http::HttpClients;
use crate::links::{Far, Links};
use crate::observe::repeats::Repeats;
use crate::observe::{FlowMeter, InboxMeter, Metering, PipelineSign, StageSign};
use crate::plan::{PipelinePlan, Plan, StagePlan, StoragePlan, TriggerPlan};
use crate::spans::Spans;
use crate::state::{Past, State};
use crate::storages::{Entrusted, Ownership, StorageHandles, Writers};
use crate::tasks::Tasks;

use control::Switches;
use doubts::Doubts;
use first_round::FirstRound;
use kept::Since;
use ledger::Ledger;
use replay::Desk;
use shared::{PipelineShared, Shared};
pub(crate) use stopping::Stopping;

pub use control::{Control, Phase, PipelineState, Refused};
pub use ending::{Ended, Figures, Stopper};
pub use inbox::InboxLimits;
pub use replay::place_of as replayed_from;

/// How often old history is dropped.
const PRUNE_EACH: Duration = Duration::from_secs(3600);

/// The time of which a profile is kept.
const PROFILE_EACH: Duration = Duration::from_secs(60);

/// How a flow is to be run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Intake ends after this time.
    pub limit: Option<Duration>,
    /// Each scheduled pipeline runs once, now, and the flow ends.
    pub once: bool,
    /// Only these pipelines; all when empty.
    pub pipelines: Vec<String>,
    /// No pipeline is triggered: their dead letters that are asked for are replayed, and the run ends.
    pub replay: bool,
    /// The folder of the state, instead of the file's.
    pub state: Option<PathBuf>,
    /// Which owner of its pipelines this run is, of those that follow each other: a storage that can tell refuses an
    /// earlier one, and the run ends at once ([`Ended::fenced_by`]). `0` where nobody else can be.
    pub epoch: Epoch,
    /// By what links lead to pipelines that are not among those of this run; without it, all are here.
    pub engine: Option<Arc<dyn Engine>>,
    /// The clock.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
    /// The HTTP clients of the flow.
    pub http: HttpClients,
    /// Its connections to engines.
    pub engines: Engines,
    /// How much an inbox holds, and the outbox of a stage with `required: false`.
    pub inbox: InboxLimits,
    /// How long the times are of which profiles are kept.
    pub profile_each: Duration,
    /// Whether times are taken: always, but in the benchmark of what that costs.
    pub metering: Metering,
    /// Who is told of spans; nobody is the usual.
    pub spans: Option<Arc<dyn Spans>>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            limit: None,
            once: false,
            pipelines: Vec::new(),
            replay: false,
            state: None,
            epoch: Epoch::default(),
            engine: None,
            clock: Clock::real(),
            dice: Dice::from_system(),
            http: HttpClients::default(),
            engines: Engines::default(),
            inbox: InboxLimits::default(),
            profile_each: PROFILE_EACH,
            metering: Metering::On,
            spans: None,
        }
    }
}

/// A running flow. Dropping it drops all work in flight, unacknowledged, and lets go of its files, processes and
/// folder; [`Running::finished`] ends it in good order.
pub struct Running {
    shared: Arc<Shared>,
    supervisors: Tasks,
    state: State,
    writers: Writers,
    doubts: Doubts,
    stopper: Stopper,
    /// How long a run that ends by itself may stand still.
    patience: Duration,
    _end: EndOnDrop,
}

/// Ends everything at once, as a kill of the process would.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::Relaxed);
        self.0.tasks.abort();
        self.0.records.abort();
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({})", self.shared.flow)
    }
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
    let doubts = Doubts::new(&opening, &plan.storages);
    let storages = plan.storages.iter().map(|storage: &StoragePlan| Entrusted {
        name: &storage.name,
        opener: doubts.opener(storage, state.handle()),
        apart: storage.open.is_apart(),
    });
    let owned = pipelines.iter().map(|pipeline| Arc::clone(&pipeline.name));
    let ownership = Ownership::new(Arc::clone(&plan.name), options.epoch, owned);
    let (writers, handles) = Writers::start(storages, &ownership)?;
    // What takes from others comes after them.
    let follows = |name: &str| plan.links.iter().any(|link| *link.receiver == *name);
    let ahead = pipelines
        .iter()
        .filter(|pipeline| !pipeline.waits_for_others && !follows(&pipeline.name));
    let ahead: Vec<Arc<str>> = ahead.map(|pipeline| Arc::clone(&pipeline.name)).collect();
    let handle = state.handle();
    let switches = Switches::of(&pipelines, &opening.paused);
    tell_paused(&pipelines, &opening.paused);
    // Replays go past the inboxes.
    let (pipelines, receiving) = match options.replay {
        true => (pipelines, Vec::new()),
        false => inbox::part_all(pipelines, &handle, options.inbox, &clock),
    };
    let now = clock.now();
    let signs = pipelines.iter().map(|pipeline| sign(pipeline, None, now));
    let received = receiving
        .iter()
        .map(|part| sign(&part.plan, Some(Arc::clone(&part.inbox.meter)), now));
    let signs: Vec<PipelineSign> = signs.chain(received).collect();
    let links = Links::of(&plan.links);
    let stopping = Stopping::new();
    let tasks = Tasks::default();
    let meters = FlowMeter::start(&plan.name, &signs, &clock, options.metering);
    let shared = Arc::new(Shared {
        flow: Arc::clone(&plan.name),
        folder: plan.folder.as_path().into(),
        state_folder: state_folder.as_path().into(),
        measured: Since::now(&clock, meters.figures()),
        meters,
        repeats: Repeats::new(&clock),
        ledger: Ledger::new(state.handle(), clock.clone()),
        positions: Mutex::default(),
        desk: Desk::new(clock.clone()),
        switches,
        first_round: FirstRound::of(ahead),
        clock,
        dice: options.dice.clone(),
        spans: options.spans.clone(),
        http: options.http.clone(),
        links: links.clone(),
        engines: options.engines.clone(),
        threads: FunctionThreads::default(),
        scrubber: plan.scrubber.clone(),
        limits: options.inbox,
        state: state.handle(),
        storages: StorageHandles::new(handles),
        ownership: ownership.clone(),
        functions: plan.functions.clone(),
        stopping: stopping.clone(),
        tasks: tasks.clone(),
        records: Tasks::default(),
        dropped: AtomicBool::new(false),
        failure: Mutex::default(),
    });
    let supervisors = tasks.child();
    if let Some(engine) = &options.engine {
        let here = pipelines.iter().map(|pipeline| Arc::clone(&pipeline.name));
        let far = Far {
            engine: Arc::clone(engine),
            flow: Arc::clone(&plan.name),
            me: format!(
                "{:016x}{:016x}",
                options.dice.number(),
                options.dice.number()
            )
            .into(),
            ownership,
            clock: shared.clock.clone(),
            stopping: stopping.clone(),
        };
        far.start(&plan.links, &links, &here.collect(), (&supervisors, &tasks))?;
    }
    let number = pipelines.len();
    let mut plans = replay::Plans::new();
    for (index, pipeline) in pipelines.into_iter().enumerate() {
        let (shared, pipeline) = (Arc::clone(&shared), Arc::new(pipeline));
        let (sends, takes) = (links.sends(&pipeline.name), links.takes(&pipeline.name));
        if options.replay {
            // What a replay hands over is taken as ever.
            if follows(&pipeline.name) {
                let sends = links.sends(&pipeline.name);
                let supervised =
                    pipeline::supervise(Arc::clone(&pipeline), index, Arc::clone(&shared), true);
                supervisors.spawn("pipeline", async move {
                    supervised.await;
                    drop((sends, takes));
                });
            }
            supervisors.spawn("replay", async move {
                replay::all(pipeline, index, shared).await;
                drop(sends);
            });
            continue;
        }
        plans.insert(Arc::clone(&pipeline.name), (index, Arc::clone(&pipeline)));
        let inbox = receiving
            .iter()
            .find(|part| part.plan.name == pipeline.name);
        let inbox = inbox.map(|part| Arc::clone(&part.inbox));
        let supervised = pipeline::supervise(pipeline, index, shared, options.once);
        supervisors.spawn("pipeline", async move {
            supervised.await;
            drop((sends, takes));
            if let Some(inbox) = inbox {
                inbox.working_is_over().await;
            }
        });
    }
    shared
        .records
        .spawn("ends of replays", replay::keep(Arc::clone(&shared)));
    if !options.replay {
        inbox::receive_all(receiving, number, &shared, &supervisors);
        tasks.spawn("look for replays", replay::look(Arc::clone(&shared), plans));
    }
    shared
        .records
        .spawn("ledger", ledger::keep(Arc::clone(&shared)));
    tasks.spawn("prune", prune(Arc::clone(&shared)));
    tasks.spawn(
        "profiles",
        kept::keep(Arc::clone(&shared), options.profile_each),
    );
    let senders = plan.pipelines.iter().flat_map(|pipeline| {
        let mut stages = Vec::new();
        for stage in &pipeline.stages {
            if stage.has_outbox() {
                stages.push((Arc::clone(&pipeline.name), Arc::clone(&stage.name)));
            }
        }
        stages
    });
    tasks.spawn(
        "outboxes",
        outbox::tell_left(Arc::clone(&shared), senders.collect()),
    );
    if let Some(limit) = options.limit {
        let shared = Arc::clone(&shared);
        tasks.spawn("limit", async move {
            tokio::select! {
                () = shared.stopping.intake_over() => {}
                () = shared.clock.sleep(limit) => shared.stopping.end_intake(),
            }
        });
    }
    Ok(Running {
        _end: EndOnDrop(Arc::clone(&shared)),
        shared,
        supervisors,
        state,
        writers,
        doubts,
        stopper: Stopper::new(stopping),
        patience: options.limit.unwrap_or_default().max(ending::STANDSTILL),
    })
}

/// What is measured of a pipeline.
fn sign(
    pipeline: &PipelinePlan,
    receives_into: Option<Arc<InboxMeter>>,
    now: Timestamp,
) -> PipelineSign {
    let stage = |stage: &StagePlan| StageSign {
        name: Arc::clone(&stage.name),
        kind: stage.kind.clone(),
        replicas: stage.policy.parallel,
        queue_room: if stage.joins() { 1 } else { channel::QUEUE },
        joins: stage.joins(),
        rate_limit: stage.policy.rate_limit,
        required: stage.required,
    };
    let trigger = match &pipeline.trigger {
        TriggerPlan::Schedule(schedule, _) => Trigger::Schedule {
            period_seconds: schedule.mean_period(now),
        },
        TriggerPlan::Once => Trigger::Once,
        TriggerPlan::Source { .. } => Trigger::Stream,
    };
    PipelineSign {
        name: Arc::clone(&pipeline.name),
        trigger,
        stages: pipeline.stages.iter().map(stage).collect(),
        receives_into,
    }
}

/// Drops what is older than its retention, at the start and each hour, until intake ends.
async fn prune(shared: Arc<Shared>) {
    let started = shared.clock.mark();
    loop {
        // A wall clock that jumps ahead must not make all that is kept look old.
        match shared.state.prune(shared.clock.since(started)).await {
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
    let mut wanted: BTreeSet<Arc<str>> = match options.pipelines.is_empty() {
        true => plan
            .pipelines
            .iter()
            .map(|pipeline| Arc::clone(&pipeline.name))
            .collect(),
        false => options
            .pipelines
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
    };
    if options.replay {
        // What a replay hands over is taken as ever.
        plan.add_takers(&mut wanted);
    }
    let mut pipelines = plan.pipelines.clone();
    pipelines.retain(|pipeline| wanted.contains(&pipeline.name));
    if options.once {
        retain_for_once(plan, &mut pipelines);
        if pipelines.is_empty() {
            let help =
                "`--once` runs scheduled pipelines, and there is none; use `--for 10s` for streams";
            return Err(Error::config(help));
        }
    }
    let is_chosen = |name: &Arc<str>| pipelines.iter().any(|pipeline| pipeline.name == *name);
    let all_are_here = !options.replay && options.engine.is_none();
    for link in plan.links.iter().filter(|_| all_are_here) {
        let sender = link.senders.iter().find(|sender| is_chosen(sender));
        let missing = match (sender, is_chosen(&link.receiver)) {
            (Some(sender), false) => Some((sender, &link.receiver, "hands over to it")),
            (None, true) => link
                .senders
                .first()
                .map(|sender| (&link.receiver, sender, "takes from it")),
            _ => None,
        };
        if let Some((chosen, missing, what)) = missing {
            return Err(Error::config(format!(
                "pipeline `{missing}` is wanted too: `{chosen}` {what} by link `{}`; add `--pipeline {missing}`",
                link.name
            )));
        }
    }
    Ok(pipelines)
}

/// Leaves those that have a schedule, and those that take what they hand over.
fn retain_for_once(plan: &Plan, pipelines: &mut Vec<PipelinePlan>) {
    let is_stream =
        |pipeline: &PipelinePlan| matches!(pipeline.trigger, TriggerPlan::Source { .. });
    let scheduled = pipelines.iter().filter(|pipeline| !is_stream(pipeline));
    let mut fed: BTreeSet<Arc<str>> = scheduled
        .map(|pipeline| Arc::clone(&pipeline.name))
        .collect();
    plan.add_takers(&mut fed);
    pipelines.retain(|pipeline| fed.contains(&pipeline.name));
}

/// An operator has paused them before the flow started: that nothing happens must not surprise.
fn tell_paused(pipelines: &[PipelinePlan], paused: &[(String, jiff::Timestamp)]) {
    for (name, since) in paused {
        if pipelines.iter().any(|pipeline| *pipeline.name == **name) {
            tracing::warn!(pipeline = %name, %since, "paused: it starts nothing until it is resumed");
        }
    }
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
