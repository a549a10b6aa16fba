//! Connections that break, and processes that are killed, at either end.

use std::time::{Duration, Instant};

use wiredflow_testkit::{Chance, FlowTest, Running, Signal, Sshd, wait_until};

use super::{A_WHILE, LOGIC, both, check_each_once, stored, through};
use crate::{SOON, tool};

fn start(sshd: &Sshd, count: usize, options: &str) -> (FlowTest, Running) {
    let test = tool();
    test.file("logic.py", LOGIC);
    let remotes = both(sshd, &test.path("marks"));
    let pipelines = through("counts", count, options).replace("PLACE", "big");
    test.file(
        "flow.yaml",
        &format!("name: t\nlisten: off\nremotes:\n{remotes}\npipelines:\n{pipelines}"),
    );
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    (test, running)
}

#[test]
fn g19_connections_that_break_anywhere_neither_lose_nor_double_a_call() {
    cut_at_random(200);
}

#[test]
fn g19_a_thousand_calls_come_through_connections_that_break_anywhere() {
    if !wiredflow_testkit::thorough() {
        let case = "a thousand calls over connections that are cut";
        return wiredflow_testkit::skipped(case, "it is one of `scripts/test --all`");
    }
    cut_at_random(1000);
}

fn cut_at_random(calls: usize) {
    let sshd = Sshd::start();
    let (test, mut running) = start(&sshd, calls, "        parallel: 2");
    let mut chance = Chance::new();
    running.wait_until(A_WHILE, || !stored(&test).is_empty());
    let mut cuts = 0;
    while !running.has_ended() && stored(&test).len() < calls - 10 {
        // The first one at once: all calls may be over before a later one.
        sshd.cut();
        cuts += 1;
        std::thread::sleep(Duration::from_millis(chance.below(3000) as u64));
        assert!(cuts < calls, "no call comes through");
    }
    running.wait(A_WHILE).assert_code(0);
    check_each_once(&test, calls);
    assert!(
        cuts > 0 && sshd.connections() > 1,
        "{cuts} {}",
        sshd.connections()
    );
}

#[test]
fn a_pulled_cable_is_waited_for() {
    let sshd = Sshd::start();
    let (test, mut running) = start(&sshd, 60, "");
    running.wait_until(A_WHILE, || !stored(&test).is_empty());
    sshd.pull_the_cable();
    // Longer than either side takes for a silence, shorter than the lease.
    std::thread::sleep(Duration::from_secs(14));
    sshd.put_the_cable_in();
    running.wait(A_WHILE).assert_code(0);
    check_each_once(&test, 60);
}

#[test]
fn a_machine_in_another_network_may_be_away_for_longer_than_what_runs_there_lives() {
    let case = "a cable between two networks is pulled for 30 s";
    let sshd = match Sshd::in_a_network_of_its_own() {
        Ok(sshd) => sshd,
        Err(why) => return wiredflow_testkit::skipped(case, &why),
    };
    let (test, mut running) = start(&sshd, 120, "");
    running.wait_until(A_WHILE, || stored(&test).len() > 5);
    sshd.signal("--session", Signal::Kill);
    let had = stored(&test).len();
    running.wait_until(A_WHILE, || stored(&test).len() > had + 5);
    sshd.pull_the_cable();
    std::thread::sleep(Duration::from_secs(30));
    sshd.put_the_cable_in();
    running.wait(Duration::from_secs(120)).assert_code(0);
    let expected: Vec<_> = (0..120)
        .map(|n| serde_json::json!({"n": n, "twice": 2 * n}))
        .collect();
    assert_eq!(stored(&test), expected);
    wait_until(SOON, || sshd.processes("worker").is_empty());
}

#[test]
fn a_worker_that_is_killed_is_started_again_and_its_calls_are_made_again() {
    let sshd = Sshd::start();
    let (test, mut running) = start(&sshd, 100, "");
    running.wait_until(A_WHILE, || stored(&test).len() > 5);
    let (killed, had) = (Instant::now(), stored(&test).len());
    sshd.signal("--session", Signal::Kill);
    running.wait_until(Duration::from_secs(20), || stored(&test).len() > had + 5);
    let took = killed.elapsed();
    let ended = running.wait(A_WHILE);
    ended.assert_code(0);
    let expected: Vec<_> = (0..100)
        .map(|n| serde_json::json!({"n": n, "twice": 2 * n}))
        .collect();
    assert_eq!(stored(&test), expected, "{took:?}");
    assert!(ended.stderr.contains("has gone"), "{}", ended.stderr);
}

#[test]
fn a_flow_that_is_killed_leaves_nothing_behind() {
    let sshd = Sshd::start();
    let (test, mut running) = start(&sshd, 1000, "");
    running.wait_until(A_WHILE, || stored(&test).len() > 2);
    assert!(!sshd.processes("--session").is_empty());
    running.signal(Signal::Kill);
    wait_until(SOON, || {
        sshd.processes("worker").is_empty() && sshd.processes("wiredflow:").is_empty()
    });
}

#[test]
fn a_host_that_goes_away_for_good_is_waited_for_by_the_flow() {
    let mut sshd = Sshd::start();
    let (test, mut running) = start(&sshd, 40, "");
    running.wait_until(A_WHILE, || stored(&test).len() > 2);
    // The machine is started anew: what ran there is gone with its connections.
    sshd.go_away();
    sshd.signal("", Signal::Kill);
    std::thread::sleep(Duration::from_secs(2));
    sshd.come_back();
    running.wait(A_WHILE).assert_code(0);
    let expected: Vec<_> = (0..40)
        .map(|n| serde_json::json!({"n": n, "twice": 2 * n}))
        .collect();
    assert_eq!(stored(&test), expected);
}

#[test]
fn a_killed_carrier_is_replaced_when_what_it_left_there_is_over() {
    let sshd = Sshd::start();
    let (test, mut running) = start(&sshd, 60, "");
    running.wait_until(A_WHILE, || stored(&test).len() > 5);
    let carriers = children_of(running.id(), "--link");
    assert_eq!(carriers.len(), 1, "{carriers:?}");
    let before = sshd.processes("--session");
    std::process::Command::new("kill")
        .args(["-9", &carriers[0].to_string()])
        .status()
        .unwrap();
    let had = stored(&test).len();
    // Never two at once: the next one comes when the first has ended.
    running.wait_until(Duration::from_secs(90), || {
        let now = sshd.processes("--session");
        assert!(now.len() <= 1, "{before:?} {now:?}");
        stored(&test).len() > had + 5
    });
    running.wait(A_WHILE).assert_code(0);
    let expected: Vec<_> = (0..60)
        .map(|n| serde_json::json!({"n": n, "twice": 2 * n}))
        .collect();
    assert_eq!(stored(&test), expected);
}

#[test]
fn a_process_that_is_frozen_is_ended_and_holds_its_calls_no_longer() {
    let test = tool();
    test.file("logic.py", LOGIC);
    let pipelines = through("counts", 150, "        on_error: skip").replace("PLACE", "own");
    test.file(
        "flow.yaml",
        &format!(
            "name: t\nlisten: off\nremotes: {{own: {{process: {{}}}}}}\npipelines:\n{pipelines}"
        ),
    );
    let marks = test.path("marks");
    let test = test.env("MARKS", marks.to_str().unwrap());
    let mut running = test.spawn(["run", "flow.yaml", "--once"]);
    running.wait_until(A_WHILE, || stored(&test).len() > 5);
    let frozen = children_of(running.id(), "--stdio");
    assert_eq!(frozen.len(), 1, "{frozen:?}");
    let stopped = std::process::Command::new("kill")
        .args(["-STOP", &frozen[0].to_string()])
        .status();
    assert!(stopped.unwrap().success());
    let had = stored(&test).len();
    running.wait_until(A_WHILE, || stored(&test).len() > had + 5);
    assert_ne!(children_of(running.id(), "--stdio"), frozen);
    let ended = running.wait(A_WHILE);
    ended.assert_code(0);
    assert!(ended.stderr.contains("no sign of life"), "{}", ended.stderr);
    assert!((149..=150).contains(&stored(&test).len()));
}

/// The processes that a flow has started and whose command says this.
pub(super) fn children_of(flow: u32, word: &str) -> Vec<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{flow}/task/{flow}/children")).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{flow}/task"))
        .unwrap()
        .flatten();
    let all =
        tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let all: Vec<String> = all.chain([children]).collect();
    let mut numbers: Vec<u32> = all
        .iter()
        .flat_map(|text| text.split_whitespace())
        .map(|text| text.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let says_it = |number: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{number}/cmdline")).unwrap_or_default();
        line.contains(word)
    };
    numbers.into_iter().filter(says_it).collect()
}
