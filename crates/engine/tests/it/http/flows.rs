//! Whole flows over HTTP: what the engine makes of the errors.

use std::time::{Duration, Instant};

use serde_json::json;
use wiredflow_core::Value;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::run::{RunOptions, start};
use wiredflow_testkit::{HttpPeer, Reply};

/// Runs a flow of one pipeline, until it ends or 20 s have passed.
async fn run(pipeline: &str) -> RunReport {
    let folder = tempfile::tempdir().unwrap();
    let mut functions = Functions::default();
    functions.register_simple("page", |_| {
        Ok(json!({"params": {"page": 2}, "json": {"ask": "all"}}))
    });
    functions.register_simple("sum", |call| {
        let numbers = call.data.as_array().unwrap().iter();
        let sum: i64 = numbers.map(|record| record["n"].as_i64().unwrap()).sum();
        Ok(json!({"sum": sum, "text": "thirty"}))
    });
    let text = format!("pipelines: {{p: {pipeline}}}");
    let lookup = SystemLookup::new(folder.path());
    let checked = check_text(&text, "test", folder.path(), &functions, &lookup);
    let plan = checked
        .plan
        .unwrap_or_else(|| panic!("{:#?}", checked.problems));
    let options = RunOptions {
        limit: Some(Duration::from_secs(20)),
        ..RunOptions::default()
    };
    let finished = start(&plan, &options).unwrap().finished().await;
    finished.report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_asks_as_it_is_configured_and_sends_what_it_makes() {
    let (from, to) = (HttpPeer::start(), HttpPeer::start());
    from.on("/numbers", Reply::json(json!([{"n": 10}, {"n": 20}])));
    to.on("*", Reply::json(json!({"correct": true})));
    let report = run(&format!(
        "{{once: true, stages: [
            {{configuration: {{rust: page}}}},
            {{http: {{url: '{}', method: POST}}}},
            {{core_logic: {{rust: sum}}}},
            {{send: {{http_post: {{url: '{}'}}, field: sum}}}},
            {{send: {{http_put: {{url: '{}'}}, field: text}}}},
            {{send: {{http_put: '{}'}}}}]}}",
        from.url("/numbers"),
        to.url("/sum"),
        to.url("/text"),
        to.url("/all"),
    ))
    .await;
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.pipelines["p"].deliveries.committed, 1);
    let asked = from.requests().pop().unwrap();
    assert_eq!(
        (asked.method.as_str(), asked.query.as_str()),
        ("POST", "page=2")
    );
    assert_eq!(asked.json(), json!({"ask": "all"}));
    let sent = to.requests();
    let sent: Vec<(&str, &str, &str)> = sent
        .iter()
        .map(|request| {
            (
                request.method.as_str(),
                request.path.as_str(),
                request.text(),
            )
        })
        .collect();
    let expected = [
        ("POST", "/sum", "30"),
        ("PUT", "/text", "thirty"),
        ("PUT", "/all", r#"{"sum":30,"text":"thirty"}"#),
    ];
    assert_eq!(sent, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_an_overloaded_peer_is_asked_again_when_it_wants_to_be() {
    let peer = HttpPeer::start();
    let busy = Reply::code(429).header("retry-after", "2");
    peer.on_each(
        "/x",
        [
            busy,
            Reply::code(500),
            Reply::json(json!([{"n": 1}, {"n": 2}])),
        ],
    );
    let url = peer.url("/x");
    let report = run(&format!(
        "{{once: true, stages: [{{http: '{url}'}}, {{core_logic: {{rust: sum}}}}]}}"
    ))
    .await;
    assert!(report.ok, "{report:#?}");
    let times: Vec<Instant> = peer.requests().iter().map(|request| request.at).collect();
    assert_eq!(times.len(), 3);
    assert!(
        times[1] - times[0] >= Duration::from_secs(2),
        "the peer's wait is kept"
    );
    assert!(times[2] > times[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_refused_login_ends_the_flow_and_is_never_tried_again() {
    let peer = HttpPeer::start();
    peer.on("/x", Reply::text("bad key").status(401));
    let url = peer.url("/x");
    for stage in [
        format!("http: '{url}'"),
        format!("send: {{http_post: '{url}'}}"),
    ] {
        let first = format!("http: {}", peer.url("/numbers"));
        peer.on("/numbers", Reply::json(json!([{"n": 1}])));
        let before = peer.requests_to("/x").len();
        let report = run(&format!(
            "{{once: true, on_failure: restart, stages: [{{{first}}}, {{{stage}, retry: {{attempts: 5}}}}]}}"
        ))
        .await;
        assert!(!report.ok);
        let error = report.error.unwrap();
        assert!(error.contains("refused the credentials (401"), "{error}");
        assert_eq!(peer.requests_to("/x").len(), before + 1, "{stage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_message_that_is_refused_for_good_is_set_aside_and_the_others_are_sent() {
    let peer = HttpPeer::start();
    peer.on(
        "/numbers",
        Reply::json(json!([{"n": 1}, {"n": 2}, {"n": 3}])),
    );
    peer.on_request("/x", |request| {
        let refused = request.json() == json!({"n": 2});
        Reply::code(if refused { 400 } else { 200 })
    });
    let (numbers, url) = (peer.url("/numbers"), peer.url("/x"));
    let report = run(&format!(
        "{{once: true, stages: [{{http: '{numbers}'}}, {{send: {{http_put: '{url}'}}, on_error: dead_letter}}]}}"
    ))
    .await;
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.pipelines["p"].deliveries.dead_lettered, 1);
    let sent: Vec<Value> = peer
        .requests_to("/x")
        .iter()
        .map(wiredflow_testkit::Request::json)
        .collect();
    assert!(
        sent.contains(&json!({"n": 1})) && sent.contains(&json!({"n": 3})),
        "{sent:?}"
    );
}
