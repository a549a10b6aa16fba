//! Faults around the whole service: signals at the wrong time, too few files, words that nobody should miss.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use wiredflow_testkit::{FlowTest, HttpPeer, Mosquitto, Reply, Signal, wait_until, written_rows};

use crate::{SOON, tool};

/// The numbers that a service has stored; a line that is being written is left for the next look.
fn numbers(test: &FlowTest) -> Vec<u64> {
    let rows = written_rows(&test.path("data/jsonl_in_stream.jsonl"));
    rows.iter().filter_map(|row| row["n"].as_u64()).collect()
}

#[test]
fn a9_a_second_signal_while_work_is_finished_ends_at_once_and_loses_nothing() {
    let broker = Mosquitto::with().persistent().start();
    let test = tool();
    test.file(
        "logic.py",
        "import os, time\n\ndef slow(relevant_info=None, **params):\n    print('has begun')\n    \
         while os.path.exists('hold'):\n        time.sleep(0.02)\n    return relevant_info\n",
    );
    test.file(
        "flow.yaml",
        &format!(
            "pipelines:\n  stream:\n    source: {{mqtt: {{broker: \"{}\", topic: \"t/#\"}}}}\n    stages:\n      \
             - core_logic: {{python: \"logic.py:slow\"}}\n      - store: jsonl\n",
            broker.address()
        ),
    );
    let hold = test.file("hold", "");
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(SOON, || {
        broker.publish("t/marker", r#"{"marker": true}"#, 1);
        running.stderr().contains("has begun")
    });
    for n in 0..30 {
        broker.publish("t/numbers", json!({ "n": n }).to_string(), 1);
    }
    running.signal(Signal::Term);
    running.stderr_contains("again to stop at once", SOON);
    running.signal(Signal::Term);
    running.wait(Duration::from_secs(10)).assert_code(130);
    assert!(numbers(&test).is_empty(), "nothing of it was done");

    std::fs::remove_file(hold).unwrap();
    let running = test.spawn(["run", "flow.yaml"]);
    let all: BTreeSet<u64> = (0..30).collect();
    wait_until(SOON, || {
        numbers(&test).into_iter().collect::<BTreeSet<_>>() == all
    });
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
}

#[test]
fn b13_too_few_open_files_are_told_and_waited_for() {
    const PIPELINES: usize = 60;
    let peer = HttpPeer::start();
    peer.on_each("/", [Reply::json(json!([{"n": 1}]))]);
    let test = FlowTest::new("/bin/sh");
    let pipelines: String = (0..PIPELINES)
        .map(|number| {
            format!(
                "  p{number}: {{once: true, stages: [{{http: \"{}\"}}, {{store: jsonl}}]}}\n",
                peer.url("/")
            )
        })
        .collect();
    test.file("flow.yaml", &format!("pipelines:\n{pipelines}"));
    let limited = "ulimit -S -n 64; exec \"$0\" run flow.yaml --json";
    let running = test.spawn(["-c", limited, env!("CARGO_BIN_EXE_wiredflow")]);
    running.stderr_contains("Too many open files", SOON);
    assert!(
        !running.stderr().contains("panicked"),
        "{}",
        running.stderr()
    );
    let raised = Command::new("prlimit")
        .args(["--pid", &running.id().to_string(), "--nofile=1024:1024"])
        .status();
    assert!(raised.unwrap().success());
    let ended = running.wait(3 * SOON);
    let report = ended.assert_code(0).json();
    let pipelines = report["pipelines"].as_object().unwrap();
    assert_eq!(pipelines.len(), PIPELINES);
    for (name, pipeline) in pipelines {
        assert_eq!(pipeline["deliveries"]["committed"], 1, "{name}: {pipeline}");
        let stored = test.read(&format!("data/jsonl_in_{name}.jsonl"));
        assert_eq!(stored, "{\"n\":1}\n");
    }
}

#[test]
fn what_is_skipped_is_said_once_and_counted() {
    let test = tool();
    test.file(
        "logic.py",
        "import time\n\ndef count(relevant_info=None, **params):\n    number = 0\n    while True:\n        \
         yield {'number': number}\n        number += 1\n        time.sleep(0.02)\n\n\
         def deliver(data, **params):\n    raise ValueError('never called')\n",
    );
    test.file(
        "flow.yaml",
        "pipelines:\n  p:\n    every: 1h\n    stages:\n      - core_logic: {python: \"logic.py:count\"}\n      - \
         send: {python: \"logic.py:deliver\", field: misspelt}\n",
    );
    let running = test.spawn(["run", "flow.yaml"]);
    running.stderr_contains("a record has no `misspelt` to send", SOON);
    running.signal(Signal::Term);
    let ended = running.wait(SOON);
    ended.assert_code(0);
    assert_eq!(
        ended.stderr.matches("has no `misspelt`").count(),
        1,
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("the generator is closed"),
        "{}",
        ended.stderr
    );
    for part in ["1 skipped; ", " skipped\n"] {
        assert!(ended.stdout.contains(part), "{part:?}\n{}", ended.stdout);
    }
}
