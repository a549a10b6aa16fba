//! The remote `slurm` with a real cluster of one node.

mod cluster;
mod scripted;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_testkit::{FlowTest, Signal, Slurm, free_port, tell, wait_until, written_rows};

use super::{A_WHILE, numbers, stored};
use crate::{SOON, tool};

/// What the cluster does: each number times the factor, unless it fails; it waits while there is a file `hold`.
const SCORE: &str = r#"
import json, os, sys, time
call = json.load(sys.stdin)
[row] = call["batch"]
with open("marks", "a") as marks:
    marks.write(f"{row['n']}\n")
print("at work with", row, file=sys.stderr)
while os.path.exists("hold"):
    time.sleep(0.05)
if row["n"] in call["params"].get("fails", []):
    raise ValueError("%s is no number" % row["n"])
json.dump([{"made": row["n"] * call["params"]["factor"]}], sys.stdout)
"#;

/// The same, as a function.
const LOGIC: &str = "def work(relevant_info=None, factor=1, **params):\n    return [{\"made\": row[\"n\"] * factor} for row in relevant_info]\n";

/// Whether there is a real Slurm to try the case with.
fn can_try(case: &str) -> bool {
    let why = match wiredflow_testkit::thorough() {
        true => Slurm::can_start().err(),
        false => Some("it is one of `scripts/test --all`".to_owned()),
    };
    if let Some(why) = &why {
        wiredflow_testkit::skipped(case, why);
    }
    why.is_none()
}

fn start() -> Slurm {
    let slurm = Slurm::start();
    fs::write(slurm.shared().join("score.py"), SCORE).unwrap();
    slurm
}

/// The remote, with more keys.
fn remote(slurm: &Slurm, more: &str) -> String {
    format!(
        "slurm: {{url: \"{}\", user: {}, token: \"${{env:TOKEN}}\", command: [python3, score.py], folder: {}, poll: 200ms{more}}}",
        slurm.url(),
        slurm.user(),
        slurm.shared().display()
    )
}

/// Numbers that go through a remote, one by one.
fn flow(slurm: &Slurm, remote: &str, count: usize, options: &str) -> FlowTest {
    let source = format!(
        "    once: true\n    stages:\n      - core_logic: {{sql: \"{}\"}}\n",
        numbers(count)
    );
    flow_of(slurm, remote, &source, options)
}

fn flow_of(slurm: &Slurm, remote: &str, source: &str, options: &str) -> FlowTest {
    let test = tool();
    test.file("logic.py", LOGIC);
    let text = format!(
        "name: t\nlisten: off\nremotes:\n  far: {{{remote}}}\npipelines:\n  p:\n{source}      \
         - core_logic: {{params: {{factor: 3, fails: [2]}}}}\n        name: far\n        remote: far\n        \
         batch: {{max: 1, within: 100ms}}\n{options}      - store: {{jsonl: {{folder: data}}}}\n"
    );
    test.file("flow.yaml", &text);
    test.env("TOKEN", &slurm.token(3600))
}

/// What jobs have begun to work on, in order of their numbers.
fn marks(slurm: &Slurm) -> Vec<usize> {
    let text = fs::read_to_string(slurm.shared().join("marks")).unwrap_or_default();
    let mut marks: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    marks.sort_unstable();
    marks
}

/// The files of calls.
fn files(slurm: &Slurm) -> Vec<String> {
    let entries = fs::read_dir(slurm.shared()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("t__p__")).collect()
}

fn letters(test: &FlowTest) -> Vec<Value> {
    let listed = test.run(["dead-letters", "list", "flow.yaml", "--json"]);
    listed.json()["dead_letters"].as_array().unwrap().clone()
}

/// Nothing of a call is left: no job, no process of one, no file.
#[track_caller]
fn nothing_is_left(slurm: &Slurm) {
    wait_until(A_WHILE, || {
        slurm.queue().is_empty()
            && slurm.processes("score.py").is_empty()
            && files(slurm).is_empty()
    });
}

#[test]
fn a_cluster_does_the_calls_as_a_function_would() {
    if !can_try("a real Slurm does a stage's calls") {
        return;
    }
    let slurm = start();
    let more = ", cpus: 1, memory: 100MiB, time: 5m, partition: all, env: {K: v}, job: {nice: 3}, slots: 3";
    let options = "        parallel: 8\n        on_error: dead_letter\n";
    let test = flow(&slurm, &remote(&slurm, more), 12, options);
    let looked = test.run(["remotes", "test", "flow.yaml"]);
    let said = &looked.assert_code(0).stdout;
    assert!(
        said.contains("can be written from here; no job was started"),
        "{said}"
    );
    assert_eq!(slurm.jobs(), [""; 0]);

    let begun = std::time::Instant::now();
    fs::write(slurm.shared().join("hold"), "").unwrap();
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    wait_until(A_WHILE, || slurm.queue().len() == 3);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(slurm.queue().len(), 3, "as many as there are slots");
    fs::remove_file(slurm.shared().join("hold")).unwrap();
    running.wait(A_WHILE).assert_code(0);
    tell(&format!("12 jobs, 3 at once: {:?}", begun.elapsed()));
    let made = stored(&test);
    let [letter] = &*letters(&test) else {
        panic!("one has failed");
    };
    let reason = letter["reason"].as_str().unwrap();
    assert!(
        reason.contains("FAILED, exit code 1 (NonZeroExitCode): ValueError: 2 is no number"),
        "{reason}"
    );
    let shown = test.run([
        "dead-letters",
        "show",
        "flow.yaml",
        letter["id"].as_str().unwrap(),
    ]);
    assert!(
        shown.stdout.contains("at work with {'n': 2}"),
        "{}",
        shown.stdout
    );
    assert!(
        shown.stdout.contains("score.py\", line "),
        "{}",
        shown.stdout
    );
    assert_eq!(
        marks(&slurm),
        (0..12).collect::<Vec<_>>(),
        "{}",
        slurm.log()
    );
    assert_eq!(slurm.jobs().len(), 12);
    nothing_is_left(&slurm);

    let local = flow(&slurm, &remote(&slurm, ""), 12, "");
    let text = local.read("flow.yaml");
    let text = text.replace("remote: far", "remote: local");
    local.file(
        "flow.yaml",
        &text.replace(
            "{params: {factor: 3, fails: [2]}}",
            "{python: \"logic.py:work\", params: {factor: 3}}",
        ),
    );
    local
        .spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    let mut expected = stored(&local);
    expected.retain(|row| row != &json!({"made": 6}));
    assert_eq!(made, expected);
}

#[test]
fn a_call_that_takes_too_long_or_never_starts_ends_its_job() {
    if !can_try("a real Slurm ends the job of a call that takes too long") {
        return;
    }
    let slurm = start();
    fs::write(slurm.shared().join("hold"), "").unwrap();
    let options = "        timeout: 3s\n        on_error: dead_letter\n";
    let test = flow(&slurm, &remote(&slurm, ""), 1, options);
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    wait_until(A_WHILE, || marks(&slurm) == [0]);
    running.wait(A_WHILE).assert_code(0);
    nothing_is_left(&slurm);
    let reason = letters(&test)[0]["reason"].to_string();
    assert!(reason.contains("3s"), "{reason}");

    // A stop does not wait for what takes long.
    let test = flow(&slurm, &remote(&slurm, ""), 1, "        timeout: 10m\n");
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(A_WHILE, || marks(&slurm) == [0, 0]);
    running.signal(Signal::Term);
    running.wait(A_WHILE);
    nothing_is_left(&slurm);

    slurm.hold(true);
    let test = flow(&slurm, &remote(&slurm, ", queued: 2s"), 1, options);
    let text = test.read("flow.yaml").replace("timeout: 3s", "timeout: 1m");
    test.file("flow.yaml", &text);
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    let reason = letters(&test)[0]["reason"].to_string();
    assert!(
        reason.contains("has not started within 2s (PartitionDown)"),
        "{reason}"
    );
    nothing_is_left(&slurm);
}

#[test]
fn a_flow_that_is_killed_while_a_job_runs_has_its_call_made_again() {
    if !can_try("a flow with a real Slurm is killed") {
        return;
    }
    let (slurm, port) = (start(), free_port());
    fs::write(slurm.shared().join("hold"), "").unwrap();
    let source = format!(
        "    source: {{webhook: {{listen: '127.0.0.1:{port}', path: /in}}}}\n    ack: inbox\n    stages:\n"
    );
    let test = flow_of(
        &slurm,
        &remote(&slurm, ", slots: 8"),
        &source,
        "        parallel: 8\n",
    );
    let running = test.spawn(["run", "flow.yaml"]);
    for number in [5, 6, 7] {
        wait_until(A_WHILE, || post(port, &json!({"n": number})));
    }
    wait_until(A_WHILE, || marks(&slurm) == [5, 6, 7]);
    running.signal(Signal::Kill);
    running.wait(SOON);
    fs::remove_file(slurm.shared().join("hold")).unwrap();
    let mut running = test.spawn(["run", "flow.yaml"]);
    let rows = || {
        let file = test.path("data/jsonl_in_p.jsonl");
        if file.exists() {
            written_rows(&file)
        } else {
            Vec::new()
        }
    };
    running.wait_until(A_WHILE, || rows().len() >= 3);
    running.signal(Signal::Term);
    running.wait(A_WHILE).assert_code(0);
    let mut rows = rows();
    rows.sort_by_key(Value::to_string);
    assert_eq!(
        rows,
        [
            json!({"made": 15}),
            json!({"made": 18}),
            json!({"made": 21})
        ]
    );
}

/// Whether a document was taken.
fn post(port: u16, body: &Value) -> bool {
    let url = format!("http://127.0.0.1:{port}/in");
    let body = body.to_string();
    let sent = Command::new("curl")
        .args(["-s", "-f", "--max-time", "5", "-d", &body, &url])
        .output();
    sent.is_ok_and(|output| output.status.success())
}

#[test]
fn the_api_may_be_away_while_jobs_run_and_when_calls_come() {
    if !can_try("the REST API of a real Slurm is away for a while") {
        return;
    }
    let mut slurm = start();
    let hold = slurm.shared().join("hold");
    fs::write(&hold, "").unwrap();
    let options = "        parallel: 2\n        retry: {backoff: 200ms, max: 500ms}\n        on_error: dead_letter\n";
    let test = flow(&slurm, &remote(&slurm, ""), 6, options);
    let mut running = test.spawn(["run", "flow.yaml", "--once"]);
    running.wait_until(A_WHILE, || marks(&slurm) == [0, 1]);
    slurm.go_away();
    // Both jobs end, and the next calls come, while nobody answers.
    remove(&hold);
    std::thread::sleep(Duration::from_secs(4));
    slurm.come_back();
    running.wait(A_WHILE).assert_code(0);
    let expected: Vec<Value> = [0, 1, 3, 4, 5].map(|n| json!({"made": 3 * n})).into();
    assert_eq!(stored(&test), expected);
    assert_eq!(marks(&slurm), (0..6).collect::<Vec<_>>(), "each once");
    nothing_is_left(&slurm);
}

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

#[test]
fn a_token_at_its_end_and_a_partition_that_is_not_there_stop_the_flow() {
    if !can_try("a real Slurm refuses a token") {
        return;
    }
    let slurm = start();
    let token = slurm.token(1);
    std::thread::sleep(Duration::from_secs(2));
    let test = flow(&slurm, &remote(&slurm, ""), 1, "").env("TOKEN", &token);
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(1);
    assert!(
        ran.stderr.contains("the token came to its end at"),
        "{}",
        ran.stderr
    );
    let test = flow(&slurm, &remote(&slurm, ", partition: none"), 1, "");
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(1);
    assert!(
        ran.stderr.contains("Invalid partition name specified"),
        "{}",
        ran.stderr
    );
    nothing_is_left(&slurm);
}
