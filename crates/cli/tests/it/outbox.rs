//! What senders have taken on and peers have not confirmed, over kills of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::json;
use wiredflow_testkit::{
    Chance, FlowTest, HttpPeer, Mosquitto, Publisher, Reply, Request, Running, Signal, tell,
    wait_until, waiting_in_outboxes,
};

use crate::gate::{Gate, PUBACK};
use crate::numbers::{begin, end, make_known};
use crate::{SOON, tool};

const KEY: &str = "idempotency-key";

/// A flow that sends what comes to `in` to a peer by HTTP.
fn to_peer(broker: &str, peer: &HttpPeer) -> FlowTest {
    let test = tool();
    let url = peer.url("/");
    test.file(
        "flow.yaml",
        &format!(
            "name: flow
pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{broker}\", topic: in}}}}
    stages: [{{send: {{http_post: \"{url}\"}}}}]
"
        ),
    );
    test
}

fn kill(running: Running) {
    running.signal(Signal::Kill);
    running.wait(SOON);
}

fn waiting(test: &FlowTest) -> u64 {
    waiting_in_outboxes(&test.path(".wiredflow/state.db"))
}

fn key(request: &Request) -> String {
    request.header(KEY).unwrap().to_owned()
}

#[test]
fn a3_what_the_peer_has_and_the_source_was_not_told_of_at_a_kill_is_sent_once() {
    let (mosquitto, peer) = (Mosquitto::start(), HttpPeer::start());
    peer.on("/", Reply::code(204));
    let gate = Gate::start(mosquitto.port());
    let test = to_peer(&gate.address(), &peer);
    let running = begin(&test, &mosquitto);
    make_known(&test, &mosquitto, "{\"n\":-1}", 1);
    let before = peer.requests_to("/").len();
    gate.hold_back(PUBACK);
    mosquitto.publish("in", "{\"n\":1}", 1);
    wait_until(SOON, || gate.held_back() > 0);
    peer.wait_for("/", before + 1, SOON);
    wait_until(SOON, || waiting(&test) == 0);
    kill(running);
    gate.let_through();
    let running = begin(&test, &mosquitto);
    // One of the same content is another message.
    mosquitto.publish("in", "{\"n\":1}", 1);
    mosquitto.publish("in", "{\"n\":2}", 1);
    let requests = peer.wait_for("/", before + 3, SOON);
    end(running);
    assert_eq!(peer.requests_to("/").len(), before + 3);
    let bodies: Vec<&str> = requests[before..].iter().map(Request::text).collect();
    assert_eq!(bodies, ["{\"n\":1}", "{\"n\":1}", "{\"n\":2}"]);
    let keys: BTreeSet<String> = requests.iter().map(key).collect();
    assert_eq!(keys.len(), requests.len());
    assert!(
        keys.iter().all(|key| key.starts_with("numbers/send/")),
        "{keys:?}"
    );
}

#[test]
fn a1_a_polled_value_that_was_not_sent_at_a_kill_is_sent_after_the_restart_under_the_same_key() {
    let peer = HttpPeer::start();
    peer.on_each(
        "/values",
        [Reply::json(json!({"v": 1})), Reply::json(json!({"v": 2}))],
    );
    peer.on("/", Reply::code(503));
    let test = tool();
    let text = format!(
        "name: flow
pipelines:
  numbers:
    once: true
    stages:
      - http: \"{}\"
      - send: {{http_put: \"{}\"}}
        retry: {{backoff: 20ms, max: 50ms}}
",
        peer.url("/values"),
        peer.url("/"),
    );
    test.file("flow.yaml", &text);
    let running = test.spawn(["run", "flow.yaml"]);
    peer.wait_for("/", 3, SOON);
    kill(running);
    let tried = peer.requests_to("/");
    assert_eq!(waiting(&test), 1);
    peer.on("/", Reply::code(204));
    test.run(["run", "flow.yaml"]).assert_code(0);
    let all = peer.requests_to("/");
    let bodies: Vec<&str> = all[tried.len()..].iter().map(Request::text).collect();
    assert_eq!(bodies, ["{\"v\":1}", "{\"v\":2}"]);
    let keys: Vec<String> = all.iter().map(key).collect();
    assert!(
        keys[..all.len() - 1].iter().all(|key| *key == keys[0]),
        "{keys:?}"
    );
    assert_ne!(keys[all.len() - 1], keys[0]);
    assert_eq!(waiting(&test), 0);
}

#[test]
fn a1_a3_kills_at_any_moment_send_each_message_and_only_what_was_in_flight_again() {
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    let peer = HttpPeer::start();
    peer.on("/", Reply::code(204));
    let test = to_peer(&mosquitto.address(), &peer);
    let running = begin(&test, &mosquitto);
    make_known(&test, &mosquitto, "{\"n\":-1}", 1);
    kill(running);
    let mut chance = Chance::new();
    let publisher = Publisher::start(mosquitto.port(), "in", chance.clone());
    let kills = 8;
    let mut most_again = 0;
    for _ in 0..kills {
        let running = begin(&test, &mosquitto);
        thread::sleep(Duration::from_millis(chance.below(600) as u64));
        kill(running);
        // What the peer may have got and the disk does not know of.
        most_again += waiting(&test);
    }
    let ledger = publisher.end();
    let last = format!("{{\"n\":{}}}", ledger.acked.last().unwrap());
    let running = begin(&test, &mosquitto);
    wait_until(6 * SOON, || {
        peer.requests_to("/")
            .iter()
            .any(|request| request.text() == last)
    });
    end(running);
    let mut requests = peer.requests_to("/");
    requests.retain(|request| request.text() != "{\"n\":-1}");
    let mut keys: BTreeMap<String, &str> = BTreeMap::new();
    for request in &requests {
        let body = keys.entry(key(request)).or_insert(request.text());
        assert_eq!(*body, request.text(), "a key is one message's");
    }
    let sent: BTreeSet<&str> = keys.values().copied().collect();
    for number in &ledger.acked {
        assert!(
            sent.contains(&*format!("{{\"n\":{number}}}")),
            "{number} is lost"
        );
    }
    let mut of_message: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, body) in &keys {
        of_message.entry(body).or_default().push(key);
    }
    of_message.retain(|_, keys| keys.len() > 1);
    assert!(
        of_message.is_empty(),
        "a message has one key: {of_message:?}"
    );
    let again = requests.len() - keys.len();
    tell(&format!(
        "{kills} kills, {} messages, {again} sent again",
        sent.len()
    ));
    assert!(
        again as u64 <= most_again,
        "{again} sent again, {most_again} in flight"
    );
}

#[test]
fn a_message_by_mqtt_5_says_what_it_is_known_by() {
    let (mosquitto, peer) = (Mosquitto::start(), HttpPeer::start());
    peer.on("/values", Reply::json(json!([{"v": 1}, {"v": 2}])));
    let mut subscriber = Command::new("mosquitto_sub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &mosquitto.port().to_string(),
            "-V",
            "5",
        ])
        .args(["-t", "out", "-C", "2", "-W", "60", "-F", "%P %p"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    mosquitto.wait_for_log("Sending SUBACK", SOON);
    let test = tool();
    let text = format!(
        "name: flow
pipelines:
  numbers:
    once: true
    stages:
      - http: \"{}\"
      - name: out
        send: {{mqtt: {{broker: \"{}\", topic: out}}}}
",
        peer.url("/values"),
        mosquitto.address(),
    );
    test.file("flow.yaml", &text);
    test.run(["run", "flow.yaml"]).assert_code(0);
    let mut told = String::new();
    std::io::Read::read_to_string(&mut subscriber.stdout.take().unwrap(), &mut told).unwrap();
    subscriber.wait().unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    for (line, body) in lines.iter().zip(["{\"v\":1}", "{\"v\":2}"]) {
        assert!(
            line.starts_with("msg-id:numbers/out/") && line.ends_with(body),
            "{told}"
        );
    }
}

#[test]
fn a_header_of_the_user_stays_and_records_of_a_stage_that_is_gone_are_told_of() {
    let peer = HttpPeer::start();
    peer.on("/values", Reply::json(json!({"v": 1})));
    peer.on("/", Reply::code(503));
    let test = tool();
    let flow = |stage: &str| {
        let text = format!(
            "name: flow
pipelines:
  numbers:
    once: true
    stages:
      - http: \"{}\"
      - name: {stage}
        send: {{http_post: {{url: \"{}\", headers: {{Idempotency-Key: mine}}}}}}
        retry: {{backoff: 20ms, max: 50ms}}
",
            peer.url("/values"),
            peer.url("/"),
        );
        test.file("flow.yaml", &text);
    };
    flow("old");
    let running = test.spawn(["run", "flow.yaml"]);
    assert_eq!(key(&peer.wait_for("/", 1, SOON)[0]), "mine");
    kill(running);
    peer.on("/", Reply::code(204));
    flow("new");
    let run = test.run(["run", "flow.yaml"]);
    run.assert_code(0);
    assert!(
        run.stderr
            .contains("records wait in the outbox of a stage that is not in the flow"),
        "{run:?}"
    );
    assert_eq!(waiting(&test), 1);
    flow("old");
    test.run(["run", "flow.yaml"]).assert_code(0);
    assert_eq!(waiting(&test), 0);
}
