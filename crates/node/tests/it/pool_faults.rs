//! Calls of a pool where workers, the way to them, and the engine break: cases G1 to G10.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep};
use wiredflow_core::ErrorKind;
use wiredflow_core::engine::{Name, Settlement};
use wiredflow_engine::pool::{MOST_STARTS, RULES, queue_of};
use wiredflow_testkit::Mishaps;

use crate::bench::{Bench, TAKEOVER, outputs, until};

const SOON: Duration = Duration::from_secs(1);

fn queue() -> Name {
    queue_of(&[], "core_logic").unwrap()
}

#[tokio::test(start_paused = true)]
async fn g1_a_worker_that_is_killed_is_taken_over_from_within_20_seconds() {
    let bench = Bench::new(1).await;
    let a = bench.node("a");
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 4000, "saves": true}))
        .await;
    bench.until_begun(1, 1).await;
    let _b = bench.node("b");
    sleep(2 * SOON).await;
    a.kill();
    bench.model.cut("a");
    let killed = Instant::now();
    bench.until_begun(1, 2).await;
    assert!(killed.elapsed() <= TAKEOVER, "{:?}", killed.elapsed());
    assert_eq!(outputs(called.unwrap()).await.unwrap(), [0]);
    assert_eq!(bench.begun(1), ["a", "b"]);
    assert_eq!(bench.ledger().saved, [json!({"n": 1})]);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn g1_a_worker_that_is_killed_after_it_has_given_something_has_failed_the_call() {
    let bench = Bench::new(1).await;
    let a = bench.node("a");
    let mut called = bench
        .call(json!({"n": 1, "outputs": 9, "each": 1000}))
        .await
        .unwrap();
    called.next().await.unwrap().unwrap();
    a.kill();
    let _b = bench.node("b");
    // What was given is on its way: the call cannot be made again as a whole.
    let error = outputs(called).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.message().contains("in the middle"), "{error}");
    assert_eq!(bench.begun(1), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn g2_a_slow_worker_keeps_its_task_by_signs_of_life() {
    let bench = Bench::new(1).await;
    let _nodes = [bench.node("a"), bench.node("b")];
    let made = bench
        .whole(json!({"n": 1, "outputs": 1, "each": 300_000}))
        .await;
    assert_eq!(made.unwrap(), [0]);
    assert_eq!(bench.begun(1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn g2_a_message_that_is_given_to_a_second_one_is_not_begun_twice() {
    let bench = Bench::new(1).await;
    let _nodes = [bench.node("a"), bench.node("b")];
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 29_000}))
        .await
        .unwrap();
    bench.until_begun(1, 1).await;
    bench.model.expire();
    assert_eq!(outputs(called).await.unwrap(), [0]);
    assert_eq!(bench.begun(1).len(), 1);
    assert_eq!(bench.pool.counts().unwanted, 1);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn g2_g6_a_worker_that_comes_back_late_is_not_heard() {
    let bench = Bench::new(1).await;
    let _a = bench.node("a");
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 25_000}))
        .await
        .unwrap();
    bench.until_begun(1, 1).await;
    bench.model.cut("a");
    // It must have ended its run by itself before another may begin.
    until(|| bench.ledger().dropped == [1]).await;
    assert_eq!(bench.begun(1).len(), 1);
    let _b = bench.node("b");
    bench.until_begun(1, 2).await;
    bench.model.mend("a");
    assert_eq!(outputs(called).await.unwrap(), [0]);
    assert_eq!(bench.begun(1), ["a", "b"]);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn g3_a_late_end_of_a_message_does_not_lose_its_task() {
    let bench = Bench::new(1).await;
    let called = bench.call(json!({"n": 1, "outputs": 1})).await.unwrap();
    // Somebody takes the message, is silent, and says much later that it is done with.
    let stranger = bench.model.client("stranger");
    let taken = stranger.pull(&queue(), 1, SOON).await.unwrap();
    sleep(2 * RULES.sign_within).await;
    stranger
        .settle(&taken[0].token, Settlement::Done)
        .await
        .unwrap();
    assert_eq!(bench.model.messages(), 0);
    let gone = Instant::now();
    let _a = bench.node("a");
    assert_eq!(outputs(called).await.unwrap(), [0]);
    assert!(gone.elapsed() <= TAKEOVER, "{:?}", gone.elapsed());
}

#[tokio::test(start_paused = true)]
async fn g4_an_engine_that_is_away_for_five_minutes_loses_nothing() {
    let bench = Bench::new(1).await;
    let _node = bench.node("a");
    let before = bench
        .call(json!({"n": 0, "outputs": 1, "each": 60_000}))
        .await
        .unwrap();
    bench.until_begun(0, 1).await;
    bench.model.cut("flow");
    bench.model.cut("a");
    let mut calls = vec![before];
    for n in 1..4 {
        calls.push(bench.call(json!({"n": n, "outputs": 2})).await.unwrap());
    }
    sleep(Duration::from_secs(300)).await;
    let begun = bench.ledger().begun.clone();
    assert_eq!(begun.len(), 1, "{begun:?}");
    bench.model.mend("flow");
    bench.model.mend("a");
    let back = Instant::now();
    for called in calls.drain(1..) {
        assert_eq!(outputs(called).await.unwrap(), [0, 1]);
    }
    assert!(
        back.elapsed() < Duration::from_secs(30),
        "{:?}",
        back.elapsed()
    );
    // The one that ran was ended by its worker; that is not its fault, and it is done again.
    assert_eq!(outputs(calls.remove(0)).await.unwrap(), [0]);
    assert_eq!(bench.begun(0), ["a", "a"]);
}

#[tokio::test(start_paused = true)]
async fn g4_a_call_that_can_go_elsewhere_does_so_while_the_engine_is_away() {
    let bench = Bench::new(1).await;
    bench.model.cut("flow");
    sleep(Duration::from_secs(30)).await;
    let batch = wiredflow_core::Batch::default();
    let request = wiredflow_engine::worker::Request {
        function: "stage",
        params: &wiredflow_core::Map::new(),
        batch: &batch,
        attempt: 1,
        keys: None,
        epoch: wiredflow_core::storage::Epoch::default(),
        deadline: None,
    };
    let missed = bench.pool.call(request, true).await.unwrap_err();
    assert!(matches!(missed, wiredflow_engine::worker::Missed::Away(error) if error.is_unsent()));
}

#[tokio::test(start_paused = true)]
async fn g5_an_engine_that_has_lost_its_store_is_told_anew() {
    let bench = Bench::new(1).await;
    let mut calls = Vec::new();
    for n in 0..5 {
        calls.push(
            bench
                .call(json!({"n": n, "outputs": 3, "saves": true}))
                .await
                .unwrap(),
        );
    }
    assert_eq!(bench.model.messages(), 5);
    bench.model.wipe();
    let wiped = Instant::now();
    let _node = bench.node("a");
    for called in calls {
        assert_eq!(outputs(called).await.unwrap(), [0, 1, 2]);
    }
    assert!(wiped.elapsed() <= TAKEOVER, "{:?}", wiped.elapsed());
    assert_eq!(bench.ledger().saved.len(), 5);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn g5_what_runs_while_the_store_is_lost_ends_once() {
    let bench = Bench::new(1).await;
    let _nodes = [bench.node("a"), bench.node("b")];
    let called = bench
        .call(json!({"n": 1, "outputs": 3, "each": 5000, "saves": true}))
        .await;
    bench.until_begun(1, 1).await;
    bench.model.wipe();
    assert_eq!(outputs(called.unwrap()).await.unwrap(), [0, 1, 2]);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.begun(1).len(), 1);
    assert_eq!(bench.ledger().saved.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn g8_answers_that_are_lost_make_nothing_twice() {
    for seed in 0..30 {
        let bench = Bench::new(seed).await;
        let mishaps = Mishaps {
            lost_answers: 20,
            twice: 30,
            ..Mishaps::default()
        };
        bench.model.mishaps("flow", mishaps);
        bench.model.mishaps("a", mishaps);
        let _node = bench.node("a");
        for n in 0..4 {
            let made = bench
                .whole(json!({"n": n, "outputs": 3, "saves": true}))
                .await;
            if let Ok(made) = &made {
                assert_eq!(made, &[0, 1, 2], "SEED={seed}");
            }
            let saves = bench
                .ledger()
                .saved
                .iter()
                .filter(|row| row["n"] == n)
                .count();
            let begun = bench.begun(n).len();
            assert!(
                saves <= begun,
                "SEED={seed}: {saves} saves of {begun} attempts"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g9_a_task_that_ends_its_workers_is_given_up_after_five() {
    let bench = Bench::new(1).await;
    let _nodes = [bench.node("a"), bench.node("b")];
    let error = bench
        .whole(json!({"n": 1, "dies": true}))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("exit status 139"), "{error}");
    assert_eq!(bench.begun(1).len(), MOST_STARTS as usize);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn g9_a_task_that_takes_its_nodes_down_does_not_take_down_all() {
    let bench = Bench::new(1).await;
    let nodes: Vec<_> = (0..8)
        .map(|index| bench.node(&format!("n{index}")))
        .collect();
    let called = bench
        .call(json!({"n": 1, "outputs": 1, "each": 600_000}))
        .await
        .unwrap();
    let over = tokio::spawn(outputs(called));
    let mut killed = 0;
    while !over.is_finished() {
        let begun = bench.begun(1);
        if begun.len() > killed {
            killed += 1;
            let last = nodes
                .iter()
                .find(|node| node.name == begun[killed - 1])
                .unwrap();
            last.kill();
            bench.model.cut(&last.name);
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(over.await.unwrap().unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(killed, MOST_STARTS as usize);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn g10_a_message_that_was_given_too_often_is_made_up_for() {
    let bench = Bench::new(1).await;
    let called = bench.call(json!({"n": 1, "outputs": 1})).await.unwrap();
    let stranger = bench.model.client("stranger");
    for _ in 0..RULES.attempts {
        let taken = stranger.pull(&queue(), 1, SOON).await.unwrap();
        let again = Settlement::Again(Duration::ZERO);
        stranger.settle(&taken[0].token, again).await.unwrap();
    }
    let _node = bench.node("a");
    assert_eq!(outputs(called).await.unwrap(), [0]);
    // And what nobody can be given any more is taken away, while anybody sweeps.
    let _other = bench
        .call(json!({"n": 2, "outputs": 1, "each": 600_000}))
        .await
        .unwrap();
    until(|| bench.model.messages() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_flow_has_gone_is_thrown_away() {
    let bench = Bench::new(1).await;
    let head = json!({
        "version": 1, "release": wiredflow_engine::pool::RELEASE, "task": "t", "attempt": 1, "token": "x",
        "setting": "s", "kind": "core_logic", "label": "l", "reply": ["flow", "gone"],
    });
    let head = head.to_string();
    let mut body = vec![0];
    body.extend(u32::try_from(head.len()).unwrap().to_be_bytes());
    body.extend(head.as_bytes());
    let engine = bench.model.client("stranger");
    engine
        .publish(&queue(), "t#1", Bytes::from(body))
        .await
        .unwrap();
    let _node = bench.node("a");
    let put = Instant::now();
    bench.until_settled().await;
    assert!(
        put.elapsed() < Duration::from_secs(180),
        "{:?}",
        put.elapsed()
    );
}
