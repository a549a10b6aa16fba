//! What may be done to a running flow from outside: its pipelines looked at, paused, resumed, and run now.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use wiredflow_core::Error;
use wiredflow_core::problem::possible;

use crate::observe::RunReport;
use crate::plan::{PipelinePlan, TriggerPlan};

use super::Running;
use super::shared::Shared;

/// How long a trigger may take to say whether it starts a run.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Controls a running flow, also while its end is awaited. A cheap clone.
#[derive(Clone)]
pub struct Control(Weak<Shared>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

/// Where a pipeline is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    /// Its stages and its source are being opened.
    Opening,
    /// It works, or waits for its next delivery.
    Open,
    /// It is opened again after a while: its source was away, or it has failed and is restarted.
    Waiting,
    /// It has ended: its schedule has no further tick, the flow stops, or it has failed for good.
    Ended,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Opening, Self::Open, Self::Waiting, Self::Ended];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
        }
    }
}

/// A pipeline as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineState {
    /// Its name.
    pub name: Arc<str>,
    /// What starts its deliveries, in the words of the file: `every 10s`, `once`, or the kind of its source.
    pub trigger: String,
    /// Whether it can be run now.
    pub is_scheduled: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when it starts nothing new.
    pub paused: Option<Timestamp>,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The flow has ended.
    Ended,
    /// There is no such pipeline; what is possible.
    Unknown(String),
    /// It does not go with what the pipeline is or does now.
    Conflict(String),
    /// The state could not be written.
    Failed(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the flow has ended"),
            Self::Unknown(why) | Self::Conflict(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl Running {
    /// What controls it while its end is awaited.
    pub fn control(&self) -> Control {
        Control(Arc::downgrade(&self.shared))
    }
}

impl Control {
    /// The flow's pipelines, by name; none after its end.
    pub fn pipelines(&self) -> Option<Vec<PipelineState>> {
        let shared = self.0.upgrade()?;
        let state = |(name, switch): (&Arc<str>, &Arc<Switch>)| PipelineState {
            name: Arc::clone(name),
            trigger: switch.trigger.clone(),
            is_scheduled: switch.is_scheduled,
            phase: switch.phase(),
            paused: switch.paused_since(),
        };
        Some(shared.switches.0.iter().map(state).collect())
    }

    /// The figures now; none after the end.
    pub fn report(&self) -> Option<RunReport> {
        self.0.upgrade().map(|shared| shared.report())
    }

    /// Whether intake has ended: the flow finishes what is in flight.
    pub fn is_stopping(&self) -> bool {
        let shared = self.0.upgrade();
        shared.is_none_or(|shared| shared.stopping.is_intake_over())
    }

    /// Pauses a pipeline: its trigger starts nothing new, its source is not read, and what is in flight is
    /// finished. It stays so through restarts of the flow, and when this returns the disk knows. A pipeline
    /// that is paused stays paused since it was.
    ///
    /// # Errors
    /// `Unknown`, `Ended`, `Failed`.
    pub async fn pause(&self, pipeline: &str) -> Result<(), Refused> {
        let (shared, switch) = self.find(pipeline)?;
        if switch.paused_since().is_some() {
            return Ok(());
        }
        let since = shared.clock.now();
        let noted = shared.state.set_paused(pipeline, Some(since)).await;
        noted.map_err(failed)?;
        switch.turn(Some(since));
        tracing::info!(%pipeline, "paused: it starts nothing new");
        Ok(())
    }

    /// Lets a pipeline go on: a schedule with its next tick, a source with what comes.
    ///
    /// # Errors
    /// `Unknown`, `Ended`, `Failed`.
    pub async fn resume(&self, pipeline: &str) -> Result<(), Refused> {
        let (shared, switch) = self.find(pipeline)?;
        if switch.paused_since().is_none() {
            return Ok(());
        }
        let noted = shared.state.set_paused(pipeline, None).await;
        noted.map_err(failed)?;
        switch.turn(None);
        tracing::info!(%pipeline, "resumed");
        Ok(())
    }

    /// Runs a scheduled pipeline now, beside its schedule, also while it is paused. Returns when the run is
    /// being started.
    ///
    /// # Errors
    /// `Unknown`; `Conflict` for a stream, for a pipeline that is not open, and for one that runs unless its
    /// `overlap` is `allow`, or `queue`: then the run waits, as one tick may.
    pub async fn trigger(&self, pipeline: &str) -> Result<(), Refused> {
        let (shared, switch) = self.find(pipeline)?;
        if !switch.is_scheduled {
            return Err(Refused::Conflict(format!(
                "`{pipeline}` is a stream: its source starts its deliveries"
            )));
        }
        let phase = switch.phase();
        if phase != Phase::Open {
            return Err(Refused::Conflict(format!(
                "`{pipeline}` is not open (it is {}): it cannot run now",
                phase.word()
            )));
        }
        let (answer, answered) = oneshot::channel();
        if !switch.ask(answer) {
            return Err(Refused::Conflict(format!(
                "`{pipeline}` was asked to run just now: that run is about to start"
            )));
        }
        tokio::select! {
            answered = answered => answered.map_err(|_| Refused::Ended)?,
            () = shared.clock.sleep(ANSWER_WITHIN) => {
                switch.take_ask();
                Err(Refused::Conflict(format!("`{pipeline}` is busy with its start or its end")))
            }
        }
    }

    fn find(&self, pipeline: &str) -> Result<(Arc<Shared>, Arc<Switch>), Refused> {
        let shared = self.0.upgrade().ok_or(Refused::Ended)?;
        let Some(switch) = shared.switches.0.get(pipeline).map(Arc::clone) else {
            let names = shared.switches.0.keys().map(|name| &**name);
            let help = possible(pipeline, names);
            return Err(Refused::Unknown(format!(
                "there is no pipeline `{}`: {help}",
                pipeline.escape_debug()
            )));
        };
        Ok((shared, switch))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failed(error: Error) -> Refused {
    Refused::Failed(error.message().to_owned())
}

/// The switches of all pipelines, by name.
pub(crate) struct Switches(BTreeMap<Arc<str>, Arc<Switch>>);

impl Switches {
    /// Those of these pipelines; `paused` are the ones that were paused before.
    pub(crate) fn of(pipelines: &[PipelinePlan], paused: &[(String, Timestamp)]) -> Self {
        let switch = |plan: &PipelinePlan| {
            let since = paused.iter().find(|(name, _)| **name == *plan.name);
            let (trigger, is_scheduled) = match &plan.trigger {
                TriggerPlan::Schedule(schedule, _) => (schedule.to_string(), true),
                TriggerPlan::Once => ("once".to_owned(), true),
                TriggerPlan::Source { kind, .. } => (kind.clone(), false),
            };
            let switch = Switch {
                trigger,
                is_scheduled,
                phase: AtomicU8::new(Phase::Opening as u8),
                paused: Mutex::new(since.map(|(_, since)| *since)),
                turned: Notify::new(),
                ask: Mutex::default(),
                asked: Notify::new(),
            };
            (Arc::clone(&plan.name), Arc::new(switch))
        };
        Self(pipelines.iter().map(switch).collect())
    }

    /// The switch of a pipeline of the run.
    pub(crate) fn named(&self, pipeline: &str) -> Arc<Switch> {
        match self.0.get(pipeline) {
            Some(switch) => Arc::clone(switch),
            None => Arc::new(Switch::unnamed()),
        }
    }
}

type Answer = oneshot::Sender<Result<(), Refused>>;

/// Holds one pipeline's trigger or source back, and hands requests to its trigger.
///
/// Those who wait make their `notified()` before they look, so none misses a change.
pub(crate) struct Switch {
    trigger: String,
    is_scheduled: bool,
    phase: AtomicU8,
    paused: Mutex<Option<Timestamp>>,
    turned: Notify,
    /// Somebody who wants it to run now.
    ask: Mutex<Option<Answer>>,
    asked: Notify,
}

impl Switch {
    fn unnamed() -> Self {
        Self {
            trigger: String::new(),
            is_scheduled: false,
            phase: AtomicU8::new(Phase::Opening as u8),
            paused: Mutex::default(),
            turned: Notify::new(),
            ask: Mutex::default(),
            asked: Notify::new(),
        }
    }

    /// Notes where the pipeline is in its life.
    pub(crate) fn is_now(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Acquire)) % Phase::ALL.len()]
    }

    fn paused_since(&self) -> Option<Timestamp> {
        *lock(&self.paused)
    }

    /// Whether nothing new is to be started.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused_since().is_some()
    }

    fn turn(&self, paused: Option<Timestamp>) {
        *lock(&self.paused) = paused;
        self.turned.notify_waiters();
    }

    /// Waits until it is paused.
    pub(crate) async fn paused(&self) {
        self.until(true).await;
    }

    /// Waits until it is not paused.
    pub(crate) async fn resumed(&self) {
        self.until(false).await;
    }

    async fn until(&self, paused: bool) {
        loop {
            let turned = self.turned.notified();
            if self.is_paused() == paused {
                return;
            }
            turned.await;
        }
    }

    /// Puts a request down for the trigger; false when there is one already.
    fn ask(&self, answer: Answer) -> bool {
        let mut ask = lock(&self.ask);
        if ask.as_ref().is_some_and(|ask| !ask.is_closed()) {
            return false;
        }
        *ask = Some(answer);
        drop(ask);
        self.asked.notify_one();
        true
    }

    fn take_ask(&self) -> Option<Answer> {
        lock(&self.ask).take()
    }

    /// Waits for somebody who wants the pipeline to run now.
    pub(crate) async fn asked(&self) -> Answer {
        loop {
            if let Some(answer) = self.take_ask() {
                return answer;
            }
            self.asked.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
