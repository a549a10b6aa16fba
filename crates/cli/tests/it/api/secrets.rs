//! A secret is nowhere, and what viewers see holds no data.

use std::process::Command;

use wiredflow_testkit::{HttpPeer, Reply as PeerReply, Signal, wait_until};

use super::{Api, LISTEN};
use crate::{SOON, tool};

const CANARY: &str = "canary-7f3a9c2e51";

/// What a value looks like in other spellings.
fn spellings(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    vec![secret.to_owned(), hex]
}

#[test]
fn h10_a_secret_is_in_no_answer_no_event_no_metric_no_log_and_no_command_line() {
    let peer = HttpPeer::start();
    // It says back what it was sent, as careless servers do.
    peer.on_request("/", |request| {
        let shown = request.header("x-key").unwrap_or_default().to_owned();
        PeerReply::text(&format!("who is {shown}?")).status(400)
    });
    let logic = "import os\ndef fail(relevant_info=None, **params):\n    print('printed', os.environ['CANARY'])\n    raise ValueError('no ' + os.environ['CANARY'] + str(params))\n";
    let test = tool().env("CANARY", CANARY);
    test.file("logic.py", logic);
    test.file(
        "flow.yaml",
        &format!(
            "{LISTEN}pipelines:\n  asks: {{every: 200ms, on_failure: restart, stages: [{{http: {{url: '{}', headers: {{x-key: '${{env:CANARY}}'}}}}}}, {{store: jsonl}}]}}\n  \
             fails: {{every: 200ms, stages: [{{core_logic: {{program: [echo, '{{\"x\": 1}}']}}}}, {{core_logic: {{python: 'logic.py:fail', params: {{key: '${{env:CANARY}}'}}}}, on_error: dead_letter}}, {{store: jsonl}}]}}\n",
            peer.url("/")
        ),
    );
    let api = Api::start(test, &["--log-level", "trace"]);
    peer.wait_for("/", 2, SOON);
    api.wait_for(|api| {
        !api.get("dead-letters")["dead_letters"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    api.wait_for(|api| api.pipeline("asks")["last_error"].is_string());
    let letter = api.get("dead-letters")["dead_letters"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut seen = Vec::new();
    for route in wiredflow_api::routes()
        .iter()
        .filter(|route| route.method == "GET")
    {
        let path = route
            .path
            .replace("{pipeline}", "fails")
            .replace("{id}", &letter);
        let reply = api.ask("admin", "GET", &path);
        // Not ready while a pipeline is opened again.
        assert!(matches!(reply.status, 200 | 503), "{path}: {reply:?}");
        seen.push((path, format!("{}{}", reply.head, reply.body)));
    }
    let process = api.running.id().to_string();
    let shown = Command::new("ps")
        .args(["-o", "args", "--ppid", &process, "-p", &process])
        .output();
    if let Ok(shown) = shown {
        seen.push((
            "ps".to_owned(),
            String::from_utf8_lossy(&shown.stdout).into_owned(),
        ));
    }
    for verb in ["status", "logs"] {
        for json in [&["--json"][..], &[]] {
            let ran = api.test.run([&[verb, "flow.yaml"], json].concat());
            seen.push((verb.to_owned(), ran.assert_code(0).stdout.clone()));
        }
    }
    api.running.signal(Signal::Term);
    let ended = api.running.wait(SOON);
    seen.push(("stderr".to_owned(), ended.stderr.clone()));
    seen.push(("stdout".to_owned(), ended.stdout));
    for (place, text) in &seen {
        for spelling in spellings(CANARY) {
            let lines: Vec<&str> = text
                .lines()
                // What a function prints of itself is the log's, and its own affair.
                .filter(|line| {
                    line.contains(&spelling) && !(place == "stderr" && line.contains("printed"))
                })
                .collect();
            assert!(lines.is_empty(), "{place}: {lines:?}");
        }
    }
    // The test would see it: what stands around it is there.
    assert!(ended.stderr.contains("who is"), "{}", ended.stderr);
}

#[test]
fn h7_a_viewer_sees_neither_data_nor_words_that_quote_it() {
    let marker = "<script>alert('PAYLOAD')</script>";
    let test = tool();
    test.file(
        "logic.py",
        "def fail(relevant_info=None, **params):\n    raise ValueError(str(relevant_info))\n",
    );
    test.file("data.json", &serde_json::json!({ "x": marker }).to_string());
    test.file(
        "flow.yaml",
        &format!(
            "{LISTEN}pipelines:\n  p: {{every: 200ms, stages: [{{core_logic: {{program: [cat, data.json]}}}}, {{core_logic: {{python: 'logic.py:fail'}}, on_error: dead_letter}}, {{store: jsonl}}]}}\n"
        ),
    );
    let api = Api::start(test, &[]);
    api.wait_for(|api| {
        !api.get("dead-letters")["dead_letters"]
            .as_array()
            .unwrap()
            .is_empty()
    });
    let letter = api.get("dead-letters")["dead_letters"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut seen_by_others = 0;
    for route in wiredflow_api::routes()
        .iter()
        .filter(|route| route.method == "GET")
    {
        let path = route
            .path
            .replace("{pipeline}", "p")
            .replace("{id}", &letter);
        let shown = api.ask("viewer", "GET", &path);
        assert!(!shown.body.contains("PAYLOAD"), "{path}: {shown:?}");
        seen_by_others += usize::from(api.ask("operator", "GET", &path).body.contains("PAYLOAD"));
    }
    assert!(seen_by_others >= 3, "{seen_by_others}");
    // For those who may see it, it is data: never a page.
    let shown = api.ask("operator", "GET", &format!("/api/v1/dead-letters/{letter}"));
    assert!(
        shown
            .is(200)
            .head
            .contains("content-type: application/json")
    );
    let before = api.get("dead-letters?limit=1000")["dead_letters"]
        .as_array()
        .unwrap()
        .len();
    assert!(before > 0);
    let dropped = api.ask("admin", "DELETE", &format!("/api/v1/dead-letters/{letter}"));
    assert_eq!(dropped.is(200).json()["dropped"][0], letter.as_str());
    api.ask("admin", "DELETE", &format!("/api/v1/dead-letters/{letter}"))
        .is(404);
}

#[test]
fn a_dead_letter_is_replayed_by_the_api_when_its_cause_is_mended() {
    let test = tool();
    test.file("data.json", "{\"x\": 1}");
    let check = "if [ -e mended ]; then cat; else exit 1; fi";
    test.file(
        "flow.yaml",
        &format!(
            "{LISTEN}pipelines:\n  p: {{once: true, stages: [{{core_logic: {{program: [cat, data.json]}}}}, {{core_logic: {{program: [sh, -c, '{check}']}}, on_error: dead_letter}}, {{store: jsonl}}]}}\n  \
             stays: {{every: 1h, delay: 1h, stages: [{{core_logic: {{program: [cat, data.json]}}}}]}}\n"
        ),
    );
    let api = Api::start(test, &[]);
    let letters = || {
        api.get("dead-letters")["dead_letters"]
            .as_array()
            .unwrap()
            .clone()
    };
    wait_until(SOON, || !letters().is_empty());
    let id = letters()[0]["id"].as_str().unwrap().to_owned();
    api.test.file("mended", "");
    let asked = api.ask(
        "operator",
        "POST",
        &format!("/api/v1/dead-letters/{id}/replay"),
    );
    assert_eq!(asked.is(202).json()["asked"], true);
    wait_until(SOON, || letters().is_empty());
    wait_until(SOON, || api.test.path("data/jsonl_in_p.jsonl").exists());
}
