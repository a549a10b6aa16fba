//! Nodes that come and go.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use wiredflow_core::engine::Shelf;
use wiredflow_engine::pool::nodes;

use crate::bench::{Bench, outputs, until};

#[tokio::test(start_paused = true)]
async fn a_node_that_is_told_to_end_finishes_what_runs_and_goes() {
    let bench = Bench::new(1).await;
    let a = bench.node("a");
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 5000}))
        .await
        .unwrap();
    bench.until_begun(1, 1).await;
    a.stop.cancel();
    sleep(Duration::from_millis(100)).await;
    let later = bench.call(json!({"n": 2, "outputs": 1})).await.unwrap();
    assert_eq!(outputs(called).await.unwrap(), [0]);
    until(|| a.task.is_finished()).await;
    assert!(bench.begun(2).is_empty(), "it takes no more");
    let entry = nodes().unwrap().and("a").unwrap();
    let engine = bench.model.client("look");
    assert!(engine.get(Shelf::Presence, &entry).await.unwrap().is_none());
    let _b = bench.node("b");
    assert_eq!(outputs(later).await.unwrap(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_told_to_end_leaves_what_takes_too_long_to_others() {
    let bench = Bench::new(1).await;
    let a = bench.node("a");
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 60_000}))
        .await
        .unwrap();
    bench.until_begun(1, 1).await;
    a.stop.cancel();
    let told = Instant::now();
    let _b = bench.node("b");
    until(|| a.task.is_finished()).await;
    assert!(
        told.elapsed() < Duration::from_secs(15),
        "{:?}",
        told.elapsed()
    );
    bench.until_begun(1, 2).await;
    assert!(
        told.elapsed() < Duration::from_secs(12),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(outputs(called).await.unwrap(), [0]);
    // That is nobody's fault.
    assert_eq!(bench.begun(1), ["a", "b"]);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_node_and_the_first_that_comes_takes_it() {
    let bench = Bench::new(1).await;
    let called = bench.call(json!({"n": 1, "outputs": 1})).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    let nodes = bench.pool.nodes().await.unwrap();
    assert!(bench.pool.objections(&nodes).contains("there is no node"));
    let _a = bench.node("a");
    let there = Instant::now();
    assert_eq!(outputs(called).await.unwrap(), [0]);
    assert!(
        there.elapsed() < Duration::from_secs(5),
        "{:?}",
        there.elapsed()
    );
    // It was published again and again meanwhile, and is begun once all the same.
    bench.until_settled().await;
    assert_eq!(bench.begun(1), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_says_what_it_is() {
    let bench = Bench::new(1).await;
    let _a = bench.node_with("a", &["gpu"], &["core_logic", "send"], 3);
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 30_000}))
        .await
        .unwrap();
    bench.until_begun(1, 1).await;
    sleep(Duration::from_secs(5)).await;
    let found = bench.pool.nodes().await.unwrap();
    let [(node, None)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((node.name.as_str(), node.slots, node.busy), ("a", 3, 1));
    assert_eq!(node.labels, ["gpu"]);
    drop(called);
}

#[tokio::test(start_paused = true)]
async fn two_queues_share_the_slots_of_a_node() {
    let bench = Bench::new(1).await;
    let other = Bench::with(bench.model.clone(), &["gpu"]).await;
    let _a = bench.node_with("a", &["gpu"], &["core_logic"], 1);
    let begun = Instant::now();
    let mut calls = Vec::new();
    for n in 0..3 {
        let what = json!({"n": n, "outputs": 1, "each": 2000});
        calls.push(bench.call(what.clone()).await.unwrap());
        calls.push(other.call(what).await.unwrap());
    }
    for called in calls {
        assert_eq!(outputs(called).await.unwrap(), [0]);
    }
    let taken = begun.elapsed();
    assert!((12.0..16.0).contains(&taken.as_secs_f64()), "{taken:?}");
}
