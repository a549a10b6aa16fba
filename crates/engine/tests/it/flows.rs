//! Whole flows through the library: check, run, and what is left afterwards.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_core::{Error, Result};
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::{Call, Functions};
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::run::{RunOptions, start};

/// A folder, the functions of a flow, and what was seen by the function `see`.
struct Bench {
    folder: tempfile::TempDir,
    functions: Functions,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            folder: tempfile::tempdir().unwrap(),
            functions: Functions::default(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&bench.seen);
        bench = bench.with("see", move |call| {
            seen.lock().unwrap().push(call.data.clone());
            Ok(call.data)
        });
        bench
    }

    fn with(
        mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) -> Self {
        self.functions.register_simple(name, function);
        self
    }

    fn yielding(mut self, name: &str, values: usize, pause: Duration) -> Self {
        let function = move |_: Call, give: &mut dyn FnMut(Value) -> Result<()>| {
            for number in 0..values {
                give(json!({"n": number}))?;
                std::thread::sleep(pause);
            }
            Ok(())
        };
        self.functions.register(name, Arc::new(function));
        self
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn seen(&self) -> Vec<Value> {
        self.seen.lock().unwrap().clone()
    }

    fn run_with(&self, text: &str, options: &RunOptions) -> RunReport {
        let lookup = SystemLookup::new(self.folder());
        let checked = check_text(text, "test", self.folder(), &self.functions, &lookup);
        assert!(checked.plan.is_some(), "{:#?}", checked.problems);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let running = start(&checked.plan.unwrap(), options).unwrap();
            running.finished().await.report
        })
    }

    fn run(&self, text: &str) -> RunReport {
        self.run_with(
            text,
            &RunOptions {
                limit: Some(Duration::from_secs(20)),
                ..RunOptions::default()
            },
        )
    }
}

#[test]
fn a_once_pipeline_runs_each_stage_in_order_and_ends() {
    let bench = Bench::new().with("make", |_| Ok(json!([{"a": 1}, {"a": 2}])));
    let report = bench.run(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: make}}, {core_logic: {rust: see}}]}}",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(bench.seen(), [json!([{"a": 1}, {"a": 2}])]);
    assert_eq!(report.pipelines["p"].deliveries.committed, 1);
    assert_eq!(report.stages[1].records_in, 2);
}

#[test]
fn a_generator_hands_on_each_item_at_any_depth() {
    let bench = Bench::new().yielding("count", 3, Duration::ZERO);
    let report = bench.run(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: count}}, {core_logic: {rust: count}}, {core_logic: {rust: see}}]}}",
    );
    assert!(report.ok);
    assert_eq!(bench.seen().len(), 9);
    assert_eq!(report.pipelines["p"].deliveries.committed, 1);
}

#[test]
fn a_failing_function_stops_the_flow_with_its_words() {
    let bench = Bench::new().with("fail", |_| Err(Error::data("no good")));
    let report = bench.run("pipelines: {p: {once: true, stages: [{core_logic: {rust: fail}}]}}");
    assert!(!report.ok);
    assert_eq!(report.pipelines["p"].deliveries.failed, 1);
    assert!(report.error.unwrap().contains("no good"));
}
