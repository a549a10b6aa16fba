//! `run`, and what it leaves behind.

use std::time::Duration;

use serde_json::Value;
use wiredflow_testkit::{FlowTest, Signal};

use crate::{SOON, tool};

/// Two pipelines of Python functions: one stores what it counts, one fails.
fn counting(test: &FlowTest) {
    test.file(
        "logic.py",
        "import time\n\ndef count(relevant_info=None, **params):\n    for number in range(3):\n        yield \
         {'number': number}\n\ndef fail(relevant_info=None, **params):\n    raise ValueError('no\\x1b[31m way')\n\ndef \
         slow(relevant_info=None, **params):\n    print('slow begins')\n    time.sleep(600)\n",
    );
    test.file(
        "flow.yaml",
        "name: counting\npipelines:\n  count:\n    every: 300ms\n    stages:\n      - core_logic: {python: \
         \"logic.py:count\"}\n      - store: {json: {folder: data}}\n  fail:\n    once: true\n    stages:\n      - \
         core_logic: {python: \"logic.py:fail\"}\n        on_error: dead_letter\n      - store: {jsonl: {folder: data}}\n",
    );
    test.file(
        "slow.yaml",
        "pipelines:\n  slow:\n    once: true\n    stages:\n      - core_logic: {python: \"logic.py:slow\"}\n      - \
         store: {json: {folder: data}}\n",
    );
    test.file(
        "stops.yaml",
        "pipelines:\n  fail:\n    once: true\n    stages:\n      - core_logic: {python: \"logic.py:fail\"}\n      - \
         store: {json: {folder: data}}\n",
    );
}

#[test]
fn a_run_for_a_time_ends_well_and_gives_one_document() {
    let test = tool();
    counting(&test);
    let ran = test.run(["run", "flow.yaml", "--for", "6s", "--json"]);
    ran.assert_code(0);
    let document = ran.json();
    assert_eq!(
        (&document["flow"], &document["ok"]),
        (&"counting".into(), &true.into())
    );
    assert!(document["seconds"].as_f64().unwrap() >= 6.0);
    let count = &document["pipelines"]["count"];
    let committed = count["deliveries"]["committed"].as_u64().unwrap();
    assert!(committed >= 1, "{document}");
    assert_eq!(count["records_out"].as_u64(), Some(3 * committed));
    assert_eq!(
        document["pipelines"]["fail"]["deliveries"]["dead_lettered"],
        1
    );
    assert_eq!(
        test.read_json("data/json_in_count.json")
            .as_array()
            .unwrap()
            .len() as u64,
        3 * committed
    );
    assert!(
        ran.stderr
            .contains("to the dead letters: ValueError: no\\u{1b}[31m way"),
        "{}",
        ran.stderr
    );
    assert!(
        !ran.stderr.contains('\x1b'),
        "h8: no colours and no forged ones\n{}",
        ran.stderr
    );
}

#[test]
fn without_json_a_run_ends_with_one_line_and_quietly_with_none() {
    let test = tool();
    counting(&test);
    let ran = test.run(["run", "flow.yaml", "--once"]);
    ran.assert_code(0);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    for part in [
        "counting ran for ",
        "1 deliveries committed, 0 failed, 1 dead-lettered",
        "3 out",
    ] {
        assert!(ran.stdout.contains(part), "{part}\n{}", ran.stdout);
    }
    let quiet = test.run(["run", "flow.yaml", "--once", "--pipeline", "count", "-q"]);
    quiet.assert_code(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn a_function_that_fails_on_every_record_is_told_once_and_counted() {
    const RECORDS: u64 = 80;
    let test = tool();
    test.file(
        "logic.py",
        &format!(
            "def many(relevant_info=None, **params):\n    for number in range({RECORDS}):\n        yield {{'number': \
             number}}\n\ndef fail(relevant_info=None, **params):\n    raise ValueError('no good')\n"
        ),
    );
    test.file(
        "flow.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {python: \"logic.py:many\"}\n      - \
         core_logic: {python: \"logic.py:fail\"}\n        name: work\n        retry: {attempts: 2, backoff: 10ms}\n        \
         on_error: dead_letter\n      - store: {jsonl: {folder: data}}\n",
    );
    let ran = test.run(["run", "flow.yaml", "--for", "10m"]);
    ran.assert_code(0);
    // A slow machine may see the end of a minute, after which the first is told whole again.
    let lines = |part: &'static str| ran.stderr.lines().filter(move |line| line.contains(part));
    let counted = |what: &'static str| -> u64 {
        let number = |line: &str| {
            let (_, rest) = line.split_once("and ").unwrap();
            let (number, _) = rest.split_once(" more of the same in the last ").unwrap();
            number.parse::<u64>().unwrap()
        };
        lines(what)
            .filter(|line| line.contains(" more of the same in the last "))
            .map(number)
            .sum()
    };
    let whole = lines("p/work to the dead letters: ValueError: no good").count() as u64;
    assert_eq!(
        whole + counted("to the dead letters: ValueError: no good"),
        RECORDS,
        "{}",
        ran.stderr
    );
    assert_eq!(
        lines("Traceback (most recent call last)").count() as u64,
        whole
    );
    let retried = lines("p/work wait=").count() as u64;
    assert_eq!(
        retried + counted("trying again, attempt 1: ValueError: no good"),
        RECORDS,
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.lines().count() < RECORDS as usize / 2,
        "{}",
        ran.stderr
    );
    // Nothing is hidden where it is kept.
    let letters = test
        .run([
            "dead-letters",
            "list",
            "flow.yaml",
            "--last",
            "1000",
            "--json",
        ])
        .json();
    assert_eq!(
        letters["dead_letters"].as_array().unwrap().len() as u64,
        RECORDS
    );
    let each = test.run(["run", "flow.yaml", "--once", "--log-level", "debug"]);
    assert_eq!(
        each.stderr
            .matches("p/work to the dead letters: ValueError: no good")
            .count() as u64,
        RECORDS
    );
}

#[test]
fn a_record_that_a_storage_refuses_is_shown_with_the_way_to_go_on() {
    let test = tool();
    test.file(
        "logic.py",
        "def give(**params):\n    return [{'id': 1}, {'a': 'x'}]\n",
    );
    test.file(
        "flow.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {python: \"logic.py:give\"}\n      - store: \
         {sqlite: {path: data.db}, key: id}\n",
    );
    let ran = test.run(["run", "flow.yaml", "--once"]);
    let said = "its key `id` is missing or null in the record {\"a\":\"x\"}; with `on_error: dead_letter` at the stage";
    assert!(ran.assert_code(1).stderr.contains(said), "{}", ran.stderr);
    let runs = test.run(["runs", "flow.yaml", "--json"]).json();
    let error = runs["runs"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("its key `id` is missing"), "{error}");
}

#[test]
fn log_lines_can_be_json_and_say_where_they_are_from() {
    let test = tool();
    counting(&test);
    let ran = test.run([
        "run",
        "flow.yaml",
        "--once",
        "--log-format",
        "json",
        "--json",
    ]);
    ran.assert_code(0).json();
    let lines: Vec<Value> = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let letter = lines
        .iter()
        .find(|line| line["pipeline"] == "fail")
        .unwrap();
    assert_eq!(
        (&letter["level"], &letter["stage"]),
        (&"warn".into(), &"core_logic".into())
    );
    assert!(
        letter["message"]
            .as_str()
            .unwrap()
            .contains("no\x1b[31m way")
    );
    assert!(letter["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_flow_that_fails_exits_with_1_and_one_with_problems_with_2() {
    let test = tool();
    counting(&test);
    let failed = test.run(["run", "stops.yaml", "--json"]);
    let document = failed.assert_code(1).json();
    assert_eq!(document["ok"], false);
    assert_eq!(document["pipelines"]["fail"]["deliveries"]["failed"], 1);
    assert!(
        document["pipelines"]["fail"]["last_error"]
            .as_str()
            .unwrap()
            .contains("ValueError")
    );

    test.file("broken.yaml", "pipelines: {p: {once: true}}");
    let refused = test.run(["run", "broken.yaml"]);
    refused.assert_code(2);
    assert!(
        refused.stderr.contains("broken.yaml has 1 error"),
        "{}",
        refused.stderr
    );
    let document = test
        .run(["run", "broken.yaml", "--json"])
        .assert_code(2)
        .json();
    assert_eq!(document["ok"], false);
    assert!(!test.path(".wiredflow/state.db").exists() || !refused.stderr.contains("running"));
}

#[test]
fn arguments_that_do_not_fit_the_flow_are_refused_before_it_starts() {
    let test = tool();
    counting(&test);
    let refused = test.run(["run", "flow.yaml", "--pipeline", "cuont"]);
    refused.assert_code(2);
    assert!(
        refused
            .stderr
            .contains("there is no pipeline `cuont`: did you mean `count`?"),
        "{}",
        refused.stderr
    );
    assert!(!test.path(".wiredflow").exists());
}

#[test]
fn a_state_folder_that_is_in_use_is_a_failure_that_names_it() {
    let test = tool();
    counting(&test);
    let first = test.spawn(["run", "flow.yaml", "--state", "elsewhere"]);
    first.stderr_contains("running", SOON);
    wiredflow_testkit::wait_until(SOON, || test.path("elsewhere/state.db").exists());
    let second = test.run(["run", "flow.yaml", "--state", "elsewhere", "--json"]);
    let document = second.assert_code(1).json();
    assert_eq!(
        (&document["ok"], &document["flow"]),
        (&false.into(), &"counting".into())
    );
    assert!(
        document["error"].as_str().unwrap().contains("elsewhere"),
        "{document}"
    );
    assert!(!test.path(".wiredflow").exists(), "--state goes first");
    first.signal(Signal::Term);
    first.wait(SOON).assert_code(0);
}

#[test]
fn a8_a_signal_ends_the_run_in_good_order() {
    for signal in [Signal::Term, Signal::Int] {
        let test = tool();
        counting(&test);
        let mut running = test.spawn(["run", "flow.yaml", "--json"]);
        running.wait_until(SOON, || test.path("data/json_in_count.json").exists());
        running.signal(signal);
        let ended = running.wait(SOON);
        assert_eq!(ended.assert_code(0).json()["ok"], true);
        assert_eq!(
            ended
                .stderr
                .matches("stopping: finishing what is in flight")
                .count(),
            1
        );
    }
}

#[test]
fn a_second_signal_ends_at_once_and_leaves_no_process() {
    let test = tool();
    counting(&test);
    let running = test.spawn(["run", "slow.yaml", "--json"]);
    running.stderr_contains("slow begins", SOON);
    running.signal(Signal::Int);
    running.stderr_contains("again to stop at once", SOON);
    running.signal(Signal::Int);
    let ended = running.wait(Duration::from_secs(5));
    ended.assert_code(130).json();
}

#[test]
fn the_history_is_shown_after_a_run() {
    let test = tool();
    counting(&test);
    let early = test.run(["runs", "flow.yaml"]);
    early.assert_code(1);
    assert!(
        early.stderr.contains("it is made when the flow first runs"),
        "{}",
        early.stderr
    );
    test.run(["run", "flow.yaml", "--once"]).assert_code(0);
    let document = test
        .run(["runs", "flow.yaml", "--json"])
        .assert_code(0)
        .json();
    let outcomes: Vec<(&Value, &Value)> = document["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (&run["pipeline"], &run["outcome"]))
        .collect();
    assert_eq!(outcomes.len(), 2, "{document}");
    assert!(outcomes.contains(&(&"count".into(), &"committed".into())));
    assert!(outcomes.contains(&(&"fail".into(), &"dead_lettered".into())));
    let of = |outcome: &str| {
        let runs = test.run(["runs", "flow.yaml", "--outcome", outcome, "--json"]);
        runs.assert_code(0).json()["runs"]
            .as_array()
            .unwrap()
            .clone()
    };
    assert!(of("committed").iter().all(|run| run["pipeline"] == "count"));
    assert!(
        of("dead_lettered")
            .iter()
            .all(|run| run["pipeline"] == "fail")
    );
    assert!(
        !of("committed").is_empty() && !of("dead_lettered").is_empty() && of("failed").is_empty()
    );
    let other = test.run(["runs", "flow.yaml", "--pipeline", "cuont"]);
    let told = &other.assert_code(2).stderr;
    assert!(
        told.contains("no pipeline `cuont`") && told.contains("count"),
        "{told}"
    );
    test.run(["runs", "flow.yaml", "--outcome", "lost"])
        .assert_code(2);
    let table = test.run(["runs", "flow.yaml", "--pipeline", "fail"]);
    assert_eq!(
        table.assert_code(0).stdout.lines().count(),
        2,
        "{}",
        table.stdout
    );
}
