//! Flows by a paused clock: hours pass in milliseconds, and the same way each time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use wiredflow_core::charge::Activity;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Result};
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::fakes;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{Ended, RunOptions};

use super::bench::{Bench, PATIENCE};

/// Noon of a day of no importance.
pub(crate) const NOON: &str = "2026-01-01T12:00:00Z";

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A clock that stands at noon.
pub(crate) fn noon() -> Clock {
    Clock::paused(time(NOON))
}

/// Options that end intake after some time of the clock.
pub(crate) fn by(clock: &Clock, limit: Duration) -> RunOptions {
    RunOptions {
        limit: Some(limit),
        clock: clock.clone(),
        dice: Dice::seeded(wiredflow_testkit::seed()),
        ..RunOptions::default()
    }
}

/// Runs a plan to its end.
pub(crate) fn play(plan: &Plan, options: &RunOptions) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        let played = fakes::play(plan, options);
        tokio::time::timeout(2 * PATIENCE, played)
            .await
            .expect("the flow ends")
            .unwrap()
    });
    assert_eq!(
        runtime.metrics().num_alive_tasks(),
        0,
        "tasks outlive the flow"
    );
    ended
}

impl Bench {
    /// Runs a flow for some time of the clock.
    pub(crate) fn play(&self, text: &str, clock: &Clock, limit: Duration) -> RunReport {
        play(&self.plan(text), &by(clock, limit)).report
    }

    /// Links in a function `note` that gives back its input, and notes with it how many seconds after the clock's
    /// start it was called, by the monotonic clock.
    pub(crate) fn noting(self, clock: &Clock) -> (Self, Notes) {
        let notes = Notes::default();
        let (clock, noted, start) = (clock.clone(), notes.clone(), clock.monotonic());
        let bench = self.with("note", move |call| {
            let since = (clock.monotonic() - start).as_secs_f64();
            noted.0.lock().unwrap().push((since, call.data.clone()));
            Ok(call.data)
        });
        (bench, notes)
    }

    /// The ticks of a pipeline's runs, in seconds after noon, and the seconds at which the runs began.
    pub(crate) fn ticks_of(&self, pipeline: &str) -> Vec<(f64, f64)> {
        let since = |time: Timestamp| time.duration_since(self::time(NOON)).as_secs_f64();
        let runs = self.runs();
        let of = runs.iter().filter(|run| run.pipeline == pipeline);
        of.map(|run| (run.scheduled_at.map_or(f64::NAN, since), since(run.started)))
            .collect()
    }
}

/// What a function was called with, and when.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<(f64, Value)>>>);

impl Notes {
    pub(crate) fn times(&self) -> Vec<f64> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(time, _)| *time)
            .collect()
    }

    pub(crate) fn values(&self) -> Vec<Value> {
        let notes = self.0.lock().unwrap();
        notes.iter().map(|(_, value)| value.clone()).collect()
    }
}

/// A wait that a first record asks for.
pub(crate) type HowLong = Arc<dyn Fn(Option<&Value>) -> Duration + Send + Sync>;

/// Waits by the clock as long as its closure says of the first record, then hands on its input.
pub(crate) struct Waits(pub(crate) Clock, pub(crate) HowLong);

impl Waits {
    /// Always as long.
    pub(crate) fn always(
        clock: &Clock,
        time: Duration,
    ) -> impl Fn() -> Self + Send + Sync + 'static {
        let clock = clock.clone();
        move || Self(clock.clone(), Arc::new(move |_| time))
    }
}

impl Stage for Waits {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let wait = self.0.sleep((self.1)(batch.values().next()));
        // Else the paused clock would take it for work that goes on.
        cx.spend(Activity::Throttled, wait).await;
        out.emit(batch.clone()).await
    }
}

/// Gives 0, 1, 2 …, each at its second.
pub(crate) struct Drips(pub(crate) Clock, pub(crate) Vec<u64>);

impl Stage for Drips {
    async fn run(&self, _: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let start = self.0.monotonic();
        for (number, at) in self.1.iter().enumerate() {
            let wait = self.0.sleep_until(start + seconds(*at));
            cx.spend(Activity::Throttled, wait).await;
            out.emit(Batch::of_values(vec![number.into()])).await?;
        }
        Ok(())
    }
}
