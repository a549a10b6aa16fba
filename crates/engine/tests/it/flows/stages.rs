//! The loop around each stage: order, groups, limits of time and rate, and where the time goes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_core::Error;
use wiredflow_core::charge::Activity;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Result};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::run::RunOptions;
use wiredflow_scale::profile::Seconds;

use super::bench::{Bench, Started, millis, replace};
use super::turned::{Drips, Waits, by, noon, play, seconds};

#[test]
fn calls_side_by_side_keep_the_order_unless_told() {
    for ordered in [true, false] {
        let (bench, clock) = (Bench::new().yielding("count", 16, Duration::ZERO), noon());
        let text = format!(
            "pipelines: {{p: {{once: true, stages: [{{core_logic: {{rust: count}}}}, \
             {{core_logic: {{rust: see}}, parallel: 4, ordered: {ordered}}}, {{core_logic: {{rust: see}}}}]}}}}"
        );
        let mut plan = bench.plan(&text);
        let waiting = clock.clone();
        // Of each four the last is done first.
        let wait = |value: Option<&Value>| {
            let n = value.and_then(|value| value["n"].as_u64()).unwrap_or(0);
            seconds(4 - n % 4)
        };
        replace(&mut plan, (0, 1), Work::Records, move || {
            Waits(waiting.clone(), Arc::new(wait))
        });
        let report = play(&plan, &by(&clock, seconds(600))).report;
        assert!(report.ok, "{report:?}");
        assert_eq!(report.stages[1].replicas, 4);
        let mut seen: Vec<u64> = bench
            .seen()
            .iter()
            .map(|one| one["n"].as_u64().unwrap())
            .collect();
        if !ordered {
            assert_eq!(seen[..4], [3, 2, 1, 0], "as they are done");
            seen.sort_unstable();
        }
        assert_eq!(seen, (0..16).collect::<Vec<_>>(), "ordered: {ordered}");
        // Four at once: 16 calls of 2.5 s on average in little more than a quarter of the time.
        assert!(report.seconds < 20.0, "{}", report.seconds);
    }
}

#[test]
fn a_group_goes_on_when_it_is_full_or_has_waited_long_enough() {
    let clock = noon();
    let (bench, notes) = Bench::new().noting(&clock);
    let mut plan = bench.plan(
        "pipelines: {p: {every: 1h, stages: [{core_logic: {rust: see}}, {core_logic: {rust: note}, batch: {max: 3, within: 5s}}]}}",
    );
    let dripping = clock.clone();
    replace(&mut plan, (0, 0), Work::Function, move || {
        Drips(
            dripping.clone(),
            vec![0, 1, 2, 10, 20, 21, 30, 30, 30, 30, 59],
        )
    });
    assert!(play(&plan, &by(&clock, seconds(70))).report.ok);
    let groups = [
        json!([0, 1, 2]),
        json!([3]),
        json!([4, 5]),
        json!([6, 7, 8]),
        json!([9]),
        json!([10]),
    ];
    assert_eq!(notes.values(), groups);
    assert_eq!(notes.times(), [2.0, 15.0, 25.0, 30.0, 35.0, 64.0]);
}

#[test]
fn a_group_that_waits_goes_on_when_its_queue_ends() {
    let clock = noon();
    let (bench, notes) = Bench::new().noting(&clock);
    let mut plan = bench.plan(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: see}}, {core_logic: {rust: note}, batch: {max: 100, within: 1h}}]}}",
    );
    let dripping = clock.clone();
    replace(&mut plan, (0, 0), Work::Function, move || {
        Drips(dripping.clone(), vec![0, 1, 2])
    });
    let report = play(&plan, &by(&clock, seconds(600))).report;
    assert_eq!(report.pipelines["p"].deliveries.committed, 1);
    assert_eq!(
        (notes.values(), notes.times()),
        (vec![json!([0, 1, 2])], vec![2.0])
    );
}

#[test]
fn calls_are_as_far_apart_as_the_rate_limit_says() {
    let clock = noon();
    let (bench, notes) = Bench::new()
        .yielding("count", 6, Duration::ZERO)
        .noting(&clock);
    let text = "pipelines: {p: {once: true, stages: [{core_logic: {rust: count}}, \
                {core_logic: {rust: note}, rate_limit: {per_second: 2}, parallel: 3}]}}";
    let report = bench.play(text, &clock, seconds(60));
    assert!(report.ok, "{report:?}");
    assert_eq!(notes.times(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
    let seconds = report.stages[1].seconds;
    assert!(seconds.throttled > 0.7 * seconds.wall, "{seconds:?}");
}

#[test]
fn a_stage_has_its_time_and_no_more() {
    let (bench, clock) = (Bench::new(), noon());
    let text = "pipelines: {p: {once: true, stages: [{core_logic: {rust: see}, timeout: 2s, retry: {attempts: 2, backoff: 1s}, \
                on_error: dead_letter}]}}";
    let mut plan = bench.plan(text);
    replace(
        &mut plan,
        (0, 0),
        Work::Function,
        Waits::always(&clock, seconds(3)),
    );
    let report = play(&plan, &by(&clock, seconds(60))).report;
    assert!(report.ok, "{report:?}");
    assert_eq!((report.stages[0].calls, report.stages[0].retries), (2, 1));
    let letters = bench.dead_letters();
    assert!(
        letters[0]
            .listed
            .reason
            .contains("longer than its `timeout` of 2s"),
        "{letters:?}"
    );
    assert!((4.5..=5.1).contains(&report.seconds), "{}", report.seconds);

    // What is done in time is not cut.
    let mut plan = bench.plan(&text.replace("2s", "4s"));
    replace(
        &mut plan,
        (0, 0),
        Work::Function,
        Waits::always(&clock, seconds(3)),
    );
    assert_eq!(
        play(&plan, &by(&clock, seconds(60))).report.pipelines["p"]
            .deliveries
            .committed,
        1
    );
}

#[test]
fn a_delivery_has_its_time_and_no_more() {
    let (bench, clock) = (Bench::new(), noon());
    let text = "pipelines: {p: {every: 10s, timeout: 5s, on_failure: restart, stages: [{core_logic: {rust: see}}, {core_logic: {rust: see}}]}}";
    let mut plan = bench.plan(text);
    let (calls, waiting) = (
        Arc::new(std::sync::atomic::AtomicU32::new(0)),
        clock.clone(),
    );
    replace(&mut plan, (0, 0), Work::Function, move || {
        let calls = Arc::clone(&calls);
        let long = move |_: Option<&Value>| {
            let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            seconds(if call == 0 { 30 } else { 3 })
        };
        Waits(waiting.clone(), Arc::new(long))
    });
    let report = play(&plan, &by(&clock, seconds(25))).report;
    assert!(report.ok, "{report:?}");
    let pipeline = &report.pipelines["p"];
    assert_eq!(
        (pipeline.deliveries.failed, pipeline.deliveries.committed),
        (1, 2)
    );
    assert_eq!(pipeline.restarts, 1);
    let runs = bench.runs();
    assert_eq!(
        runs[0]
            .ended
            .unwrap()
            .duration_since(runs[0].started)
            .as_secs(),
        5
    );
    assert!(
        runs[0]
            .error
            .as_deref()
            .unwrap()
            .contains("longer than its `timeout` of 5s"),
        "{runs:?}"
    );
}

#[test]
fn a_delivery_whose_time_is_up_says_what_its_attempts_were_about() {
    let clock = noon();
    let bench = Bench::new().with("fail", |_| Err(Error::remote("the peer is asleep")));
    let text = "pipelines: {p: {once: true, timeout: 5s, stages: [{core_logic: {rust: fail}}]}}";
    let report = bench.play(text, &clock, seconds(25));
    let said =
        "a delivery took longer than its `timeout` of 5s; the last error: the peer is asleep";
    assert!(
        report.error.as_deref().unwrap().contains(said),
        "{report:?}"
    );
    assert_eq!(bench.runs()[0].error.as_deref(), Some(said));
}

#[test]
fn a_run_whose_peer_is_away_at_the_end_says_so() {
    let clock = noon();
    let bench = Bench::new().with("fail", |_| Err(Error::remote("the peer is asleep")));
    let text = "pipelines: {p: {once: true, stages: [{core_logic: {rust: fail}}]}}";
    bench.play(text, &clock, seconds(25));
    let said = "the run ended while it was tried again: the peer is asleep";
    assert_eq!(bench.runs()[0].error.as_deref(), Some(said));
}

#[test]
fn the_start_of_a_process_is_no_part_of_a_functions_time() {
    let bench = Bench::new();
    // The second process takes longer to load than a call may take.
    std::fs::write(
        bench.folder().join("logic.py"),
        "import os, time\nif os.path.exists('begun'):\n    time.sleep(2.5)\nopen('begun', 'w').close()\n\n\
         def f(relevant_info=None, **params):\n    if not os.path.exists('crashed'):\n        \
         open('crashed', 'w').close()\n        os._exit(3)\n    return {'ok': 1}\n",
    )
    .unwrap();
    let report = bench.run(
        "pipelines: {p: {once: true, stages: [{core_logic: {python: \"logic.py:f\"}, timeout: 2s, \
         retry: {attempts: 2, backoff: 10ms}}, {core_logic: {rust: see}}]}}",
    );
    assert!(report.ok, "{report:?}");
    assert_eq!(bench.seen(), [json!({"ok": 1})]);
    let stage = &report.stages[0];
    assert_eq!((stage.calls, stage.errors), (2, 1));
    assert!(stage.seconds.overhead > 2.4, "{stage:?}");
}

/// Waits for a peer in real time.
struct Peer(Duration);

impl Stage for Peer {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        if batch.is_empty() {
            return out.emit(Batch::of_values(vec![json!(1)])).await;
        }
        cx.spend(Activity::External, tokio::time::sleep(self.0))
            .await;
        out.emit(batch.clone()).await
    }
}

/// Spends a thread's time.
pub(super) fn burn(time: Duration) {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        std::hint::spin_loop();
    }
}

#[track_caller]
pub(super) fn check_sum(name: &str, seconds: &Seconds) {
    let sum = seconds.compute
        + seconds.external
        + seconds.blocked
        + seconds.starved
        + seconds.throttled
        + seconds.overhead;
    let off = (sum - seconds.wall).abs() / seconds.wall;
    assert!(off < 0.01, "{name}: {sum} of {seconds:?}");
}

#[test]
fn the_six_clocks_are_the_time_that_has_passed_and_show_where_it_went() {
    let bench = Bench::new()
        .yielding("count", 1_000_000, Duration::ZERO)
        .with("slow", |call| {
            burn(millis(20));
            Ok(call.data)
        })
        .with("fail", |_| Err(Error::remote("away")));
    let text = "
pipelines:
  computes: {every: 1h, stages: [{core_logic: {rust: count}, name: source}, {core_logic: {rust: slow}}, {core_logic: {rust: see}, name: sink}]}
  waits: {every: 1h, stages: [{core_logic: {rust: count}}, {core_logic: {rust: see}, name: peer, parallel: 3, ordered: false}, {core_logic: {rust: see}, name: sink}]}
  orders: {every: 1h, stages: [{core_logic: {rust: count}}, {core_logic: {rust: see}, name: peer, parallel: 3}]}
  limited: {every: 1h, stages: [{core_logic: {rust: count}}, {core_logic: {rust: see}, name: limited, rate_limit: {per_second: 20}}]}
  away: {every: 1h, stages: [{core_logic: {rust: fail}}]}
  groups: {every: 1h, stages: [{core_logic: {rust: slow}}, {core_logic: {rust: see}, batch: {max: 10, within: 200ms}}]}
  idle: {at: \"2999-01-01T00:00:00Z\", stages: [{core_logic: {rust: see}, parallel: 5}]}
";
    let mut plan = bench.plan(text);
    for pipeline in [1, 2] {
        replace(&mut plan, (pipeline, 1), Work::Function, || {
            Peer(millis(40))
        });
    }
    let flow = Started::new(&plan, &RunOptions::default());
    flow.until(|report| report.seconds > 1.5);
    let running = flow.report();
    flow.stop();
    flow.stop();
    let ended = flow.end().report;
    for report in [&running, &ended] {
        for stage in &report.stages {
            let name = format!("{}/{}", stage.pipeline, stage.stage);
            check_sum(&name, &stage.seconds);
            let elapsed = stage.seconds.wall / stage.replicas as f64;
            assert!((elapsed - report.seconds).abs() < 0.25, "{name}: {elapsed}");
        }
    }
    // Planted truths: where most of the time went. Shares would depend on what else the machine has to do.
    let most = |pipeline: &str, number: usize| {
        let mut stages = running
            .stages
            .iter()
            .filter(|stage| stage.pipeline == pipeline);
        let seconds = stages.nth(number).unwrap().seconds;
        let clocks = [
            (seconds.compute, "compute"),
            (seconds.external, "external"),
            (seconds.blocked, "blocked"),
            (seconds.starved, "starved"),
            (seconds.throttled, "throttled"),
            (seconds.overhead, "overhead"),
        ];
        let largest = clocks.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        largest.unwrap().1
    };
    for (pipeline, stage, clock) in [
        ("computes", 0, "blocked"),
        ("computes", 1, "compute"),
        ("computes", 2, "starved"),
        ("waits", 1, "external"),
        ("orders", 1, "external"),
        ("limited", 1, "throttled"),
        ("away", 0, "throttled"),
        ("groups", 1, "starved"),
        ("idle", 0, "starved"),
    ] {
        assert_eq!(
            most(pipeline, stage),
            clock,
            "{pipeline} {stage}: {running:#?}"
        );
    }
}
