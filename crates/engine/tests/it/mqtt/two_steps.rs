//! QoS 2: once in a session, whatever becomes of connections and broker.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use wiredflow_core::ErrorKind;
use wiredflow_testkit::{Mosquitto, wait_until, written_rows};

use super::bench::{Bench, SOON, texts};
use super::scripted::{self, Connection, Scripted};
use super::whole;

/// Whether to speak version 5, and the words for it.
const VERSIONS: [(bool, &str); 2] = [(true, "5"), (false, "3.1.1")];

/// A message to topic `t` under the id 7.
fn publish(connection: &mut Connection, five: bool, qos: u8, duplicate: bool, payload: &[u8]) {
    let first = 0x30 | (qos << 1) | (u8::from(duplicate) << 3);
    let rest = 5 + u8::from(five) + payload.len() as u8;
    let mut bytes = vec![first, rest, 0, 1, b't', 0, 7];
    if five {
        bytes.push(0);
    }
    bytes.extend(payload);
    connection.write(&bytes);
}

fn welcome(connection: &mut Connection, five: bool) {
    connection.read();
    let resumed = connection.number > 0;
    connection.write(match (five, resumed) {
        (true, false) => scripted::WELCOME_5,
        (true, true) => scripted::RESUMED_5,
        (false, false) => scripted::WELCOME_311,
        (false, true) => scripted::RESUMED_311,
    });
    if !resumed {
        let subscribe = connection.read_kind(8);
        connection.write(&match five {
            true => scripted::suback_5(&subscribe, &[2]),
            false => scripted::suback_311(&subscribe, &[2]),
        });
    }
}

fn source(broker: &Scripted, version: &str) -> String {
    let address = broker.address();
    format!("{{broker: \"{address}\", topic: t, qos: 2, version: {version}}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_what_was_received_does_not_come_again_though_the_word_for_it_was_lost() {
    for (five, version) in VERSIONS {
        let broker = Scripted::start(move |connection| {
            welcome(connection, five);
            if connection.number == 0 {
                publish(connection, five, 2, false, b"once");
                assert_eq!(connection.read_kind(5).id(), 7);
                return; // as if it had not been read
            }
            publish(connection, five, 2, true, b"once");
            assert_eq!(connection.read_kind(5).id(), 7);
            connection.write(&[0x62, 2, 0, 7]);
            assert_eq!(connection.read_kind(7).id(), 7);
            // The id is free for another message.
            publish(connection, five, 1, false, b"other");
            assert_eq!(connection.read_kind(4).id(), 7);
            connection.read_to_end();
        });
        let flow = Bench::new().source(&source(&broker, version)).await;
        for expected in ["once", "other"] {
            let got = flow.take(1).await;
            assert_eq!(texts(&got), [expected], "version {version}");
            flow.commit(&got).await;
        }
        flow.end().await;
        broker.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_what_the_flow_still_has_is_received_on_the_next_connection() {
    for (five, version) in VERSIONS {
        let (tell, told) = std::sync::mpsc::channel();
        let broker = Scripted::start(move |connection| {
            welcome(connection, five);
            publish(connection, five, 2, connection.number > 0, b"once");
            if connection.number == 0 {
                return;
            }
            tell.send(()).unwrap();
            assert_eq!(connection.read_kind(5).id(), 7);
            connection.write(&[0x62, 2, 0, 7]);
            assert_eq!(connection.read_kind(7).id(), 7);
            // A release of something that is not known here, as after a restart of ours.
            connection.write(&[0x62, 2, 0, 9]);
            assert_eq!(connection.read_kind(7).id(), 9);
            publish(connection, five, 2, false, b"next");
            assert_eq!(connection.read_kind(5).id(), 7);
            connection.read_to_end();
        });
        let flow = Bench::new().source(&source(&broker, version)).await;
        let got = flow.take(1).await;
        assert_eq!(texts(&got), ["once"], "version {version}");
        told.recv_timeout(SOON).unwrap();
        flow.commit(&got).await;
        let got = flow.take(1).await;
        assert_eq!(texts(&got), ["next"], "version {version}");
        flow.commit(&got).await;
        flow.end().await;
        broker.end();
    }
}

/// The values of `n` in the order in which they were stored.
fn stored(folder: &Path) -> Vec<u64> {
    let rows = written_rows(&folder.join("data/jsonl_in_numbers.jsonl"));
    rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_at_qos_2_nothing_is_lost_though_the_broker_restarts_under_load() {
    for (_, version) in VERSIONS {
        let mut mosquitto = Mosquitto::with()
            .persistent()
            .max_queued_messages(0)
            .start();
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{}\", topic: in, qos: 2, version: {version}}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
",
            mosquitto.address()
        );
        let running = whole::begin(folder.path(), &text);
        mosquitto.wait_for_log("Sending SUBACK to flow-numbers", SOON);
        for group in 0..3 {
            let payloads = (group * 200..(group + 1) * 200).map(|n| json!({"n": n}).to_string());
            mosquitto.client().publish_all("in", payloads, 2).unwrap();
            mosquitto.restart();
        }
        wait_until(SOON, || {
            stored(folder.path()).iter().collect::<BTreeSet<_>>().len() == 600
        });
        assert!(whole::end(running).await.ok);
        let numbers: BTreeSet<u64> = stored(folder.path()).into_iter().collect();
        assert_eq!(numbers, (0..600).collect(), "version {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_at_qos_2_nothing_counts_as_sent_before_the_last_step() {
    let (tell, told) = std::sync::mpsc::channel();
    let broker = Scripted::start(move |connection| {
        connection.read();
        connection.write(scripted::WELCOME_311);
        let sent = connection.read_kind(3);
        assert_eq!(sent.first, 0x34);
        let id = [sent.body[5], sent.body[6]];
        connection.write(&[0x50, 2, id[0], id[1]]);
        assert_eq!(connection.read_kind(6).body, id);
        if connection.number == 0 {
            tell.send(()).unwrap();
            return; // before PUBCOMP
        }
        connection.write(&[0x70, 2, id[0], id[1]]);
        connection.read_to_end();
    });
    let address = broker.address();
    let config = format!("{{broker: \"{address}\", topic: out, version: 3.1.1, qos: 2}}");
    let sender = Bench::new().sender(&config).await;
    let error = sender.send(&["one"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
    told.recv_timeout(SOON).unwrap();
    assert_eq!(sender.send(&["one"]).await.unwrap().rows(), 1);
    drop(sender);
    broker.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_at_the_first_step_has_no_second() {
    let broker = Scripted::start(|connection| {
        connection.read();
        connection.write(scripted::WELCOME_5);
        let sent = connection.read_kind(3);
        connection.write(&[0x50, 3, sent.body[5], sent.body[6], 0x87]);
        assert_eq!(connection.read().first, 0xE0, "goodbye, and no release");
    });
    let address = broker.address();
    let config = format!("{{broker: \"{address}\", topic: out, qos: 2}}");
    let sender = Bench::new().sender(&config).await;
    let error = sender.send(&["one"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.message().contains("not authorized"), "{error}");
    drop(sender);
    broker.end();
}
