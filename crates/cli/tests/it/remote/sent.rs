//! Stages that send from elsewhere, and pipelines whose stages have processes of their own.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wiredflow_testkit::{HttpPeer, Mosquitto, Reply, Signal, Sshd, wait_until, written_rows};

use super::broken::children_of;
use super::{A_WHILE, both, numbers, stored};
use crate::{SOON, tool};

const LOGIC: &str = r#"
import urllib.request

def sends(relevant_info=None, url=None, **params):
    body = str(relevant_info[0]["n"]).encode()
    urllib.request.urlopen(urllib.request.Request(url, data=body, method="POST")).read()
"#;

#[test]
fn what_is_sent_from_elsewhere_is_sent_as_from_here() {
    let (sshd, broker, peer) = (Sshd::start(), Mosquitto::start(), HttpPeer::start());
    let topics = ["from/local", "from/own", "from/big"];
    let messages = broker.subscribe(&topics);
    for place in ["local", "own", "big"] {
        let test = tool();
        test.file("logic.py", LOGIC);
        for path in ["posted", "by_hand"] {
            peer.on(&format!("/{place}/{path}"), Reply::code(200));
        }
        let remotes = both(&sshd, &test.path("marks"));
        let text = format!(
            r#"
name: t
listen: off
remotes:
{remotes}
pipelines:
  p:
    once: true
    stages:
      - core_logic: {{sql: "select n, case when n <> 1 then 'text ' || n end as text from ({})"}}
      - send: {{mqtt: {{broker: "{}", topic: from/{place}}}, field: text}}
        remote: {place}
      - send: {{http_post: {{url: "{}"}}}}
        name: posts
        remote: {place}
      - send: {{python: "logic.py:sends", params: {{url: "{}"}}}}
        name: by_hand
        remote: {place}
        batch: {{max: 1, within: 1s}}
      - store: {{jsonl: {{folder: data}}}}
"#,
            numbers(3),
            broker.address(),
            peer.url(&format!("/{place}/posted")),
            peer.url(&format!("/{place}/by_hand")),
        );
        test.file("flow.yaml", &text);
        let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
        ran.assert_code(0);
        // The misspelt field of one record is told as it is here.
        assert!(
            ran.stderr.contains("a record has no `text` to send"),
            "{place}: {}",
            ran.stderr
        );
        assert_eq!(stored(&test).len(), 3, "{place}");
        assert!(!test.path("client_ids").exists(), "nothing lies about");
        let posted = peer.requests_to(&format!("/{place}/posted"));
        let posted: Vec<Value> = posted
            .iter()
            .map(|request| request.json()["n"].clone())
            .collect();
        assert_eq!(posted, [0, 1, 2], "{place}");
        assert_eq!(peer.requests_to(&format!("/{place}/by_hand")).len(), 3);
    }
    let mut of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in messages.wait_for(6, SOON) {
        let texts = of.entry(message.topic.clone()).or_default();
        texts.push(message.text().to_owned());
    }
    for topic in topics {
        assert_eq!(of[topic], ["text 0", "text 2"], "{topic}");
    }
}

#[test]
fn what_an_outbox_sends_again_from_elsewhere_has_the_same_key() {
    let (sshd, peer) = (Sshd::start(), HttpPeer::start());
    let test = tool();
    peer.on_each("/in", [Reply::code(503), Reply::code(200)]);
    let remotes = both(&sshd, &test.path("marks"));
    let text = format!(
        "name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n  p:\n    every: 1h\n    stages:\n      \
         - core_logic: {{sql: \"{}\"}}\n      \
         - send: {{http_post: {{url: \"{}\"}}, required: false}}\n        remote: big\n        retry: {{attempts: 5, backoff: 10ms}}\n",
        numbers(1),
        peer.url("/in")
    );
    test.file("flow.yaml", &text);
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(A_WHILE, || peer.requests_to("/in").len() >= 2);
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    let requests = peer.requests_to("/in");
    let keys: Vec<_> = requests
        .iter()
        .map(|request| request.header("idempotency-key").expect("a key").to_owned())
        .collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(keys[0], keys[1]);
}

/// A pipeline of stages of all sorts, isolated or not.
fn isolated(isolation: &str, url: &str, more: &str) -> String {
    format!(
        r#"
name: t
listen: off
pipelines:
  p:
    once: true
    isolation: {isolation}
    stages:
      - core_logic: {{sql: "{}"}}
        name: makes
      - core_logic: {{python: "logic.py:same"}}
        name: same
      - core_logic: {{sql: "select n, 2 * n as twice from input"}}
        name: doubles
      - send: {{http_post: {{url: "{url}"}}}}
        name: posts
      - set: {{by: flow}}
        name: sets
      - store: {{jsonl: {{folder: data}}}}
{more}"#,
        numbers(3)
    )
}

const SAME: &str = "def same(relevant_info=None, **params):\n    return relevant_info\n";

#[test]
fn a_pipeline_in_processes_of_its_own_gives_the_same() {
    let peer = HttpPeer::start();
    let mut all = Vec::new();
    for isolation in ["task", "process"] {
        let test = tool();
        test.file("logic.py", SAME);
        peer.on("/in", Reply::code(200));
        test.file("flow.yaml", &isolated(isolation, &peer.url("/in"), ""));
        let ran = test
            .spawn(["profile", "flow.yaml", "--for", "30s", "--json"])
            .wait(A_WHILE);
        let profile = ran.assert_code(0).json();
        let places: BTreeMap<String, String> = profile["stages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|stage| {
                let text = |key: &str| stage[key].as_str().unwrap().to_owned();
                (text("stage"), text("where"))
            })
            .collect();
        let elsewhere: Vec<&str> = places
            .iter()
            .filter(|(_, place)| *place == "process")
            .map(|(stage, _)| stage.as_str())
            .collect();
        match isolation {
            "task" => assert!(elsewhere.is_empty(), "{places:?}"),
            // Python has a process anyway; what only moves records does no harm.
            _ => assert_eq!(elsewhere, ["doubles", "makes", "posts"], "{places:?}"),
        }
        all.push(stored(&test));
    }
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0][2], json!({"n": 2, "twice": 4, "by": "flow"}));
    assert_eq!(peer.requests_to("/in").len(), 6);
}

#[test]
fn killing_the_processes_of_one_pipeline_harms_no_other() {
    let peer = HttpPeer::start();
    peer.on("/in", Reply::never());
    let test = tool();
    test.file("logic.py", SAME);
    let other = r#"
  other:
    every: 50ms
    stages:
      - core_logic: {sql: "select 1 as one"}
      - store: {jsonl: {folder: data}}
"#;
    test.file("flow.yaml", &isolated("process", &peer.url("/in"), other));
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(A_WHILE, || !peer.requests_to("/in").is_empty());
    let others = || written_rows(&test.path("data/jsonl_in_other.jsonl")).len();
    let (before, first) = (others(), children_of(running.id(), "t/p/posts"));
    assert_eq!(first.len(), 1);
    peer.on("/in", Reply::code(200));
    let killed = std::process::Command::new("kill")
        .args(["-9", &first[0].to_string()])
        .status();
    assert!(killed.unwrap().success());
    wait_until(A_WHILE, || {
        stored(&test).len() == 3 && others() > before + 5
    });
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
}
