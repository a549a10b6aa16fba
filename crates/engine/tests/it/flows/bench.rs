//! What a test of a whole flow needs: a folder, functions, stages and sources of the test's own, and the state afterwards.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use wiredflow_core::delivery::{Delivery, Outcome, Payload, Settled, Token};
use wiredflow_core::stage::{AnySource, Cx, Emitter, Source, Stage};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Result};
use wiredflow_engine::catalogue::{OpenSource, Prepared, Work};
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::{Call, Functions};
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::plan::{Plan, TriggerPlan};
use wiredflow_engine::run::{Ended, RunOptions, Running, start};
use wiredflow_engine::state::{Selection, StateReader, StoredDeadLetter, StoredRun, is_locked};
use wiredflow_scale::figures::FlowFigures;
use wiredflow_testkit::wait_until;

/// No test waits longer for anything: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The time after which a flow that has not ended by itself is ended.
const LIMIT: Duration = Duration::from_secs(20);

/// A folder, the functions of a flow, and what was seen by the function `see`.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    functions: Functions,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            functions: Functions::default(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&bench.seen);
        bench.with("see", move |call| {
            seen.lock().unwrap().push(call.data.clone());
            Ok(call.data)
        })
    }

    /// Links in a function that gives one document.
    pub(crate) fn with(
        mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) -> Self {
        self.functions.register_simple(name, function);
        self
    }

    /// Links in a function that gives one document and never waits.
    pub(crate) fn quick(
        mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) -> Self {
        self.functions.register_quick(name, function);
        self
    }

    /// Links in `hang`, which hands its batch on only once it is let go.
    pub(crate) fn hanging(self) -> (Self, Arc<AtomicBool>) {
        let free = Arc::new(AtomicBool::new(false));
        let release = Arc::clone(&free);
        let bench = self.with("hang", move |call| {
            while !release.load(Ordering::Relaxed) {
                std::thread::sleep(millis(5));
            }
            Ok(call.data)
        });
        (bench, free)
    }

    /// Links in a function that gives what it likes.
    pub(crate) fn giving(
        mut self,
        name: &str,
        function: impl Fn(Call, &mut dyn FnMut(Value) -> Result<()>) -> Result<()>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.functions.register(name, Arc::new(function));
        self
    }

    /// Links in a generator of `{"n": 0}`, `{"n": 1}` …
    pub(crate) fn yielding(self, name: &str, values: usize, pause: Duration) -> Self {
        self.giving(name, move |_, give| {
            for number in 0..values {
                give(json!({"n": number}))?;
                std::thread::sleep(pause);
            }
            Ok(())
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the function `see` was called with.
    pub(crate) fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    /// The checked flow.
    pub(crate) fn plan(&self, text: &str) -> Plan {
        let lookup = SystemLookup::new(self.folder());
        let checked = check_text(text, "test", self.folder(), &self.functions, &lookup);
        assert!(checked.plan.is_some(), "{:#?}", checked.problems);
        checked.plan.unwrap()
    }

    /// Runs a flow to its end, 20 s at most.
    pub(crate) fn run(&self, text: &str) -> RunReport {
        self.run_with(text, &within(LIMIT))
    }

    /// Runs a flow to its end.
    pub(crate) fn run_with(&self, text: &str, options: &RunOptions) -> RunReport {
        run_plan(&self.plan(text), options).report
    }

    /// Starts a flow that the test goes on beside.
    pub(crate) fn start(&self, text: &str) -> Started {
        Started::new(&self.plan(text), &RunOptions::default())
    }

    fn state(&self) -> StateReader {
        self.state_in(".wiredflow")
    }

    fn state_in(&self, folder: &str) -> StateReader {
        StateReader::open(&self.folder().join(folder), "test").unwrap()
    }

    /// The dead letters, oldest first.
    pub(crate) fn dead_letters(&self) -> Vec<StoredDeadLetter> {
        self.dead_letters_in(".wiredflow")
    }

    /// As [`Bench::dead_letters`], of a run with a state folder of its own.
    pub(crate) fn dead_letters_in(&self, folder: &str) -> Vec<StoredDeadLetter> {
        let state = self.state_in(folder);
        let listed = state.dead_letters(Selection::default()).unwrap();
        let mut letters: Vec<_> = listed
            .iter()
            .map(|letter| state.dead_letter(&letter.id.to_string()).unwrap().unwrap())
            .collect();
        letters.sort_by(|a, b| a.listed.id.cmp(&b.listed.id));
        letters
    }

    /// The history, oldest first.
    pub(crate) fn runs(&self) -> Vec<StoredRun> {
        let mut runs = self.state().runs(Selection::default()).unwrap();
        runs.sort_by_key(|run| run.id);
        runs
    }
}

/// Options that end intake after a time.
pub(crate) fn within(limit: Duration) -> RunOptions {
    RunOptions {
        limit: Some(limit),
        ..RunOptions::default()
    }
}

pub(crate) fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a plan to its end.
pub(crate) fn run_plan(plan: &Plan, options: &RunOptions) -> Ended {
    Started::new(plan, options).end()
}

/// A running flow on a runtime of its own.
pub(crate) struct Started {
    pub(crate) running: Option<Running>,
    runtime: Option<Runtime>,
    state: PathBuf,
}

impl Started {
    pub(crate) fn new(plan: &Plan, options: &RunOptions) -> Self {
        let runtime = runtime();
        let running = runtime.block_on(async { start(plan, options).unwrap() });
        Self {
            running: Some(running),
            runtime: Some(runtime),
            state: plan.state.clone(),
        }
    }

    pub(crate) fn report(&self) -> RunReport {
        self.running.as_ref().unwrap().snapshot()
    }

    /// Waits until the figures are as wanted.
    #[track_caller]
    pub(crate) fn until(&self, condition: impl Fn(&RunReport) -> bool) {
        wait_until(PATIENCE, || condition(&self.report()));
    }

    pub(crate) fn figures(&self) -> FlowFigures {
        self.running.as_ref().unwrap().all_figures()
    }

    /// Waits until what is counted is as wanted.
    #[track_caller]
    pub(crate) fn until_figures(&self, condition: impl Fn(&FlowFigures) -> bool) {
        wait_until(PATIENCE, || condition(&self.figures()));
    }

    /// Ends intake.
    pub(crate) fn stop(&self) {
        self.running.as_ref().unwrap().stopper().stop();
    }

    /// Drops it, and waits until no task of it is left, and the thread that holds its state has let go.
    pub(crate) fn abandon(mut self) {
        drop(self.running.take());
        let runtime = self.runtime.take().unwrap();
        none_outlives(&runtime);
        runtime.shutdown_background();
        wait_until(PATIENCE, || !is_locked(&self.state));
    }

    /// Waits for the end, and looks that nothing is left running.
    pub(crate) fn end(mut self) -> Ended {
        let (running, runtime) = (self.running.take().unwrap(), self.runtime.take().unwrap());
        let ended = runtime.block_on(async {
            tokio::time::timeout(2 * PATIENCE, running.finished())
                .await
                .expect("the flow ends")
        });
        none_outlives(&runtime);
        runtime.shutdown_background();
        ended
    }
}

/// No task is left. A task has said that it ends a moment before the runtime counts it as gone.
#[track_caller]
pub(super) fn none_outlives(runtime: &Runtime) {
    wait_until(PATIENCE, || runtime.metrics().num_alive_tasks() == 0);
}

/// A source that gives what the test puts in, and notes what it is told.
#[derive(Default)]
pub(crate) struct Feed {
    waiting: Mutex<VecDeque<Payload>>,
    /// Whether it ends when nothing waits.
    ends: AtomicBool,
    changed: Notify,
    next: Mutex<u64>,
    settled: Mutex<Vec<(u64, Outcome)>>,
    /// How often it was opened.
    opened: Mutex<u64>,
    /// An error that `next` gives once.
    broken: Mutex<Option<Error>>,
}

impl Feed {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A feed that ends after these values, each a delivery of its own.
    pub(crate) fn of(values: impl IntoIterator<Item = Value>) -> Arc<Self> {
        let feed = Self::new();
        feed.give(values);
        feed.end();
        feed
    }

    /// Puts in values, each a delivery of its own.
    pub(crate) fn give(&self, values: impl IntoIterator<Item = Value>) {
        self.give_payloads(values.into_iter().map(|value| Payload::Values(vec![value])));
    }

    pub(crate) fn give_payloads(&self, payloads: impl IntoIterator<Item = Payload>) {
        self.waiting.lock().unwrap().extend(payloads);
        self.changed.notify_one();
    }

    /// Ends after what waits.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// How many deliveries it has given.
    pub(crate) fn given(&self) -> u64 {
        *self.next.lock().unwrap()
    }

    /// What it was told, in order.
    pub(crate) fn settled(&self) -> Vec<(u64, Outcome)> {
        self.settled.lock().unwrap().clone()
    }

    /// The deliveries that ended so, in order of their numbers.
    pub(crate) fn ended_as(&self, outcome: Outcome) -> Vec<u64> {
        let settled = self.settled();
        let mut ids: Vec<u64> = settled
            .iter()
            .filter(|(_, other)| *other == outcome)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Takes the place of a plan's trigger.
    pub(crate) fn feeds(self: &Arc<Self>, plan: &mut Plan, pipeline: usize) {
        let feed = Arc::clone(self);
        let open = OpenSource(Arc::new(move |_| {
            let feed = Arc::clone(&feed);
            Box::pin(async move {
                *feed.opened.lock().unwrap() += 1;
                Ok(Box::new(Fed(feed)) as Box<dyn AnySource>)
            })
        }));
        plan.pipelines[pipeline].trigger = TriggerPlan::Source {
            kind: "feed".to_owned(),
            open,
        };
        plan.pipelines[pipeline].waits_for_others = false;
    }
}

struct Fed(Arc<Feed>);

impl Source for Fed {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        loop {
            let changed = self.0.changed.notified();
            {
                let mut waiting = self.0.waiting.lock().unwrap();
                let taken = waiting.len().min(most);
                let mut next = self.0.next.lock().unwrap();
                let deliveries: Vec<Delivery> = waiting
                    .drain(..taken)
                    .map(|payload| {
                        let token = Token {
                            epoch: 1,
                            id: *next,
                        };
                        *next += 1;
                        Delivery {
                            token,
                            identity: None,
                            payload,
                            origin: Some("test".into()),
                        }
                    })
                    .collect();
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
                if let Some(error) = self.0.broken.lock().unwrap().take() {
                    return Err(error);
                }
                if self.0.ends.load(Ordering::Relaxed) {
                    return Ok(Vec::new());
                }
            }
            changed.await;
        }
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        let told = settled
            .iter()
            .map(|settled| (settled.token.id, settled.outcome));
        self.0.settled.lock().unwrap().extend(told);
        Ok(())
    }

    async fn close(&self) {}
}

/// A stage made of a closure.
pub(crate) struct Doing(pub(crate) Do);

/// What it does.
pub(crate) type Do =
    Box<dyn for<'a> Fn(&'a Batch, &'a mut Emitter<'_>, &'a Cx) -> Result<()> + Send + Sync>;

impl Stage for Doing {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        (self.0)(batch, out, cx)
    }
}

/// Puts a stage of the test's own in the place of a plan's.
pub(crate) fn replace<S: Stage>(
    plan: &mut Plan,
    (pipeline, stage): (usize, usize),
    work: Work,
    make: impl Fn() -> S + Send + Sync + 'static,
) {
    let make = Arc::new(make);
    let prepared = Prepared::new(work, move |_| {
        let make = Arc::clone(&make);
        async move { Ok(make()) }
    });
    let plan = &mut plan.pipelines[pipeline].stages[stage];
    plan.work = prepared.work;
    plan.open = prepared.open;
}

/// A sink that keeps each value for which `refuse` has no error.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<Vec<Value>>>);

impl Shelf {
    pub(crate) fn values(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    /// A sink that commits all or nothing, as storages do.
    pub(crate) fn sink(
        &self,
        refuse: impl Fn(&Value, usize) -> Option<Error> + Send + Sync + 'static,
    ) -> impl Fn() -> Doing + Send + Sync + 'static {
        let (shelf, refuse) = (self.clone(), Arc::new(refuse));
        move || {
            let (shelf, refuse) = (shelf.clone(), Arc::clone(&refuse));
            Doing(Box::new(move |batch, out, _| {
                for (index, value) in batch.values().enumerate() {
                    if let Some(error) = refuse(value, index) {
                        return Err(error);
                    }
                }
                shelf.0.lock().unwrap().extend(batch.values().cloned());
                out.pass(Some(CommitReceipt::issue("shelf".into(), batch.len())));
                Ok(())
            }))
        }
    }
}
