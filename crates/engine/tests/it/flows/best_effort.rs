//! `required: false`: what comes for such a stage is kept and goes on, and nothing waits for the stage itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use wiredflow_core::Error;
use wiredflow_core::delivery::Outcome;
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::{OutboxReport, RunReport};
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{InboxLimits, RunOptions};
use wiredflow_engine::state::LetterEditor;
use wiredflow_testkit::{rows, wait_until};

use super::bench::{Bench, Feed, PATIENCE, Shelf, Started, millis, replace};

const AWAY: &str =
    "{store: {json: {}, required: false}, name: side, retry: {backoff: 10ms, max: 20ms}}";

/// A pipeline with a stage `side` that nothing waits for, fed by a feed of the test.
fn plan(bench: &Bench, feed: &Arc<Feed>, stages: &str) -> Plan {
    let mut plan = bench.plan(&format!(
        "pipelines: {{p: {{source: {{mqtt: {{broker: b, topic: t}}}}, stages: [{stages}]}}}}"
    ));
    feed.feeds(&mut plan, 0);
    plan
}

/// A sink in the place of the first stage, which is away as long as the test says.
fn sink_on(shelf: &Shelf, plan: &mut Plan, is_away: &Arc<AtomicBool>) {
    let is_away = Arc::clone(is_away);
    let sink = shelf.sink(move |_, _| {
        let away = is_away.load(Ordering::Relaxed);
        away.then(|| Error::remote("the side is away"))
    });
    replace(plan, (0, 0), Work::Sink, sink);
}

fn numbers(from: u64, to: u64) -> Vec<Value> {
    (from..to).map(|n| json!({ "n": n })).collect()
}

fn outbox(report: &RunReport) -> OutboxReport {
    report.pipelines["p"].outboxes["side"]
}

#[track_caller]
fn all_committed(feed: &Feed, number: usize) {
    wait_until(PATIENCE, || {
        feed.ended_as(Outcome::Committed).len() == number
    });
}

#[test]
fn a_sink_that_is_away_holds_up_neither_its_source_nor_the_stages_behind_it() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let is_away = Arc::new(AtomicBool::new(true));
    let mut plan = plan(
        &bench,
        &feed,
        &format!("{AWAY}, {{core_logic: {{rust: see}}}}"),
    );
    sink_on(&shelf, &mut plan, &is_away);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(numbers(0, 700));
    all_committed(&feed, 700);
    assert_eq!(bench.seen(), numbers(0, 700));
    assert_eq!(shelf.values(), Vec::<Value>::new());
    let report = flow.report();
    assert_eq!(
        (outbox(&report).waiting, report.stages[0].records_in),
        (700, 700)
    );
    assert_eq!(report.stages[0].records_out, 0, "it has stored nothing yet");
    is_away.store(false, Ordering::Relaxed);
    flow.until(|report| outbox(report).waiting == 0);
    assert_eq!(shelf.values(), numbers(0, 700), "in order, once");
    flow.stop();
    let report = flow.end().report;
    assert_eq!(report.stages[0].records_out, 700);
    let deliveries = report.pipelines["p"].deliveries;
    assert_eq!((deliveries.committed, deliveries.unfinished), (700, 0));
    assert!(report.ok);
}

#[test]
fn a_stop_waits_for_no_sink_that_is_away_and_the_next_start_works_off_what_waits() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let is_away = Arc::new(AtomicBool::new(true));
    let mut with_feed = plan(&bench, &feed, AWAY);
    sink_on(&shelf, &mut with_feed, &is_away);
    let flow = Started::new(&with_feed, &RunOptions::default());
    feed.give(numbers(0, 300));
    all_committed(&feed, 300);
    flow.stop();
    let ended = flow.end();
    assert!(!ended.at_once, "an orderly end");
    assert_eq!(outbox(&ended.report).waiting, 300);
    assert_eq!(ended.report.pipelines["p"].deliveries.unfinished, 0);

    let ends = Feed::of([json!({"n": 300})]);
    let mut with_feed = plan(&bench, &ends, AWAY);
    is_away.store(false, Ordering::Relaxed);
    sink_on(&shelf, &mut with_feed, &is_away);
    // What ends by itself ends when all is worked off.
    let report = Started::new(&with_feed, &RunOptions::default())
        .end()
        .report;
    assert_eq!(shelf.values(), numbers(0, 301));
    assert_eq!(outbox(&report).waiting, 0);
}

#[test]
fn a_flow_that_ends_by_itself_waits_for_no_sink_that_is_away() {
    let (bench, shelf) = (Bench::new(), Shelf::default());
    let feed = Feed::of(numbers(0, 10));
    let mut plan = plan(&bench, &feed, AWAY);
    sink_on(&shelf, &mut plan, &Arc::new(AtomicBool::new(true)));
    let ended = Started::new(&plan, &RunOptions::default()).end();
    assert!(ended.report.ok);
    assert_eq!(feed.ended_as(Outcome::Committed).len(), 10);
    assert_eq!(outbox(&ended.report).waiting, 10);
}

/// Each storage that is built in, as it stands in a flow file, and its file.
const STORAGES: [(&str, &str); 4] = [
    ("json: {folder: data}", "data/json_in_p.json"),
    ("jsonl: {folder: data}", "data/jsonl_in_p.jsonl"),
    ("csv: {folder: data}", "data/csv_in_p.csv"),
    ("sqlite: {path: data/s.db, table: rows}", "data/s.db"),
];

#[test]
fn what_a_crash_finds_in_the_outbox_is_stored_once_whatever_was_stored_already() {
    for (storage, file) in STORAGES {
        let bench = Bench::new();
        let stages = format!("{{store: {{{storage}, required: false}}, name: side}}");
        let total = 3000;
        let feed = Feed::new();
        let flow = Started::new(&plan(&bench, &feed, &stages), &RunOptions::default());
        feed.give(numbers(0, total));
        all_committed(&feed, total as usize);
        // As a kill does, in the middle of it, several times.
        flow.abandon();
        for stored_before in [1, 700, 1500] {
            let idle = Feed::new();
            let flow = Started::new(&plan(&bench, &idle, &stages), &RunOptions::default());
            flow.until(|report| {
                report.stages[0].records_out >= stored_before || outbox(report).waiting == 0
            });
            flow.abandon();
        }
        let idle = Feed::new();
        let flow = Started::new(&plan(&bench, &idle, &stages), &RunOptions::default());
        wait_until(PATIENCE, || {
            flow.report().pipelines["p"]
                .outboxes
                .get("side")
                .is_some_and(|outbox| outbox.waiting == 0)
                && rows_of(&bench, file).len() >= total as usize
        });
        flow.stop();
        flow.end();
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for row in rows_of(&bench, file) {
            *counts.entry(number_of(&row)).or_default() += 1;
        }
        let expected: BTreeMap<u64, usize> = (0..total).map(|n| (n, 1)).collect();
        assert_eq!(counts, expected, "{storage}");
    }
}

fn rows_of(bench: &Bench, file: &str) -> Vec<Value> {
    let kind = match file.rsplit_once('.') {
        Some((_, "db")) => "sqlite",
        Some((_, kind)) => kind,
        None => unreachable!("a storage's file has an ending"),
    };
    rows(kind, &bench.folder().join(file)).unwrap_or_default()
}

fn number_of(row: &Value) -> u64 {
    let number = &row["n"];
    let text = || number.as_str()?.parse().ok();
    number.as_u64().or_else(text).expect("a number")
}

#[test]
fn what_fails_for_good_is_a_dead_letter_whose_replay_goes_nowhere_else() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let refuses = Arc::new(AtomicBool::new(true));
    let mut plan = plan(
        &bench,
        &feed,
        "{store: {json: {}, required: false}, name: side}, {core_logic: {rust: see}}",
    );
    let refusing = Arc::clone(&refuses);
    let sink = shelf.sink(move |value, index| {
        let bad = value["n"] == json!(3) && refusing.load(Ordering::Relaxed);
        bad.then(|| Error::data("no threes").at_record(index))
    });
    replace(&mut plan, (0, 0), Work::Sink, sink);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(numbers(0, 6));
    all_committed(&feed, 6);
    flow.until(|report| outbox(report).waiting == 0);
    assert_eq!(bench.seen(), numbers(0, 6), "it went on all the same");
    let letters = bench.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].listed.stage.as_str(), letters[0].attempts),
        ("side", 1)
    );
    refuses.store(false, Ordering::Relaxed);
    let mut editor = LetterEditor::open(&bench.folder().join(".wiredflow"), "test").unwrap();
    let now = jiff::Timestamp::now();
    editor.ask(&[letters[0].listed.id.clone()], now).unwrap();
    wait_until(PATIENCE, || bench.dead_letters().is_empty());
    let mut stored: Vec<u64> = shelf.values().iter().map(number_of).collect();
    stored.sort_unstable();
    assert_eq!(stored, [0, 1, 2, 3, 4, 5]);
    assert_eq!(bench.seen().len(), 6);
    flow.stop();
    flow.end();
}

#[test]
fn what_finds_the_outbox_full_is_a_dead_letter_and_goes_on() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let is_away = Arc::new(AtomicBool::new(true));
    let mut plan = plan(
        &bench,
        &feed,
        &format!("{AWAY}, {{core_logic: {{rust: see}}}}"),
    );
    sink_on(&shelf, &mut plan, &is_away);
    let limits = RunOptions {
        inbox: InboxLimits {
            rows: 100,
            bytes: 1 << 20,
        },
        ..RunOptions::default()
    };
    let flow = Started::new(&plan, &limits);
    feed.give(numbers(0, 400));
    all_committed(&feed, 400);
    assert_eq!(bench.seen(), numbers(0, 400));
    let full = outbox(&flow.report());
    assert!((100..400).contains(&full.waiting), "{full:?}");
    assert_eq!(full.waiting + full.set_aside, 400);
    is_away.store(false, Ordering::Relaxed);
    flow.until(|report| outbox(report).waiting == 0);
    flow.stop();
    flow.end();
    let letters = bench.dead_letters();
    assert!(
        letters[0].listed.reason.contains("its outbox is full"),
        "{letters:#?}"
    );
    let kept = shelf.values().len() as u64;
    assert_eq!(kept, full.waiting);
    let bodies = letters
        .iter()
        .map(|letter| match serde_json::to_value(&letter.body).unwrap() {
            Value::Array(values) => values.len() as u64,
            _ => 1,
        });
    assert_eq!(kept + bodies.sum::<u64>(), 400, "nothing is lost");
}

#[test]
fn a_component_that_cannot_be_opened_holds_up_nothing() {
    let bench = Bench::new().with("make", |_| Ok(json!([{"n": 1}, {"n": 2}])));
    // Nobody listens there; and a file stands where the folder should be.
    std::fs::write(bench.folder().join("file"), "").unwrap();
    for side in [
        "send: {mqtt: {broker: \"127.0.0.1:1\", topic: t}, required: false}",
        "send: {http_post: {url: \"http://127.0.0.1:1/\"}, required: false}",
        "store: {jsonl: {folder: file}, required: false}",
        "store: {sqlite: {path: file/x.db, table: t}, required: false}",
    ] {
        let report = bench.run(&format!(
            "pipelines: {{p: {{once: true, stages: [{{core_logic: {{rust: make}}}}, {{{side}, name: side}}, \
             {{core_logic: {{rust: see}}}}]}}}}"
        ));
        assert!(report.ok, "{side}: {report:#?}");
        assert_eq!(report.pipelines["p"].deliveries.committed, 1, "{side}");
        assert_eq!(outbox(&report).waiting, 2, "{side}");
        std::fs::remove_dir_all(bench.folder().join(".wiredflow")).unwrap();
    }
    assert_eq!(bench.seen(), vec![json!([{"n": 1}, {"n": 2}]); 4]);
}

#[test]
fn a_function_gets_its_records_as_they_came_and_so_many_calls_at_once_as_it_may() {
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let got = Arc::new(Mutex::new(Vec::new()));
    let (now, top, calls) = (Arc::clone(&at_once), Arc::clone(&most), Arc::clone(&got));
    let bench = Bench::new()
        .with("pairs", |_| Ok(json!([{"n": 1}, {"n": 2}])))
        .with("save", move |call| {
            let running = now.fetch_add(1, Ordering::SeqCst) + 1;
            top.fetch_max(running, Ordering::SeqCst);
            // The others come while this one runs, or never.
            let since = Instant::now();
            while top.load(Ordering::SeqCst) < 3 && since.elapsed() < PATIENCE {
                std::thread::sleep(millis(5));
            }
            calls.lock().unwrap().push(call.data.clone());
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Value::Null)
        });
    let flow = bench.start(
        "pipelines: {p: {every: 20ms, stages: [{core_logic: {rust: pairs}}, \
         {store: {rust: save, required: false}, name: side, parallel: 3}]}}",
    );
    flow.until(|report| report.stages[1].records_out >= 20);
    flow.stop();
    assert!(flow.end().report.ok);
    for data in got.lock().unwrap().iter() {
        assert_eq!(*data, json!([{"n": 1}, {"n": 2}]));
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[test]
fn a_failure_of_the_pipeline_leaves_what_waits_to_its_next_session() {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let bench = Bench::new().with("breaks", move |call| {
        match count.fetch_add(1, Ordering::SeqCst) {
            5 => Err(Error::data("just once")),
            _ => Ok(call.data),
        }
    });
    let (feed, shelf) = (Feed::new(), Shelf::default());
    let is_away = Arc::new(AtomicBool::new(true));
    let mut plan = bench.plan(&format!(
        "pipelines: {{p: {{source: {{mqtt: {{broker: b, topic: t}}}}, on_failure: restart, \
         stages: [{AWAY}, {{core_logic: {{rust: breaks}}}}]}}}}"
    ));
    feed.feeds(&mut plan, 0);
    sink_on(&shelf, &mut plan, &is_away);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(numbers(0, 6));
    flow.until(|report| report.pipelines["p"].restarts == 1);
    feed.give(numbers(6, 9));
    is_away.store(false, Ordering::Relaxed);
    wait_until(PATIENCE, || shelf.values().len() == 9);
    flow.until(|report| outbox(report).waiting == 0);
    flow.stop();
    flow.end();
    assert_eq!(shelf.values(), numbers(0, 9));
}

#[test]
fn on_error_stop_is_refused_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let lookup = SystemLookup::new(folder.path());
    let text = "pipelines: {p: {once: true, stages: [{store: {json: {}, required: false}, on_error: stop}]}}";
    let checked = check_text(text, "test", folder.path(), &Functions::default(), &lookup);
    assert!(checked.plan.is_none());
    let [problem] = &checked.problems[..] else {
        panic!("{:#?}", checked.problems)
    };
    assert!(
        problem
            .message
            .contains("`on_error: stop` does not go with `required: false`")
    );
}
