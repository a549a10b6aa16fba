//! `test`: a flow's own tests, as their writer meets them.

use serde_json::json;
use wiredflow_testkit::{FlowTest, HttpPeer};

use crate::{SOON, tool};

const LOGIC: &str = r#"
def double(relevant_info=None, db_connectors=None, **params):
    print("doubling", relevant_info)
    return {"twice": 2 * relevant_info["n"], "name": "x y"}

def ask(pipeline_name=None, **params):
    for limit in (5, 10):
        yield {"query": {"limit": limit}}

def mail(data, **params):
    open("mail-was-sent", "w").close()
"#;

/// Asks, listens, stores and sends; its peers are real ones that count who comes.
fn service(peer: &HttpPeer) -> FlowTest {
    let test = tool();
    test.file("logic.py", LOGIC);
    let (url, broker) = (peer.url("/numbers"), format!("127.0.0.1:{}", peer.port()));
    test.file(
        "flow.yaml",
        &format!(
            r#"
name: service
storages:
  kept: {{sqlite: {{path: {folder}/real.db, table: t}}, key: n}}
pipelines:
  polled:
    every: 10s
    stages:
      - configuration: {{python: "logic.py:ask"}}
      - http: {{url: "{url}", headers: {{apikey: "${{env:TEST_API_KEY}}"}}}}
      - store: kept
  heard:
    source: {{mqtt: {{broker: "{broker}", topic: a/b, username: u, password: "${{env:TEST_API_KEY}}"}}}}
    stages:
      - core_logic: {{python: "logic.py:double"}}
        on_error: dead_letter
      - store: {{json: {{folder: data}}}}
      - send: {{mqtt: {{broker: "{broker}", topic: out/twice}}, field: twice}}
      - send: {{http_post: {{url: "{url}"}}, field: name}}
      - send: {{http_put: {{url: "{url}"}}}}
      - send: {{python: "logic.py:mail"}}
"#,
            folder = test.folder().display()
        ),
    );
    test
}

const ALL_OK: &str = r#"
env: {TEST_API_KEY: not-the-real-one}
cases:
  what is heard is doubled, stored and sent:
    run: [heard]
    given:
      heard: [{"n": 1}, [{"n": 2}, {"n": 3}], {$raw: "no {json"}]
    expect:
      storages:
        heard: [{"twice": 2, "name": x y}, {"twice": 8, "name": x y}]
      sent:
        heard.send: {to: out/twice, payloads: [2, 8]}
        heard.send_2: ["x y", "x y"]
        heard.send_3: [{"twice": 2, $others: $any}, $any]
        heard.send_4: [$any, $others]
      dead_letters:
        - {pipeline: heard, stage: mqtt, reason: cannot be read, payload: "no {json"}
  a configuration asks twice:
    run: [polled, polled]
    storages: {kept: [{"n": 1, "old": true}]}
    given:
      polled.http: [[{"n": 1}, {"n": 2}], {"n": 3}, $away, {"n": 4}, []]
    expect:
      storages:
        kept: [{"n": 1, old: $any}, {"n": 2, old: $any}, {"n": 3, old: $any}, {"n": 4, old: $any}]
      asked:
        polled.http: [{"query": {"limit": 5}}, {"query": {"limit": 10}}, $any, $any, $any]
  schedules follow the clock of the case:
    for: 1m
    run: [polled]
    given:
      polled.http: {$each: [{"n": 1}]}
    expect:
      asked:
        polled.http: [$any, $any, $any, $any, $any, $any, $any, $any, $any, $any, $any, $any]
  a refused key stops the flow:
    run: [polled]
    given: {polled.http: {$status: 403}}
    expect: {failed: refused the credentials}
"#;

/// With lists of two and three numbers in one message, which `double` gets as one list.
fn logic_for_lists() -> String {
    LOGIC.replace(
        "2 * relevant_info[\"n\"]",
        "sum(2 * one[\"n\"] for one in (relevant_info if isinstance(relevant_info, list) else [relevant_info])) - (2 \
         if isinstance(relevant_info, list) else 0)",
    )
}

#[test]
fn cases_run_the_real_functions_and_reach_no_peer_and_no_file() {
    let peer = HttpPeer::start();
    let test = service(&peer);
    test.file("logic.py", &logic_for_lists());
    test.file("flow.test.yaml", ALL_OK);
    let text = test.read("flow.yaml");
    // With an inbox before the stages the cases come to the same.
    for kept in ["", "    ack: inbox\n"] {
        test.file(
            "flow.yaml",
            &text.replace("  heard:\n", &format!("  heard:\n{kept}")),
        );
        let ran = test.run(["test", "flow.yaml"]);
        ran.assert_code(0);
        assert!(
            ran.stdout
                .starts_with("ok      what is heard is doubled, stored and sent\n"),
            "{}",
            ran.stdout
        );
        assert!(ran.stdout.ends_with(": all ok\n"), "{}", ran.stdout);
    }
    assert_eq!(peer.connections(), 0);
    let mut files: Vec<String> = std::fs::read_dir(test.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "__pycache__")
        .collect();
    files.sort();
    assert_eq!(files, ["flow.test.yaml", "flow.yaml", "logic.py"]);
}

#[test]
fn a_case_that_fails_says_what_was_expected_and_what_came_at_each_path() {
    let peer = HttpPeer::start();
    let test = service(&peer);
    test.file(
        "other.yaml",
        r#"
env: {TEST_API_KEY: not-the-real-one}
cases:
  wrong everywhere:
    run: [heard]
    given: {heard: [{"n": 4}, {"m": 1}]}
    expect:
      storages: {heard: [{"twice": 9, "name": $number}, {"twice": 1}]}
      sent:
        heard.send: {to: elsewhere, payloads: []}
  nothing is given:
    run: [polled]
  fine:
    run: [heard]
"#,
    );
    let ran = test.run(["test", "flow.yaml", "--tests", "other.yaml"]);
    ran.assert_code(1);
    for part in [
        "failed  wrong everywhere\n",
        "          storages.heard[0].twice: expected 9, got 8\n",
        "          storages.heard[0].name: expected \"$number\", got \"x y\"\n",
        "          storages.heard[1]: expected {\"twice\":1}, but nothing is there\n",
        "          sent.heard.send[0]: not expected: 8\n",
        "          sent.heard.send.to: expected \"elsewhere\", got \"out/twice\"\n",
        "          dead_letters[0]: not expected: {\"pipeline\":\"heard\",\"stage\":\"core_logic\",\"reason\":\"KeyError: 'n'",
        "failed  nothing is given\n          the flow failed: ",
        "gives nothing (more) for `polled.http`",
        "ok      fine\n",
        ": 1 ok, 2 failed\n",
    ] {
        assert!(ran.stdout.contains(part), "{part}\nnot in\n{}", ran.stdout);
    }
    let one = test.run([
        "test",
        "flow.yaml",
        "--tests",
        "other.yaml",
        "--case",
        "wrong",
        "--json",
    ]);
    let document = one.assert_code(1).json();
    assert_eq!(
        (
            &document["ok"],
            &document["flow"],
            document["cases"].as_array().unwrap().len()
        ),
        (&json!(false), &json!("service"), 1)
    );
    assert_eq!(
        document["cases"][0]["differences"][0],
        json!({"path": "storages.heard[0].twice", "expected": 9, "got": 8})
    );
    let loud = test.run([
        "test",
        "flow.yaml",
        "--tests",
        "other.yaml",
        "--case",
        "wrong",
        "--log-level",
        "info",
    ]);
    assert!(loud.stderr.contains("doubling"), "{}", loud.stderr);
    assert!(!one.stderr.contains("doubling"), "{}", one.stderr);
}

#[test]
fn all_problems_of_a_test_file_are_told_with_their_places() {
    let peer = HttpPeer::start();
    let test = service(&peer);
    test.file(
        "flow.test.yaml",
        r#"
cases:
  one:
    now: yesterday
    rnu: [heard]
    run: [haerd]
    given:
      polled.htp: [1]
      heard.store: []
      heard: [{$stauts: 5}]
    storages: {keep: []}
    expect:
      storages: {kept: $anny}
      sent: {heard.core_logic: []}
"#,
    );
    let refused = test.run(["test", "flow.yaml"]);
    refused.assert_code(2);
    for part in [
        "flow.test.yaml:4:10",
        "flow.test.yaml:5:5",
        "did you mean `run`?",
        "there is no pipeline `haerd`",
        "there is no `polled.htp` in the flow",
        "did you mean `polled.http`?",
        "`heard.store` is not of a kind that can stand here",
        "`$stauts` is not possible here",
        "there is no storage `keep`",
        "there is no `$anny`",
        "`heard.core_logic` is not of a kind",
        "flow.test.yaml has 9 errors",
    ] {
        assert!(
            refused.stderr.contains(part),
            "{part}\nnot in\n{}",
            refused.stderr
        );
    }
    let document = test
        .run(["test", "flow.yaml", "--json"])
        .assert_code(2)
        .json();
    assert_eq!(
        (&document["ok"], &document["problems"][0]["line"]),
        (&json!(false), &json!(4))
    );

    test.file("flow.test.yaml", "cases: {one: {run: [heard]}}");
    let refused = test.run(["test", "flow.yaml"]);
    refused.assert_code(2);
    for part in [
        "`TEST_API_KEY` is not set",
        "flow.yaml:10",
        "env: {NAME: value}",
    ] {
        assert!(
            refused.stderr.contains(part),
            "{part}\nnot in\n{}",
            refused.stderr
        );
    }
    let missing = test.run(["test", "flow.yaml", "--tests", "none.yaml"]);
    missing.assert_code(2);
    assert!(
        missing.stderr.contains("cannot read `none.yaml`")
            && missing.stderr.matches("none.yaml").count() == 1,
        "{}",
        missing.stderr
    );
}

#[test]
fn days_of_schedules_limits_and_groups_pass_at_once() {
    let test = tool();
    test.file(
        "logic.py",
        "def count(relevant_info=None, **params):\n    return {'rows': len(relevant_info)}\n",
    );
    test.file(
        "flow.yaml",
        r#"
pipelines:
  daily:
    cron: "0 6 * * *"
    time_zone: Europe/Berlin
    stages:
      - http: "http://localhost:1"
        rate_limit: {per_second: 0.001}
      - store: {json: {folder: data}, preprocess: [add_datetime]}
  grouped:
    source: {mqtt: {broker: "localhost:1", topic: t}}
    stages:
      - core_logic: {python: "logic.py:count"}
        batch: {max: 3, within: 1h}
      - store: {jsonl: {folder: data}}
"#,
    );
    test.file(
        "flow.test.yaml",
        r#"
cases:
  a week over the change to summer time:
    now: 2026-03-26T12:00:00Z
    for: 7d
    given:
      daily.http: {"n": 1}
      grouped: [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}]
    expect:
      storages:
        daily: [$any, $any, $any, $any, $any, $any, $any]
        grouped: [{"rows": 3}, {"rows": 1}]
"#,
    );
    let test = test.env("TZ", "UTC");
    let ran = test.run(["test", "flow.yaml"]);
    ran.assert_code(0);
    assert!(ran.took < SOON, "{:?}", ran.took);
    test.file(
        "flow.test.yaml",
        &test
            .read("flow.test.yaml")
            .replace("[$any, $any, $any, $any,", "[{\"n\": 1, datetime_label: {$contains: \"2026-03-27T05:00\"}}, $any, {\"n\": 1, datetime_label: {$contains: \"2026-03-29T04:00\"}}, $any,"),
    );
    test.run(["test", "flow.yaml"]).assert_code(0);
}

#[test]
fn what_init_writes_passes_its_own_tests_and_its_commands_work_as_they_are_printed() {
    let test = tool();
    let written = test.run(["init", "it's mine"]);
    written.assert_code(0);
    let binary = env!("CARGO_BIN_EXE_wiredflow");
    let shell = FlowTest::new("bash");
    for verb in ["check", "test"] {
        let start = format!("  wiredflow {verb} ");
        let line = written
            .stdout
            .lines()
            .find(|line| line.starts_with(&start))
            .unwrap();
        let command = line.trim().replacen("wiredflow", binary, 1);
        let command = format!("cd {} && {command}", test.folder().display());
        let ran = shell.run(["-c", &command]);
        ran.assert_code(0);
    }
    assert!(!test.path("it's mine/data").exists() && !test.path("it's mine/.wiredflow").exists());
}

#[test]
fn messages_have_the_form_that_their_source_gives() {
    let test = tool();
    test.file(
        "flow.yaml",
        r#"
name: forms
pipelines:
  text:
    source: {mqtt: {broker: "127.0.0.1:1", topic: a/+, format: text, topic_field: from}}
    stages:
      - store: {json: {folder: data}}
"#,
    );
    test.file(
        "flow.test.yaml",
        r#"
cases:
  a text is a value:
    run: [text]
    given: {text: ["21.5 °C", 7]}
    expect:
      storages:
        text: [{"value": "21.5 °C", from: a/+}, {"value": "7", from: a/+}]
"#,
    );
    test.run(["test", "flow.yaml"]).assert_code(0);
}

#[test]
fn a_case_runs_what_is_handed_over_and_may_stand_in_for_those_who_hand_over() {
    let test = FlowTest::new(env!("CARGO_BIN_EXE_wiredflow"));
    test.file(
        "flow.yaml",
        r#"
pipelines:
  first:
    every: 10s
    stages: [{http: "http://127.0.0.1:1/"}, {link: over}]
  second:
    source: {link: over}
    stages: [{set: {seen: true}}, {store: {json: {}}}]
"#,
    );
    test.file(
        "flow.test.yaml",
        r#"
cases:
  handed over:
    given: {first.http: [[{"n": 1}, {"n": 2}]]}
    expect: {storages: {second: [{"n": 1, "seen": true}, {"n": 2, "seen": true}]}}
  by a schedule:
    for: 25s
    given: {first.http: [{"n": 1}, {"n": 2}, {"n": 3}]}
    expect: {storages: {second: [{"n": 1, "seen": true}, {"n": 2, "seen": true}, {"n": 3, "seen": true}]}}
  given at the link:
    run: [second]
    given: {second: [{"n": 5}]}
    expect: {storages: {second: [{"n": 5, "seen": true}]}}
  the first alone:
    run: [first]
    given: {first.http: [{"n": 1}], second: []}
    expect: {storages: {second: []}}
"#,
    );
    let ran = test.run(["test", "flow.yaml"]);
    ran.assert_code(0);
    assert!(ran.stdout.ends_with(": all ok\n"), "{}", ran.stdout);
}
