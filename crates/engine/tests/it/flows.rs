//! Whole flows through the library: check, run, and what is left afterwards.

mod attempts;
pub(crate) mod bench;
mod best_effort;
mod cut;
mod drops;
mod ends;
mod failures;
mod far;
mod fenced;
mod figures;
mod inbox;
mod links;
mod quick;
mod schedules;
mod stages;
mod storing;
mod sums;
mod turned;

use std::time::Duration;

use serde_json::json;
use wiredflow_core::Error;

use bench::Bench;

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
