//! `run --watch`: changes that come while messages flow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use wiredflow_testkit::{FlowTest, Mosquitto, Signal, wait_until, written_rows};

use crate::{SOON, tool};

const LOGIC: &str = "def mark(relevant_info=None, **params):\n    relevant_info['by'] = VERSION\n    return relevant_info\n";

fn flow(broker: &Mosquitto, name: &str) -> String {
    format!(
        "name: changing\npipelines:\n  {name}:\n    source: {{mqtt: {{broker: \"{}\", topic: numbers, client_id: changing-1}}}}\n    \
         stages:\n      - core_logic: {{python: \"logic.py:mark\"}}\n      - store: kept\nstorages: {{kept: {{jsonl: {{folder: data}}}}}}\n",
        broker.address()
    )
}

fn logic(version: &str) -> String {
    LOGIC.replace("VERSION", &format!("'{version}'"))
}

/// Writes as many editors do: another file, then its name.
fn replace(test: &FlowTest, name: &str, text: &str) {
    let new = test.file(&format!(".{name}.new"), text);
    std::fs::rename(new, test.path(name)).unwrap();
}

/// How often each number is stored, by who marked it.
fn stored(test: &FlowTest) -> BTreeMap<String, Vec<u64>> {
    let mut stored: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for row in written_rows(&test.path("data/jsonl_in_kept.jsonl")) {
        let by = row["by"].as_str().unwrap().to_owned();
        stored
            .entry(by)
            .or_default()
            .push(row["number"].as_u64().unwrap());
    }
    stored
}

#[test]
fn changes_are_taken_while_messages_flow_and_none_is_lost() {
    let broker = Mosquitto::start();
    let test = tool();
    test.file("flow.yaml", &flow(&broker, "first"));
    test.file("logic.py", &logic("one"));
    let running = test.spawn(["run", "flow.yaml", "--watch", "--json"]);
    running.stderr_contains("running", SOON);
    broker.wait_for_log("SUBSCRIBE", SOON);

    let go_on = Arc::new(AtomicBool::new(true));
    let mut client = broker.client();
    let publisher = std::thread::spawn({
        let go_on = Arc::clone(&go_on);
        move || {
            let mut number = 0_u64;
            while go_on.load(Ordering::Relaxed) {
                client
                    .publish("numbers", format!("{{\"number\": {number}}}"), 1)
                    .unwrap();
                number += 1;
                std::thread::sleep(Duration::from_millis(4));
            }
            number
        }
    });
    let by = |name: &str| wait_until(SOON, || stored(&test).contains_key(name));
    by("one");

    // A Python file, by another name.
    replace(&test, "logic.py", &logic("two"));
    by("two");

    // A flow file that is broken, cut and written in place: all goes on.
    test.file(
        "flow.yaml",
        &flow(&broker, "first").replace("stages:", "stagse:"),
    );
    running.stderr_contains("the flow goes on as it was", SOON);
    let said = running.stderr();
    assert!(
        said.contains("flow.yaml:5:5: unknown key `stagse`; did you mean `stages`?"),
        "{said}"
    );
    let rows = || stored(&test).values().map(Vec::len).sum::<usize>();
    let until_now = rows();
    wait_until(SOON, || rows() > until_now + 20);

    // A Python file that is no Python, with the flow file whole again.
    test.file("flow.yaml", &flow(&broker, "first"));
    test.file("logic.py", "def mark(:\n");
    running.stderr_contains("logic.py:1:10: ", SOON);
    running.stderr_contains("is no Python: invalid syntax", SOON);

    // And a whole new pipeline, with code of its own.
    test.file("logic.py", &logic("three"));
    replace(&test, "flow.yaml", &flow(&broker, "second"));
    by("three");

    go_on.store(false, Ordering::Relaxed);
    let published = publisher.join().unwrap();
    let missing = || {
        let stored: BTreeSet<u64> = stored(&test).into_values().flatten().collect();
        (0..published)
            .filter(|number| !stored.contains(number))
            .count()
    };
    wait_until(SOON, || missing() == 0);
    running.signal(Signal::Term);
    let ended = running.wait(SOON);
    let document = ended.assert_code(0).json();
    let committed = |pipeline: &str| {
        document["pipelines"][pipeline]["deliveries"]["committed"]
            .as_u64()
            .unwrap()
    };
    assert!(
        committed("first") > 0 && committed("second") > 0,
        "{document}"
    );
    assert_eq!(
        committed("first") + committed("second"),
        rows() as u64,
        "{document}"
    );
    let twice = rows() as u64 - published;
    assert!(
        twice <= published / 20,
        "{twice} of {published} are stored twice\n{}",
        ended.stderr
    );
}

#[test]
fn a_flow_that_has_ended_waits_for_a_change_and_a_signal_ends_it() {
    let test = tool();
    let flow = |file: &str| {
        format!(
            "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {{python: \"{file}:give\"}}\n      - store: {{jsonl: {{folder: data}}}}\n"
        )
    };
    test.file(
        "bad.py",
        "def give(**params):\n    raise ValueError('not yet')\n",
    );
    test.file("good.py", "def give(**params):\n    return {'x': 1}\n");
    test.file("flow.yaml", &flow("bad.py"));
    let running = test.spawn(["run", "flow.yaml", "--watch", "--log-format", "json"]);
    running.stderr_contains("the flow has failed; waiting for a change", SOON);
    replace(&test, "flow.yaml", &flow("good.py"));
    running.stderr_contains("the flow has ended; waiting for a change", SOON);
    assert_eq!(test.read("data/jsonl_in_p.jsonl"), "{\"x\":1}\n");
    // A name that has its state elsewhere cannot start here.
    replace(
        &test,
        "flow.yaml",
        &format!("name: other\n{}", flow("good.py")),
    );
    running.stderr_contains("going on with the one before", SOON);
    running.signal(Signal::Int);
    let ended = running.wait(SOON);
    ended.assert_code(0);
    for line in ended.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["time"].is_string() && line["level"].is_string() && line["message"].is_string()
        );
    }
    let refused = test.run(["run", "flow.yaml", "--watch", "--once"]);
    refused.assert_code(2);
}

#[test]
fn a_flow_file_that_is_gone_is_waited_for() {
    let test = tool();
    let flow = |field: &str| {
        format!(
            "pipelines:\n  p:\n    every: 100ms\n    stages:\n      - core_logic: {{python: \"logic.py:give\", params: \
             {{field: {field}}}}}\n      - store: {{jsonl: {{folder: data}}}}\n"
        )
    };
    test.file(
        "logic.py",
        "def give(field, **params):\n    return {field: 1}\n",
    );
    test.file("flow.yaml", &flow("before"));
    let mut running = test.spawn(["run", "flow.yaml", "--watch"]);
    let stored = test.path("data/jsonl_in_p.jsonl");
    let has = |field: &str| std::fs::read_to_string(&stored).is_ok_and(|text| text.contains(field));
    running.wait_until(SOON, || has("before"));
    std::fs::remove_file(test.path("flow.yaml")).unwrap();
    running.stderr_contains(
        "`flow.yaml` is gone: the flow goes on as it was until it is back",
        SOON,
    );
    test.file("flow.yaml", &flow("behind"));
    running.wait_until(SOON, || has("behind"));
    running.signal(Signal::Int);
    let ended = running.wait(SOON);
    assert!(
        !ended.assert_code(0).stderr.contains("wiredflow init"),
        "{}",
        ended.stderr
    );
}
