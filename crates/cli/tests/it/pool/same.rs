//! What a pool does where nothing breaks: the same as at home.

use serde_json::{Value, json};
use wiredflow_testkit::{HttpPeer, Reply, Signal, wait_until, written_rows};

use super::{Node, begun, flow, run_once, server};
use crate::SOON;
use crate::remote::{A_WHILE, check_each_once, numbers, through};

#[test]
fn a_stage_gives_the_same_at_a_pool() {
    let server = server();
    let node = Node::start(&server.url(), &["--slots", "4"]);
    let peer = HttpPeer::start();
    peer.on("/numbers", Reply::json(json!([{"n": 7}, {"n": 8}])));
    let pipelines = format!(
        r#"
  fill:
    once: true
    stages:
      - core_logic: {{sql: "{}"}}
      - store: numbers
  made:
    once: true
    stages:
      - configuration: {{python: "logic.py:configure"}}
        remote: PLACE
      - core_logic: {{python: "logic.py:work"}}
        remote: PLACE
      - store: {{jsonl: {{folder: data}}}}
  summed:
    once: true
    stages:
      - core_logic: {{sql: "select sum(n) as sum, count(*) as count from numbers where n > :least", params: {{least: 0}}}}
        remote: PLACE
      - store: {{jsonl: {{folder: data}}}}
  asked:
    once: true
    stages:
      - http: {{url: "{}"}}
        remote: PLACE
      - core_logic: {{program: [sh, -c, "cat; echo said >&2"]}}
        remote: PLACE
        name: piped
      - store: {{jsonl: {{folder: data}}}}
  bad:
    once: true
    stages:
      - core_logic: {{python: "logic.py:fails"}}
        remote: PLACE
        on_error: dead_letter
      - store: {{jsonl: {{folder: data}}}}
"#,
        numbers(3),
        peer.url("/numbers")
    );
    let mut all = Vec::new();
    for place in ["local", "pool"] {
        let test = flow(&server.url(), "", &pipelines.replace("PLACE", place));
        let filled = test.spawn(["run", "flow.yaml", "--once", "--pipeline", "fill"]);
        filled.wait(A_WHILE).assert_code(0);
        let rest = ["made", "summed", "asked", "bad"].map(|name| ["--pipeline", name]);
        let rest = ["run", "flow.yaml", "--once"]
            .into_iter()
            .chain(rest.into_iter().flatten());
        let ran = test.spawn(rest).wait(A_WHILE);
        ran.assert_code(0);
        for line in [
            "made/core_logic at work with 2",
            "made/core_logic at work with 3",
            "asked/piped said",
        ] {
            assert!(ran.stderr.contains(line), "{place}: {line}\n{}", ran.stderr);
        }
        let rows = |name: &str| written_rows(&test.path(format!("data/jsonl_in_{name}.jsonl")));
        let rows: Vec<Vec<Value>> = ["made", "summed", "asked"].map(rows).into();
        let letters = test
            .run(["dead-letters", "list", "flow.yaml", "--json"])
            .json();
        let letter = &letters["dead_letters"][0];
        let id = letter["id"].as_str().unwrap();
        let shown = test.run(["dead-letters", "show", "flow.yaml", id, "--json"]);
        assert!(
            shown.assert_code(0).stdout.contains("raise ValueError"),
            "{place}"
        );
        all.push((rows, letter["reason"].clone(), letter["stage"].clone()));
    }
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0].0[0].len(), 8);
    node.runs.signal(Signal::Term);
    let Node { runs, .. } = node;
    runs.wait(SOON).assert_code(0);
}

#[test]
fn calls_are_shared_by_nodes_and_what_they_save_is_the_flows() {
    let server = server();
    let nodes = [1, 2].map(|_| Node::start(&server.url(), &["--slots", "2", "--label", "gpu"]));
    let pipelines = through("saves", 40, "        parallel: 4");
    let test = flow(&server.url(), ", labels: [gpu], slots: 4", &pipelines);
    run_once(&test).assert_code(0);
    check_each_once(&test, 40);
    let mut saved: Vec<u64> = written_rows(&test.path("data/jsonl_in_saved.jsonl"))
        .iter()
        .map(|row| row["n"].as_u64().unwrap())
        .collect();
    saved.sort_unstable();
    assert_eq!(saved, (0..40).collect::<Vec<_>>());
    // Both have worked: each has the flow's code, and processes that wait for more.
    for node in &nodes {
        assert!(
            node.test
                .path("cache/wiredflow/code")
                .read_dir()
                .unwrap()
                .count()
                == 1
        );
        assert!(!node.processes().is_empty());
    }
}

#[test]
fn remotes_test_tells_of_a_pool() {
    let server = server();
    let test = flow(&server.url(), ", labels: [gpu]", &through("counts", 1, ""));
    let alone = test.run(["remotes", "test", "flow.yaml", "--json"]);
    let error = alone.assert_code(1).json()["remotes"][0]["error"].to_string();
    for part in ["nats-server 2.9.10", "there is no node", "--label gpu"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let _other = Node::start(&server.url(), &["--name", "plain"]);
    let other = test.run(["remotes", "test", "flow.yaml"]);
    other.assert_code(1);
    assert!(
        other.stdout.contains("`plain` has no label `gpu`"),
        "{}",
        other.stdout
    );
    let _node = Node::start(
        &server.url(),
        &["--name", "right", "--label", "gpu", "--label", "x"],
    );
    let shown = test.run(["remotes", "test", "flow.yaml", "--json"]);
    let remote = &shown.assert_code(0).json()["remotes"][0];
    assert!(
        remote["round_trip_ms"]["p50"].as_f64().unwrap() > 0.0,
        "{remote}"
    );
    let said = remote["said"].to_string();
    assert!(said.contains("node `right` with gpu, x: 0 of"), "{said}");
}

#[test]
fn the_end_of_a_flow_ends_what_runs_for_it() {
    let server = server();
    let node = Node::start(&server.url(), &[]);
    let test = flow(&server.url(), "", &through("sleeps", 1, ""));
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(A_WHILE, || begun(&test) == 1);
    let process: u32 = test.read("marks").trim().parse().unwrap();
    running.signal(Signal::Term);
    running.wait(A_WHILE);
    let works = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z"))
    };
    wait_until(SOON, || !works());
    wait_until(SOON, || node.processes().is_empty());
}

#[test]
fn a_node_that_is_told_to_end_finishes_its_calls() {
    let server = server();
    let first = Node::start(&server.url(), &["--slots", "1"]);
    let test = flow(&server.url(), "", &through("slow", 2, ""));
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    wait_until(A_WHILE, || begun(&test) == 1);
    first.runs.signal(Signal::Term);
    let Node {
        runs,
        test: _folder,
    } = first;
    let ended = runs.wait(SOON);
    ended.assert_code(0);
    assert!(
        ended.stderr.contains("ends when 1 calls are done"),
        "{}",
        ended.stderr
    );
    let _second = Node::start(&server.url(), &["--slots", "1"]);
    running.wait(A_WHILE).assert_code(0);
    check_each_once(&test, 2);
}
