//! Hostile and broken input against the whole service: real broker, real files, the real binary.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wiredflow_testkit::{FlowTest, HttpPeer, Mosquitto, Reply, Signal, wait_until, written_rows};

use crate::{SOON, tool};

/// A service that stores what comes on `t/#`, one JSON line each.
fn storing(broker: &Mosquitto) -> FlowTest {
    let test = tool();
    test.file(
        "flow.yaml",
        &format!(
            "name: storing\npipelines:\n  stream:\n    source: {{mqtt: {{broker: \"{}\", topic: \"t/#\"}}}}\n    \
             stages:\n      - store: jsonl\n",
            broker.address()
        ),
    );
    test
}

/// The stored records; a line that is being written is left for the next look.
fn stored(test: &FlowTest) -> Vec<Value> {
    written_rows(&test.path("data/jsonl_in_stream.jsonl"))
}

/// Publishes a marker again and again until it is stored: the service is subscribed then.
fn wait_until_subscribed(broker: &Mosquitto, test: &FlowTest) {
    wait_until(SOON, || {
        broker.publish("t/marker", r#"{"marker": true}"#, 1);
        stored(test).iter().any(|record| record["marker"] == true)
    });
}

#[test]
fn c7_c8_e1_e3_e4_what_cannot_be_read_is_a_dead_letter_and_the_stream_goes_on() {
    let broker = Mosquitto::start();
    let test = storing(&broker);
    let running = test.spawn(["run", "flow.yaml", "--json"]);
    wait_until_subscribed(&broker, &test);
    let pwned = test.path("pwned");
    let code = format!("__import__('os').system('touch {}')", pwned.display());
    let deep = "[".repeat(10_000);
    let unreadable: [&[u8]; 9] = [
        b"\xff\xfe\x00",
        b"",
        b"{\"a\": NaN}",
        b"[Infinity]",
        b"{\"a\": \"\\ud800\"}",
        b"{\"a\": 1} trailing",
        b"plain words",
        code.as_bytes(),
        deep.as_bytes(),
    ];
    for payload in unreadable {
        broker.publish("t/bad", payload, 1);
    }
    broker.publish("t/../../evil", r#"{"good": 1, "good": 2}"#, 1);
    wait_until(SOON, || stored(&test).contains(&json!({"good": 2})));
    running.signal(Signal::Term);
    let finished = running.wait(SOON);
    let report = finished.assert_code(0).json();
    assert_eq!(report["ok"], true);
    assert_eq!(
        report["pipelines"]["stream"]["deliveries"]["dead_lettered"], 9,
        "{report:#}"
    );
    let listed = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .json();
    let letters = listed["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 9);
    assert!(
        letters
            .iter()
            .all(|letter| letter["reason"].as_str().unwrap().contains("t/bad"))
    );
    let binary = letters.iter().find(|letter| letter["bytes"] == 3).unwrap();
    let shown = test.run([
        "dead-letters",
        "show",
        "flow.yaml",
        binary["id"].as_str().unwrap(),
        "--json",
    ]);
    assert!(
        shown.stdout.contains("//4A"),
        "the body as base64: {}",
        shown.stdout
    );
    assert!(!pwned.exists(), "a payload was executed");
}

#[test]
fn h11_names_and_topics_never_leave_the_data_folder() {
    let broker = Mosquitto::start();
    let test = storing(&broker);
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until_subscribed(&broker, &test);
    for topic in [
        "t/../../../escape",
        "t//etc/x",
        "t/..%2fescape",
        "t/a b\u{e9}",
    ] {
        broker.publish(topic, json!({ "topic": topic }).to_string(), 1);
    }
    wait_until(SOON, || {
        stored(&test)
            .iter()
            .filter(|record| record["topic"].is_string())
            .count()
            == 4
    });
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(test.path(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("."), [".wiredflow", "data", "flow.yaml"]);
    assert_eq!(names("data"), ["jsonl_in_stream.jsonl"]);

    for name in ["../escape", "a/b", "..", "a b", "%2e%2e", ""] {
        let text =
            format!("pipelines:\n  {name:?}:\n    once: true\n    stages:\n      - store: json\n");
        test.file("bad.yaml", &text);
        let checked = test.run(["check", "bad.yaml", "--json"]);
        let document = checked.assert_code(2).json();
        assert!(
            document["problems"]
                .to_string()
                .contains("cannot be a name"),
            "{name}: {document}"
        );
    }
}

#[test]
fn a8_a_stop_under_load_loses_nothing_and_repeats_nothing() {
    const MESSAGES: usize = 1000;
    let broker = Mosquitto::with()
        .persistent()
        .max_queued_messages(100_000)
        .start();
    let test = storing(&broker);
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until_subscribed(&broker, &test);
    let mut client = broker.client();
    let publisher = std::thread::spawn(move || {
        let payloads: Vec<String> = (0..MESSAGES)
            .map(|n| json!({ "n": n }).to_string())
            .collect();
        client.publish_all("t/numbers", &payloads, 1).unwrap();
    });
    wait_until(SOON, || stored(&test).len() > MESSAGES / 10);
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    publisher.join().unwrap();

    let running = test.spawn(["run", "flow.yaml"]);
    let numbers = || {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for number in stored(&test)
            .iter()
            .filter_map(|record| record["n"].as_u64())
        {
            *counts.entry(number).or_default() += 1;
        }
        counts
    };
    wait_until(SOON, || numbers().len() == MESSAGES);
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    let twice: Vec<_> = numbers()
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .collect();
    assert!(twice.is_empty(), "stored more than once: {twice:?}");
}

#[test]
fn e5_a_reply_beyond_the_limits_is_refused_and_the_service_goes_on() {
    let peer = HttpPeer::start();
    let huge = format!("[\"{}\"]", "x".repeat(3 << 20));
    peer.on_each("/", [Reply::text(&huge), Reply::json(json!([{"fine": 1}]))]);
    let test = tool();
    test.file(
        "flow.yaml",
        &format!(
            "pipelines:\n  poll:\n    every: 200ms\n    stages:\n      - http: {{url: \"{}\", max_bytes: 1MiB}}\n        \
             on_error: skip\n      - store: {{jsonl: {{folder: data}}}}\n",
            peer.url("/")
        ),
    );
    let running = test.spawn(["run", "flow.yaml", "--json"]);
    wait_until(SOON, || {
        test.path("data/jsonl_in_poll.jsonl").exists()
            && test.read("data/jsonl_in_poll.jsonl").contains("fine")
    });
    running.signal(Signal::Term);
    let report = running.wait(SOON).assert_code(0).json();
    assert!(
        report["pipelines"]["poll"]["deliveries"]["skipped"].as_u64() >= Some(1),
        "{report:#}"
    );
    assert!(
        report["pipelines"]["poll"]["last_error"]
            .as_str()
            .unwrap()
            .contains("max_bytes"),
        "{report:#}"
    );
}

#[test]
fn c17_a_refused_password_stops_the_flow_and_shows_no_credential() {
    let broker = Mosquitto::with().user("sensor", "right").start();
    let test = tool().env("MQTT_PASSWORD", "canary-wrong-password");
    test.file(
        "flow.yaml",
        &format!(
            "pipelines:\n  stream:\n    source: {{mqtt: {{broker: \"{}\", topic: t, username: sensor, password: \
             \"${{env:MQTT_PASSWORD}}\"}}}}\n    stages:\n      - store: jsonl\n",
            broker.address()
        ),
    );
    let finished = test.run(["run", "flow.yaml", "--json"]);
    let report = finished.assert_code(1).json();
    assert_eq!(report["ok"], false);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(
        said.to_lowercase().contains("refused") || said.contains("not authori"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}
