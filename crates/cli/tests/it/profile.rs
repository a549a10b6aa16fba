//! `profile`, on the real tool.

use serde_json::Value;
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
            assert!(
                !stage[key].is_null() || key.starts_with("bytes"),
                "{key}: {stage}"
            );
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
    let away = test.run(["profile", "--attach", "http://127.0.0.1:1", "flow.yaml"]);
    away.assert_code(2);
    assert!(away.stderr.contains("not built yet"), "{}", away.stderr);
    let unknown = test.run(["profile", "flow.yaml", "--pipeline", "numbres"]);
    unknown.assert_code(2);
    assert!(unknown.stderr.contains("`numbers`"), "{}", unknown.stderr);
}
