//! `load` with `since: last_run`, over restarts, failures and kills: each row is given once to a run that ends well.

use std::time::Duration;

use serde_json::Value;
use wiredflow_testkit::{FlowTest, Signal, rows};

use crate::tool;

/// How long a flow may take for what it does at once, on a machine with very much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// `give` adds five rows each time; `report` fails, or stays, while a file says so.
const LOGIC: &str = "import os, time

def give(relevant_info=None, **params):
    begin = int(open('counter').read()) if os.path.exists('counter') else 0
    with open('counter', 'w') as file:
        file.write(str(begin + 5))
    return [{'n': begin + i, 'same': 'x'} for i in range(5)]

def report(relevant_info=None, **params):
    open('reached', 'w').close()
    if os.path.exists('broken'):
        raise ValueError('broken')
    while os.path.exists('slow'):
        time.sleep(0.05)
    return relevant_info
";

fn flow(storage: &str, load: &str) -> FlowTest {
    let test = tool();
    test.file("logic.py", LOGIC);
    test.file(
        "flow.yaml",
        &format!(
            "name: f\nstorages:\n  all: {{{storage}}}\npipelines:\n  fill:\n    every: 1d\n    stages:\n      - core_logic: \
             {{python: \"logic.py:give\"}}\n      - store: all\n  report:\n    every: 1d\n    stages:\n      - load: {{storage: \
             all, since: last_run{load}}}\n      - core_logic: {{python: \"logic.py:report\"}}\n      - store: {{jsonl: \
             {{folder: out}}}}\n"
        ),
    );
    test
}

fn fill(test: &FlowTest) {
    test.run(["run", "flow.yaml", "--once", "-q", "--pipeline", "fill"])
        .assert_code(0);
}

fn report(test: &FlowTest, code: i32) {
    test.run(["run", "flow.yaml", "--once", "-q", "--pipeline", "report"])
        .assert_code(code);
}

/// How many runs of `fill` have committed.
fn fills(test: &FlowTest) -> usize {
    let told = test.run([
        "runs",
        "flow.yaml",
        "--pipeline",
        "fill",
        "--outcome",
        "committed",
        "--json",
    ]);
    told.assert_code(0);
    told.json()["runs"].as_array().unwrap().len()
}

/// What the reports were given, in their order.
fn reported(test: &FlowTest) -> Vec<u64> {
    let number = |row: &Value| match &row["n"] {
        // The values of csv are text.
        Value::String(text) => text.parse().unwrap(),
        number => number.as_u64().unwrap(),
    };
    let rows = rows("jsonl", &test.path("out/jsonl_in_report.jsonl")).unwrap();
    rows.iter().map(number).collect()
}

/// Reports over restarts, a failure and a kill.
#[track_caller]
fn check(storage: &str) {
    let test = flow(storage, "");
    report(&test, 0);
    assert!(reported(&test).is_empty(), "{storage}");
    fill(&test);
    report(&test, 0);
    report(&test, 0);
    assert_eq!(reported(&test), (0..5).collect::<Vec<_>>(), "{storage}");

    // One that fails is given the same again, and what came meanwhile.
    fill(&test);
    test.file("broken", "");
    report(&test, 1);
    fill(&test);
    std::fs::remove_file(test.path("broken")).unwrap();
    report(&test, 0);
    assert_eq!(reported(&test), (0..15).collect::<Vec<_>>(), "{storage}");

    // So is one whose process is killed; what another pipeline stores while a run goes on is the next one's.
    fill(&test);
    test.file("slow", "");
    std::fs::remove_file(test.path("reached")).unwrap();
    let mut running = test.spawn(["run", "flow.yaml"]);
    // A `give` that is killed before its rows are stored has counted them all the same.
    let is_filled = || {
        let counted: usize = test.read("counter").parse().unwrap_or_default();
        counted == 25 && fills(&test) == 5
    };
    running.wait_until(PATIENCE, || test.path("reached").exists() && is_filled());
    running.signal(Signal::Kill);
    running.wait(PATIENCE);
    std::fs::remove_file(test.path("slow")).unwrap();
    report(&test, 0);
    let given = reported(&test);
    assert_eq!(
        given,
        (0..given.len() as u64).collect::<Vec<_>>(),
        "{storage}"
    );
    fill(&test);
    report(&test, 0);
    let filled: u64 = test.read("counter").parse().unwrap();
    assert_eq!(
        reported(&test),
        (0..filled).collect::<Vec<_>>(),
        "{storage}"
    );
}

#[test]
fn each_run_over_jsonl_is_given_what_is_new_over_restarts_failures_and_kills() {
    check("jsonl: {}");
}

#[test]
fn each_run_over_json_is_given_what_is_new_over_restarts_failures_and_kills() {
    check("json: {}");
}

#[test]
fn each_run_over_csv_is_given_what_is_new_over_restarts_failures_and_kills() {
    check("csv: {}");
}

#[test]
fn each_run_over_sqlite_is_given_what_is_new_over_restarts_failures_and_kills() {
    check("sqlite: {}");
}

#[test]
fn limit_gives_the_oldest_new_rows_and_where_passes_over_others_once() {
    let test = flow("jsonl: {}", ", limit: 2, where: {field: n, above: 0}");
    fill(&test);
    report(&test, 0);
    assert_eq!(reported(&test), [1, 2]);
    report(&test, 0);
    report(&test, 0);
    assert_eq!(reported(&test), [1, 2, 3, 4]);
    fill(&test);
    report(&test, 0);
    assert_eq!(reported(&test), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_storage_that_was_replaced_by_hand_is_told_and_given_anew() {
    let test = flow("jsonl: {}", "");
    fill(&test);
    report(&test, 0);
    test.file("data/jsonl_in_all.jsonl", "{\"n\":100}\n{\"n\":101}\n");
    let ran = test.run(["run", "flow.yaml", "--once", "--pipeline", "report"]);
    ran.assert_code(0);
    assert!(
        ran.stderr.contains("all that is stored counts as new"),
        "{}",
        ran.stderr
    );
    assert_eq!(reported(&test), [0, 1, 2, 3, 4, 100, 101]);
}

#[test]
fn where_there_is_no_last_run_or_rows_change_since_is_refused_with_the_reason() {
    let test = flow("jsonl: {}", "");
    let text = test.read("flow.yaml");
    test.run(["check", "flow.yaml"]).assert_code(0);
    for (from, to, why) in [
        (
            "every: 1d\n    stages:\n      - load",
            "every: 1d\n    overlap: allow\n    stages:\n      - load",
            "of two runs side by side",
        ),
        (
            "every: 1d\n    stages:\n      - load",
            "source: {webhook: {listen: \"127.0.0.1:9\"}}\n    stages:\n      - load",
            "a stream has no runs",
        ),
        (
            "stages:\n      - load",
            "stages:\n      - core_logic: {python: \"logic.py:report\"}\n      - load",
            "the first stage of a pipeline",
        ),
        (
            "all: {jsonl: {}",
            "all: {jsonl: {}, mapping: update",
            "`mapping: update` changes them",
        ),
        (
            "all: {jsonl: {}",
            "all: {sqlite: {}, key: n",
            "`key` replaces them",
        ),
        ("since: last_run", "since: yesterday", "last_run"),
    ] {
        assert!(text.contains(from), "{from}");
        test.file("flow.yaml", &text.replace(from, to));
        let checked = test.run(["check", "flow.yaml"]);
        checked.assert_code(2);
        let told = format!("{}{}", checked.stdout, checked.stderr);
        assert!(told.contains(why), "{why}\n{told}");
    }
}
