//! `ack: inbox` by the real program, against a real broker: the broker hears at once, the stages take their time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wiredflow_testkit::{FlowTest, HttpPeer, Mosquitto, Reply, Signal, rows, wait_until};

use crate::numbers::{acknowledged, begin, payloads};
use crate::{SOON, tool};

/// A flow that takes what comes to `in` and sends it on, then stores it.
fn service(broker: &Mosquitto, peer: &HttpPeer) -> FlowTest {
    let test = tool();
    let (address, url) = (broker.address(), peer.url("/"));
    test.file(
        "flow.yaml",
        &format!(
            "name: flow
pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{address}\", topic: in}}}}
    ack: inbox
    stages:
      - send: {{http_post: {{url: \"{url}\"}}, field: n}}
        retry: {{backoff: 20ms, max: 100ms}}
      - store: jsonl
"
        ),
    );
    test
}

fn stored(test: &FlowTest) -> Vec<u64> {
    let rows = rows("jsonl", &test.path("data/jsonl_in_numbers.jsonl"));
    let rows = rows.unwrap_or_default();
    rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
}

#[test]
fn a1_a_broker_hears_while_the_sink_is_away_and_no_kill_loses_or_doubles_what_it_was_told() {
    let (mut broker, peer) = (
        Mosquitto::with().max_queued_messages(0).start(),
        HttpPeer::start(),
    );
    peer.on("/", Reply::code(503));
    let test = service(&broker, &peer);
    let mut running = begin(&test, &broker);
    broker
        .client()
        .publish_all("in", payloads(0..500), 1)
        .unwrap();
    running.wait_until(SOON, || acknowledged(&broker) == 500);
    assert_eq!(stored(&test), Vec::<u64>::new());
    let status = test.run(["status", "flow.yaml"]);
    let lines: Vec<&str> = status.stdout.lines().collect();
    let waiting = |line: &str| line.split_whitespace().last().map(str::to_owned);
    assert_eq!(waiting(lines[1]).as_deref(), Some("WAITING"), "{status:?}");
    assert_eq!(waiting(lines[2]).as_deref(), Some("500"), "{status:?}");
    running.signal(Signal::Kill);
    running.wait(SOON).assert_code(137);
    // The broker is gone for good, and the peer is back: what is in the inbox is worked off all the same.
    broker.stop();
    peer.on("/", Reply::code(200));
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.stderr_contains("deliveries from before wait in the inbox", SOON);
    running.wait_until(2 * SOON, || stored(&test).len() >= 500);
    assert_eq!(stored(&test), (0..500).collect::<Vec<_>>());
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
}

#[test]
fn what_waits_at_a_stop_is_said_and_waits_for_the_next_start() {
    let (broker, peer) = (Mosquitto::start(), HttpPeer::start());
    peer.on("/", Reply::code(503));
    let test = service(&broker, &peer);
    let mut running = begin(&test, &broker);
    broker
        .client()
        .publish_all("in", payloads(0..20), 1)
        .unwrap();
    running.wait_until(SOON, || acknowledged(&broker) == 20);
    let stopped = Instant::now();
    running.signal(Signal::Term);
    let ended = running.wait(2 * SOON);
    ended.assert_code(0);
    // Without the inbox the peer would be waited for 8 s.
    assert!(stopped.elapsed() < Duration::from_millis(7500), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("deliveries wait in the inbox for the next start"),
        "{ended:?}"
    );
    // Without the line the deliveries stay, and that is said.
    let text = test.read("flow.yaml");
    test.file("flow.yaml", &text.replace("    ack: inbox\n", ""));
    let running = test.spawn(["run", "flow.yaml"]);
    running.stderr_contains(
        "deliveries wait in its inbox, and the flow has no such pipeline",
        SOON,
    );
    running.signal(Signal::Term);
    running.wait(2 * SOON).assert_code(0);
    test.file("flow.yaml", &text);
    peer.on("/", Reply::code(200));
    let mut running = begin(&test, &broker);
    running.wait_until(SOON, || stored(&test).len() >= 20);
    assert_eq!(stored(&test), (0..20).collect::<Vec<_>>());
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
}

#[test]
fn a_webhook_answers_when_its_delivery_is_in_the_inbox() {
    let peer = HttpPeer::start();
    peer.on("/", Reply::code(503));
    let test = tool();
    let url = peer.url("/");
    test.file(
        "flow.yaml",
        &format!(
            "name: flow
pipelines:
  numbers:
    source: {{webhook: {{listen: \"127.0.0.1:0\"}}}}
    ack: inbox
    stages:
      - send: {{http_post: {{url: \"{url}\"}}, field: n}}
        retry: {{backoff: 20ms, max: 100ms}}
      - store: jsonl
"
        ),
    );
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.stderr_contains("listening at ", SOON);
    let log = running.stderr();
    let address = log.split("listening at ").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap();
    let answer = post(address, "[{\"n\": 1}, {\"n\": 2}]");
    assert_eq!(answer, 200, "{address}");
    assert_eq!(post(address, "{\"n\": "), 400);
    peer.on("/", Reply::code(200));
    running.wait_until(SOON, || stored(&test).len() >= 2);
    assert_eq!(stored(&test), [1, 2]);
    wait_until(SOON, || {
        let letters = test.run(["dead-letters", "list", "flow.yaml", "--json"]);
        letters.json()["dead_letters"].as_array().map(Vec::len) == Some(1)
    });
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
}

/// The status that a body is answered with, by curl.
fn post(url: &str, body: &str) -> u16 {
    let output = std::process::Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--data-binary",
            body,
            url,
        ])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

#[test]
fn report_and_graph_show_the_pipeline_as_it_was_written() {
    let test = tool();
    test.file(
        "flow.yaml",
        "name: flow
pipelines:
  numbers:
    source: {mqtt: {broker: \"localhost:1\", topic: in}}
    ack: inbox
    stages:
      - send: {mqtt: {broker: \"localhost:1\", topic: out}, field: n}
",
    );
    let finished = test.run(["run", "flow.yaml", "--for", "300ms", "--json"]);
    let report: Value = finished.assert_code(0).json();
    assert_eq!(
        report["pipelines"]["numbers"]["inbox"],
        json!({"taken": 0, "waiting": 0})
    );
    let names: BTreeMap<String, Value> =
        serde_json::from_value(report["pipelines"].clone()).unwrap();
    assert_eq!(names.keys().collect::<Vec<_>>(), ["numbers"]);
    let graph = test.run(["graph", "flow.yaml"]);
    assert!(
        graph.stdout.contains("mqtt localhost:1 in (inbox)"),
        "{graph:?}"
    );
}
