//! What a failure leads to: a restart, an end alone, the end of all; and that each delivery is settled once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use wiredflow_core::delivery::{Outcome, Payload};
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Result};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::run::RunOptions;
use wiredflow_engine::state::RunOutcome;

use super::bench::{Bench, Doing, Feed, Started, millis, replace};
use super::turned::{by, noon, play, seconds};

/// A bench whose function `fail` fails at its first calls with this error.
fn failing(times: u32, error: impl Fn() -> Error + Send + Sync + 'static) -> Bench {
    let calls = AtomicU32::new(0);
    Bench::new().with("fail", move |call| {
        match calls.fetch_add(1, Ordering::Relaxed) < times {
            true => Err(error()),
            false => Ok(call.data),
        }
    })
}

fn two(on_failure: &str) -> String {
    format!(
        "pipelines: {{p: {{every: 10s, on_failure: {on_failure}, stages: [{{core_logic: {{rust: fail}}}}]}}, \
         q: {{every: 1s, stages: [{{core_logic: {{rust: see}}}}]}}}}"
    )
}

#[test]
fn a_pipeline_that_restarts_goes_on_with_its_grid_and_disturbs_no_other() {
    let bench = failing(2, || Error::data("no good"));
    let report = bench.play(&two("restart"), &noon(), millis(45_500));
    assert!(report.ok, "{report:?}");
    let p = &report.pipelines["p"];
    assert_eq!(
        (p.deliveries.failed, p.deliveries.committed, p.restarts),
        (2, 3, 2)
    );
    assert_eq!(p.last_error.as_deref(), Some("stage `core_logic`: no good"));
    let ticks: Vec<f64> = bench.ticks_of("p").iter().map(|(tick, _)| *tick).collect();
    assert_eq!(ticks, [0.0, 10.0, 20.0, 30.0, 40.0]);
    let q = &report.pipelines["q"];
    assert_eq!(
        (q.deliveries.committed, q.restarts, q.ticks_skipped),
        (46, 0, 0)
    );
}

#[test]
fn restarts_are_further_apart_each_time() {
    let bench = failing(u32::MAX, || Error::data("no good"));
    let text = "pipelines: {p: {every: 10ms, catch_up: none, on_failure: restart, stages: [{core_logic: {rust: fail}}]}}";
    let report = bench.play(text, &noon(), seconds(300));
    assert!(report.ok, "{report:?}");
    // 1 s doubling to 60 s, half of it by chance: so often at most in five minutes, and at least.
    let restarts = report.pipelines["p"].restarts;
    assert!((6..=15).contains(&restarts), "{restarts}");
}

#[test]
fn a_pipeline_that_is_isolated_ends_alone_and_the_run_is_not_ok_at_its_end() {
    let bench = failing(1, || Error::data("no good"));
    let report = bench.play(&two("isolate"), &noon(), millis(45_500));
    assert!(!report.ok);
    assert!(
        report
            .error
            .unwrap()
            .contains("pipeline `p`: stage `core_logic`: no good")
    );
    assert_eq!(bench.ticks_of("p").len(), 1);
    assert_eq!(report.pipelines["q"].deliveries.committed, 46);
}

#[test]
fn a_failure_that_stops_ends_all_pipelines_in_good_order() {
    let bench = failing(1, || Error::data("no good"));
    let report = bench.play(&two("stop"), &noon(), millis(45_500));
    assert!(!report.ok && report.seconds < 5.0, "{report:?}");
    let q = &report.pipelines["q"].deliveries;
    assert!(q.committed <= 5 && q.failed == 0, "{q:?}");
    assert!(bench.runs().iter().all(|run| run.ended.is_some()));
}

#[test]
fn what_the_user_must_mend_stops_the_flow_whatever_the_policy() {
    for policy in ["restart", "isolate", "stop"] {
        let bench = failing(u32::MAX, || Error::config("the password is refused"));
        let text = two(policy).replace(
            "rust: fail}",
            "rust: fail}, on_error: skip, retry: {attempts: 5}",
        );
        let report = bench.play(&text, &noon(), millis(45_500));
        assert!(!report.ok && report.seconds < 5.0, "{policy}: {report:?}");
        assert!(report.error.unwrap().contains("password"), "{policy}");
        let p = &report.pipelines["p"];
        assert_eq!((p.deliveries.failed, p.restarts), (1, 0), "{policy}");
        assert_eq!(
            report.stages[0].calls, 1,
            "{policy}: it is never tried again"
        );
    }
}

#[test]
fn a7_a_panicking_rust_stage_restarts_its_pipeline_and_no_other() {
    let (bench, clock) = (Bench::new(), noon());
    let text = two("restart").replace("rust: fail", "rust: see");
    let mut plan = bench.plan(&text);
    let calls = Arc::new(AtomicU32::new(0));
    replace(&mut plan, (0, 0), Work::Records, move || {
        let calls = Arc::clone(&calls);
        Doing(Box::new(move |_, _, _| {
            if calls.fetch_add(1, Ordering::Relaxed) < 3 {
                panic!("the roof is on fire");
            }
            Ok(())
        }))
    });
    let report = play(&plan, &by(&clock, millis(65_500))).report;
    assert!(report.ok, "{report:?}");
    let p = &report.pipelines["p"];
    assert_eq!(
        (p.deliveries.failed, p.deliveries.committed, p.restarts),
        (3, 4, 3)
    );
    assert!(
        p.last_error
            .as_deref()
            .unwrap()
            .contains("the roof is on fire")
    );
    let q = &report.pipelines["q"];
    assert_eq!(
        (q.deliveries.committed, q.restarts, q.ticks_skipped),
        (66, 0, 0)
    );
    let outcomes: Vec<_> = bench
        .runs()
        .into_iter()
        .filter(|run| run.pipeline == "p")
        .map(|run| run.outcome.unwrap())
        .collect();
    assert_eq!(outcomes[..3], [RunOutcome::Failed; 3]);
}

/// A stage that does what chance says: hands on, doubles, drops, fails in every way.
struct Moody {
    dice: Arc<Mutex<StdRng>>,
    sink: Option<Arc<Mutex<Vec<Value>>>>,
}

impl Stage for Moody {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        let roll = self.dice.lock().unwrap().random_range(0..100);
        let record = self
            .dice
            .lock()
            .unwrap()
            .random_range(0..batch.len().max(1));
        match roll {
            0..6 => return Err(Error::data("as a whole")),
            6..14 if !batch.is_empty() => return Err(Error::data("one of them").at_record(record)),
            14..18 => return Err(Error::remote("away")),
            18..20 => panic!("as it likes"),
            _ => {}
        }
        if let Some(shelf) = &self.sink {
            shelf.lock().unwrap().extend(batch.values().cloned());
            out.pass(Some(CommitReceipt::issue("shelf".into(), batch.len())));
            return Ok(());
        }
        match roll {
            20..25 => out.pass(None),
            25..30 => {
                let halves = batch.records().chunks(1 + batch.len() / 2);
                for half in halves {
                    out.emit(Batch::new(half.to_vec())).await?;
                }
            }
            30..33 => {
                out.emit(batch.clone()).await?;
                return Err(Error::data("half way"));
            }
            _ => out.emit(batch.clone()).await?,
        }
        Ok(())
    }
}

/// Random deliveries through random stages that fail at random, whole or cut short by a stop.
fn settle_once(seed: u64, paused: bool) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut key = |choices: &[&str]| choices[dice.random_range(0..choices.len())].to_owned();
    let retry = "retry: {attempts: 3, backoff: 1ms, max: 2ms}";
    let stage = |more: String, on_error: String| {
        format!("{{core_logic: {{rust: see}}, {retry}, on_error: {on_error}{more}}}")
    };
    let policies = ["dead_letter", "skip", "dead_letter", "skip", "stop"];
    let more = [
        "",
        ", parallel: 3",
        ", parallel: 3, ordered: false",
        ", batch: {max: 5, within: 5ms}",
        ", parallel: 2, batch: {max: 3, within: 1ms}",
    ];
    let stages: Vec<String> = (0..3).map(|_| stage(key(&more), key(&policies))).collect();
    let on_failure = key(&["stop", "isolate", "restart"]);
    let text = format!(
        "pipelines: {{p: {{once: true, on_failure: {on_failure}, stages: [{}]}}}}",
        stages.join(", ")
    );
    let bench = Bench::new();
    let mut plan = bench.plan(&text);
    let feed = Feed::new();
    feed.feeds(&mut plan, 0);
    let shelf = Arc::new(Mutex::new(Vec::new()));
    let works = [Work::Function, Work::Records, Work::Sink];
    let moods = Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ 1)));
    for (number, work) in works.into_iter().enumerate() {
        let (dice, sink) = (
            Arc::clone(&moods),
            (number == 2).then(|| Arc::clone(&shelf)),
        );
        replace(&mut plan, (0, number), work, move || Moody {
            dice: Arc::clone(&dice),
            sink: sink.clone(),
        });
    }
    let deliveries: u64 = dice.random_range(1..80);
    let records: Vec<u64> = (0..deliveries).map(|_| dice.random_range(0..4)).collect();
    let payload = |(id, records): (usize, &u64)| {
        Payload::Values((0..*records).map(|record| json!([id, record])).collect())
    };
    feed.give_payloads(records.iter().enumerate().map(payload));
    feed.end();
    let cut_short = dice.random_bool(0.3);
    let shown = format!("seed {seed}, cut short: {cut_short}\n{text}");
    let ended = if paused {
        let clock = noon();
        play(&plan, &by(&clock, seconds(3600)))
    } else {
        let flow = Started::new(&plan, &RunOptions::default());
        if cut_short {
            std::thread::sleep(Duration::from_micros(dice.random_range(0..20_000)));
            flow.stop();
            if dice.random_bool(0.5) {
                flow.stop();
            }
        }
        flow.end()
    };
    let of = ended.report.pipelines["p"].deliveries;
    let counted = of.committed + of.failed + of.dead_lettered + of.skipped + of.unfinished;
    assert_eq!(counted, feed.given(), "{of:?} {shown}");
    let mut settled: BTreeMap<u64, Outcome> = BTreeMap::new();
    for (id, outcome) in feed.settled() {
        assert_eq!(settled.insert(id, outcome), None, "{id} twice: {shown}");
    }
    if !ended.at_once {
        assert_eq!(settled.len() as u64, feed.given(), "some never: {shown}");
    }
    let shelf = shelf.lock().unwrap();
    for (id, _) in settled
        .iter()
        .filter(|(_, outcome)| **outcome == Outcome::Committed)
    {
        for record in 0..records[*id as usize] {
            let value = json!([id, record]);
            assert!(shelf.contains(&value), "{value} is not stored: {shown}");
        }
    }
    let letters = bench.dead_letters().len();
    let dead = settled
        .values()
        .filter(|outcome| **outcome == Outcome::DeadLettered);
    assert!(dead.count() == 0 || letters > 0, "{shown}");
}

#[test]
fn each_delivery_is_settled_exactly_once_whatever_fails() {
    std::panic::set_hook(Box::new(|panic| {
        // The stages panic by the dozen; only a failure of the test is worth its words.
        let text = panic.to_string();
        if !text.contains("as it likes") {
            eprintln!("{text}");
        }
    }));
    let mut seeds = StdRng::seed_from_u64(wiredflow_testkit::seed());
    for round in 0..60 {
        settle_once(seeds.random(), round % 3 == 0);
    }
}
