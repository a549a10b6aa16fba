//! Attempts, back-off, and what becomes of records whose attempts are used up.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use wiredflow_core::delivery::{Outcome, Payload};
use wiredflow_core::{Error, ErrorKind};
use wiredflow_engine::catalogue::{OpenSource, Work};
use wiredflow_engine::observe::Deliveries;
use wiredflow_engine::plan::TriggerPlan;
use wiredflow_engine::state::Body;

use super::bench::{Bench, Doing, Feed, Shelf, millis, replace, run_plan, within};
use super::turned;

/// A pipeline `p` that starts once.
fn once(stages: &str) -> String {
    format!("pipelines: {{p: {{once: true, stages: [{stages}]}}}}")
}

const NONE: Deliveries = Deliveries {
    committed: 0,
    failed: 0,
    dead_lettered: 0,
    skipped: 0,
    unfinished: 0,
};

/// A bench whose function `fail` fails `times` times, then gives its input; and its count of calls.
fn failing(
    times: u32,
    error: impl Fn() -> Error + Send + Sync + 'static,
) -> (Bench, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let bench = Bench::new().with("fail", move |call| {
        if counter.fetch_add(1, Ordering::Relaxed) < times {
            return Err(error());
        }
        Ok(call.data)
    });
    (bench, calls)
}

#[test]
fn a_function_is_called_once_unless_told() {
    let (bench, calls) = failing(9, || Error::data("no"));
    let report = bench.run(&once("{core_logic: {rust: fail}}"));
    assert!(!report.ok);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let expected = Deliveries { failed: 1, ..NONE };
    assert_eq!(report.pipelines["p"].deliveries, expected);
}

#[test]
fn attempts_count_the_first_call() {
    let (bench, calls) = failing(2, || Error::data("no"));
    let stage = "{core_logic: {rust: fail}, retry: {attempts: 3, backoff: 1ms}}";
    let report = bench.run(&once(stage));
    assert!(report.ok, "{report:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    assert_eq!((report.stages[0].errors, report.stages[0].retries), (2, 2));
    assert_eq!(report.pipelines["p"].deliveries.committed, 1);

    let (bench, calls) = failing(9, || Error::data("no"));
    assert!(!bench.run(&once(stage)).ok);
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[test]
fn a_word_on_back_off_does_not_make_a_function_run_for_ever() {
    let (bench, calls) = failing(9, || Error::data("no"));
    assert!(
        !bench
            .run(&once("{core_logic: {rust: fail}, retry: {backoff: 1ms}}"))
            .ok
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn what_is_away_is_tried_until_it_is_back() {
    let (bench, calls) = failing(6, || Error::remote("away"));
    let begun = Instant::now();
    let stage = "{core_logic: {rust: fail}, retry: {backoff: 8ms, max: 32ms}}";
    let report = bench.run(&once(stage));
    assert!(report.ok, "{report:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 7);
    // Half of 8 + 16 + 32 + 32 + 32 + 32 at least.
    assert!(begun.elapsed() >= millis(76));
    assert_eq!(report.pipelines["p"].last_error.as_deref(), Some("away"));
}

#[test]
fn a_peers_own_wait_is_kept() {
    let (bench, _) = failing(1, || Error::remote("busy").with_retry_after(millis(300)));
    let begun = Instant::now();
    let report = bench.run(&once("{core_logic: {rust: fail}, retry: {backoff: 1ms}}"));
    assert!(report.ok);
    assert!(begun.elapsed() >= millis(300));
    assert!(report.stages[0].seconds.throttled >= 0.29, "{report:?}");
}

#[test]
fn a_call_that_has_handed_something_on_is_not_repeated() {
    let bench = Bench::new().giving("half", |_, give| {
        give(json!({"n": 1}))?;
        Err(Error::remote("away in the middle"))
    });
    let report = bench.run(&once(
        "{core_logic: {rust: half}, retry: {attempts: 5, backoff: 1ms}, on_error: skip}, {core_logic: {rust: see}}",
    ));
    assert!(report.ok);
    assert_eq!((report.stages[0].calls, report.stages[0].retries), (1, 0));
    assert_eq!(bench.seen(), [json!({"n": 1})]);
    let expected = Deliveries { skipped: 1, ..NONE };
    assert_eq!(report.pipelines["p"].deliveries, expected);
}

#[test]
fn a_call_that_has_handed_something_on_is_not_taken_apart() {
    let feed = Feed::of((0..4).map(|n| json!(n)));
    let bench = Bench::new();
    let mut plan = bench.plan(&once(
        "{core_logic: {rust: see}, on_error: skip}, {core_logic: {rust: see}}",
    ));
    feed.feeds(&mut plan, 0);
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    replace(&mut plan, (0, 0), Work::Records, move || {
        HalfWay(Arc::clone(&counter))
    });
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    assert!(report.ok);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(bench.seen().len(), 4, "{:?}", bench.seen());
    assert_eq!(feed.ended_as(Outcome::Skipped), [0, 1, 2, 3]);
}

/// Hands on its input, then fails at a record of it.
struct HalfWay(Arc<AtomicU32>);

impl wiredflow_core::stage::Stage for HalfWay {
    async fn run(
        &self,
        batch: &wiredflow_core::Batch,
        out: &mut wiredflow_core::stage::Emitter<'_>,
        _: &wiredflow_core::stage::Cx,
    ) -> wiredflow_core::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        out.emit(batch.clone()).await?;
        Err(Error::data("half way").at_record(0))
    }
}

#[test]
fn a_dead_letter_says_what_where_why_and_how_often() {
    let bench = Bench::new().with("fail", |_| {
        Err(Error::data("a bad record").with_trace("line 7 of logic.py"))
    });
    let bench = bench.with("make", |_| Ok(json!({"id": 7})));
    let report = bench.run(&once(
        "{core_logic: {rust: make}}, \
         {core_logic: {rust: fail}, name: check, retry: {attempts: 2, backoff: 1ms}, on_error: dead_letter}, \
         {core_logic: {rust: see}}",
    ));
    assert!(report.ok, "what a policy sets aside is no failure");
    let expected = Deliveries {
        dead_lettered: 1,
        ..NONE
    };
    assert_eq!(report.pipelines["p"].deliveries, expected);
    assert!(bench.seen().is_empty());
    let letters = bench.dead_letters();
    let [letter] = &letters[..] else {
        panic!("{letters:?}")
    };
    assert_eq!(
        (&*letter.listed.pipeline, &*letter.listed.stage),
        ("p", "check")
    );
    assert_eq!(letter.listed.reason, "a bad record");
    assert_eq!(letter.trace.as_deref(), Some("line 7 of logic.py"));
    assert_eq!(letter.attempts, 2);
    assert_eq!(letter.kind, "data");
    assert_eq!(letter.body, Body::Json(json!({"id": 7})));
}

#[test]
fn skipping_is_counted_and_is_no_failure() {
    let (bench, _) = failing(9, || Error::data("no"));
    let report = bench.run(&once("{core_logic: {rust: fail}, on_error: skip}"));
    assert!(report.ok);
    let expected = Deliveries { skipped: 1, ..NONE };
    assert_eq!(report.pipelines["p"].deliveries, expected);
    assert!(bench.dead_letters().is_empty());
}

#[test]
fn secrets_are_in_no_error_no_trace_and_no_params_of_a_dead_letter() {
    let bench = Bench::new()
        .with("configure", |_| {
            Ok(json!({"headers": {"key": "canary-5301"}}))
        })
        .with("fail", |_| {
            Err(Error::data("refused canary-5301").with_trace("at canary-5301"))
        });
    std::fs::write(bench.folder().join("secret"), "canary-5301").unwrap();
    let report = bench.run(
        "pipelines: {p: {once: true, stages: [{configuration: {rust: configure, params: {key: \"${file:secret}\"}}}, \
         {core_logic: {rust: fail}, on_error: dead_letter}]}}",
    );
    assert!(report.ok);
    let letters = serde_json::to_string(&bench.dead_letters()).unwrap();
    let report = serde_json::to_string(&report).unwrap();
    assert!(
        letters.contains("refused ***") && letters.contains("at ***"),
        "{letters}"
    );
    assert!(letters.contains(r#""key":"***""#), "{letters}");
    for text in [letters, report] {
        assert!(!text.contains("canary-5301"), "{text}");
    }
}

/// A pipeline that is fed by `feed` into a sink, with more keys of the sink's stage.
fn sink_plan(
    bench: &Bench,
    feed: &Arc<Feed>,
    keys: &str,
    make: impl Fn() -> Doing + Send + Sync + 'static,
) -> wiredflow_engine::plan::Plan {
    let mut plan = bench.plan(&once(&format!("{{core_logic: {{rust: see}}{keys}}}")));
    feed.feeds(&mut plan, 0);
    replace(&mut plan, (0, 0), Work::Sink, make);
    plan
}

#[test]
fn one_bad_record_that_a_sink_names_is_set_aside_alone() {
    let (bench, shelf) = (Bench::new(), Shelf::default());
    let feed = Feed::of((0..100).map(|n| json!(n)));
    let refuse = |value: &Value, index| {
        (*value == 37 || *value == 38).then(|| Error::data("refused").at_record(index))
    };
    let plan = sink_plan(&bench, &feed, ", on_error: dead_letter", shelf.sink(refuse));
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    assert!(report.ok);
    assert_eq!(feed.ended_as(Outcome::DeadLettered), [37, 38]);
    assert_eq!(feed.ended_as(Outcome::Committed).len(), 98);
    assert_eq!(shelf.values().len(), 98);
    let bodies: Vec<_> = bench
        .dead_letters()
        .into_iter()
        .map(|letter| letter.body)
        .collect();
    assert_eq!(bodies, [Body::Json(json!(37)), Body::Json(json!(38))]);
}

#[test]
fn a_batch_of_many_deliveries_that_fails_as_a_whole_is_taken_apart() {
    let (bench, shelf) = (Bench::new(), Shelf::default());
    let feed = Feed::of((0..50).map(|n| json!(n)));
    let refuse = |value: &Value, _| (*value == 13).then(|| Error::data("something in it is bad"));
    let plan = sink_plan(&bench, &feed, ", on_error: dead_letter", shelf.sink(refuse));
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    assert!(report.ok);
    assert_eq!(feed.ended_as(Outcome::DeadLettered), [13]);
    assert_eq!(shelf.values().len(), 49);
}

#[test]
fn many_records_of_one_delivery_are_taken_apart_too() {
    let (bench, shelf) = (Bench::new(), Shelf::default());
    let feed = Feed::new();
    feed.give_payloads([Payload::Values((0..10).map(|n| json!(n)).collect())]);
    feed.end();
    let refuse = |value: &Value, _| (*value == 3).then(|| Error::data("something in it is bad"));
    let plan = sink_plan(&bench, &feed, ", on_error: skip", shelf.sink(refuse));
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    assert!(report.ok);
    assert_eq!(feed.settled(), [(0, Outcome::Skipped)]);
    assert_eq!(shelf.values().len(), 9);
}

#[test]
fn a_peer_that_stays_away_is_not_asked_for_each_record() {
    let (bench, calls) = (Bench::new(), Arc::new(AtomicU32::new(0)));
    let feed = Feed::of((0..50).map(|n| json!(n)));
    let counter = Arc::clone(&calls);
    let refuse = move |_: &Value, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        Some(Error::remote("away"))
    };
    let keys = ", retry: {attempts: 2, backoff: 1ms}, on_error: dead_letter";
    let plan = sink_plan(&bench, &feed, keys, Shelf::default().sink(refuse));
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    assert!(report.ok);
    assert_eq!(feed.ended_as(Outcome::DeadLettered).len(), 50);
    let batches = report.stages[0].calls / 2;
    assert_eq!(u64::from(calls.load(Ordering::Relaxed)), 2 * batches);
}

#[test]
fn after_a_failure_nothing_more_of_the_batch_is_acknowledged() {
    let (bench, shelf) = (Bench::new(), Shelf::default());
    let feed = Feed::of((0..20).map(|n| json!(n)));
    let refuse = |value: &Value, index| (*value == 5).then(|| Error::data("bad").at_record(index));
    let plan = sink_plan(&bench, &feed, "", shelf.sink(refuse));
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    assert!(!report.ok);
    assert_eq!(feed.ended_as(Outcome::Failed), [5]);
    assert_eq!(feed.ended_as(Outcome::Lost).len(), 19);
    assert!(
        shelf.values().is_empty(),
        "nothing was committed, so nothing may be acknowledged"
    );
}

#[test]
fn a_sink_without_a_receipt_is_not_believed() {
    for passes in [true, false] {
        let bench = Bench::new();
        let feed = Feed::of([json!(1)]);
        let plan = sink_plan(&bench, &feed, "", move || {
            Doing(Box::new(move |_, out, _| {
                if passes {
                    out.pass(None);
                }
                Ok(())
            }))
        });
        let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
        assert!(!report.ok);
        assert_eq!(feed.settled(), [(0, Outcome::Failed)], "passes: {passes}");
    }
}

#[test]
fn a7_a_panic_is_a_failure_of_the_call_and_says_so() {
    let bench = Bench::new();
    let feed = Feed::of([json!(1)]);
    let plan = sink_plan(&bench, &feed, "", || {
        Doing(Box::new(|_, _, _| panic!("the roof is on fire")))
    });
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    let error = report.error.unwrap();
    assert!(
        error.contains("pipeline `p`: stage `core_logic`"),
        "{error}"
    );
    assert!(error.contains("the roof is on fire"), "{error}");
    assert_eq!(feed.settled(), [(0, Outcome::Failed)]);
}

#[test]
fn a7_a_panic_of_a_rust_function_is_a_failure_of_the_call() {
    let bench = Bench::new().with("burn", |_| panic!("the roof is on fire"));
    let report = bench.run(&once("{core_logic: {rust: burn}, on_error: dead_letter}"));
    assert!(report.ok);
    let letters = bench.dead_letters();
    assert!(
        letters[0].listed.reason.contains("the roof is on fire"),
        "{letters:?}"
    );
    assert_eq!(letters[0].kind, ErrorKind::Bug.word());
}

#[test]
fn an_unreadable_payload_is_a_dead_letter_and_the_stream_goes_on() {
    let bench = Bench::new();
    let feed = Feed::new();
    for bytes in [
        "{\"n\": 1}",
        "no json",
        "[{\"n\": 2}, {\"n\": 3}]",
        "",
        "NaN",
    ] {
        feed.give_payloads([Payload::Json(bytes.into())]);
    }
    feed.end();
    let mut plan = bench.plan(&once("{core_logic: {rust: see}}"));
    feed.feeds(&mut plan, 0);
    let report = run_plan(&plan, &within(Duration::from_secs(20))).report;
    assert!(report.ok);
    assert_eq!(bench.seen(), [json!({"n": 1}), json!([{"n": 2}, {"n": 3}])]);
    assert_eq!(feed.ended_as(Outcome::Committed), [0, 2]);
    assert_eq!(feed.ended_as(Outcome::DeadLettered), [1, 3, 4]);
    let letters = bench.dead_letters();
    assert_eq!(letters.len(), 3);
    assert_eq!(letters[0].listed.stage, "feed");
    assert_eq!(letters[0].body, Body::Bytes("no json".into()));
    assert_eq!(report.pipelines["p"].records_in, 3);
}

#[test]
fn c16_a_source_that_is_away_is_looked_for_every_few_seconds_however_long() {
    let clock = turned::noon();
    let bench = Bench::new();
    let mut plan = bench.plan("pipelines: {p: {once: true, stages: [{core_logic: {rust: see}}]}}");
    let feed = Feed::of([json!(1)]);
    feed.feeds(&mut plan, 0);
    let back = turned::time("2026-01-01T13:00:00Z");
    let looked: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
    let TriggerPlan::Source { kind, open } = plan.pipelines[0].trigger.clone() else {
        panic!("a source")
    };
    let (noted, by) = (Arc::clone(&looked), clock.clone());
    let open = OpenSource(Arc::new(move |resources| {
        noted.lock().unwrap().push(by.now());
        if by.now() < back {
            return Box::pin(async { Err(Error::remote("no broker")) });
        }
        (open.0)(resources)
    }));
    plan.pipelines[0].trigger = TriggerPlan::Source { kind, open };
    let options = turned::by(&clock, turned::seconds(7200));
    assert!(turned::play(&plan, &options).report.ok);
    assert_eq!(bench.seen(), [json!(1)]);
    let looked = looked.lock().unwrap();
    let gaps = looked.windows(2).map(|two| two[1].duration_since(two[0]));
    let longest = gaps.max().unwrap();
    assert!(
        looked.len() > 600 && longest.as_secs_f64() <= 4.0,
        "{longest}"
    );
}
