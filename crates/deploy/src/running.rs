//! A part that runs in this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use wiredflow_cluster::{Part, PartEnd, PartPhase};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{self, Control, Figures, Phase, RunOptions, Running, Stopper};
use wiredflow_engine::tasks::Tasks;

/// How often it is looked whether its pipelines are open.
const LOOK_EACH: Duration = Duration::from_millis(200);

/// How long a time is for which the cores in use are told.
const MEASURED: f64 = 5.0;

/// Pipelines that run. Dropping it ends them at once.
#[derive(Debug)]
pub(crate) struct RunningPart {
    phase: watch::Receiver<PartPhase>,
    end: watch::Receiver<Option<PartEnd>>,
    stopper: Stopper,
    cores: Arc<Mutex<f64>>,
    tasks: Tasks,
}

impl RunningPart {
    /// Starts a plan. Must be called inside a runtime.
    ///
    /// # Errors
    /// `Remote`: what is in the way (an earlier process still holds the state) may pass.
    pub(crate) fn start(plan: &Plan, options: &RunOptions) -> Result<Self> {
        let running = run::start(plan, options);
        let running = running.map_err(|error| Error::remote(error.message()))?;
        let (phase, phases) = watch::channel(PartPhase::Opening);
        let (end, ended) = watch::channel(None);
        let (stopper, tasks) = (running.stopper(), Tasks::default());
        let cores = Arc::<Mutex<f64>>::default();
        let looking = Looking {
            control: running.control(),
            figures: running.figures(),
            phase,
            cores: Arc::clone(&cores),
            measured: (0.0, 0.0),
        };
        tasks.spawn(
            "part",
            see_through(running, looking, end, options.clock.clone()),
        );
        Ok(Self {
            phase: phases,
            end: ended,
            stopper,
            cores,
            tasks,
        })
    }
}

async fn see_through(
    running: Running,
    mut looking: Looking,
    end: watch::Sender<Option<PartEnd>>,
    clock: Clock,
) {
    let finished = running.finished();
    tokio::pin!(finished);
    let ended = loop {
        looking.look();
        tokio::select! {
            biased;
            ended = &mut finished => break ended,
            () = clock.sleep(LOOK_EACH) => {}
        }
    };
    let report = ended.report;
    let end_of = match (ended.fenced_by, report.ok) {
        (Some(_), _) => PartEnd::Fenced,
        (None, true) => PartEnd::Well,
        (None, false) => PartEnd::Failed(report.error.unwrap_or_else(|| "it failed".to_owned())),
    };
    end.send_replace(Some(end_of));
}

/// What looks at the pipelines.
struct Looking {
    control: Control,
    figures: Figures,
    phase: watch::Sender<PartPhase>,
    cores: Arc<Mutex<f64>>,
    /// Seconds since the start, and CPU seconds, when they were last looked at.
    measured: (f64, f64),
}

impl Looking {
    fn look(&mut self) {
        let Some(pipelines) = self.control.pipelines() else {
            return;
        };
        let is_open = |phase| matches!(phase, Phase::Open | Phase::Ended);
        let closed = pipelines.iter().find(|pipeline| !is_open(pipeline.phase));
        let phase = match closed {
            None => PartPhase::Open,
            Some(closed) => {
                let report = self.control.report();
                let report = report.and_then(|report| report.pipelines.get(&*closed.name).cloned());
                match report.and_then(|report| report.last_error) {
                    Some(error) => {
                        PartPhase::Waiting(format!("pipeline `{}`: {error}", closed.name))
                    }
                    None => PartPhase::Opening,
                }
            }
        };
        self.phase.send_if_modified(|known| {
            let is_news = *known != phase;
            *known = phase;
            is_news
        });
        self.measure();
    }

    fn measure(&mut self) {
        let Some(figures) = self.figures.figures() else {
            return;
        };
        let (seconds, cpu) = self.measured;
        let passed = figures.seconds - seconds;
        if passed < MEASURED {
            return;
        }
        let used: f64 = figures.stages.iter().map(|stage| stage.cpu_seconds).sum();
        let mut cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        *cores = (used - cpu) / passed;
        self.measured = (figures.seconds, used);
    }
}

impl Part for RunningPart {
    fn phase(&self) -> watch::Receiver<PartPhase> {
        self.phase.clone()
    }

    fn cores(&self) -> f64 {
        *self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.stopper.stop();
    }

    fn ended(&mut self) -> BoxFuture<'_, PartEnd> {
        Box::pin(async {
            match self.end.wait_for(Option::is_some).await {
                Ok(end) => end.clone().unwrap_or(PartEnd::Well),
                Err(_) => PartEnd::Failed("it was dropped".to_owned()),
            }
        })
    }
}

impl Drop for RunningPart {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}
