//! Flows with MQTT in a process of their own: what is warned of and refused, how much is held, and
//! what a kill costs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wiredflow_testkit::{FlowTest, Mosquitto, Running, Signal, wait_until, written_lines};

use crate::gate::{Gate, PUBACK, PUBCOMP, PUBREC};
use crate::numbers::{begin, end, make_known};
use crate::{SOON, tool};

/// A flow that stores what comes to `in`.
fn flow(broker: &str, rest: &str) -> FlowTest {
    let test = tool();
    test.file(
        "flow.yaml",
        &format!(
            "name: flow
pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{broker}\", topic: in, {rest}}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
"
        ),
    );
    test
}

fn stored(test: &FlowTest) -> Vec<String> {
    let file = test.path("data/jsonl_in_numbers.jsonl");
    written_lines(&file)
}

/// Kills a flow that has one message more than it had stored, while a step of that message is held back, and starts it
/// again. `look` sees what is there when it is killed, but for what was there before.
fn killed_before(
    step: u8,
    (qos, version): (u8, &str),
    look: impl FnOnce(&[String]),
) -> (Mosquitto, Gate, FlowTest, Running, usize) {
    let mosquitto = Mosquitto::start();
    let gate = Gate::start(mosquitto.port());
    let test = flow(&gate.address(), &format!("qos: {qos}, version: {version}"));
    let running = begin(&test, &mosquitto);
    let before = make_known(&test, &mosquitto, "{\"n\":0}", qos);
    gate.hold_back(step);
    mosquitto.publish("in", "{\"n\":1}", qos);
    wait_until(SOON, || gate.held_back() > 0);
    look(&stored(&test)[before..]);
    running.signal(Signal::Kill);
    running.wait(SOON);
    gate.let_through();
    let running = begin(&test, &mosquitto);
    (mosquitto, gate, test, running, before)
}

const VERSIONS: [&str; 2] = ["5", "3.1.1"];

#[test]
fn a3_a_message_that_is_committed_and_not_acknowledged_at_a_kill_is_stored_once() {
    for (qos, step) in [(1, PUBACK), (2, PUBREC)] {
        for version in VERSIONS {
            let (mosquitto, _gate, test, running, before) =
                killed_before(step, (qos, version), |stored| {
                    assert_eq!(stored, ["{\"n\":1}"], "it is said after the commit");
                });
            // One of the same content is another message.
            mosquitto.publish("in", "{\"n\":1}", qos);
            mosquitto.publish("in", "{\"n\":2}", qos);
            let last = "{\"n\":2}".to_owned();
            wait_until(SOON, || stored(&test).last() == Some(&last));
            end(running);
            assert_eq!(
                stored(&test)[before..],
                ["{\"n\":1}", "{\"n\":1}", "{\"n\":2}"]
            );
        }
    }
}

#[test]
fn c4_at_qos_2_a_kill_after_the_first_step_costs_nothing() {
    for version in VERSIONS {
        let (mosquitto, _gate, test, running, before) =
            killed_before(PUBCOMP, (2, version), |_| {});
        mosquitto.wait_for_log("Received PUBCOMP from flow-numbers-", SOON);
        mosquitto.publish("in", "{\"n\":2}", 2);
        wait_until(SOON, || stored(&test).len() == before + 2);
        end(running);
        assert_eq!(stored(&test)[before..], ["{\"n\":1}", "{\"n\":2}"]);
    }
}

#[test]
fn c6_of_a_payload_that_is_too_large_the_dead_letter_has_all_but_the_payload() {
    let mosquitto = Mosquitto::start();
    let test = flow(&mosquitto.address(), "version: 3.1.1");
    let running = begin(&test, &mosquitto);
    mosquitto.publish("in", vec![b'x'; 2 << 20], 1);
    mosquitto.publish("in", "{\"n\":1}", 1);
    wait_until(SOON, || stored(&test).len() == 1);
    end(running);
    let listed = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .assert_code(0)
        .json();
    let letters = listed["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 1, "{listed}");
    let (letter, bytes) = (&letters[0], &letters[0]["bytes"]);
    assert_eq!((&letter["stage"], bytes), (&"mqtt".into(), &0.into()));
    let reason = letter["reason"].as_str().unwrap();
    for part in ["`in`", "2097152 bytes", "1048576"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(
        mosquitto
            .log()
            .matches("Received PUBACK from flow-")
            .count(),
        2
    );
}

#[test]
fn c10_qos_0_cannot_be_at_least_once_and_is_warned_of() {
    let mosquitto = Mosquitto::start();
    let test = flow(&mosquitto.address(), "qos: 0");
    let document = test
        .run(["check", "flow.yaml", "--json"])
        .assert_code(0)
        .json();
    let problem = &document["problems"][0];
    assert_eq!(document["ok"], true);
    let place = (&problem["severity"], &problem["line"]);
    assert_eq!(place, (&"warning".into(), &4.into()), "{document}");
    let words = "QoS 0 cannot be at-least-once";
    assert!(problem["message"].as_str().unwrap().contains(words));

    let running = begin(&test, &mosquitto);
    running.stderr_contains(words, SOON);
    mosquitto.publish("in", "{\"n\":1}", 0);
    wait_until(SOON, || stored(&test).len() == 1);
    end(running);
}

/// Mosquitto's plugin for rights, which knows those to subscribe; its `acl_file` does not.
fn security_plugin() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let of = |folder: PathBuf| folder.join("mosquitto_dynamic_security.so");
    folders
        .map(|entry| of(entry.unwrap().path()))
        .chain([of(PathBuf::from("/usr/lib"))])
        .find(|file| file.exists())
        .expect("mosquitto has come with mosquitto_dynamic_security.so")
}

#[test]
fn c11_a_subscription_that_is_refused_or_granted_less_ends_the_start_with_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let rights = folder.path().join("rights.json");
    let text = r#"{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true,
        "subscribe": false, "unsubscribe": true}}"#;
    std::fs::write(&rights, text).unwrap();
    let guarded = Mosquitto::with()
        .line(&format!("plugin {}", security_plugin().display()))
        .line(&format!("plugin_opt_config_file {}", rights.display()))
        .start();
    let humble = Mosquitto::with().most_qos(0).start();
    for version in VERSIONS {
        for (mosquitto, words) in [
            (&guarded, "refuses the subscription to `in`"),
            (&humble, "grants QoS 0 for `in`, and 1 is asked for"),
        ] {
            let test = flow(&mosquitto.address(), &format!("version: {version}"));
            let ended = test.spawn(["run", "flow.yaml"]).wait(SOON);
            ended.assert_code(1);
            assert!(ended.stderr.contains(words), "{version}: {}", ended.stderr);
        }
    }
    // With what the broker does grant it runs.
    let test = flow(&humble.address(), "qos: 0");
    end(begin(&test, &humble));
}

/// What a process holds in memory, in bytes.
fn resident(process: u32) -> u64 {
    let status =
        std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"));
    let status = status.unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kibibytes.parse::<u64>().unwrap() << 10
}

#[test]
fn c12_a_slow_sink_leaves_with_the_broker_what_is_beyond_the_window() {
    const MESSAGES: u64 = 3_000;
    const WINDOW: usize = 2048;
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    // It takes connections and never answers.
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let test = tool();
    test.file(
        "flow.yaml",
        &format!(
            "name: flow
pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{}\", topic: in}}}}
    stages:
      - send: {{http_post: {{url: \"http://{}\"}}}}
",
            mosquitto.address(),
            sink.local_addr().unwrap()
        ),
    );
    let running = begin(&test, &mosquitto);
    let before = resident(running.id());
    let payload = serde_json::to_string(&Value::from("x".repeat(2 << 10))).unwrap();
    let payloads = (0..MESSAGES).map(|_| payload.as_bytes());
    mosquitto.client().publish_all("in", payloads, 1).unwrap();
    let sent = || mosquitto.log().matches("Sending PUBLISH to flow-").count();
    wait_until(SOON, || sent() == WINDOW);
    // A client that waits for another one's message to come and go: the broker has done all it would.
    mosquitto.publish("elsewhere", "x", 1);
    assert_eq!(sent(), WINDOW);
    let more = resident(running.id()).saturating_sub(before);
    // The window of 4 MiB, its copies on the way, and the allocator's share.
    assert!(more < 24 << 20, "{more} bytes more for {MESSAGES} messages");
    let connections = mosquitto.log().matches(" as flow-numbers-").count();
    assert_eq!(connections, 1, "{}", running.stderr());
    running.signal(Signal::Kill);
    running.wait(SOON);
}
