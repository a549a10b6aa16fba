//! What breaks: nodes, and the server between.

use std::time::Duration;

use wiredflow_testkit::{FlowTest, Signal, wait_until, written_rows};

use super::{Node, begun, flow, run_once, server};
use crate::SOON;
use crate::remote::{A_WHILE, stored, through};

/// Each number was stored once, in order, and each call was made at least once.
#[track_caller]
fn check_stored_once(test: &FlowTest, count: u64) {
    let numbers: Vec<u64> = stored(test)
        .iter()
        .map(|row| row["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
}

#[test]
fn g1_a_node_that_is_killed_in_the_middle_loses_nothing() {
    let server = server();
    let first = Node::start(&server.url(), &["--slots", "2", "--name", "first"]);
    let pipelines = through("saves", 60, "        parallel: 4");
    let test = flow(&server.url(), "", &pipelines);
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    wait_until(A_WHILE, || begun(&test) >= 10);
    let _second = Node::start(&server.url(), &["--slots", "2", "--name", "second"]);
    assert!(!first.processes().is_empty());
    first.kill9();
    let ended = running.wait(A_WHILE);
    ended.assert_code(0);
    check_stored_once(&test, 60);
    // What was under way was done again, and its rows were saved by one attempt.
    assert!(begun(&test) <= 64, "{}", begun(&test));
    let saved = written_rows(&test.path("data/jsonl_in_saved.jsonl")).len();
    assert!((60..=62).contains(&saved), "{saved}");
    assert!(ended.took < Duration::from_secs(40), "{:?}", ended.took);
}

#[test]
fn g2_a_node_that_is_frozen_is_taken_over_from_and_not_heard_later() {
    let server = server();
    let first = Node::start(&server.url(), &["--slots", "1", "--name", "first"]);
    let test = flow(&server.url(), "", &through("slow", 2, ""));
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    wait_until(A_WHILE, || begun(&test) == 1);
    first.runs.signal(Signal::Stop);
    let _second = Node::start(&server.url(), &["--slots", "1", "--name", "second"]);
    wait_until(A_WHILE, || begun(&test) == 2);
    first.runs.signal(Signal::Continue);
    running.wait(A_WHILE).assert_code(0);
    check_stored_once(&test, 2);
    assert_eq!(begun(&test), 3, "{}", test.read("marks"));
}

#[test]
fn g4_a_server_that_is_away_holds_what_goes_there_and_nothing_else() {
    let mut server = server();
    let _node = Node::start(&server.url(), &["--slots", "2"]);
    let beside = "  beside:\n    every: 200ms\n    stages:\n      - core_logic: {sql: \"select 1 as n\"}\n      - store: {jsonl: {folder: data}}\n";
    let pipelines = format!("{}{beside}", through("saves", 30, "        parallel: 2"));
    let test = flow(&server.url(), "", &pipelines);
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(A_WHILE, || begun(&test) >= 5);
    server.kill9();
    let rows = || written_rows(&test.path("data/jsonl_in_beside.jsonl")).len();
    let (before, there) = (rows(), begun(&test));
    // Longer than anybody waits for a sign of life.
    wait_until(A_WHILE, || rows() >= before + 45);
    let away = begun(&test);
    assert!(away <= there + 2, "{there} {away}");
    server.start_again();
    wait_until(A_WHILE, || stored(&test).len() == 30);
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    check_stored_once(&test, 30);
}

#[test]
fn g5_a_server_that_has_lost_its_store_loses_no_call_and_makes_none_twice() {
    let mut server = server();
    let _node = Node::start(&server.url(), &["--slots", "2"]);
    let pipelines = through("saves", 40, "        parallel: 4");
    let test = flow(&server.url(), "", &pipelines);
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    wait_until(A_WHILE, || begun(&test) >= 8);
    server.kill9();
    server.wipe();
    server.start_again();
    wait_until(A_WHILE, || begun(&test) >= 20);
    server.kill9();
    server.wipe();
    server.start_again();
    running.wait(A_WHILE).assert_code(0);
    check_stored_once(&test, 40);
    let saved = written_rows(&test.path("data/jsonl_in_saved.jsonl")).len();
    assert!(
        saved >= 40 && saved <= begun(&test),
        "{saved} of {}",
        begun(&test)
    );
}

#[test]
fn g9_a_call_that_kills_its_processes_is_set_aside_after_five() {
    let server = server();
    let node = Node::start(&server.url(), &[]);
    let options = "        on_error: dead_letter";
    let test = flow(&server.url(), "", &through("poison", 1, options));
    run_once(&test).assert_code(0);
    assert_eq!(begun(&test), 5);
    let letters = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .json();
    let reason = letters["dead_letters"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("ended 5 workers"), "{reason}");
    // The node itself is well.
    let test = flow(&server.url(), "", &through("counts", 2, ""));
    run_once(&test).assert_code(0);
    check_stored_once(&test, 2);
    drop(node);
}
