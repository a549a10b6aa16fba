//! The six clocks add up to the time that has passed: for each kind of stage, whatever it meets.
//!
//! All cases run side by side in one flow, each in a pipeline of its own, and are looked at again and again while they
//! work: no sum is out, and no clock goes back. What a condition is about has its time then: at least what was planted, as a
//! busy machine can only add to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use wiredflow_core::Error;
use wiredflow_engine::run::RunOptions;
use wiredflow_scale::figures::{FlowFigures, StageFigures};
use wiredflow_scale::profile::Seconds;
use wiredflow_testkit::{HttpPeer, Mosquitto, Reply, soaking};

use super::bench::{Bench, Feed, PATIENCE, Started, millis};
use super::stages::{burn, check_sum};

/// Looks at the clocks while all cases are at work.
const LOOKS: usize = 60;

/// Messages that wait for each case that is fed at its start; at each look comes one more, as stages that work on records take
/// all that waits at once.
const MESSAGES: usize = 20;

const PYTHON: &str = "import os, time

def work(relevant_info=None, **_):
    return relevant_info

def give(relevant_info=None, **_):
    for part in range(3):
        time.sleep(0.002)
        yield relevant_info

def long(relevant_info=None, **_):
    time.sleep(30)

def die(relevant_info=None, **_):
    os._exit(3)

def load(storages, **_):
    return {}
";

/// Where the time of a case goes.
type Clock = fn(&Seconds) -> f64;

/// A stage, what it meets, and which of its clocks has how many seconds at least.
struct Case {
    name: String,
    stages: String,
    is_fed: bool,
    has: Option<(Clock, f64)>,
}

/// All kinds of stages: what each is in a flow file, and whether its work is quick and its own, so that it is known what
/// it does under a condition.
fn kinds(http: &str, broker: &str) -> Vec<(&'static str, String, bool)> {
    let kind = |name, text: &str, is_quick| (name, text.to_owned(), is_quick);
    vec![
        kind("rust", "core_logic: {rust: work}", true),
        kind("quick", "core_logic: {rust: quick}", true),
        kind("python", "core_logic: {python: \"logic.py:work\"}", false),
        kind("program", "core_logic: {program: [cat]}", false),
        kind("configuration", "configuration: {rust: work}", true),
        kind("filter", "filter: {field: n, above: -1}", true),
        kind("set", "set: {m: n}", true),
        kind("rename", "rename: {n: m}", true),
        kind("drop", "drop: {fields: [m]}", true),
        kind("http", &format!("http: \"{http}\""), false),
        kind("json", "store: {json: {folder: FOLDER}}", false),
        kind("jsonl", "store: {jsonl: {folder: FOLDER}}", false),
        kind("csv", "store: {csv: {folder: FOLDER}}", false),
        kind(
            "sqlite",
            "store: {sqlite: {path: FOLDER.db, table: t}}",
            false,
        ),
        kind("own_store", "store: {rust: work}", true),
        kind(
            "mqtt",
            &format!("send: {{mqtt: {{broker: \"{broker}\", topic: t}}}}"),
            false,
        ),
        kind(
            "post",
            &format!("send: {{http_post: {{url: \"{http}\"}}}}"),
            false,
        ),
        kind("own_send", "send: {rust: work}", true),
        kind("python_send", "send: {python: \"logic.py:work\"}", false),
        kind(
            "side",
            "store: {jsonl: {folder: FOLDER}, required: false}",
            false,
        ),
    ]
}

fn cases(http: &str, broker: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: String, stages: String, is_fed: bool, has: Option<(Clock, f64)>| {
        let stages = stages.replace("FOLDER", &format!("data/{name}"));
        cases.push(Case {
            name,
            stages,
            is_fed,
            has,
        });
    };
    let blocked: Clock = |seconds| seconds.blocked;
    let throttled: Clock = |seconds| seconds.throttled;
    let external: Clock = |seconds| seconds.external;
    let compute: Clock = |seconds| seconds.compute;
    let starved: Clock = |seconds| seconds.starved;
    for (kind, text, is_quick) in kinds(http, broker) {
        let known = |clock, seconds| is_quick.then_some((clock, seconds));
        case(
            format!("{kind}_idle"),
            format!("{{{text}}}"),
            false,
            Some((starved, 0.2)),
        );
        case(
            format!("{kind}_overload"),
            format!("{{{text}}}"),
            true,
            None,
        );
        // The second takes 30 ms a message, and the first next to nothing; two batches wait between them.
        let slow = "{core_logic: {rust: slow}}";
        case(
            format!("{kind}_pressed"),
            format!("{{{text}}}, {slow}"),
            true,
            known(blocked, 0.02),
        );
        let limited = format!("{{{text}, rate_limit: {{per_second: 5}}}}");
        case(
            format!("{kind}_limited"),
            limited,
            true,
            known(throttled, 0.02),
        );
        let parallel = format!("{{{text}, parallel: 3}}");
        case(format!("{kind}_parallel"), parallel, true, None);
    }
    // A first wait is 10 ms at least, and each of the others more.
    let retry = "retry: {backoff: 20ms, max: 40ms}";
    for (name, stage) in [
        (
            "rust_retries",
            format!("{{core_logic: {{rust: away}}, {retry}}}"),
        ),
        (
            "http_retries",
            format!("{{http: \"http://127.0.0.1:1/\", {retry}}}"),
        ),
        (
            "post_retries",
            format!("{{send: {{http_post: {{url: \"http://127.0.0.1:1/\"}}}}, {retry}}}"),
        ),
        (
            "side_retries",
            format!(
                "{{send: {{http_post: {{url: \"http://127.0.0.1:1/\"}}, required: false}}, {retry}}}"
            ),
        ),
        ("busy_retries", format!("{{http: \"{http}busy\", {retry}}}")),
    ] {
        case(name.to_owned(), stage, true, Some((throttled, 0.05)));
    }
    let aside = "on_error: dead_letter";
    for (name, stage, has) in [
        ("rust_panics", "{core_logic: {rust: panics}, ASIDE}", None),
        (
            "python_dies",
            "{core_logic: {python: \"logic.py:die\"}, ASIDE}",
            None,
        ),
        (
            "python_is_late",
            "{core_logic: {python: \"logic.py:long\"}, timeout: 60ms, ASIDE}",
            Some((external, 0.03)),
        ),
        (
            "program_fails",
            "{core_logic: {program: [\"false\"]}, ASIDE}",
            None,
        ),
        (
            "rust_sleeps",
            "{core_logic: {rust: slow}}",
            Some((external, 0.02)),
        ),
        (
            "rust_burns",
            "{core_logic: {rust: burns}}",
            Some((compute, 0.001)),
        ),
        (
            "rust_gives",
            "{core_logic: {rust: gives}}, {core_logic: {rust: slow}}",
            Some((blocked, 0.02)),
        ),
        (
            "python_gives",
            "{core_logic: {python: \"logic.py:give\"}}, {core_logic: {rust: slow}}",
            None,
        ),
        (
            "in_groups",
            "{core_logic: {rust: work}, batch: {max: 7, within: 5ms}}",
            None,
        ),
        ("loads", "{load: kept}", None),
        (
            "queries",
            "{core_logic: {sql: \"select count(*) as n from kept\"}}",
            None,
        ),
    ] {
        case(name.to_owned(), stage.replace("ASIDE", aside), true, has);
    }
    cases
}

fn bench() -> Bench {
    let bench = Bench::new()
        .with("work", |call| Ok(call.data))
        .quick("quick", |call| Ok(call.data))
        .with("slow", |call| {
            std::thread::sleep(millis(30));
            Ok(call.data)
        })
        .with("burns", |call| {
            burn(millis(5));
            Ok(call.data)
        })
        .with("away", |_| Err(Error::remote("away")))
        .with("panics", |_| panic!("a planted panic"))
        .giving("gives", |call, give| {
            (0..3).try_for_each(|_| give(call.data.clone()))
        });
    std::fs::write(bench.folder().join("logic.py"), PYTHON).unwrap();
    bench
}

/// The clocks of a stage at a look.
fn check(case: &str, stage: &StageFigures, before: Option<&StageFigures>) {
    let name = format!("{case}/{}", stage.stage);
    check_sum(&name, &stage.seconds);
    assert_eq!(stage.clock_faults, 0, "{name}");
    let Some(before) = before else { return };
    let clocks = |seconds: &Seconds| {
        let Seconds {
            compute,
            external,
            blocked,
            starved,
            throttled,
            overhead,
            ..
        } = *seconds;
        [compute, external, blocked, starved, throttled, overhead]
    };
    for (now, then) in clocks(&stage.seconds)
        .into_iter()
        .zip(clocks(&before.seconds))
    {
        assert!(
            now >= then - 1e-9,
            "{name} goes back: {:?}, {:?}",
            before.seconds,
            stage.seconds
        );
    }
}

fn check_all(figures: &FlowFigures, before: Option<&FlowFigures>) {
    for (index, stage) in figures.stages.iter().enumerate() {
        // A stage that has been measured for no time has no hundredth of it.
        if stage.seconds.wall > 0.2 {
            check(
                &stage.pipeline,
                stage,
                before.map(|before| &before.stages[index]),
            );
        }
    }
}

#[test]
fn the_clocks_of_every_kind_of_stage_add_up_whatever_it_meets() {
    let (peer, broker) = (HttpPeer::start(), Mosquitto::start());
    peer.on("/", Reply::json(json!({"n": 1})));
    peer.on("/busy", Reply::code(429).header("retry-after", "0"));
    let bench = bench();
    let cases = cases(&peer.url("/"), &broker.address());
    let pipelines: Vec<String> = cases
        .iter()
        .map(|case| format!("{}: {{source: {{mqtt: {{broker: b, topic: t}}}}, on_failure: isolate, stages: [{}]}}", case.name, case.stages))
        .collect();
    let text = format!(
        "storages: {{kept: {{jsonl: {{folder: data}}}}}}\npipelines: {{{}}}",
        pipelines.join(", ")
    );
    let mut plan = bench.plan(&text);
    let feeds: Vec<Arc<Feed>> = cases
        .iter()
        .enumerate()
        .map(|(index, _)| {
            let feed = Feed::new();
            feed.feeds(&mut plan, index);
            feed
        })
        .collect();
    let flow = Started::new(&plan, &RunOptions::default());
    let give = |messages: std::ops::Range<usize>| {
        for (feed, _) in feeds.iter().zip(&cases).filter(|(_, case)| case.is_fed) {
            feed.give(messages.clone().map(|n| json!({ "n": n })));
        }
    };
    give(0..MESSAGES);
    let mut before = flow.figures();
    let minutes = std::env::var("SOAK_MINUTES")
        .ok()
        .and_then(|minutes| minutes.parse().ok());
    let lasts = Duration::from_secs(60 * if soaking() { minutes.unwrap_or(10) } else { 0 });
    let begun = Instant::now();
    for look in MESSAGES.. {
        if look >= MESSAGES + LOOKS && begun.elapsed() >= lasts {
            break;
        }
        std::thread::sleep(millis(20));
        give(look..look + 1);
        let now = flow.figures();
        check_all(&now, Some(&before));
        before = now;
    }
    for case in &cases {
        let Some((clock, seconds)) = case.has else {
            continue;
        };
        let first = |figures: &FlowFigures| {
            let mut stages = figures.stages.iter();
            stages
                .find(|stage| stage.pipeline == case.name)
                .map_or(0.0, |stage| clock(&stage.seconds))
        };
        let since = Instant::now();
        while first(&flow.figures()) < seconds {
            assert!(
                since.elapsed() < PATIENCE,
                "{}: {} of {seconds}",
                case.name,
                first(&flow.figures())
            );
            std::thread::sleep(millis(20));
        }
    }
    // In the middle of all that, at once.
    flow.stop();
    flow.stop();
    check_all(&flow.end().figures, Some(&before));
    assert!(cases.len() > 100, "{}", cases.len());
}
