//! `profile`, on the real tool.

use std::os::unix::fs::PermissionsExt;

use jiff::Timestamp;
use serde_json::Value;
use wiredflow_engine::state::{SessionOutcome, State, StateReader};
use wiredflow_testkit::{FlowTest, HttpPeer, Reply};

use crate::tool;

const LOGIC: &str = "
import time

def make(relevant_info=None, **_):
    for number in range(12):
        yield {'n': number}

def wait(relevant_info=None, **_):
    time.sleep(0.08)
    return relevant_info

def one(relevant_info=None, **_):
    return {'n': 1}
";

/// A chain that ends by itself, with a slow stage in its middle.
fn chain() -> FlowTest {
    let test = tool();
    test.file("logic.py", LOGIC);
    test.file(
        "flow.yaml",
        "name: chain\npipelines:\n  numbers:\n    once: true\n    stages:\n      - core_logic: {python: \
         \"logic.py:make\"}\n        name: make\n      - core_logic: {python: \"logic.py:wait\"}\n        name: wait\n      \
         - store: {jsonl: {folder: data}}\n",
    );
    test
}

#[test]
fn the_document_has_what_the_interface_says_and_the_clocks_add_up() {
    let ran = chain().run(["profile", "flow.yaml", "--json"]);
    ran.assert_code(0);
    let document = ran.json();
    assert_eq!(document["flow"], "chain");
    for key in ["cores", "cpu_used", "memory_mib"] {
        assert!(document["host"][key].is_number(), "{key}: {document}");
    }
    let stages = document["stages"].as_array().unwrap();
    let names: Vec<&str> = stages
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["make", "wait", "store"]);
    for stage in stages {
        for key in [
            "pipeline",
            "kind",
            "replicas",
            "where",
            "calls",
            "records_in",
            "records_out",
            "bytes_in",
            "bytes_out",
            "errors",
            "retries",
            "service_ms",
            "queue_before",
            "utilisation",
        ] {
            assert!(!stage[key].is_null(), "{key}: {stage}");
        }
        let clocks: f64 = [
            "compute",
            "external",
            "blocked",
            "starved",
            "throttled",
            "overhead",
        ]
        .iter()
        .map(|clock| stage["seconds"][clock].as_f64().unwrap())
        .sum();
        let wall = stage["seconds"]["wall"].as_f64().unwrap();
        assert!(
            (clocks - wall).abs() <= 0.01 * wall,
            "{clocks} of {wall}: {stage}"
        );
    }
    assert_eq!(stages[1]["records_in"], 12);
    let pipeline = &document["pipelines"][0];
    assert_eq!(
        (&pipeline["pipeline"], &pipeline["runs"]),
        (&Value::from("numbers"), &Value::from(1))
    );
    let found = &document["bottleneck"];
    assert_eq!(found["stage"], "wait", "{document:#}");
    for key in ["evidence", "advice"] {
        assert!(!found[key].as_array().unwrap().is_empty(), "{found}");
    }
}

#[test]
fn without_json_there_are_bars_and_a_verdict_in_words() {
    let ran = chain().run(["profile", "flow.yaml"]);
    ran.assert_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with("STAGE ") && lines[0].ends_with("TIME"),
        "{}",
        ran.stdout
    );
    assert!(lines[2].starts_with("numbers / wait"), "{}", ran.stdout);
    assert!(lines[4].starts_with("█ compute"), "{}", ran.stdout);
    for line in ["`numbers` is", "Why:", "What to do:"] {
        assert!(
            lines.iter().any(|shown| shown.starts_with(line)),
            "{line}:\n{}",
            ran.stdout
        );
    }
    assert!(!ran.stdout.contains('\x1b'), "{}", ran.stdout);
}

#[test]
fn what_keeps_up_has_no_bottleneck() {
    let test = tool();
    let peer = HttpPeer::start();
    peer.on("/numbers", Reply::json(serde_json::json!([{"n": 1}])));
    test.file(
        "flow.yaml",
        &format!(
            "pipelines:\n  polls:\n    every: 2s\n    stages:\n      - http: \"{}\"\n      - store: {{jsonl: {{folder: \
             data}}}}\n",
            peer.url("/numbers")
        ),
    );
    let ran = test.run(["profile", "flow.yaml", "--for", "5s", "--json"]);
    ran.assert_code(0);
    let document = ran.json();
    assert_eq!(document["bottleneck"], Value::Null, "{document:#}");
    assert_eq!(document["pipelines"][0]["period_seconds"], 2.0);
    assert!(document["pipelines"][0]["load"].as_f64().unwrap() < 1.0);
}

#[test]
fn a_flow_that_fails_is_told_and_what_was_measured_too() {
    let test = tool();
    test.file(
        "logic.py",
        "def one(relevant_info=None, **_):\n    raise ValueError('no way')\n",
    );
    test.file(
        "flow.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {python: \"logic.py:one\"}\n",
    );
    let ran = test.run(["profile", "flow.yaml", "--json"]);
    ran.assert_code(1);
    assert_eq!(ran.json()["stages"][0]["errors"], 1);
    assert!(ran.stderr.contains("no way"), "{}", ran.stderr);
}

#[test]
fn what_is_wrong_with_its_arguments_is_told() {
    let test = chain();
    let both = test.run(["profile", "--attach", "http://127.0.0.1:1", "flow.yaml"]);
    both.assert_code(2);
    assert!(
        both.stderr.contains("cannot be used with"),
        "{}",
        both.stderr
    );
    let bare = test.run(["profile", "--attach", "http://127.0.0.1:1"]);
    bare.assert_code(2);
    assert!(bare.stderr.contains("--token-file"), "{}", bare.stderr);
    test.file("token", &"a".repeat(32));
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(test.path("token"), own).unwrap();
    let away = test.run([
        "profile",
        "--attach",
        "http://127.0.0.1:1",
        "--token-file",
        "token",
    ]);
    away.assert_code(1);
    assert_eq!(away.stdout, "");
    let idle = test.run(["profile", "--attach", "flow.yaml"]);
    idle.assert_code(1);
    assert!(idle.stderr.contains("does not run"), "{}", idle.stderr);
    let unknown = test.run(["profile", "flow.yaml", "--pipeline", "numbres"]);
    unknown.assert_code(2);
    assert!(unknown.stderr.contains("`numbers`"), "{}", unknown.stderr);
}

/// A flow that has been measured for some seconds, an hour ago at most.
fn measured() -> FlowTest {
    let test = tool();
    test.file("logic.py", LOGIC);
    test.file(
        "flow.yaml",
        "name: measured\npipelines:\n  p:\n    every: 50ms\n    stages:\n      - core_logic: {python: \
         \"logic.py:one\"}\n        name: one\n      - store: {jsonl: {folder: data}}\n",
    );
    test.run(["run", "flow.yaml", "-q", "--for", "6s"])
        .assert_code(0);
    test
}

#[test]
fn what_was_measured_is_shown_later_and_compared_with_the_same_time_of_another_day() {
    let test = measured();
    let shown = test.run(["profile", "flow.yaml", "--past", "1h"]);
    let text = &shown.assert_code(0).stdout;
    assert!(
        text.contains("of it measured") && text.contains("p / one"),
        "{text}"
    );
    assert!(text.contains("nothing limits measured"), "{text}");
    let past = test.run(["profile", "flow.yaml", "--past", "1h", "--json"]);
    let document = past.assert_code(0).json();
    assert!(document["seconds"].as_f64().unwrap() >= 5.0, "{document}");
    let rows = wiredflow_testkit::written_rows(&test.path("data/jsonl_in_p.jsonl")).len() as u64;
    let calls = document["stages"][0]["calls"].as_u64().unwrap();
    assert!((1..=rows + 1).contains(&calls), "{calls} of {rows}");

    let none = test.run(["profile", "flow.yaml", "--compare", "24h"]);
    none.assert_code(1);
    assert!(
        none.stderr.contains("nothing was measured 1d earlier"),
        "{}",
        none.stderr
    );

    // The same a day before, as a flow that runs for longer has it.
    let state = test.path(".wiredflow");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let day = jiff::SignedDuration::from_hours(24);
    let mut yesterday = StateReader::open(&state, "measured")
        .unwrap()
        .profiles(Timestamp::MIN, Timestamp::MAX)
        .unwrap()
        .remove(0);
    (yesterday.begin, yesterday.end) = (yesterday.begin - day, yesterday.end - day);
    yesterday.figures.stages[0].calls = 12_345;
    runtime.block_on(async {
        let (state, _) = State::open(&state, "measured", Timestamp::now()).unwrap();
        state.handle().keep_profile(&yesterday).await.unwrap();
        state
            .close(SessionOutcome::Ended, Timestamp::now())
            .await
            .unwrap();
    });
    let both = test.run(["profile", "flow.yaml", "--compare", "24h", "--json"]);
    let document = both.assert_code(0).json();
    assert_eq!(document["then"]["stages"][0]["calls"], 12_345);
    assert_eq!(document["now"]["stages"][0]["calls"], calls);
    let shown = test.run(["profile", "flow.yaml", "--compare", "24h"]);
    let text = &shown.assert_code(0).stdout;
    for word in ["now:", "then:", "RECORDS/S", "THEN", "p / one"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let never = test.run(["profile", "flow.yaml", "--past", "1h", "--for", "1s"]);
    never.assert_code(2);
}

#[test]
fn what_was_never_measured_is_told() {
    let test = chain();
    let none = test.run(["profile", "flow.yaml", "--past", "1h"]);
    none.assert_code(1);
    test.run(["run", "flow.yaml", "-q"]).assert_code(0);
    let none = test.run(["profile", "flow.yaml", "--past", "1h"]);
    none.assert_code(1);
    assert!(
        none.stderr.contains("nothing was measured in the last 1h"),
        "{}",
        none.stderr
    );
}
