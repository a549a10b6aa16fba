//! The remote `slurm` with a cluster that is a script, where answers are lost and jobs come to odd ends.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_testkit::{FlowTest, Reply, Request, Signal, wait_until};

use super::cluster::{Cluster, Lost, States};
use crate::remote::{A_WHILE, numbers, stored};
use crate::tool;

fn nothing_lost(_: &Request, _: usize) -> Option<Reply> {
    None
}

/// Numbers that go through the cluster one by one; `marks` has a line for each call that was worked on.
fn flow(cluster: &Cluster, version: &str, count: usize, options: &str) -> FlowTest {
    let test = tool();
    std::fs::create_dir(test.path("shared")).unwrap();
    test.file(
        "shared/work.py",
        "import json, sys\ncall = json.load(sys.stdin)\nopen('marks', 'a').write('.')\njson.dump([{'made': 3 * row['n']} for row in call['batch']], sys.stdout)\n",
    );
    test.file(
        "flow.yaml",
        &format!(
            "name: t\nlisten: off\nremotes:\n  far: {{slurm: {{url: \"{}\", user: ada, token: \"${{env:TOKEN}}\", command: [python3, work.py], \
             folder: {}, memory: 1GiB, api: {version}, poll: 20ms, queued: 300ms}}}}\npipelines:\n  p:\n    once: true\n    stages:\n      \
             - core_logic: {{sql: \"{}\"}}\n      - core_logic: {{}}\n        name: work\n        remote: far\n        \
             batch: {{max: 1, within: 1s}}\n{options}      - store: {{jsonl: {{folder: data}}}}\n",
            cluster.peer.url("").trim_end_matches('/'),
            test.path("shared").display(),
            numbers(count)
        ),
    );
    test.env("TOKEN", "right")
}

const RETRY: &str = "        retry: {backoff: 20ms, max: 50ms}\n";

fn all_made(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"made": 3 * n})).collect()
}

#[track_caller]
fn only_code_is_left(test: &FlowTest) {
    let left = || {
        let entries = std::fs::read_dir(test.path("shared")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.contains("t__p__"))
            .collect::<Vec<_>>()
    };
    wait_until(Duration::from_secs(10), || left().is_empty());
}

fn reasons(test: &FlowTest) -> Vec<String> {
    let listed = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .json();
    let letters = listed["dead_letters"].as_array().unwrap().clone();
    letters
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap().to_owned())
        .collect()
}

fn worked_on(test: &FlowTest) -> usize {
    let marks = test.path("shared/marks");
    if Path::exists(&marks) {
        test.read("shared/marks").len()
    } else {
        0
    }
}

#[test]
fn both_shapes_of_the_api_are_spoken() {
    const OLD: States = |_, _| &["PENDING", "RUNNING", "COMPLETING", "COMPLETED"];
    const NEW: States = |_, _| {
        &[
            "PENDING",
            "RUNNING CONFIGURING",
            "COMPLETED COMPLETING",
            "COMPLETED",
        ]
    };
    for (version, states, release) in [("v0.0.38", OLD, "22.05.8"), ("v0.0.42", NEW, "24.11.1")] {
        let cluster = Cluster::start(version, states, nothing_lost);
        let test = flow(&cluster, version, 3, RETRY);
        let looked = test.run(["remotes", "test", "flow.yaml"]);
        assert!(
            looked.assert_code(0).stdout.contains(release),
            "{}",
            looked.stdout
        );
        test.spawn(["run", "flow.yaml", "--once"])
            .wait(A_WHILE)
            .assert_code(0);
        assert_eq!(stored(&test), all_made(3));
        let names = cluster.names();
        assert!(
            names.iter().all(|name| name.starts_with("t__p__work__")),
            "{names:?}"
        );
        assert_eq!((names.len(), worked_on(&test)), (3, 3));
        // Nothing was unclear, so that nobody has asked for the jobs of all users.
        assert_eq!(cluster.asked("GET", "/jobs"), 0);
        only_code_is_left(&test);
    }
}

#[test]
fn a_job_whose_answer_was_lost_is_found_and_not_handed_in_again() {
    let lost: Lost = |request, count| {
        let is_submit = request.path.ends_with("/job/submit");
        match (is_submit, count % 2) {
            (true, 0) => Some(Reply::hang_up()),
            (true, _) => Some(Reply::code(503)),
            (false, _) if count % 7 == 0 => Some(Reply::hang_up()),
            _ => None,
        }
    };
    let cluster = Cluster::start("v0.0.38", |_, _| &["RUNNING", "COMPLETED"], lost);
    let test = flow(&cluster, "v0.0.38", 6, RETRY);
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    assert_eq!(stored(&test), all_made(6));
    assert_eq!((cluster.names().len(), worked_on(&test)), (6, 6));
    only_code_is_left(&test);
}

#[test]
fn a_job_without_a_result_is_looked_for_by_its_name() {
    // The answer is lost, and the job is still at work: no result tells that it is there.
    let lost: Lost = |request, _| request.path.ends_with("/job/submit").then(Reply::hang_up);
    let cluster = Cluster::start("v0.0.38", |_, _| &["FAILED"], lost);
    let test = flow(
        &cluster,
        "v0.0.38",
        1,
        &format!("{RETRY}        on_error: dead_letter\n"),
    );
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    assert_eq!(cluster.asked("GET", "/jobs"), 1);
    assert_eq!(cluster.names().len(), 1);
    assert_eq!(
        reasons(&test),
        ["the job 1 has failed: FAILED, exit code 3: no number"]
    );
    only_code_is_left(&test);
}

#[test]
fn a_node_that_fails_costs_another_job_and_what_slurm_forgets_is_taken_by_its_result() {
    let states: States = |number, _| match number {
        1 => &["RUNNING", "NODE_FAIL"],
        2 => &["RUNNING", "gone"],
        _ => &["RUNNING", "COMPLETED"],
    };
    for version in ["v0.0.38", "v0.0.42"] {
        let cluster = Cluster::start(version, states, nothing_lost);
        let test = flow(&cluster, version, 2, RETRY);
        let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
        ran.assert_code(0);
        assert_eq!(stored(&test), all_made(2));
        let names = cluster.names();
        assert_eq!(
            names[1],
            format!("{}.1", names[0]),
            "the same call, another name"
        );
        assert_eq!((names.len(), worked_on(&test)), (3, 2));
        assert!(
            ran.stderr.contains("the job 1 was lost: NODE_FAIL"),
            "{}",
            ran.stderr
        );
        only_code_is_left(&test);
    }
}

#[test]
fn a_job_that_waits_too_long_or_works_too_long_is_cancelled() {
    let states: States = |number, _| match number {
        1 => &["PENDING", "A_STATE_OF_TOMORROW"],
        2 => &["RUNNING"],
        3 => &["refused"],
        _ => &["COMPLETED"],
    };
    let cluster = Cluster::start("v0.0.38", states, nothing_lost);
    let options = "        timeout: 2s\n        retry: {backoff: 20ms, attempts: 1}\n        on_error: dead_letter\n";
    let test = flow(&cluster, "v0.0.38", 3, options);
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    let reasons = reasons(&test);
    let has = |text: &str| reasons.iter().any(|reason| reason.contains(text));
    assert!(
        has("the job 1 has not started within 300ms: it was cancelled"),
        "{reasons:?}"
    );
    assert!(has("2s"), "{reasons:?}");
    assert!(
        has("Slurm cannot answer now: Requested partition configuration not available now"),
        "{reasons:?}"
    );
    let jobs = cluster.jobs.lock().unwrap();
    assert!(
        jobs.len() == 2 && jobs.values().all(|job| job.cancelled),
        "{jobs:?}"
    );
    only_code_is_left(&test);
}

#[test]
fn a_stop_cancels_what_runs() {
    let cluster = Cluster::start("v0.0.38", |_, _| &["RUNNING"], nothing_lost);
    let test = flow(&cluster, "v0.0.38", 1, RETRY);
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(A_WHILE, || !cluster.names().is_empty());
    running.signal(Signal::Term);
    running.stderr_contains("stopping", A_WHILE);
    running.signal(Signal::Term);
    running.wait(A_WHILE);
    assert!(cluster.jobs.lock().unwrap()[&1].cancelled);
    only_code_is_left(&test);
}

#[test]
fn a_cluster_that_is_away_leaves_its_calls_to_the_next_place_and_one_that_has_the_job_does_not() {
    let mut cluster = Cluster::start("v0.0.38", |_, _| &["RUNNING"], nothing_lost);
    let test = flow(&cluster, "v0.0.38", 1, RETRY);
    test.file(
        "logic.py",
        "def here(**params):\n    return {\"here\": 1}\n",
    );
    let text = test
        .read("flow.yaml")
        .replace("remote: far", "remote: [far, local]");
    test.file(
        "flow.yaml",
        &text.replace("core_logic: {}", "core_logic: {python: \"logic.py:here\"}"),
    );
    let mut running = test.spawn(["run", "flow.yaml", "--once"]);
    running.wait_until(A_WHILE, || cluster.asked("GET", "/job/1") > 0);
    cluster.peer.go_away();
    running.stderr_contains("trying again", A_WHILE);
    running.signal(Signal::Kill);
    running.wait(A_WHILE);
    assert!(
        !test.path("data/jsonl_in_p.jsonl").exists(),
        "the job is there, and does it"
    );

    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    assert_eq!(stored(&test), [json!({"here": 1})]);
}

#[test]
fn a_login_that_is_refused_stops_the_flow_where_it_can_be_told() {
    let cluster = Cluster::start("v0.0.42", |_, _| &["COMPLETED"], nothing_lost);
    let test = flow(&cluster, "v0.0.42", 1, RETRY).env("TOKEN", "wrong");
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(1);
    assert!(
        ran.stderr.contains("refused the credentials"),
        "{}",
        ran.stderr
    );

    // With Slurm 22.05 it is the same as a controller that is away, unless the token itself says that its time is over.
    let cluster = Cluster::start("v0.0.38", |_, _| &["COMPLETED"], nothing_lost);
    let test = flow(&cluster, "v0.0.38", 1, RETRY).env("TOKEN", "wrong");
    let looked = test.run(["remotes", "test", "flow.yaml"]);
    assert!(
        looked
            .stdout
            .contains("its controller is away, or does not take the token of this user"),
        "{}",
        looked.stdout
    );
    let test = flow(&cluster, "v0.0.41", 1, RETRY);
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(1);
    assert!(
        ran.stderr
            .contains("no Slurm with version `v0.0.41` of its API (`api`)"),
        "{}",
        ran.stderr
    );
}

#[test]
fn check_tells_what_cannot_be() {
    let test = tool();
    let remote = "slurm: {url: \"head:6820\", user: \"a b\", token: x, command: [], folder: calls, cpus: 0, memory: 0B, api: v1, job: {name: x}}";
    test.file(
        "flow.yaml",
        &format!("name: t\nremotes: {{far: {{{remote}}}}}\npipelines: {{p: {{once: true, stages: [{{core_logic: {{}}, remote: far}}]}}}}\n"),
    );
    let checked = test.run(["check", "flow.yaml"]);
    let said = format!("{}{}", checked.assert_code(2).stdout, checked.stderr);
    for word in [
        "`user`",
        "`command`",
        "`folder`",
        "`cpus`",
        "`memory`",
        "`api`",
        "`name` of a job",
        "url",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
}
