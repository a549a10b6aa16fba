//! How runs end: by themselves, by `--for`, by a stop and by a second one; and what is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use wiredflow_core::Error;
use wiredflow_core::delivery::Outcome;
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::run::RunOptions;
use wiredflow_engine::state::{RunOutcome, State};
use wiredflow_testkit::wait_until;

use super::bench::{Bench, Feed, PATIENCE, Shelf, Started, millis, replace, run_plan, within};
use super::drops::threads;

#[test]
fn a_function_in_flight_when_intake_ends_is_finished_and_committed() {
    let bench = Bench::new().with("slow", |call| {
        std::thread::sleep(millis(600));
        Ok(json!({"done": call.pipeline.as_ref()}))
    });
    let text = "pipelines: {p: {every: 10s, stages: [{core_logic: {rust: slow}}, {core_logic: {rust: see}}]}}";
    let report = bench.run_with(text, &within(millis(200)));
    assert!(report.ok);
    assert_eq!(report.pipelines["p"].deliveries.committed, 1, "{report:?}");
    assert_eq!(bench.seen(), [json!({"done": "p"})]);
}

#[test]
fn a_generator_is_closed_after_its_current_batch_and_counts_as_skipped() {
    let bench = Bench::new().yielding("count", 1_000_000, millis(20));
    let text = "pipelines: {p: {every: 1h, stages: [{core_logic: {rust: count}}, {core_logic: {rust: see}}]}}";
    let report = bench.run_with(text, &within(millis(300)));
    assert!(report.ok);
    let deliveries = report.pipelines["p"].deliveries;
    assert_eq!(
        (deliveries.skipped, deliveries.unfinished),
        (1, 0),
        "{report:?}"
    );
    // All that it gave has gone the whole way.
    let seen = bench.seen();
    assert!(seen.len() >= 2, "{}", seen.len());
    assert_eq!(report.pipelines["p"].records_out, seen.len() as u64);
    assert_eq!(bench.runs()[0].outcome, Some(RunOutcome::Skipped));
}

#[test]
fn a_generator_that_swallows_the_refusal_is_skipped_all_the_same() {
    let bench = Bench::new().giving("count", |_, give| {
        for n in 0..200 {
            drop(give(json!({"n": n})));
            std::thread::sleep(millis(5));
        }
        Ok(())
    });
    let text = "pipelines: {p: {every: 1h, stages: [{core_logic: {rust: count}}]}}";
    let report = bench.run_with(text, &within(millis(500)));
    assert_eq!(report.pipelines["p"].deliveries.skipped, 1, "{report:?}");
}

#[test]
fn an_endless_generator_runs_a_few_batches_ahead_of_a_slow_stage_and_no_more() {
    let given = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&given);
    let bench = Bench::new()
        .giving("flood", move |_, give| {
            loop {
                give(json!({"n": counter.fetch_add(1, Ordering::Relaxed)}))?;
            }
        })
        .with("slow", |call| {
            std::thread::sleep(millis(30));
            Ok(call.data)
        });
    let text = "pipelines: {p: {every: 1h, stages: [{core_logic: {rust: flood}}, {core_logic: {rust: see}}, {core_logic: {rust: slow}}]}}";
    let flow = bench.start(text);
    flow.until(|report| report.stages[2].calls >= 20);
    let report = flow.report();
    // Two queues of two, three calls, and what waits on the way out of the generator's thread.
    let ahead = given.load(Ordering::Relaxed) - report.stages[2].calls;
    assert!(ahead <= 16, "{ahead} ahead");
    assert!(
        report.stages[0].seconds.blocked > report.stages[0].seconds.compute,
        "{report:?}"
    );
    flow.stop();
    let ended = flow.end();
    assert!(!ended.at_once && ended.report.ok);
}

#[test]
fn a_generator_that_keeps_the_end_waiting_is_closed() {
    let (free, held) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (release, holding) = (Arc::clone(&free), Arc::clone(&held));
    let bench = Bench::new().giving("stuck", move |_, give| {
        give(json!({"n": 1}))?;
        holding.store(true, Ordering::Relaxed);
        while !release.load(Ordering::Relaxed) {
            std::thread::sleep(millis(5));
        }
        Ok(())
    });
    let text = "pipelines: {p: {every: 1h, stages: [{core_logic: {rust: stuck}}, {core_logic: {rust: see}}]}}";
    let begun = Instant::now();
    let report = bench.run_with(text, &within(millis(100)));
    free.store(true, Ordering::Relaxed);
    assert!(held.load(Ordering::Relaxed));
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    assert!(report.ok);
    assert_eq!(report.pipelines["p"].deliveries.skipped, 1, "{report:?}");
    assert_eq!(bench.seen().len(), 1);
}

/// A function that gives three parts of each message, slowly.
fn in_parts(bench: Bench) -> Bench {
    bench.giving("parts", |call, give| {
        for part in 0..3 {
            give(json!({"message": call.data, "part": part}))?;
            std::thread::sleep(millis(60));
        }
        Ok(())
    })
}

#[test]
fn a8_what_a_message_has_begun_is_finished_before_it_is_acknowledged() {
    let bench = in_parts(Bench::new());
    let mut plan = bench.plan("pipelines: {p: {once: true, stages: [{core_logic: {rust: parts}}, {core_logic: {rust: see}}]}}");
    let feed = Feed::new();
    feed.feeds(&mut plan, 0);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give((0..3).map(|n| json!(n)));
    wait_until(PATIENCE, || !bench.seen().is_empty());
    flow.stop();
    assert!(flow.end().report.ok);
    let committed = feed.ended_as(Outcome::Committed);
    assert_eq!(committed.len() as u64, feed.given(), "{:?}", feed.settled());
    assert_eq!(bench.seen().len(), 3 * committed.len());
}

#[test]
fn a_stop_finishes_what_is_in_flight() {
    let (bench, shelf) = (Bench::new(), Shelf::default());
    let feed = Feed::new();
    let mut plan = bench.plan("pipelines: {p: {once: true, stages: [{core_logic: {rust: slow}}, {core_logic: {rust: slow}}]}}"
        .replace("slow", "see").as_str());
    feed.feeds(&mut plan, 0);
    replace(
        &mut plan,
        (0, 1),
        Work::Sink,
        shelf.sink(|_, _| {
            std::thread::sleep(millis(2));
            None
        }),
    );
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give((0..400).map(|n| json!(n)));
    wait_until(PATIENCE, || !shelf.values().is_empty());
    flow.stop();
    let ended = flow.end();
    assert!(!ended.at_once && ended.report.ok);
    assert_eq!(feed.ended_as(Outcome::Committed).len() as u64, feed.given());
    assert_eq!(shelf.values().len() as u64, feed.given());
    assert_eq!(ended.report.pipelines["p"].deliveries.unfinished, 0);
}

#[test]
fn a9_the_second_stop_ends_at_once_and_acknowledges_nothing_unfinished() {
    let (bench, free) = Bench::new().hanging();
    let mut plan = bench.plan("pipelines: {p: {once: true, stages: [{core_logic: {rust: hang}}, {core_logic: {rust: see}}]}}");
    let feed = Feed::new();
    feed.feeds(&mut plan, 0);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give((0..5).map(|n| json!(n)));
    flow.until(|report| report.stages[0].calls == 1);
    flow.stop();
    flow.stop();
    let begun = Instant::now();
    let ended = flow.end();
    assert!(ended.at_once);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(
        feed.settled()
            .iter()
            .all(|(_, outcome)| !outcome.is_acknowledged())
    );
    assert_eq!(
        ended.report.pipelines["p"].deliveries.unfinished, 5,
        "{:?}",
        ended.report
    );
    free.store(true, Ordering::Relaxed);
}

#[test]
fn the_first_stop_after_a_limit_still_waits_for_what_is_in_flight() {
    let bench = Bench::new().with("slow", |call| {
        std::thread::sleep(millis(700));
        Ok(call.data)
    });
    let plan = bench.plan("pipelines: {p: {once: true, stages: [{core_logic: {rust: slow}}]}}");
    let flow = Started::new(&plan, &within(millis(50)));
    flow.until(|report| report.stages[0].calls == 1 && report.seconds > 0.1);
    flow.stop();
    let ended = flow.end();
    assert!(!ended.at_once);
    assert_eq!(ended.report.pipelines["p"].deliveries.committed, 1);
}

#[test]
fn a_peer_that_is_away_does_not_hold_the_end_for_ever_and_nothing_is_acknowledged() {
    let bench = Bench::new();
    let feed = Feed::of((0..10).map(|n| json!(n)));
    let mut plan = bench.plan(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: see}, retry: {backoff: 60s}}]}}",
    );
    feed.feeds(&mut plan, 0);
    let away = |_: &_, _| Some(Error::remote("away"));
    replace(
        &mut plan,
        (0, 0),
        Work::PeerSink,
        Shelf::default().sink(away),
    );
    let begun = Instant::now();
    let ended = run_plan(&plan, &within(millis(100)));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(ended.report.ok, "an outage is no failure");
    assert_eq!(feed.ended_as(Outcome::Lost).len(), 10);
}

#[test]
fn a_failure_is_not_held_up_by_another_stages_peer() {
    let bench = Bench::new()
        .with("fail", |_| Err(Error::data("no good")))
        .giving("both", |_, give| {
            give(json!(1))?;
            give(json!(2))
        });
    let text = "pipelines: {p: {once: true, stages: [{core_logic: {rust: both}}, \
                {core_logic: {rust: see}, batch: {max: 1, within: 1ms}}, {core_logic: {rust: fail}}]}}";
    let mut plan = bench.plan(text);
    let passed = Arc::new(AtomicBool::new(false));
    replace(
        &mut plan,
        (0, 1),
        Work::Sink,
        Shelf::default().sink(move |_, _| {
            // The first record goes on, and fails in the next stage; the second finds the peer away.
            passed
                .swap(true, Ordering::Relaxed)
                .then(|| Error::remote("away"))
        }),
    );
    let begun = Instant::now();
    let ended = run_plan(&plan, &RunOptions::default());
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(ended.report.error.unwrap().contains("no good"));
}

#[test]
fn nothing_is_left_after_the_end_and_the_folder_is_free() {
    let bench = Bench::new().yielding("count", 5, millis(1));
    let text = "pipelines: {p: {every: 20ms, stages: [{core_logic: {rust: count}, parallel: 3}, \
                {core_logic: {rust: see}, batch: {max: 4, within: 20ms}}, {store: {jsonl: {folder: data}}}]}, \
                q: {every: 10ms, timeout: 1m, stages: [{core_logic: {rust: see}}]}}";
    let report = bench.run_with(text, &within(millis(300)));
    assert!(report.ok, "{report:?}");
    // `Started::end` has looked for tasks; here for threads of ours, and for the state's end in order.
    wait_until(PATIENCE, || {
        threads().iter().all(|name| !name.starts_with("wf-"))
    });
    let folder = bench.folder().join(".wiredflow");
    let (state, opening) = State::open(&folder, "test", jiff::Timestamp::now()).unwrap();
    assert_eq!(opening.crash, None);
    assert!(
        bench.runs().iter().all(|run| run.ended.is_some()),
        "{:?}",
        bench.runs()
    );
    drop(state);
}

#[test]
fn two_flows_in_one_process_know_nothing_of_each_other() {
    let benches = [Bench::new(), Bench::new()];
    let text = "pipelines: {p: {every: 10ms, stages: [{core_logic: {rust: see}}, {store: {jsonl: {folder: data}}}]}}";
    let flows: Vec<_> = benches.iter().map(|bench| bench.start(text)).collect();
    for flow in &flows {
        flow.until(|report| report.pipelines["p"].deliveries.committed >= 3);
    }
    let [first, second] = <[Started; 2]>::try_from(flows).ok().unwrap();
    first.stop();
    assert!(first.end().report.ok);
    let before = second.report().pipelines["p"].deliveries.committed;
    second.until(|report| report.pipelines["p"].deliveries.committed >= before + 3);
    second.stop();
    assert!(second.end().report.ok);
}

#[test]
fn the_history_knows_how_many_records_and_why_it_failed() {
    let bench = Bench::new()
        .with("make", |_| Ok(json!([{"n": 1}, {"n": 2}, {"n": 3}])))
        .with("pick", |call| match call.data[0]["n"].as_i64() {
            Some(1) => Ok(json!([{"n": 1}, {"n": 2}])),
            _ => Err(Error::data("nothing to pick from")),
        })
        .with("nothing", |_| Ok(json!([])));
    let text = "
pipelines:
  good: {once: true, stages: [{core_logic: {rust: make}}, {core_logic: {rust: pick}}]}
  bad: {once: true, on_failure: isolate, stages: [{core_logic: {rust: nothing}}, {core_logic: {rust: pick}}]}
";
    let report = bench.run(text);
    assert!(!report.ok);
    let runs = bench.runs();
    let of = |name: &str| runs.iter().find(|run| run.pipeline == name).unwrap();
    let (good, bad) = (of("good"), of("bad"));
    assert_eq!((good.records_in, good.records_out), (3, 2));
    assert_eq!(
        (good.outcome, good.error.as_deref()),
        (Some(RunOutcome::Committed), None)
    );
    assert_eq!(bad.outcome, Some(RunOutcome::Failed));
    assert_eq!(bad.error.as_deref(), Some("nothing to pick from"));
    assert_eq!(report.pipelines["good"].records_in, 3);
    assert_eq!(report.pipelines["good"].records_out, 2);
}
