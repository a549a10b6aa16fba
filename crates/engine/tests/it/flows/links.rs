//! Links: what one pipeline hands over to another one arrives whole and in order, and is done with when that one is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use wiredflow_core::Error;
use wiredflow_core::delivery::{Outcome, Payload};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{RunOptions, start};
use wiredflow_engine::state::LetterEditor;
use wiredflow_testkit::wait_until;

use super::bench::{Bench, Feed, PATIENCE, Shelf, Started, millis, replace, run_plan, within};

/// A pipeline `a` that is fed by the test and hands over to `b`, which stores.
const PAIR: &str = "
pipelines:
  a: {source: {mqtt: {broker: b, topic: t}}, stages: [{link: l}]}
  b: {source: {link: l}, on_failure: restart, stages: [{store: {json: {}}}]}";

fn numbers(from: u64, to: u64) -> Vec<Value> {
    (from..to).map(|n| json!({ "n": n })).collect()
}

fn pair(bench: &Bench, feed: &Arc<Feed>) -> Plan {
    let mut plan = bench.plan(PAIR);
    feed.feeds(&mut plan, 0);
    plan
}

#[track_caller]
fn all_ended_as(feed: &Feed, outcome: Outcome, number: usize) {
    wait_until(PATIENCE, || feed.ended_as(outcome).len() == number);
}

#[test]
fn a_delivery_is_done_with_when_the_receiver_has_committed_it() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let is_away = Arc::new(AtomicBool::new(true));
    let mut plan = bench.plan(&PAIR.replace(
        "{store: {json: {}}}",
        "{store: {json: {}}, retry: {backoff: 10ms, max: 20ms}}",
    ));
    feed.feeds(&mut plan, 0);
    let away = Arc::clone(&is_away);
    let sink = shelf.sink(move |_, _| {
        let away = away.load(Ordering::Relaxed);
        away.then(|| Error::remote("the disk is away"))
    });
    replace(&mut plan, (1, 0), Work::Sink, sink);
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(numbers(0, 300));
    flow.until(|report| report.pipelines["b"].records_in == 300);
    assert_eq!(feed.settled(), [], "nothing is committed yet");
    is_away.store(false, Ordering::Relaxed);
    all_ended_as(&feed, Outcome::Committed, 300);
    flow.stop();
    let ended = flow.end();
    assert!(!ended.at_once && ended.report.ok);
    assert_eq!(shelf.values(), numbers(0, 300), "in order, once");
    for pipeline in ["a", "b"] {
        assert_eq!(ended.report.pipelines[pipeline].deliveries.committed, 300);
    }
}

#[test]
fn a_receiver_that_is_behind_holds_the_sender() {
    let (bench, free) = Bench::new().hanging();
    let feed = Feed::of(numbers(0, 20_000));
    let mut plan = bench.plan(&PAIR.replace("{store: {json: {}}}", "{core_logic: {rust: hang}}"));
    feed.feeds(&mut plan, 0);
    let flow = Started::new(&plan, &RunOptions::default());
    flow.until(|report| report.stages[0].seconds.blocked > 0.2);
    let given = feed.given();
    assert!(given < 3_000, "{given} deliveries are under way");
    free.store(true, Ordering::Relaxed);
    assert!(flow.end().report.ok);
    assert_eq!(feed.ended_as(Outcome::Committed).len(), 20_000);
}

#[test]
fn what_failed_is_given_again_in_order_when_the_receiver_is_opened_anew() {
    let (bench, feed, shelf) = (Bench::new(), Feed::of(numbers(0, 500)), Shelf::default());
    let mut plan = pair(&bench, &feed);
    let failures = AtomicUsize::new(0);
    let sink = shelf.sink(move |value, _| {
        let fails = value["n"] == 123 && failures.fetch_add(1, Ordering::Relaxed) < 2;
        fails.then(|| Error::data("not yet"))
    });
    replace(&mut plan, (1, 0), Work::Sink, sink);
    let report = run_plan(&plan, &RunOptions::default()).report;
    assert!(report.ok, "{report:?}");
    assert!(report.pipelines["b"].restarts >= 1);
    assert_eq!(report.pipelines["a"].restarts, 0);
    // Here a sink has no memory: what it had before the failure may come again. The storages have one.
    let mut found = shelf.values();
    found.sort_by_key(|value| value["n"].as_u64());
    found.dedup();
    assert_eq!(found, numbers(0, 500));
    let last = shelf.values().into_iter().rev().take(100).rev();
    assert_eq!(last.collect::<Vec<_>>(), numbers(400, 500));
    assert_eq!(feed.ended_as(Outcome::Committed).len(), 500);
}

#[test]
fn what_the_receiver_sets_aside_counts_so_for_the_sender() {
    let (bench, feed, shelf) = (Bench::new(), Feed::of(numbers(0, 10)), Shelf::default());
    let mut plan = bench.plan(&PAIR.replace(
        "{store: {json: {}}}",
        "{store: {json: {}}, on_error: dead_letter}",
    ));
    feed.feeds(&mut plan, 0);
    let sink =
        shelf.sink(|value, index| (value["n"] == 7).then(|| Error::data("seven").at_record(index)));
    replace(&mut plan, (1, 0), Work::Sink, sink);
    let report = run_plan(&plan, &RunOptions::default()).report;
    assert!(report.ok);
    assert_eq!(feed.ended_as(Outcome::DeadLettered), [7]);
    assert_eq!(feed.ended_as(Outcome::Committed).len(), 9);
    let letters = bench.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].listed.pipeline, "b");
}

#[test]
fn a_function_gets_what_it_would_get_without_the_link() {
    let flow = |cut: &str| {
        let bench = Bench::new().giving("make", |_, give| {
            for value in [
                json!({"one": 1}),
                json!([{"many": 1}, {"many": 2}]),
                json!(null),
                json!([{"list of": "one"}]),
            ] {
                give(value)?;
            }
            Ok(())
        });
        let bench = bench.with("params", |_| Ok(json!({"x": 5})));
        let bench = bench.with("echo", |call| {
            Ok(json!({"data": call.data, "params": *call.params}))
        });
        let report = bench.run(&format!(
            "pipelines:\n  a:\n    once: true\n    stages: [{{core_logic: {{rust: make}}}}, {{configuration: {{rust: params}}}}{cut}
      {{core_logic: {{rust: echo}}}}, {{core_logic: {{rust: see}}}}]"
        ));
        assert!(report.ok, "{report:?}");
        bench.seen()
    };
    let whole = flow(",");
    let cut = flow(", {link: l}]\n  b:\n    source: {link: l}\n    stages: [");
    assert!(whole.len() >= 4, "{whole:?}");
    assert_eq!(whole[0]["params"]["x"], 5);
    assert_eq!(cut, whole);
}

#[test]
fn records_that_a_sender_brings_together_stay_one_delivery() {
    let (bench, feed) = (Bench::new(), Feed::new());
    let mut plan = bench.plan(&PAIR.replace("{store: {json: {}}}", "{core_logic: {rust: see}}"));
    feed.give_payloads([
        Payload::Values(vec![json!(1), json!(2)]),
        Payload::Values(vec![json!(3)]),
        Payload::Values(Vec::new()),
        Payload::Values(vec![json!(4), json!(5)]),
    ]);
    feed.end();
    feed.feeds(&mut plan, 0);
    assert!(run_plan(&plan, &RunOptions::default()).report.ok);
    assert_eq!(
        bench.seen(),
        [json!([1, 2]), json!(3), json!(null), json!([4, 5])]
    );
    assert_eq!(feed.ended_as(Outcome::Committed).len(), 4);
}

#[test]
fn a_stop_lets_through_what_is_under_way() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let bench = bench.with("slow", |call| {
        std::thread::sleep(millis(2));
        Ok(call.data)
    });
    let mut plan = bench.plan(
        "
pipelines:
  a: {source: {mqtt: {broker: b, topic: t}}, stages: [{link: l}]}
  b: {source: {link: l}, stages: [{core_logic: {rust: slow}}, {link: m}]}
  c: {source: {link: m}, stages: [{core_logic: {rust: slow}}, {store: {json: {}}}]}",
    );
    feed.feeds(&mut plan, 0);
    replace(&mut plan, (2, 1), Work::Sink, shelf.sink(|_, _| None));
    let flow = Started::new(&plan, &RunOptions::default());
    feed.give(numbers(0, 400));
    wait_until(PATIENCE, || feed.given() > 0);
    flow.stop();
    let ended = flow.end();
    assert!(!ended.at_once && ended.report.ok);
    let given = feed.given();
    assert_eq!(feed.ended_as(Outcome::Committed).len() as u64, given);
    assert_eq!(shelf.values(), numbers(0, given));
}

#[test]
fn pipelines_that_run_once_wait_for_those_that_take_from_them() {
    let bench = Bench::new().yielding("make", 50, millis(0));
    let text = "
pipelines:
  a: {every: 1h, stages: [{core_logic: {rust: make}}, {link: l}]}
  other: {every: 1h, stages: [{core_logic: {rust: make}}, {link: l}]}
  b: {source: {link: l}, stages: [{core_logic: {rust: see}}]}
  never: {source: {link: n}, stages: [{core_logic: {rust: see}}]}
  stream: {source: {webhook: {listen: \"127.0.0.1:0\"}}, stages: [{link: n}]}";
    let options = RunOptions {
        once: true,
        ..within(2 * PATIENCE)
    };
    let report = bench.run_with(text, &options);
    assert!(report.ok, "{report:?}");
    assert_eq!(bench.seen().len(), 100);
    assert_eq!(report.pipelines["a"].deliveries.committed, 1);
    assert_eq!(report.pipelines["b"].deliveries.committed, 100);
    assert!(!report.pipelines.contains_key("never"));
    let runs = bench.runs();
    assert_eq!(runs.len(), 2);
}

#[test]
fn a_pipeline_is_not_run_without_those_that_it_is_joined_with() {
    let bench = Bench::new();
    let plan = bench.plan(PAIR);
    let refused = |pipelines: &[&str]| {
        let options = RunOptions {
            pipelines: pipelines.iter().map(|name| (*name).to_owned()).collect(),
            ..within(millis(10))
        };
        start(&plan, &options).map(drop).unwrap_err().to_string()
    };
    let message = refused(&["a"]);
    assert!(
        message.contains("pipeline `b` is wanted too: `a` hands over to it by link `l`"),
        "{message}"
    );
    let message = refused(&["b"]);
    assert!(
        message.contains("pipeline `a` is wanted too: `b` takes from it by link `l`"),
        "{message}"
    );
}

#[test]
fn a_receiver_that_has_ended_leaves_the_rest_with_its_sender() {
    let (bench, feed, shelf) = (Bench::new(), Feed::new(), Shelf::default());
    let mut plan = bench.plan(&PAIR.replace("restart", "isolate"));
    feed.feeds(&mut plan, 0);
    let sink = shelf.sink(|value, _| (value["n"] == 5).then(|| Error::data("five")));
    replace(&mut plan, (1, 0), Work::Sink, sink);
    let flow = Started::new(&plan, &RunOptions::default());
    for n in 0..10 {
        feed.give(numbers(n, n + 1));
        if n < 5 {
            all_ended_as(&feed, Outcome::Committed, n as usize + 1);
        }
    }
    flow.until(|report| report.pipelines["b"].last_error.is_some());
    flow.stop();
    let ended = flow.end();
    assert!(!ended.report.ok);
    assert_eq!(shelf.values(), numbers(0, 5));
    assert_eq!(feed.ended_as(Outcome::Committed), [0, 1, 2, 3, 4]);
    assert_eq!(feed.ended_as(Outcome::DeadLettered), [0; 0]);
}

#[test]
fn a_replay_of_the_sender_goes_through_the_receiver() {
    let (bench, free) = (Bench::new(), Arc::new(AtomicBool::new(false)));
    let is_mended = Arc::clone(&free);
    let bench = bench.with("picky", move |call| {
        match is_mended.load(Ordering::Relaxed) {
            true => Ok(call.data),
            false => Err(Error::data("no")),
        }
    });
    let text = "
pipelines:
  a: {once: true, stages: [{set: {n: 1}}, {core_logic: {rust: picky}, on_error: dead_letter}, {link: l}]}
  b: {source: {link: l}, stages: [{core_logic: {rust: see}}]}";
    let text = text.replace("{set: {n: 1}}, ", "");
    assert!(bench.run(&text).ok);
    assert_eq!(bench.seen(), [] as [Value; 0]);
    free.store(true, Ordering::Relaxed);
    let plan = bench.plan(&text);
    let letters = bench.dead_letters();
    let ids: Vec<_> = letters
        .iter()
        .map(|letter| letter.listed.id.clone())
        .collect();
    assert_eq!(ids.len(), 1);
    let mut editor = LetterEditor::open(&plan.state, "test").unwrap();
    editor.ask(&ids, jiff::Timestamp::now()).unwrap();
    drop(editor);
    let options = RunOptions {
        replay: true,
        ..RunOptions::default()
    };
    assert!(run_plan(&plan, &options).report.ok);
    assert_eq!(bench.seen(), [json!(null)]);
    assert_eq!(bench.dead_letters().len(), 0);
}

#[track_caller]
fn problems(text: &str) -> Vec<(String, Option<String>)> {
    let folder = std::path::Path::new("/no/such/folder");
    let lookup = SystemLookup::new(folder);
    let checked = check_text(text, "flow", folder, &Functions::default(), &lookup);
    assert!(checked.plan.is_none());
    let told = checked.problems.into_iter();
    told.map(|problem| (problem.message, problem.help))
        .collect()
}

#[test]
fn links_that_lead_nowhere_or_in_a_circle_are_found_before_the_start() {
    let a = "a: {every: 1s, stages: [{load: b}, {link: lost}]}";
    let b = "b: {source: {link: last}, stages: [{store: {json: {}}}]}";
    let found = problems(&format!("pipelines: {{{a}, {b}}}"));
    assert_eq!(
        found,
        [
            (
                "no pipeline takes from link `lost`".to_owned(),
                Some("did you mean `last`? possible: `last`".to_owned())
            ),
            (
                "no pipeline hands over to link `last`".to_owned(),
                Some("did you mean `lost`? possible: `lost`".to_owned())
            ),
        ]
    );

    let ring =
        "a: {source: {link: x}, stages: [{link: y}]}, b: {source: {link: y}, stages: [{link: x}]}";
    let found = problems(&format!("pipelines: {{{ring}}}"));
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[0].0,
        "what pipeline `a` hands over here comes back to it"
    );

    let twice = "a: {every: 1s, stages: [{http: \"http://h\"}, {link: x}]}, b: {source: {link: x}, stages: [{link: y}]}, \
                 c: {source: {link: x}, stages: [{store: {json: {}}}]}, d: {source: {link: y}, ack: inbox, stages: [{store: {json: {}}}]}, \
                 e: {every: 1s, stages: [{http: \"http://h\"}, {link: other/x}]}, f: {every: 1s, stages: [{http: \"http://h\"}, {link: a b}]}";
    let found: Vec<String> = problems(&format!("pipelines: {{{twice}}}"))
        .into_iter()
        .map(|(message, _)| message)
        .collect();
    for message in [
        "pipeline `b` takes from link `x` already",
        "`ack: inbox` behind a link is not built yet",
        "`a link to another flow` is not built yet",
        "`a b` cannot be the name of a link",
    ] {
        assert!(
            found.iter().any(|other| other == message),
            "{message}: {found:#?}"
        );
    }
}
