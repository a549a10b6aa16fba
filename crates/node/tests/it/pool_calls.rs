//! Calls of a pool where nothing breaks.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use wiredflow_core::{Error, ErrorKind};
use wiredflow_testkit::Model;

use crate::bench::{Bench, outputs, until};

#[tokio::test(start_paused = true)]
async fn outputs_come_in_order_and_the_message_is_settled() {
    let bench = Bench::new(1).await;
    let _node = bench.node("a");
    let made = bench.whole(json!({"n": 1, "outputs": 20, "each": 1})).await;
    assert_eq!(made.unwrap(), (0..20).collect::<Vec<_>>());
    bench.until_settled().await;
    assert_eq!(bench.begun(1), ["a"]);
    let lines: Vec<_> = (0..20).map(|at| format!("1 at {at}")).collect();
    assert_eq!(bench.ledger().lines, lines);
    let counts = bench.pool.counts();
    assert_eq!((counts.begun, counts.lost, counts.again), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_told_as_it_is() {
    let bench = Bench::new(1).await;
    let _node = bench.node("a");
    let failed = bench.whole(json!({"n": 1, "fails": true})).await;
    assert_eq!(failed.unwrap_err(), Error::data("no"));
    bench.until_settled().await;
    assert_eq!(bench.begun(1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_outputs_holds_the_worker() {
    let bench = Bench::new(1).await;
    let _node = bench.node("a");
    let mut called = bench.call(json!({"n": 1, "outputs": 1000})).await.unwrap();
    called.next().await.unwrap().unwrap();
    sleep(Duration::from_secs(120)).await;
    let made = bench.ledger().lines.len();
    assert!(made < 20, "{made} outputs were made of which one was taken");
    assert_eq!(outputs(called).await.unwrap().len(), 999);
    assert_eq!(bench.pool.counts().begun, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_is_ended_at_its_worker() {
    let bench = Bench::new(1).await;
    let _node = bench.node("a");
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 600_000}))
        .await
        .unwrap();
    bench.until_begun(1, 1).await;
    let dropped = Instant::now();
    drop(called);
    until(|| bench.ledger().dropped == [1]).await;
    assert!(dropped.elapsed() < Duration::from_secs(1));
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_it_was_begun_is_never_begun() {
    let bench = Bench::new(1).await;
    drop(bench.call(json!({"n": 1, "outputs": 1})).await.unwrap());
    let _node = bench.node("a");
    bench.until_settled().await;
    assert!(bench.begun(1).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_ends_ends_what_runs_for_it() {
    let bench = Bench::new(1).await;
    let _node = bench.node("a");
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 600_000}))
        .await
        .unwrap();
    bench.until_begun(1, 1).await;
    // As when its process is killed: nobody says anything.
    bench.model.cut("flow");
    let killed = Instant::now();
    until(|| bench.ledger().dropped == [1]).await;
    assert!(killed.elapsed() < Duration::from_secs(10));
    drop(called);
}

#[tokio::test(start_paused = true)]
async fn calls_run_beside_each_other_and_no_more_than_there_are_slots() {
    let bench = Bench::new(1).await;
    let _nodes = [bench.node("a"), bench.node("b")];
    let begun = Instant::now();
    let mut calls = Vec::new();
    for n in 0..8 {
        let what = json!({"n": n, "outputs": 1, "each": 10_000});
        calls.push(bench.call(what).await.unwrap());
    }
    for called in calls {
        assert_eq!(outputs(called).await.unwrap(), [0]);
    }
    // Two nodes of two slots: two rounds of ten seconds.
    let taken = begun.elapsed();
    assert!((20.0..23.0).contains(&taken.as_secs_f64()), "{taken:?}");
    let ledger = bench.ledger();
    let at_a = ledger
        .begun
        .values()
        .filter(|nodes| nodes[0] == "a")
        .count();
    assert_eq!(at_a, 4, "{:?}", ledger.begun);
}

#[tokio::test(start_paused = true)]
async fn a_stage_goes_to_those_that_have_its_labels() {
    let model = Model::new(1);
    let bench = Bench::with(model, &["gpu", "mem=64G"]).await;
    let _plain = bench.node("plain");
    let _half = bench.node_with("half", &["gpu"], &["core_logic"], 1);
    let _other = bench.node_with("other", &["gpu", "mem=64G"], &["http", "send"], 1);
    let called = bench.call(json!({"n": 1, "outputs": 1})).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    assert!(bench.begun(1).is_empty());
    let nodes = bench.pool.nodes().await.unwrap();
    let told = bench.pool.objections(&nodes);
    for part in [
        "no label `gpu`",
        "no label `mem=64G`",
        "takes no `core_logic`",
        "--label gpu",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let _right = bench.node_with("right", &["x", "mem=64G", "gpu"], &["core_logic"], 1);
    assert_eq!(outputs(called).await.unwrap(), [0]);
    assert_eq!(bench.begun(1), ["right"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_for_a_message_goes_as_a_blob_and_nothing_is_left() {
    let bench = Bench::new(1).await;
    let text = "x".repeat(3 << 20);
    let what = json!({"n": 1, "outputs": 2, "text": text});
    let called = bench.call(what).await.unwrap();
    assert_eq!(bench.model.blobs().len(), 1);
    let _node = bench.node("a");
    assert_eq!(outputs(called).await.unwrap(), [0, 1]);
    until(|| bench.model.blobs().is_empty()).await;
    drop(bench.call(json!({"n": 2, "text": text})).await.unwrap());
    until(|| bench.model.blobs().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_altogether_is_refused_at_once() {
    let bench = Bench::new(1).await;
    let text = "x".repeat(65 << 20);
    let error = bench
        .whole(json!({"n": 1, "text": text}))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(bench.model.messages(), 0);
}
