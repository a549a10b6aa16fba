//! `ack: inbox`: what a source brings is kept and acknowledged at once, and worked off when that can be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::{Value, json};
use wiredflow_core::Error;
use wiredflow_core::delivery::{Outcome, Payload};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{InboxLimits, RunOptions};
use wiredflow_engine::state::Body;
use wiredflow_testkit::{rows, wait_until};

use super::bench::{Bench, Feed, PATIENCE, Shelf, Started, millis, replace, run_plan, within};

/// A pipeline with an inbox, fed by a feed of the test.
fn plan(bench: &Bench, feed: &Arc<Feed>, stages: &str) -> Plan {
    let mut plan = bench.plan(&format!(
        "pipelines: {{p: {{source: {{mqtt: {{broker: b, topic: t}}}}, ack: inbox, {stages}}}}}"
    ));
    feed.feeds(&mut plan, 0);
    plan
}

fn with_limits(rows: u64, bytes: u64) -> RunOptions {
    RunOptions {
        inbox: InboxLimits { rows, bytes },
        ..RunOptions::default()
    }
}

fn numbers(from: u64, to: u64) -> Vec<Value> {
    (from..to).map(Value::from).collect()
}

/// The numbers that a storage of the flow has.
fn stored(bench: &Bench, file: &str) -> Vec<u64> {
    let kind = if file.ends_with(".db") {
        "sqlite"
    } else {
        "jsonl"
    };
    let rows = rows(kind, &bench.folder().join(file)).unwrap_or_default();
    rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
}

fn rows_of(numbers: std::ops::Range<u64>) -> Vec<Value> {
    numbers.map(|n| json!({ "n": n })).collect()
}

/// Puts in a sink that is away as long as the test says.
fn store_on(shelf: &Shelf, plan: &mut Plan, is_away: &Arc<AtomicBool>) {
    let is_away = Arc::clone(is_away);
    let sink = shelf.sink(move |_, _| {
        let away = is_away.load(Ordering::Relaxed);
        away.then(|| Error::remote("the sink is away"))
    });
    replace(plan, (0, 0), Work::Sink, sink);
}

/// Drops all that is under way, and lets go of the function that hangs.
fn end_at_once(flow: Started, free: &AtomicBool) {
    flow.stop();
    flow.stop();
    assert!(flow.end().at_once);
    free.store(true, Ordering::Relaxed);
}

#[test]
fn what_comes_is_acknowledged_while_the_sink_is_away_and_stored_in_order_when_it_is_back() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let is_away = Arc::new(AtomicBool::new(true));
    let stages = "stages: [{store: json, retry: {backoff: 10ms, max: 20ms}}]";
    let mut plan = plan(&bench, &feed, stages);
    store_on(&shelf, &mut plan, &is_away);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(numbers(0, 3000));
    wait_until(PATIENCE, || feed.ended_as(Outcome::Committed).len() == 3000);
    let inbox = flow.report().pipelines["p"].inbox.unwrap();
    assert_eq!((inbox.taken, inbox.waiting), (3000, 3000));
    assert_eq!(shelf.values(), Vec::<Value>::new());
    is_away.store(false, Ordering::Relaxed);
    flow.until(|report| report.pipelines["p"].inbox.unwrap().waiting == 0);
    assert_eq!(shelf.values(), numbers(0, 3000));
    flow.stop();
    let report = flow.end().report;
    let deliveries = report.pipelines["p"].deliveries;
    assert_eq!((deliveries.committed, deliveries.unfinished), (3000, 0));
    // The inbox is no stage of the user's.
    assert_eq!(report.stages.len(), 1);
}

#[test]
fn what_waits_at_a_stop_is_worked_off_by_the_next_start_though_the_source_is_away() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let is_away = Arc::new(AtomicBool::new(true));
    let mut plan = plan(&bench, &feed, "stages: [{store: json}]");
    store_on(&shelf, &mut plan, &is_away);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(numbers(0, 20));
    wait_until(PATIENCE, || feed.ended_as(Outcome::Committed).len() == 20);
    flow.stop();
    flow.stop();
    let report = flow.end().report;
    assert_eq!(report.pipelines["p"].inbox.unwrap().waiting, 20);
    is_away.store(false, Ordering::Relaxed);
    // Nobody listens at the broker's address.
    let mut plan = bench.plan(
        "pipelines: {p: {source: {mqtt: {broker: \"127.0.0.1:1\", topic: t}}, ack: inbox, stages: [{store: json}]}}",
    );
    store_on(&shelf, &mut plan, &is_away);
    let flow = Started::new(&plan, &RunOptions::default());
    wait_until(PATIENCE, || shelf.values().len() == 20);
    assert_eq!(shelf.values(), numbers(0, 20));
    flow.stop();
    flow.end();
}

#[test]
fn a_flow_whose_source_ends_goes_on_until_its_inbox_is_worked_off() {
    let bench = Bench::new().with("slow", |call| {
        std::thread::sleep(millis(5));
        Ok(call.data)
    });
    let feed = Feed::of(numbers(0, 50));
    let stages = "stages: [{core_logic: {rust: slow}}, {core_logic: {rust: see}}]";
    let report = run_plan(&plan(&bench, &feed, stages), &within(PATIENCE)).report;
    assert!(report.ok);
    assert_eq!(bench.seen(), numbers(0, 50));
    assert_eq!(report.pipelines["p"].inbox.unwrap().waiting, 0);
}

#[test]
fn a_full_inbox_takes_no_more_until_a_tenth_is_worked_off_and_drops_nothing() {
    for limits in [(100, 1 << 30), (1 << 30, 400)] {
        let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
        let is_away = Arc::new(AtomicBool::new(true));
        let stages = "stages: [{store: json, retry: {backoff: 10ms, max: 20ms}}]";
        let mut plan = plan(&bench, &feed, stages);
        store_on(&shelf, &mut plan, &is_away);
        let flow = Started::new(&plan, &with_limits(limits.0, limits.1));
        // A payload of 4 bytes: a list of one number of two digits. One by one: bytes are counted when they are kept.
        for number in 10..99 {
            feed.give([Value::from(number)]);
            wait_until(PATIENCE, || feed.given() == number - 9);
        }
        feed.give(std::iter::repeat_n(json!(99), 400));
        wait_until(PATIENCE, || {
            let waiting = flow.report().pipelines["p"].inbox.unwrap().waiting;
            waiting >= 100 || (limits.1 == 400 && waiting > 100)
        });
        let at_most = if limits.0 == 100 { 100 } else { 89 + 256 };
        let taken = flow.report().pipelines["p"].inbox.unwrap().taken;
        assert!(taken <= at_most, "{taken} are taken");
        assert!(feed.given() <= at_most, "{} were asked for", feed.given());
        is_away.store(false, Ordering::Relaxed);
        wait_until(PATIENCE, || shelf.values().len() == 489);
        flow.stop();
        flow.end();
        assert_eq!(shelf.values()[..89], numbers(10, 99));
    }
}

#[test]
fn a3_what_was_under_way_at_a_crash_comes_again_in_order_and_is_stored_once() {
    for file in ["data/jsonl_in_p.jsonl", "data/p.db"] {
        let store = match file {
            "data/p.db" => "{sqlite: {path: data/p.db, table: rows}}",
            _ => "jsonl",
        };
        let (bench, free) = Bench::new().hanging();
        let feed = Feed::new();
        // The first sink has what the second one has not.
        let stages = format!("stages: [{{store: {store}}}, {{core_logic: {{rust: hang}}}}]");
        let plan = plan(&bench, &feed, &stages);
        let flow = Started::new(&plan, &RunOptions::default());
        feed.give(rows_of(0..10));
        wait_until(PATIENCE, || stored(&bench, file).len() == 10);
        wait_until(PATIENCE, || feed.ended_as(Outcome::Committed).len() == 10);
        end_at_once(flow, &free);
        let feed = Feed::of(rows_of(10..15));
        let mut plan = plan;
        feed.feeds(&mut plan, 0);
        let report = run_plan(&plan, &within(PATIENCE)).report;
        assert!(report.ok, "{report:?}");
        assert_eq!(stored(&bench, file), (0..15).collect::<Vec<_>>(), "{file}");
    }
}

#[test]
fn a3_numbers_past_32_bits_are_stored_once_too() {
    let bench = Bench::new();
    let stages = "stages: [{store: jsonl}]";
    let feed = Feed::of(rows_of(0..1));
    assert!(
        run_plan(&plan(&bench, &feed, stages), &within(PATIENCE))
            .report
            .ok
    );
    let state = rusqlite::Connection::open(bench.folder().join(".wiredflow/state.db")).unwrap();
    let start = i64::from(u32::MAX) - 5;
    state
        .execute("UPDATE inbox SET row = (row >> 48 << 48) + ?1 - 1", [start])
        .unwrap();
    state
        .execute("UPDATE inboxes SET low = ?1", [start])
        .unwrap();
    drop(state);
    let feed = Feed::new();
    let hung = Arc::new(AtomicUsize::new(0));
    let free = Arc::new(AtomicBool::new(false));
    let bench = {
        let (hung, free) = (Arc::clone(&hung), Arc::clone(&free));
        bench.with("hang", move |call| {
            hung.fetch_add(1, Ordering::Relaxed);
            while !free.load(Ordering::Relaxed) {
                std::thread::sleep(millis(5));
            }
            Ok(call.data)
        })
    };
    let stages = "stages: [{store: jsonl}, {core_logic: {rust: hang}}]";
    let mut plan = plan(&bench, &feed, stages);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(rows_of(1..20));
    let file = "data/jsonl_in_p.jsonl";
    wait_until(PATIENCE, || {
        stored(&bench, file).len() == 20 && hung.load(Ordering::Relaxed) > 0
    });
    end_at_once(flow, &free);
    let feed = Feed::of(rows_of(20..30));
    feed.feeds(&mut plan, 0);
    assert!(run_plan(&plan, &within(PATIENCE)).report.ok);
    assert_eq!(stored(&bench, file), (0..30).collect::<Vec<_>>());
}

#[test]
fn a_delivery_that_failed_stays_and_comes_again_when_the_pipeline_is_opened_again() {
    let (bench, feed, shelf) = (Bench::new(), Feed::of(numbers(0, 10)), Shelf::default());
    let stages = "on_failure: restart, stages: [{store: json}]";
    let mut plan = plan(&bench, &feed, stages);
    let failures = AtomicUsize::new(0);
    let sink = shelf.sink(move |value, _| {
        let fails = *value == json!(5) && failures.fetch_add(1, Ordering::Relaxed) < 4;
        fails.then(|| Error::data("not this time"))
    });
    replace(&mut plan, (0, 0), Work::Sink, sink);
    let report = run_plan(&plan, &within(2 * PATIENCE)).report;
    let pipeline = &report.pipelines["p"];
    assert!(pipeline.restarts >= 1, "{report:?}");
    assert_eq!(pipeline.inbox.unwrap().waiting, 0);
    // The source heard of none of that.
    assert_eq!(
        feed.ended_as(Outcome::Committed),
        (0..10).collect::<Vec<_>>()
    );
    let mut values = shelf.values();
    values.sort_by_key(Value::as_u64);
    values.dedup();
    assert_eq!(values, numbers(0, 10));
}

#[test]
fn under_isolate_nothing_more_is_taken_once_nobody_works() {
    let (bench, feed) = (Bench::new(), Feed::new());
    let bench = bench.with("fail", |_| Err(Error::data("never")));
    let stages = "on_failure: isolate, stages: [{core_logic: {rust: fail}}]";
    let plan = plan(&bench, &feed, stages);
    feed.give(numbers(0, 5));
    // Both parts end, and with them the flow.
    let report = Started::new(&plan, &RunOptions::default()).end().report;
    assert!(!report.ok);
    let pipeline = &report.pipelines["p"];
    assert_eq!(pipeline.inbox.unwrap().waiting, 5, "{report:?}");
    assert!(pipeline.last_error.as_ref().unwrap().contains("never"));
}

#[test]
fn what_cannot_be_read_is_kept_as_it_came_and_becomes_a_dead_letter() {
    let (bench, feed) = (Bench::new(), Feed::new());
    feed.give_payloads([
        Payload::Json(Bytes::from_static(b"{\"n\": 1.50}")),
        Payload::Json(Bytes::from_static(b"\xff{")),
        Payload::Unreadable {
            bytes: Bytes::from_static(b"\x00\x01"),
            reason: "of another kind".to_owned(),
        },
        Payload::Empty,
        Payload::Values(vec![json!({"n": 2}), json!({"n": 3})]),
        Payload::Json(Bytes::from_static(b"[{\"n\": 4}, {\"n\": 5}]")),
    ]);
    feed.end();
    let stages = "stages: [{core_logic: {rust: see}}]";
    let report = run_plan(&plan(&bench, &feed, stages), &within(PATIENCE)).report;
    assert!(report.ok);
    assert_eq!(report.pipelines["p"].deliveries.dead_lettered, 2);
    let letters = bench.dead_letters();
    let bodies: Vec<_> = letters.iter().map(|letter| letter.body.clone()).collect();
    assert_eq!(
        bodies,
        [
            Body::Bytes(Bytes::from_static(b"\xff{")),
            Body::Bytes(Bytes::from_static(b"\x00\x01"))
        ]
    );
    assert!(
        letters[1]
            .listed
            .reason
            .ends_with("from `test` cannot be read: of another kind")
    );
    assert!(letters.iter().all(|letter| letter.listed.stage == "feed"));
    let seen: Vec<Value> = bench
        .seen()
        .into_iter()
        .filter(|value| !value.is_null())
        .collect();
    assert_eq!(
        seen,
        [
            json!({"n": 1.5}),
            json!([{"n": 2}, {"n": 3}]),
            json!([{"n": 4}, {"n": 5}])
        ]
    );
}

#[test]
fn an_inbox_is_for_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let lookup = SystemLookup::new(folder.path());
    let text = "pipelines: {p: {every: 10s, ack: inbox, stages: [{store: json}]}}";
    let checked = check_text(text, "test", folder.path(), &Functions::default(), &lookup);
    assert!(checked.plan.is_none());
    let [problem] = &checked.problems[..] else {
        panic!("{:?}", checked.problems)
    };
    let words = "`ack: inbox` goes with a `source`";
    assert!(problem.message.starts_with(words), "{problem:?}");
}
