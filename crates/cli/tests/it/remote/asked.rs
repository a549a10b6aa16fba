//! Remotes that have code of their own: a service by HTTP, and a DAG of Airflow as its REST API answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_testkit::{FlowTest, HttpPeer, Reply, Request, Signal, wait_until};

use super::{A_WHILE, numbers, stored};
use crate::{SOON, tool};

/// Numbers that go through a remote, one by one.
fn flow(remote: &str, count: usize, options: &str) -> FlowTest {
    let test = tool();
    test.file(
        "logic.py",
        "def here(relevant_info=None, **params):\n    return {\"here\": relevant_info[0][\"n\"]}\n",
    );
    test.file(
        "flow.yaml",
        &format!(
            r#"
name: t
listen: off
remotes:
  score: {{{remote}}}
pipelines:
  p:
    once: true
    stages:
      - core_logic: {{sql: "{}"}}
      - core_logic: {{params: {{factor: 3}}}}
        name: far
        remote: score
        batch: {{max: 1, within: 1s}}
{options}
      - store: {{jsonl: {{folder: data}}}}
"#,
            numbers(count)
        ),
    );
    test
}

/// What a call asks for: each number times the factor.
fn made(request: &Request) -> Value {
    let asked = request.json();
    let factor = asked["params"]["factor"].as_i64().unwrap();
    let rows = asked["batch"].as_array().unwrap();
    let rows = rows
        .iter()
        .map(|row| json!({"made": row["n"].as_i64().unwrap() * factor}));
    Value::Array(rows.collect())
}

fn all_made(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"made": 3 * n})).collect()
}

#[test]
fn a_service_does_the_calls_and_knows_them_again() {
    let peer = HttpPeer::start();
    let keys: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    peer.on_request("/run", {
        let keys = Arc::clone(&keys);
        move |request| {
            let key = request.header("idempotency-key").unwrap().to_owned();
            let mut keys = keys.lock().unwrap();
            let times = keys.entry(key).or_default();
            *times += 1;
            // The first time each call is turned away, and comes again under its name.
            match *times {
                1 => Reply::code(503),
                _ => Reply::json(made(request)),
            }
        }
    });
    let remote = format!(
        "http: {{url: \"{}\", auth: {{bearer: secret}}}}",
        peer.url("/run")
    );
    let test = flow(&remote, 6, "        retry: {backoff: 20ms}");
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    assert_eq!(stored(&test), all_made(6));
    let keys = keys.lock().unwrap();
    assert_eq!(keys.values().collect::<Vec<_>>(), [&2; 6], "{keys:?}");
    let first = &peer.requests()[0];
    assert_eq!(first.header("authorization"), Some("Bearer secret"));
    let asked = first.json();
    assert_eq!(
        (&asked["flow"], &asked["pipeline"], &asked["stage"]),
        (&json!("t"), &json!("p"), &json!("far"))
    );
}

#[test]
fn a_service_that_takes_its_time_is_asked_again_and_told_when_nobody_waits() {
    let peer = HttpPeer::start();
    peer.on_request("/run", |request| {
        let number = request.json()["batch"][0]["n"].as_u64().unwrap();
        Reply::code(202).header("Location", &format!("/jobs/{number}"))
    });
    peer.on_each(
        "/jobs/0",
        [
            Reply::code(202),
            Reply::code(202),
            Reply::json(json!([{"made": 0}])),
        ],
    );
    peer.on("/jobs/1", Reply::code(202));
    let remote = format!("http: {{url: \"{}\", poll: 20ms}}", peer.url("/run"));
    let test = flow(
        &remote,
        2,
        "        timeout: 1s\n        on_error: dead_letter",
    );
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(A_WHILE, || {
        peer.requests_to("/jobs/1")
            .iter()
            .any(|request| request.method == "DELETE")
    });
    assert!(
        peer.requests_to("/jobs/0")
            .iter()
            .all(|request| request.method == "GET")
    );
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    assert_eq!(stored(&test), [json!({"made": 0})]);
    let letters = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .json();
    assert_eq!(
        letters["dead_letters"].as_array().unwrap().len(),
        1,
        "{letters}"
    );
}

#[test]
fn a_service_that_is_away_leaves_its_calls_to_the_next_place() {
    let mut peer = HttpPeer::start();
    peer.go_away();
    let remote = format!("http: {{url: \"{}\"}}", peer.url("/run"));
    let test = flow(&remote, 3, "");
    let text = test
        .read("flow.yaml")
        .replace("{params: {factor: 3}}", "{python: \"logic.py:here\"}");
    test.file(
        "flow.yaml",
        &text.replace("remote: score", "remote: [score, local]"),
    );
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    assert_eq!(
        stored(&test),
        (0..3).map(|n| json!({"here": n})).collect::<Vec<_>>()
    );
}

#[test]
fn a_service_that_goes_away_with_a_call_keeps_it_though_another_place_is_there() {
    let mut peer = HttpPeer::start();
    peer.on("/run", Reply::code(202).header("Location", "/jobs/0"));
    peer.on("/jobs/0", Reply::code(202));
    let remote = format!("http: {{url: \"{}\", poll: 20ms}}", peer.url("/run"));
    let test = flow(
        &remote,
        1,
        "        retry: {backoff: 100ms, max: 200ms, attempts: 100}",
    );
    let text = test
        .read("flow.yaml")
        .replace("{params: {factor: 3}}", "{python: \"logic.py:here\"}");
    test.file(
        "flow.yaml",
        &text.replace("remote: score", "remote: [score, local]"),
    );
    let running = test.spawn(["run", "flow.yaml", "--once"]);
    peer.wait_for("/jobs/0", 2, A_WHILE);
    peer.go_away();
    // Long enough for a poll, and for an attempt or two more, to be refused.
    std::thread::sleep(Duration::from_secs(1));
    peer.on("/jobs/0", Reply::json(json!([{"made": 0}])));
    peer.come_back();
    running.wait(A_WHILE).assert_code(0);
    assert_eq!(stored(&test), [json!({"made": 0})]);
    let asked = peer.requests_to("/run");
    let keys: std::collections::BTreeSet<_> = asked
        .iter()
        .map(|request| request.header("idempotency-key"))
        .collect();
    assert!(asked.len() > 1 && keys.len() == 1, "{keys:?}");
    let ended = |request: &Request| request.method == "DELETE";
    assert!(!peer.requests_to("/jobs/0").iter().any(ended));
}

#[test]
fn a_test_answers_for_what_a_service_does() {
    let test = flow("http: {url: \"http://localhost:1/run\"}", 2, "");
    test.file(
        "flow.test.yaml",
        "cases:\n  made:\n    given: {p.far: {made: 7}}\n    expect:\n      storages: {p: [{made: 7}, {made: 7}]}\n",
    );
    test.run(["test", "flow.yaml"]).assert_code(0);
}

/// Airflow's answers, as version 3.3 gives them: runs that end after some looks.
struct Airflow {
    peer: HttpPeer,
    runs: Arc<Mutex<BTreeMap<String, Run>>>,
}

#[derive(Debug)]
struct Run {
    conf: Value,
    looks: usize,
    state: &'static str,
}

impl Airflow {
    /// `ends` says how a run of a call ends: a state that lasts, `success` or `failed`.
    fn start(ends: fn(&Value) -> &'static str) -> Self {
        let peer = HttpPeer::start();
        let runs: Arc<Mutex<BTreeMap<String, Run>>> = Arc::default();
        let tokens = Arc::new(Mutex::new(0));
        peer.on_request("*", {
            let runs = Arc::clone(&runs);
            move |request| {
                Self::answer(
                    &mut runs.lock().unwrap(),
                    &mut tokens.lock().unwrap(),
                    request,
                    ends,
                )
            }
        });
        Self { peer, runs }
    }

    fn answer(
        runs: &mut BTreeMap<String, Run>,
        tokens: &mut usize,
        request: &Request,
        ends: fn(&Value) -> &'static str,
    ) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if path == "/auth/token" {
            let login = request.json();
            if login["password"] != "right" {
                return Reply::json(json!({"detail": "Invalid credentials"})).status(401);
            }
            *tokens += 1;
            return Reply::json(json!({"access_token": format!("token-{tokens}")})).status(201);
        }
        // Each token is good for some requests.
        let known = request.header("authorization") == Some(&*format!("Bearer token-{tokens}"));
        if !known {
            return Reply::json(json!({"detail": "Invalid JWT token"})).status(401);
        }
        let rest = path.strip_prefix("/api/v2/dags/score").unwrap();
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", []) => Reply::json(json!({"dag_id": "score", "is_paused": false})),
            ("POST", ["dagRuns"]) => {
                let run = request.json();
                assert!(run.as_object().unwrap().contains_key("logical_date"), "422");
                let id = run["dag_run_id"].as_str().unwrap().to_owned();
                if runs.contains_key(&id) {
                    return Reply::json(json!({"detail": "Unique constraint violation"}))
                        .status(409);
                }
                let conf = run["conf"].clone();
                runs.insert(
                    id,
                    Run {
                        conf,
                        looks: 0,
                        state: "queued",
                    },
                );
                // The answer of each third trigger is lost, though the run was made.
                match runs.len() % 3 {
                    0 => Reply::code(503),
                    _ => Reply::json(json!({"state": "queued"})),
                }
            }
            ("GET", ["dagRuns", id]) => {
                let run = runs.get_mut(*id).unwrap();
                run.looks += 1;
                if run.looks == 2 {
                    // The token has come to its end.
                    *tokens += 1;
                }
                if run.state != "failed" {
                    run.state = match run.looks {
                        1 => "queued",
                        2 => "running",
                        _ => ends(&run.conf),
                    };
                }
                Reply::json(json!({"dag_run_id": id, "state": run.state}))
            }
            ("PATCH", ["dagRuns", id]) => {
                assert_eq!(request.json(), json!({"state": "failed"}));
                runs.get_mut(*id).unwrap().state = "failed";
                Reply::json(json!({"state": "failed"}))
            }
            ("GET", ["dagRuns", id, "taskInstances"]) => {
                let state = runs[*id].state;
                Reply::json(json!({"task_instances": [
                    {"task_id": "work", "state": state, "try_number": 1, "end_date": "2026-11-22T17:42:40Z"},
                    {"task_id": "before", "state": "success", "try_number": 1, "end_date": "2026-11-22T17:42:36Z"},
                ]}))
            }
            (
                "GET",
                [
                    "dagRuns",
                    id,
                    "taskInstances",
                    "work",
                    "xcomEntries",
                    "return_value",
                ],
            ) => {
                let number = runs[*id].conf["batch"][0]["n"].as_i64().unwrap();
                Reply::json(json!({"key": "return_value", "value": {"made": 3 * number}}))
            }
            ("GET", ["dagRuns", _, "taskInstances", "work", "logs", "1"]) => Reply::json(
                json!({"content": [{"event": "at work"}, {"event": "ValueError: five is no number"}]}),
            ),
            _ => Reply::code(404),
        }
    }

    fn remote(&self, password: &str) -> String {
        format!(
            "airflow: {{url: \"{}\", dag: score, auth: {{username: u, password: {password}}}, poll: 20ms, queued: 300ms}}",
            self.peer.url("").trim_end_matches('/')
        )
    }
}

#[test]
fn g22_g23_a_dag_does_the_calls_whatever_is_lost_in_between() {
    let airflow = Airflow::start(|_| "success");
    let test = flow(
        &airflow.remote("right"),
        9,
        "        retry: {backoff: 20ms}",
    );
    let looked = test.run(["remotes", "test", "flow.yaml"]);
    assert!(
        looked.assert_code(0).stdout.contains("has the DAG `score`"),
        "{}",
        looked.stdout
    );
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    assert_eq!(stored(&test), all_made(9));
    let runs = airflow.runs.lock().unwrap();
    assert_eq!(runs.len(), 9, "{runs:?}");
    assert!(
        runs.keys().all(|id| id.starts_with("t__p__far__")),
        "{runs:?}"
    );
}

#[test]
fn g23_a_run_that_fails_or_never_starts_or_takes_too_long_is_a_dead_letter() {
    let airflow = Airflow::start(|conf| match conf["batch"][0]["n"].as_i64() {
        Some(1) => "failed",
        Some(2) => "running",
        _ => "success",
    });
    let options = "        timeout: 2s\n        on_error: dead_letter";
    let test = flow(&airflow.remote("right"), 4, options);
    test.spawn(["run", "flow.yaml", "--once"])
        .wait(A_WHILE)
        .assert_code(0);
    assert_eq!(stored(&test), [json!({"made": 0}), json!({"made": 9})]);
    let letters = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .json();
    let reasons = letters["dead_letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap());
    let reasons: Vec<&str> = reasons.collect();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("the task `work`")),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.contains("2s")),
        "{reasons:?}"
    );
    let is_ended = |run: &Run| run.conf["batch"][0]["n"] == 2 && run.state == "failed";
    wait_until(Duration::from_secs(10), || {
        airflow.runs.lock().unwrap().values().any(is_ended)
    });
    let shown = test.run(["dead-letters", "show", "flow.yaml"]);
    let all = test.run([
        "dead-letters",
        "show",
        "flow.yaml",
        letters["dead_letters"][1]["id"].as_str().unwrap(),
    ]);
    assert!(
        format!("{}{}", shown.stdout, all.stdout).contains("five is no number"),
        "{}{}",
        shown.stdout,
        all.stdout
    );
}

#[test]
fn a_login_that_airflow_refuses_stops_the_flow() {
    let airflow = Airflow::start(|_| "success");
    let test = flow(&airflow.remote("wrong"), 1, "");
    let ran = test.spawn(["run", "flow.yaml", "--once"]).wait(A_WHILE);
    ran.assert_code(1);
    assert!(ran.stderr.contains("Invalid credentials"), "{}", ran.stderr);
}

#[test]
fn the_example_works_with_a_real_airflow_in_both_directions() {
    let case = "a real Airflow works for a stage, and has a pipeline run";
    if !wiredflow_testkit::thorough() {
        return wiredflow_testkit::skipped(case, "it is one of `scripts/test --all`");
    }
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let venv = match wiredflow_testkit::python_program(folder, "apache-airflow>=3,<4", "airflow") {
        Ok(venv) => venv,
        Err(why) => {
            return wiredflow_testkit::skipped(case, &format!("Airflow cannot be had: {why}"));
        }
    };
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/airflow");
    let (test, port) = (tool(), wiredflow_testkit::free_port());
    let token = test.path(".wiredflow/token.operator");
    let variables = [
        ("WIREDFLOW_URL", format!("http://127.0.0.1:{port}")),
        ("WIREDFLOW_TOKEN_FILE", token.to_str().unwrap().to_owned()),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let airflow = wiredflow_testkit::Airflow::start(&venv, &example.join("dags.py"), &variables);
    let text = std::fs::read_to_string(example.join("flow.yaml")).unwrap();
    let text = text.replace(
        "name: airflow_example",
        &format!("name: airflow_example\nlisten: \"127.0.0.1:{port}\""),
    );
    test.file("flow.yaml", &text.replace("every: 15m", "every: 1h"));
    let (user, password) = wiredflow_testkit::AIRFLOW_LOGIN;
    let test = test
        .env("AIRFLOW_URL", &airflow.url())
        .env("AIRFLOW_USER", user)
        .env("AIRFLOW_PASSWORD", password);
    // A DAG is seen some seconds after its file.
    let mut looked = String::new();
    wait_until(A_WHILE, || {
        looked = test.run(["remotes", "test", "flow.yaml"]).stdout;
        looked.contains("has the DAG `heavy_scoring`")
    });
    let mut running = test.spawn(["run", "flow.yaml"]);
    let scores = test.path("data/jsonl_in_scores.jsonl");
    running.wait_until(Duration::from_secs(120), || scores.exists());
    let rows = wiredflow_testkit::written_rows(&scores);
    let expected: Vec<Value> = (1..=3).map(|n| json!({"n": n, "score": 10 * n})).collect();
    assert_eq!(rows, expected, "{}", airflow.log());
    assert_eq!(
        airflow.trigger("wait_for_wiredflow", "test"),
        "success",
        "{}",
        airflow.log()
    );
    let report = wiredflow_testkit::written_rows(&test.path("data/jsonl_in_report.jsonl"));
    assert_eq!(report, [json!({"scores": 3, "best": 30})]);
    running.signal(Signal::Term);
    let ended = running.wait(SOON);
    ended.assert_code(0);
    // What the task has printed.
    let printed = "scores/score attempt 1 of airflow_example__scores__score__";
    assert!(ended.stderr.contains(printed), "{}", ended.stderr);
}
