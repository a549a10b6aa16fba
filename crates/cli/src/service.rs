//! Runs a plan in this process: the runtime, the signals, and looks at the figures now and then.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use wiredflow_api::logs::Recent;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{self, Figures, RunOptions};
use wiredflow_scale::figures::FlowFigures;

use crate::exit::{Exit, Failure};
use crate::front::Front;
use crate::traces::Sending;
use crate::watch::Watch;

/// How long what was cut off may take to let go.
const LAST_MOMENTS: Duration = Duration::from_millis(500);
/// How long the end at once may take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A look at a run.
#[derive(Debug)]
pub(crate) struct Look {
    /// How its deliveries do.
    pub(crate) report: RunReport,
    /// What reads all that is measured of it.
    pub(crate) figures: Figures,
    /// Whether it was told to stop: it only finishes what is in flight.
    pub(crate) is_stopping: bool,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Served {
    /// How its deliveries did.
    pub(crate) report: RunReport,
    /// All that was measured of it; with changes of the flow, of the last session.
    pub(crate) figures: Option<FlowFigures>,
    /// What to tell the shell.
    pub(crate) exit: Exit,
}

/// Runs the plan to its end: by itself, by a limit, or by SIGINT or SIGTERM. `look` is called with the
/// figures, each `every`; with `Break` it ends the run in good order. With `watch` the end of a plan by itself is
/// no end, and a changed one takes the place of the one that runs, which finishes what is in flight. With `logs` the
/// API is served where the flow says so.
///
/// # Errors
/// `Failed` when it cannot start.
pub(crate) fn serve(
    plan: &Plan,
    options: &RunOptions,
    every: Option<Duration>,
    look: &mut dyn FnMut(Look) -> ControlFlow<()>,
    watch: Option<&mut Watch<'_>>,
    logs: Option<&Recent>,
) -> Result<Served, Failure> {
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut front = Front::new(logs);
        let traces = Sending::begin(&plan.name, options)?;
        let options = &RunOptions {
            spans: traces.spans(),
            ..options.clone()
        };
        let served = match watch {
            None => {
                let mut changes = std::future::pending();
                let ways = (&mut signals, &mut front);
                let session = session(plan, options, every, look, ways, &mut changes);
                session.await.and_then(Session::served)
            }
            Some(watch) => {
                let ways = (&mut signals, &mut front);
                follow_changes(plan, options, every, look, ways, watch).await
            }
        };
        front.close().await;
        traces.close().await;
        served
    });
    runtime.shutdown_timeout(LAST_MOMENTS);
    served
}

/// A runtime with a thread for each core, and for two at least: a stage that computes must not hold the
/// others.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.max(2))
        .thread_name("wiredflow")
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

/// How many pipelines run.
fn pipelines(plan: &Plan, options: &RunOptions) -> usize {
    if options.pipelines.is_empty() {
        plan.pipelines.len()
    } else {
        options.pipelines.len()
    }
}

/// Why a session has ended.
#[derive(Debug)]
enum Why {
    /// Nothing was left to do, its time was over, it failed, or nobody watched any more.
    Itself,
    /// A signal.
    Signal,
    /// Two signals.
    AtOnce,
    /// This plan takes its place.
    Change(Box<Plan>),
}

/// A plan that has run.
#[derive(Debug)]
struct Session {
    report: Option<RunReport>,
    figures: Option<FlowFigures>,
    why: Why,
}

impl Session {
    /// As the end of all.
    fn served(self) -> Result<Served, Failure> {
        let interrupted = matches!(self.why, Why::AtOnce);
        match self.report {
            Some(report) => {
                let exit = match (interrupted, report.ok) {
                    (true, _) => Exit::Interrupted,
                    (false, true) => Exit::Done,
                    (false, false) => Exit::Failed,
                };
                Ok(Served {
                    report,
                    figures: self.figures,
                    exit,
                })
            }
            None => Err(Failure::Told(
                Exit::Interrupted,
                "stopped at once".to_owned(),
            )),
        }
    }
}

/// Runs one plan until it ends, or until a changed one comes.
async fn session(
    plan: &Plan,
    options: &RunOptions,
    every: Option<Duration>,
    look: &mut dyn FnMut(Look) -> ControlFlow<()>,
    (signals, front): (&mut Signals, &mut Front<'_>),
    changes: &mut (impl Future<Output = Plan> + Unpin),
) -> Result<Session, Failure> {
    let door = front.open(plan, options).await?;
    let running = run::start(plan, options).map_err(|error| Failure::failed(error.message()))?;
    front.show(door, plan, options, &running)?;
    // Told when it is true: the state is open and no other process holds it.
    let pipelines = pipelines(plan, options);
    if options.replay {
        tracing::info!(flow = %plan.name, pipelines, "replaying dead letters; ^C stops it");
    } else {
        tracing::info!(flow = %plan.name, pipelines, "running; ^C stops it");
    }
    let (stopper, figures) = (running.stopper(), running.figures());
    let mut ended = pin!(running.finished());
    let mut why = Why::Itself;
    let mut is_stopped = false;
    loop {
        let pause = async {
            match every {
                Some(every) => options.clock.sleep(every).await,
                None => std::future::pending().await,
            }
        };
        let is_open = !is_stopped;
        tokio::select! {
            ended = &mut ended => {
                let (report, figures) = (Some(ended.report), Some(ended.figures));
                return Ok(Session { report, figures, why });
            }
            () = signals.next() => {
                if matches!(why, Why::Signal) {
                    break;
                }
                // It may stop already, so that a changed plan can come: none comes now.
                if !is_stopped {
                    stopper.stop();
                }
                is_stopped = true;
                why = Why::Signal;
                tracing::info!("stopping: finishing what is in flight; again to stop at once");
            }
            plan = &mut *changes, if is_open => {
                tracing::info!("the flow has changed: what is in flight is finished, then the new one runs");
                why = Why::Change(Box::new(plan));
                is_stopped = true;
                stopper.stop();
            }
            () = pause => {
                let goes_on = figures.snapshot().is_none_or(|report| {
                    let figures = figures.clone();
                    look(Look { report, figures, is_stopping: is_stopped }).is_continue()
                });
                if !goes_on && !is_stopped {
                    is_stopped = true;
                    stopper.stop();
                }
            }
        }
    }
    let last = (figures.snapshot(), figures.figures());
    stopper.stop();
    let (report, figures) = tokio::select! {
        ended = &mut ended => (Some(ended.report), Some(ended.figures)),
        () = options.clock.sleep(AT_ONCE) => last,
        () = signals.next() => last,
    };
    Ok(Session {
        report,
        figures,
        why: Why::AtOnce,
    })
}

/// Runs a flow with all its changes. The figures are those of all its sessions.
async fn follow_changes(
    plan: &Plan,
    options: &RunOptions,
    every: Option<Duration>,
    look: &mut dyn FnMut(Look) -> ControlFlow<()>,
    (signals, front): (&mut Signals, &mut Front<'_>),
    watch: &mut Watch<'_>,
) -> Result<Served, Failure> {
    let clock = &options.clock;
    let begun = clock.monotonic();
    let mut options = options.clone();
    let limit = options.limit;
    let mut plan = plan.clone();
    let mut good: Option<Plan> = None;
    let mut before: Option<RunReport> = None;
    loop {
        options.limit = limit.map(|limit| limit.saturating_sub(clock.monotonic() - begun));
        let played = {
            let mut look = |seen: Look| {
                look(Look {
                    report: together(before.as_ref(), seen.report),
                    ..seen
                })
            };
            let mut changes = pin!(watch.next(clock));
            let ways = (&mut *signals, &mut *front);
            session(&plan, &options, every, &mut look, ways, &mut changes).await
        };
        let mut ended = match (played, good.take()) {
            (Ok(ended), _) => ended,
            (Err(failure), None) => return Err(failure),
            (Err(failure), Some(last)) => {
                // The folder of its state may be another's, or taken.
                let reason = failure.message();
                tracing::error!(
                    "the changed flow cannot start: {reason}; going on with the one before"
                );
                plan = last;
                continue;
            }
        };
        ended.report = ended.report.map(|report| together(before.as_ref(), report));
        let is_over = limit.is_some_and(|limit| clock.monotonic() - begun >= limit);
        let next = match ended.why {
            _ if is_over => return ended.served(),
            Why::Signal | Why::AtOnce => return ended.served(),
            Why::Change(next) => *next,
            Why::Itself => {
                let failed = ended.report.as_ref().is_some_and(|report| !report.ok);
                let how = if failed { "has failed" } else { "has ended" };
                tracing::info!("the flow {how}; waiting for a change of its files, ^C ends");
                let left = limit.map(|limit| limit.saturating_sub(clock.monotonic() - begun));
                let over = async {
                    match left {
                        Some(left) => clock.sleep(left).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    plan = watch.next(clock) => plan,
                    () = signals.next() => return ended.served(),
                    () = over => return ended.served(),
                }
            }
        };
        before = ended.report;
        good = Some(std::mem::replace(&mut plan, next));
    }
}

/// The figures of a session and of those before it: pipelines together, stages as they are now.
fn together(before: Option<&RunReport>, now: RunReport) -> RunReport {
    let Some(before) = before else { return now };
    let mut now = now;
    now.seconds += before.seconds;
    for (name, earlier) in &before.pipelines {
        match now.pipelines.get_mut(name) {
            Some(pipeline) => pipeline.add(earlier),
            None => drop(now.pipelines.insert(name.clone(), earlier.clone())),
        }
    }
    now
}

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals from now on. Must be called inside the runtime.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let told =
            |error: std::io::Error| Failure::failed(format!("cannot listen for signals: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(told)?,
            terminate: signal(SignalKind::terminate()).map_err(told)?,
        })
    }

    /// Waits for the next.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
