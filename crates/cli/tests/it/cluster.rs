//! A flow on several nodes, by a real NATS server, through kills of nodes and of the server.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wiredflow_testkit::{
    Chance, FlowTest, Mosquitto, Nats, NatsVersion, Postgres, Publisher, Running, Signal, tell,
    wait_until,
};

use crate::{SOON, tool};

/// The longest that a flow may take to run elsewhere when its node has gone: a lease, and some seconds to see it and to
/// start. The machine may be busy.
const FAILOVER: Duration = Duration::from_secs(40);

const FLOW: &str = r#"
name: plant
pipelines:
  collect:
    source: {mqtt: {broker: "${env:BROKER}", topic: numbers, client_id: collect}}
    stages:
      - core_logic: {python: "logic.py:same"}
      - link: rows
  keep:
    source: {link: rows}
    stages:
      - store: {postgres: {url: "${env:PG}", table: rows}, key: n}
  tick:
    every: 1s
    stages:
      - core_logic: {python: "logic.py:tick"}
      - store: {postgres: {url: "${env:PG}", table: ticks}}
"#;

const LOGIC: &str = "
def same(relevant_info=None, **p):
    return relevant_info

def tick(**p):
    return {'one': 1}
";

struct Plant {
    test: FlowTest,
    url: String,
}

impl Plant {
    fn new(nats: &Nats, broker: &Mosquitto, server: &Postgres) -> Self {
        let test = tool()
            .env("BROKER", &broker.address())
            .env("PG", &server.url());
        test.file("flow.yaml", FLOW);
        test.file("logic.py", LOGIC);
        let url = nats.url();
        Self { test, url }
    }

    fn node(&self, name: &str) -> Running {
        let state = format!("nodes/{name}");
        let node = [
            "node", "--engine", &self.url, "--name", name, "--state", &state,
        ];
        self.test.spawn(node)
    }

    fn status(&self) -> Value {
        let status = self
            .test
            .run(["status", "plant", "--engine", &self.url, "--json"]);
        serde_json::from_str(&status.stdout).unwrap_or_default()
    }

    /// The node that has a part which is open.
    fn node_of(&self, part: &str) -> Option<String> {
        let status = self.status();
        let parts = status["parts"].as_array()?;
        let part = parts.iter().find(|one| one["part"] == part)?;
        let is_open = part["state"] == "open";
        is_open.then(|| part["node"].as_str().unwrap_or_default().to_owned())
    }
}

fn nats() -> Nats {
    let program = NatsVersion::Debian.program(std::path::Path::new("/nowhere"));
    Nats::start(&program.unwrap())
}

#[test]
fn g1_g4_g16_a_flow_outlives_its_client_its_nodes_and_a_time_without_its_engine() {
    let (nats, broker, server) = (
        nats(),
        Mosquitto::with().max_queued_messages(0).start(),
        Postgres::start(),
    );
    let mut nats = nats;
    broker.hold_session("collect", "numbers");
    let plant = Plant::new(&nats, &broker, &server);
    let mut nodes: Vec<(String, Running)> = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push((name.to_owned(), plant.node(name)));
    }
    let deployed = plant
        .test
        .run(["run", "flow.yaml", "--engine", &plant.url, "--json"]);
    deployed.assert_code(0);
    assert_eq!(deployed.json()["ok"], json!(true));
    let publisher = Publisher::start(broker.port(), "numbers", Chance::new());
    let stored = || {
        server
            .ask("SELECT count(*) FROM rows")
            .parse::<u64>()
            .unwrap_or_default()
    };
    wait_until(SOON, || server.ask("SELECT to_regclass('rows')") == "rows");
    wait_until(SOON, || stored() > 20);

    // The node that collects is killed, and the one that keeps what it hands over.
    for part in ["collect", "keep"] {
        wait_until(FAILOVER, || plant.node_of(part).is_some());
        let node = plant.node_of(part).unwrap();
        let index = nodes.iter().position(|(name, _)| *name == node).unwrap();
        let (name, killed) = nodes.remove(index);
        killed.signal(Signal::Kill);
        killed.wait(SOON).assert_code(137);
        let before = (stored(), Instant::now());
        wait_until(FAILOVER, || stored() > before.0 + 20);
        tell(&format!(
            "runs elsewhere after {:.1} s",
            before.1.elapsed().as_secs_f64()
        ));
        nodes.push((name.clone(), plant.node(&name)));
    }

    // The engine is killed; nodes end their parts, and start them again when it is back.
    nats.kill9();
    thread::sleep(Duration::from_secs(9));
    nats.start_again();
    let before = (stored(), Instant::now());
    let runs = || stored() > before.0 + 20;
    let begun = Instant::now();
    while !runs() && begun.elapsed() < 2 * FAILOVER {
        thread::sleep(Duration::from_millis(200));
    }
    let logs = || {
        nodes
            .iter()
            .map(|(name, node)| format!("{name}: {}", node.stderr()))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(runs(), "{:#}\n{}", plant.status(), logs());
    tell(&format!(
        "runs again after {:.1} s",
        before.1.elapsed().as_secs_f64()
    ));

    let ledger = publisher.end();
    let last = *ledger.acked.last().unwrap();
    wait_until(SOON, || {
        server.ask(&format!("SELECT count(*) FROM rows WHERE n = {last}")) == "1"
    });
    let rows = server.ask("SELECT n FROM rows ORDER BY n");
    let rows: Vec<u64> = rows.lines().map(|row| row.parse().unwrap()).collect();
    let lost = ledger
        .acked
        .iter()
        .filter(|n| rows.binary_search(n).is_err());
    assert_eq!(lost.count(), 0);
    tell(&format!(
        "{} messages, 0 lost, 0 keyed duplicates",
        ledger.acked.len()
    ));

    let stopped = plant.test.run(["stop", "plant", "--engine", &plant.url]);
    stopped.assert_code(0);
    assert_eq!(stopped.stdout, "plant is stopped\n");
    for (name, node) in nodes {
        node.signal(Signal::Term);
        let ended = node.wait(SOON);
        ended.assert_code(0);
        assert!(
            !ended.stderr.contains("panicked"),
            "{name}: {}",
            ended.stderr
        );
    }
}

#[test]
fn what_is_wrong_with_a_deployment_is_said() {
    let nats = nats();
    let test = tool();
    test.file(
        "flow.yaml",
        "pipelines: {p: {once: true, stages: [{core_logic: {program: [\"true\"]}}]}}",
    );
    let url = nats.url();
    let alone = test.run(["run", "flow.yaml", "--engine", &url]);
    alone.assert_code(1);
    assert!(
        alone.stdout.contains("no node has joined"),
        "{}",
        alone.stdout
    );

    let state = "nodes/one";
    let narrow = [
        "node",
        "--engine",
        &url,
        "--name",
        "one",
        "--state",
        state,
        "--allow",
        "python,sql",
    ];
    let node = test.spawn(narrow);
    wait_until(SOON, || {
        test.run(["status", "flow", "--engine", &url])
            .stdout
            .contains("runs no `program`")
    });
    let refused = test.run(["status", "--engine", &url, "--json"]).json();
    assert_eq!(refused["nodes"][0]["node"], "one");
    assert_eq!(refused["flows"][0]["wanted"], "stopped");

    for (line, message) in [
        ("stop flow", "`--engine URL` is missing"),
        (
            "run flow.yaml --once --engine",
            "`--once` goes with a run on this machine",
        ),
        (
            "stop other --engine",
            "no flow `other` is deployed: did you mean",
        ),
        ("status other --engine", "no flow `other` is deployed"),
        (
            "node --allow pyton --state nodes/two --engine",
            "did you mean `python`",
        ),
    ] {
        let mut words: Vec<&str> = line.split(' ').collect();
        if line.ends_with("--engine") {
            words.push(&url);
        }
        let told = test.run(words);
        told.assert_code(2);
        let expected = message.replace("did you mean", "");
        assert!(
            told.stderr.contains(expected.trim_end()),
            "{line}: {}",
            told.stderr
        );
    }
    let away = test.run(["status", "--engine", "nats://127.0.0.1:1"]);
    away.assert_code(1);
    assert!(away.stderr.contains("the engine: "), "{}", away.stderr);
    let open = test.run(["status", "--engine", "nats://192.0.2.1:4222"]);
    assert!(open.stderr.contains("in the clear"), "{}", open.stderr);
    node.signal(Signal::Term);
    node.wait(SOON).assert_code(0);
}
