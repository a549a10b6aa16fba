//! Whole flows with MQTT at both ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::run::{RunOptions, Running, start};
use wiredflow_testkit::{Message, Mosquitto, seed, wait_until, written_rows};

use super::bench::SOON;

pub(crate) fn begin(folder: &Path, text: &str) -> Running {
    let lookup = SystemLookup::new(folder);
    let checked = check_text(text, "flow", folder, &Functions::default(), &lookup);
    assert!(checked.problems.is_empty(), "{:#?}", checked.problems);
    start(&checked.plan.unwrap(), &RunOptions::default()).unwrap()
}

pub(crate) async fn end(running: Running) -> RunReport {
    running.stopper().stop();
    running.finished().await.report
}

/// The values of `n` in the pipeline's file, and how often each is there.
pub(crate) fn stored(folder: &Path) -> BTreeMap<u64, usize> {
    let file = folder.join("data/jsonl_in_numbers.jsonl");
    let mut counts = BTreeMap::new();
    for row in written_rows(&file) {
        *counts.entry(row["n"].as_u64().unwrap()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_a_flow_that_is_stopped_again_and_again_stores_each_message_once() {
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    let mut random = StdRng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let text = |version| {
        format!(
            "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{}\", topic: in, version: {version}}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
",
            mosquitto.address()
        )
    };
    // The first start makes the session.
    let running = begin(folder.path(), &text("5"));
    mosquitto.wait_for_log("Sending SUBACK to flow-numbers", SOON);
    end(running).await;
    let mut client = mosquitto.client();
    let publish = std::thread::spawn(move || {
        for group in 0..60 {
            let payloads = (0..50).map(|number| json!({"n": group * 50 + number}).to_string());
            client.publish_all("in", payloads, 1).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    for round in 0..6 {
        let running = begin(
            folder.path(),
            &text(if round % 2 == 0 { "5" } else { "3.1.1" }),
        );
        tokio::time::sleep(Duration::from_millis(random.random_range(50..400))).await;
        assert!(end(running).await.ok);
    }
    publish.join().unwrap();
    let running = begin(folder.path(), &text("5"));
    wait_until(SOON, || stored(folder.path()).len() == 3000);
    assert!(end(running).await.ok);
    let more: Vec<_> = stored(folder.path())
        .into_iter()
        .filter(|(_, count)| *count != 1)
        .collect();
    assert_eq!(more, [], "stored more than once");
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_c8_what_is_no_json_is_set_aside_and_never_run() {
    let mosquitto = Mosquitto::start();
    let folder = tempfile::tempdir().unwrap();
    let running = begin(
        folder.path(),
        &format!(
            "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{0}\", topic: \"in/#\", version: 3.1.1}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
      - send: {{mqtt: {{broker: \"{0}\", topic: out}}, field: n}}
",
            mosquitto.address()
        ),
    );
    let collector = mosquitto.subscribe(&["out"]);
    mosquitto.wait_for_log("Sending SUBACK to flow-numbers", SOON);
    let touched = folder.path().join("pwn");
    let program = format!("__import__('os').system('touch {}')", touched.display());
    let large = format!("\"{}\"", "x".repeat(2 << 20));
    let bad = [
        program.as_bytes(),
        b"",
        b"\xff\xfe\x00binary",
        b"{\"n\": NaN}",
        b"{\"n\": 1} tail",
        large.as_bytes(),
    ];
    for payload in bad {
        mosquitto.publish("in/../../etc/passwd", payload, 1);
    }
    mosquitto.publish("in/good", "[{\"n\": 1}, {\"n\": 2}]", 1);
    let sent = collector.wait_for(2, SOON);
    assert_eq!(
        sent.iter().map(Message::text).collect::<Vec<_>>(),
        ["1", "2"]
    );
    let report = end(running).await;
    assert!(report.ok, "{report:#?}");
    let deliveries = report.pipelines["numbers"].deliveries;
    assert_eq!(
        (deliveries.committed, deliveries.dead_lettered),
        (1, bad.len() as u64)
    );
    assert_eq!(stored(folder.path()), BTreeMap::from([(1, 1), (2, 1)]));
    assert!(!touched.exists());
    // All of them are acknowledged: nothing comes again.
    let acknowledged = mosquitto
        .log()
        .matches("Received PUBACK from flow-numbers-")
        .count();
    assert_eq!(acknowledged, bad.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_a_flow_goes_on_where_it_was_when_its_broker_is_back() {
    let mut mosquitto = Mosquitto::with()
        .persistent()
        .max_queued_messages(0)
        .start();
    let folder = tempfile::tempdir().unwrap();
    let running = begin(
        folder.path(),
        &format!(
            "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{0}\", topic: in}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
      - send: {{mqtt: {{broker: \"{0}\", topic: out}}, field: n}}
        retry: {{backoff: 50ms, max: 200ms}}
",
            mosquitto.address()
        ),
    );
    let collector = mosquitto.subscribe(&["out"]);
    mosquitto.wait_for_log("Sending SUBACK to flow-numbers", SOON);
    let mut client = mosquitto.client();
    let payloads = |range: std::ops::Range<u64>| range.map(|n| json!({"n": n}).to_string());
    client.publish_all("in", payloads(0..200), 1).unwrap();
    mosquitto.restart();
    mosquitto
        .client()
        .publish_all("in", payloads(200..400), 1)
        .unwrap();
    wait_until(SOON, || {
        let numbers: std::collections::BTreeSet<u64> = collector
            .messages()
            .iter()
            .map(|message| message.text().parse().unwrap())
            .collect();
        numbers.len() == 400
    });
    let report = end(running).await;
    assert!(report.ok, "{report:#?}");
    assert_eq!(stored(folder.path()).len(), 400);
}

/// How often a broker's log has this word about the source.
fn said(mosquitto: &Mosquitto, what: &str) -> u64 {
    let log = mosquitto.log();
    let lines = log.lines();
    lines
        .filter(|line| line.contains(what) && line.contains("flow-numbers"))
        .count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_a_flow_that_starts_before_its_broker_finds_it_and_finds_it_again() {
    let mut mosquitto = Mosquitto::with().persistent().start();
    mosquitto.stop();
    let folder = tempfile::tempdir().unwrap();
    let running = begin(
        folder.path(),
        &format!(
            "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{0}\", topic: in}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
",
            mosquitto.address()
        ),
    );
    for number in 0..2_u64 {
        // Long enough for several attempts.
        tokio::time::sleep(Duration::from_secs(4)).await;
        mosquitto.start_again();
        wait_until(SOON, || {
            let said = |what: &str, times: u64| said(&mosquitto, what) >= times;
            // A session that goes on has its subscription, and needs no other.
            said("Sending SUBACK", 1) && said("Sending CONNACK", number + 1)
        });
        mosquitto.publish("in", format!("{{\"n\": {number}}}"), 1);
        // A broker that ends before it has read the acknowledgement sends the message again.
        wait_until(SOON, || said(&mosquitto, "Received PUBACK") > number);
        assert!(stored(folder.path()).contains_key(&number));
        mosquitto.stop();
    }
    assert!(end(running).await.ok);
    assert_eq!(stored(folder.path()), BTreeMap::from([(0, 1), (1, 1)]));
}
