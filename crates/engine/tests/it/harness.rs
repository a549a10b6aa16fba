//! Calls components without the run loop: opens them from flow-file text, gives them a batch, keeps what comes out.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::config::{FlowConfig, OnFailure};
use wiredflow_core::fields::Reading;
use wiredflow_core::node::NodeKind;
use wiredflow_core::problem::{Problem, any_error};
use wiredflow_core::stage::{AnyStage, BoxFuture, Cx, Emitter, Outlet};
use wiredflow_core::storage::{CommitReceipt, Epoch};
use wiredflow_core::{Batch, Params, Result, Value, yaml};
use wiredflow_engine::catalogue::CheckCx;
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::functions::{FunctionThreads, Functions};
use wiredflow_engine::http::HttpClients;
use wiredflow_engine::resources::Resources;
use wiredflow_engine::senders::{AnySender, SENDERS};
use wiredflow_engine::stages::STAGES;
use wiredflow_engine::storages::StorageHandles;
use wiredflow_engine::tasks::Tasks;

/// What a component of this folder's flow may use: the real clock, no storages, no functions.
pub(crate) fn resources(folder: &Path) -> Resources {
    Resources {
        flow: "flow".into(),
        pipeline: "pipeline".into(),
        stage: "stage".into(),
        folder: folder.into(),
        state_folder: Some(folder.join(".wiredflow").into()),
        clock: Clock::real(),
        dice: Dice::seeded(1),
        http: HttpClients::default(),
        engines: wiredflow_engine::engines::Engines::default(),
        storages: StorageHandles::default(),
        positions: wiredflow_engine::since::Positions::of("pipeline".into(), None),
        functions: Functions::default(),
        threads: FunctionThreads::default(),
        workers: wiredflow_engine::observe::Workers::default(),
        tasks: Tasks::default(),
        stop: CancellationToken::new(),
    }
}

/// A first attempt with these params (`null` for none), and the book in which its time is charged.
pub(crate) fn cx(params: Value) -> (Cx, Arc<Book>) {
    let params = match params {
        Value::Object(map) => Params::new(map),
        Value::Null => Params::default(),
        other => panic!("params are an object, not {other}"),
    };
    let book = Arc::new(Book::default());
    let cx = Cx {
        flow: "flow".into(),
        pipeline: "pipeline".into(),
        stage: "stage".into(),
        params,
        attempt: 1,
        epoch: Epoch::default(),
        marks: None,
        keys: None,
        deadline: None,
        charge: book.clone(),
    };
    (cx, book)
}

/// Notes each change of what time is charged to; begins with overhead.
#[derive(Default)]
pub(crate) struct Book(Mutex<Vec<Activity>>);

impl Book {
    /// All changes, in order.
    pub(crate) fn entries(&self) -> Vec<Activity> {
        self.0.lock().unwrap().clone()
    }
}

impl Charge for Book {
    fn enter(&self, activity: Activity) -> Activity {
        let mut entries = self.0.lock().unwrap();
        let before = entries.last().copied().unwrap_or(Activity::Overhead);
        entries.push(activity);
        before
    }
}

/// What a stage handed on.
#[derive(Default)]
pub(crate) struct Collected {
    /// The batches, with the params where some were made.
    pub(crate) batches: Vec<(Batch, Option<Params>)>,
    /// Whether the input itself was handed on, and with which receipt.
    pub(crate) passed: Option<Option<CommitReceipt>>,
}

impl Collected {
    /// The values of all batches.
    pub(crate) fn values(&self) -> Vec<Value> {
        let all = self.batches.iter().flat_map(|(batch, _)| batch.values());
        all.cloned().collect()
    }
}

impl Outlet for Collected {
    fn emit(&mut self, batch: Batch, params: Option<Params>) -> BoxFuture<'_, Result<()>> {
        self.batches.push((batch, params));
        Box::pin(async { Ok(()) })
    }

    fn pass(&mut self, receipt: Option<CommitReceipt>) {
        self.passed = Some(receipt);
    }
}

/// Runs a stage once.
pub(crate) async fn run(stage: &dyn AnyStage, batch: &Batch, cx: &Cx) -> (Result<()>, Collected) {
    let mut collected = Collected::default();
    let result = stage
        .run_boxed(batch, &mut Emitter::new(&mut collected), cx)
        .await;
    (result, collected)
}

/// Opens a stage as it stands in a flow file: `http: {url: …}`. Panics when `check` finds a problem.
pub(crate) async fn open_stage(text: &str, resources: &Resources) -> Result<Box<dyn AnyStage>> {
    let (open, problems) = check(text, resources, |name, node, cx| {
        let entry = STAGES.iter().find(|entry| entry.card.name == name).unwrap();
        (entry.prepare)(node, cx)
    });
    assert!(!any_error(&problems), "{problems:?}");
    (open.unwrap().open.0)(resources.clone()).await
}

/// Opens a sender: `http_post: {url: …}`. Panics when `check` finds a problem.
pub(crate) async fn open_sender(text: &str, resources: &Resources) -> Result<Box<dyn AnySender>> {
    let (open, problems) = check(text, resources, |name, node, cx| {
        let entry = SENDERS
            .iter()
            .find(|entry| entry.card.name == name)
            .unwrap();
        (entry.prepare)(node, cx)
    });
    assert!(!any_error(&problems), "{problems:?}");
    (open.unwrap().0)(resources.clone()).await
}

/// What `check` says of a stage, one line for each problem: `LINE:COLUMN path: message (help)`.
pub(crate) fn problems(text: &str, folder: &Path) -> Vec<String> {
    let (_, problems) = check(text, &resources(folder), |name, node, cx| {
        let entry = STAGES.iter().find(|entry| entry.card.name == name).unwrap();
        (entry.prepare)(node, cx)
    });
    let line = |problem: Problem| {
        let help = problem.help.map(|help| format!(" ({help})"));
        let help = help.unwrap_or_default();
        format!(
            "{:?} {}: {}{help}",
            problem.span, problem.path, problem.message
        )
    };
    problems.into_iter().map(line).collect()
}

/// Lets `prepare` read the one entry of the text, which is its kind and its config.
fn check<T>(
    text: &str,
    resources: &Resources,
    prepare: impl FnOnce(&str, &wiredflow_core::node::Node, &mut CheckCx<'_>) -> Option<T>,
) -> (Option<T>, Vec<Problem>) {
    let node = yaml::parse(text).unwrap();
    let NodeKind::Map(entries) = &node.kind else {
        panic!("not a map: {text}");
    };
    let flow = FlowConfig {
        name: "flow".to_owned(),
        state: ".wiredflow".to_owned(),
        listen: None,
        on_failure: OnFailure::Stop,
        storages: Vec::new(),
        remotes: Vec::new(),
        pipelines: Vec::new(),
    };
    let mut reading = Reading::default();
    let mut cx = CheckCx {
        reading: &mut reading,
        flow: &flow,
        pipeline: "pipeline",
        folder: &resources.folder,
        functions: &resources.functions,
        storage_names: &[],
    };
    let prepared = prepare(&entries[0].key, &entries[0].value, &mut cx);
    (prepared, reading.into_problems())
}
