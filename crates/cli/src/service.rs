//! Runs a plan in this process: the runtime, the signals, and looks at the figures now and then.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{self, RunOptions};

use crate::exit::{Exit, Failure};

/// How long what was cut off may take to let go.
const LAST_MOMENTS: Duration = Duration::from_millis(500);
/// How long the end at once may take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Served {
    /// The figures.
    pub(crate) report: RunReport,
    /// What to tell the shell.
    pub(crate) exit: Exit,
}

/// Runs the plan to its end: by itself, by a limit, or by SIGINT or SIGTERM. `look` is called with the
/// figures, each `every`; with `Break` it ends the run in good order.
///
/// # Errors
/// `Failed` when it cannot start.
pub(crate) fn serve(
    plan: &Plan,
    options: &RunOptions,
    every: Option<Duration>,
    look: &mut dyn FnMut(RunReport) -> ControlFlow<()>,
) -> Result<Served, Failure> {
    let runtime = runtime()?;
    let served = runtime.block_on(follow(plan, options, every, look));
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

async fn follow(
    plan: &Plan,
    options: &RunOptions,
    every: Option<Duration>,
    look: &mut dyn FnMut(RunReport) -> ControlFlow<()>,
) -> Result<Served, Failure> {
    let mut signals = Signals::listen()?;
    let running = run::start(plan, options).map_err(|error| Failure::failed(error.message()))?;
    // Told when it is true: the state is open and no other process holds it.
    tracing::info!(flow = %plan.name, pipelines = pipelines(plan, options), "running; ^C stops it");
    let (stopper, figures) = (running.stopper(), running.figures());
    let mut ended = pin!(running.finished());
    let mut stopping = false;
    loop {
        let pause = async {
            match every {
                Some(every) => options.clock.sleep(every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut ended => {
                let exit = if ended.report.ok { Exit::Done } else { Exit::Failed };
                return Ok(Served { report: ended.report, exit });
            }
            () = signals.next() => {
                if stopping {
                    break;
                }
                stopping = true;
                tracing::info!("stopping: finishing what is in flight; again to stop at once");
                stopper.stop();
            }
            () = pause => {
                let goes_on = figures.snapshot().is_none_or(|report| look(report).is_continue());
                if !goes_on {
                    stopper.stop();
                }
            }
        }
    }
    let last = figures.snapshot();
    stopper.stop();
    let report = tokio::select! {
        ended = &mut ended => Some(ended.report),
        () = options.clock.sleep(AT_ONCE) => last,
        () = signals.next() => last,
    };
    match report {
        Some(report) => Ok(Served {
            report,
            exit: Exit::Interrupted,
        }),
        None => Err(Failure::Told(
            Exit::Interrupted,
            "stopped at once".to_owned(),
        )),
    }
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
