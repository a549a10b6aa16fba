//! Quick functions: called where their stage runs, and held to the same rules as those on threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use wiredflow_core::Error;
use wiredflow_core::delivery::Outcome;

use super::bench::{Bench, Feed, millis, run_plan, within};

const SECONDS: u64 = 20_000;

#[test]
fn a_quick_function_gets_the_same_as_one_on_a_thread_and_is_called_where_its_stage_runs() {
    let of_a_task = || json!(tokio::runtime::Handle::try_current().is_ok());
    let both = move |call: wiredflow_engine::functions::Call| {
        Ok(
            json!({"data": call.data, "n": call.param("n"), "pipeline": call.pipeline.as_ref(), "task": of_a_task()}),
        )
    };
    let bench = Bench::new()
        .with("make", |_| Ok(json!([1, 2])))
        .with("on_a_thread", both)
        .quick("here", both);
    for (name, task) in [("on_a_thread", false), ("here", true)] {
        let before = bench.seen().len();
        let report = bench.run(&format!(
            "pipelines: {{p: {{once: true, stages: [{{core_logic: {{rust: make}}}}, \
             {{core_logic: {{rust: {name}, params: {{n: 5}}}}}}, {{core_logic: {{rust: see}}}}]}}}}"
        ));
        assert!(report.ok, "{report:#?}");
        let given = json!({"data": [1, 2], "n": 5, "pipeline": "p", "task": task});
        assert_eq!(bench.seen()[before..], [given], "{name}");
    }
}

#[test]
fn deliveries_go_through_quick_stages_in_order_and_each_is_settled_once() {
    let bench = Bench::new()
        .quick("double", |call| Ok(json!(call.data.as_u64().unwrap() * 2)))
        .quick("none", |call| match call.data.as_u64().unwrap() % 3 {
            0 => Ok(Value::Null),
            _ => Ok(call.data),
        });
    let mut plan = bench.plan(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: double}}, {core_logic: {rust: none}}, {core_logic: {rust: see}}]}}",
    );
    let feed = Feed::of((0..1000).map(Value::from));
    feed.feeds(&mut plan, 0);
    let report = run_plan(&plan, &within(millis(SECONDS))).report;
    assert!(report.ok, "{report:#?}");
    let expected: Vec<Value> = (0..1000)
        .map(|number| match number * 2 % 3 {
            0 => Value::Null,
            _ => json!(number * 2),
        })
        .collect();
    assert_eq!(bench.seen(), expected);
    let committed: Vec<u64> = (0..1000).collect();
    assert_eq!(feed.ended_as(Outcome::Committed), committed);
    assert_eq!(feed.settled().len(), 1000);
}

#[test]
fn errors_and_panics_of_quick_functions_are_failures_of_their_call() {
    let bench = Bench::new().quick("odd", |call| match call.data.as_u64().unwrap() {
        1 => Err(Error::data("no good")),
        2 => panic!("number {}", call.data),
        _ => Ok(call.data),
    });
    let mut plan = bench.plan(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: odd}, on_error: dead_letter}, {core_logic: {rust: see}}]}}",
    );
    let feed = Feed::of((0..4).map(Value::from));
    feed.feeds(&mut plan, 0);
    let report = run_plan(&plan, &within(millis(SECONDS))).report;
    assert!(report.ok, "{report:#?}");
    assert_eq!(bench.seen(), [json!(0), json!(3)]);
    let reasons: Vec<String> = bench
        .dead_letters()
        .into_iter()
        .map(|letter| letter.listed.reason)
        .collect();
    assert_eq!(reasons, ["no good", "the function panicked: number 2"]);
}

#[test]
fn a_quick_function_is_tried_again_as_its_stage_says() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let bench = Bench::new().quick("away", move |call| {
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Err(Error::remote("away")),
            _ => Ok(call.data),
        }
    });
    let report = bench.run(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: away}, retry: {attempts: 3, backoff: 1ms}}]}}",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    assert_eq!(report.stages[0].retries, 2);
}

/// It is no quick one, and the run says so when it returns.
#[test]
fn a_quick_function_that_was_longer_than_its_timeout_has_failed_and_its_time_is_compute() {
    let bench = Bench::new().quick("slow", |call| {
        std::thread::sleep(millis(300));
        Ok(call.data)
    });
    let report = bench.run(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: slow}, timeout: 50ms, on_error: dead_letter}]}}",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.pipelines["p"].deliveries.dead_lettered, 1);
    let reason = &bench.dead_letters()[0].listed.reason;
    assert!(
        reason.contains("longer than its `timeout` of 50ms"),
        "{reason}"
    );
    let seconds = report.stages[0].seconds;
    assert!(seconds.compute >= 0.3, "{seconds:?}");
}

#[test]
fn a_quick_function_that_loads_is_told_what_to_do() {
    let bench = Bench::new().quick("loads", |call| Ok(json!(call.load("s")?)));
    let report = bench.run(
        "storages: {s: {jsonl: {}}}\npipelines: {p: {once: true, stages: [{core_logic: {rust: loads}}]}}",
    );
    let error = report.error.unwrap();
    assert!(
        error.contains("a quick function cannot load `s`"),
        "{error}"
    );
}
