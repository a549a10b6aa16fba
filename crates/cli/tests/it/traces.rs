//! Traces for a collector, by the program: with `--features traces` they are sent, without it that is said.

use serde_json::json;
use wiredflow_testkit::{FlowTest, HttpPeer, Reply};

use crate::tool;

/// A flow that polls a value once, and a collector that the environment names.
fn service(collector: &HttpPeer, api: &HttpPeer) -> FlowTest {
    api.on("/values", Reply::json(json!({"v": 1})));
    let test = tool().env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url(""));
    let text = format!(
        "name: flow\npipelines:\n  polled:\n    once: true\n    stages: [{{http: \"{}\"}}, {{store: jsonl}}]\n",
        api.url("/values")
    );
    test.file("flow.yaml", &text);
    test
}

#[cfg(feature = "traces")]
#[test]
fn what_a_flow_does_is_sent_to_the_collector_that_the_environment_names() {
    let (collector, api) = (HttpPeer::start(), HttpPeer::start());
    collector.on("/v1/traces", Reply::code(200));
    let test = service(&collector, &api);
    let run = test.run(["run", "flow.yaml"]);
    run.assert_code(0);
    let sent = collector.requests_to("/v1/traces");
    assert_eq!(sent.len(), 1, "{run:?}");
    assert_eq!(
        sent[0].header("content-type"),
        Some("application/x-protobuf")
    );
    // Texts stand in it as they are.
    let body = String::from_utf8_lossy(&sent[0].body);
    for word in [
        "service.name",
        "flow",
        "polled",
        "http",
        "store",
        "wiredflow.outcome",
    ] {
        assert!(body.contains(word), "{word}: {body}");
    }
}

#[cfg(feature = "traces")]
#[test]
fn a_word_of_the_environment_that_is_not_built_is_refused() {
    let (collector, api) = (HttpPeer::start(), HttpPeer::start());
    let test = service(&collector, &api).env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let run = test.run(["run", "flow.yaml"]);
    run.assert_code(2);
    assert!(
        run.stderr.contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
        "{run:?}"
    );
    assert!(run.stderr.contains("http/protobuf"), "{run:?}");
}

#[cfg(not(feature = "traces"))]
#[test]
fn a_build_without_traces_says_so_where_they_are_asked_for() {
    let (collector, api) = (HttpPeer::start(), HttpPeer::start());
    let test = service(&collector, &api);
    let run = test.run(["run", "flow.yaml"]);
    run.assert_code(0);
    assert!(run.stderr.contains("no traces are sent"), "{run:?}");
    assert!(run.stderr.contains("--features traces"), "{run:?}");
    assert_eq!(collector.requests().len(), 0);
}
