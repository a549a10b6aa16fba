//! Spans of real flows at a collector: what a tool for traces would get.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message;
use serde_json::json;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::run::{RunOptions, Running, start};
use wiredflow_testkit::{HttpPeer, Mosquitto, Reply};
use wiredflow_traces::{Settings, Traces};

const SOON: Duration = Duration::from_secs(30);

/// A collector that takes what comes.
fn collector() -> HttpPeer {
    let collector = HttpPeer::start();
    collector.on("/v1/traces", Reply::code(200));
    collector
}

fn settings(collector: &HttpPeer, more: &[(&str, &str)]) -> Settings {
    let url = collector.url("");
    let find = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(url.clone()),
        _ => {
            let mut found = more.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, word)| (*word).to_owned())
        }
    };
    Settings::read(&find).unwrap().unwrap()
}

/// Runs a flow whose spans go to the collector, until it has ended or `end` lets it.
async fn run(text: &str, settings: &Settings, end: impl AsyncFnOnce(&Running)) -> RunReport {
    let folder = tempfile::tempdir().unwrap();
    let lookup = SystemLookup::new(folder.path());
    let functions = Functions::default();
    let checked = check_text(text, "seen", folder.path(), &functions, &lookup);
    assert!(checked.plan.is_some(), "{:#?}", checked.problems);
    let traces = Traces::begin("seen", settings, &Clock::real()).unwrap();
    let options = RunOptions {
        spans: Some(traces.spans()),
        ..RunOptions::default()
    };
    let running = start(&checked.plan.unwrap(), &options).unwrap();
    end(&running).await;
    let ended = running.finished().await;
    traces.close().await;
    ended.report
}

/// What the collector has got, by trace: what is of the delivery first, then its calls by the time they began.
fn traces(collector: &HttpPeer) -> BTreeMap<Vec<u8>, Vec<Span>> {
    let mut traces: BTreeMap<Vec<u8>, Vec<Span>> = BTreeMap::new();
    for request in collector.requests_to("/v1/traces") {
        let export = ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap();
        for resource in export.resource_spans {
            let of = resource.resource.unwrap().attributes;
            assert_eq!(attribute(&of, "service.name"), json!("seen"));
            for scope in resource.scope_spans {
                assert_eq!(scope.scope.unwrap().name, "wiredflow");
                for span in scope.spans {
                    traces.entry(span.trace_id.clone()).or_default().push(span);
                }
            }
        }
    }
    for spans in traces.values_mut() {
        spans.sort_by_key(|span| (!span.parent_span_id.is_empty(), span.start_time_unix_nano));
        let ids: BTreeSet<&Vec<u8>> = spans.iter().map(|span| &span.span_id).collect();
        assert_eq!(ids.len(), spans.len(), "{spans:#?}");
        let (root, calls) = spans.split_first().unwrap();
        assert_eq!(root.parent_span_id, Vec::<u8>::new(), "{spans:#?}");
        for call in calls {
            assert_eq!(call.parent_span_id, root.span_id, "{spans:#?}");
            assert!(call.end_time_unix_nano >= call.start_time_unix_nano);
            // A clock that is set between two spans is not looked for here, but a microsecond of rounding is.
            assert!(
                call.start_time_unix_nano + 2_000_000 >= root.start_time_unix_nano,
                "{spans:#?}"
            );
            assert!(
                call.end_time_unix_nano <= root.end_time_unix_nano + 2_000_000,
                "{spans:#?}"
            );
        }
    }
    traces
}

fn attribute(attributes: &[KeyValue], name: &str) -> serde_json::Value {
    let mut found = attributes.iter().filter(|attribute| attribute.key == name);
    let value = found
        .next()
        .and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::IntValue(number)) => json!(number),
        other => panic!("`{name}` is {other:?} in {attributes:?}"),
    }
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_a_trace_with_a_span_for_each_call() {
    let (collector, api) = (collector(), HttpPeer::start());
    api.on_each(
        "/values",
        [Reply::code(503), Reply::json(json!([{"v": 1}, {"v": 2}]))],
    );
    let text = format!(
        "pipelines: {{polled: {{once: true, stages: [{{name: values, http: \"{}\", retry: {{backoff: 10ms}}}}, \
         {{filter: {{field: v, above: 1}}}}, {{store: {{jsonl: {{folder: data}}}}}}]}}}}",
        api.url("/values")
    );
    let report = run(&text, &settings(&collector, &[]), async |_| {}).await;
    assert!(report.ok, "{report:?}");
    let traces = traces(&collector);
    assert_eq!(traces.len(), 1);
    let spans = traces.values().next().unwrap();
    assert_eq!(
        names(spans),
        ["polled", "values", "values", "filter", "store"]
    );
    let root = &spans[0];
    assert_eq!(root.kind(), SpanKind::Internal);
    assert_eq!(
        attribute(&root.attributes, "wiredflow.outcome"),
        json!("committed")
    );
    assert_eq!(attribute(&root.attributes, "wiredflow.flow"), json!("seen"));
    assert_eq!(
        attribute(&root.attributes, "wiredflow.records_out"),
        json!(1)
    );
    let failed = spans[1].status.clone().unwrap();
    assert_eq!(failed.code(), StatusCode::Error);
    assert!(failed.message.contains("503"), "{failed:?}");
    assert_eq!(spans[1].kind(), SpanKind::Client);
    let attempt = |span: &Span| attribute(&span.attributes, "wiredflow.attempt");
    assert_eq!(
        [attempt(&spans[1]), attempt(&spans[2])],
        [json!(1), json!(2)]
    );
    assert_eq!(
        attribute(&spans[3].attributes, "wiredflow.records"),
        json!(2)
    );
    assert_eq!(
        attribute(&spans[4].attributes, "wiredflow.kind"),
        json!("store")
    );
}

/// A flow that stores what a broker brings.
fn stored(broker: &Mosquitto, more: &str) -> String {
    let address = broker.address();
    format!(
        "pipelines: {{came: {{source: {{mqtt: {{broker: \"{address}\", topic: in}}}}, {more}stages: [{{store: {{jsonl: {{folder: data}}}}}}]}}}}"
    )
}

/// Publishes when the flow listens, and stops it when all has been settled.
async fn publish(broker: &Mosquitto, payloads: &[String], running: &Running) {
    broker.wait_for_log("Sending SUBACK", SOON);
    broker
        .client()
        .publish_all("in", payloads.to_vec(), 1)
        .unwrap();
    let since = std::time::Instant::now();
    let settled = || {
        let deliveries = &running.snapshot().pipelines["came"].deliveries;
        deliveries.committed + deliveries.dead_lettered
    };
    while settled() < payloads.len() as u64 {
        assert!(since.elapsed() < SOON, "{:?}", running.snapshot());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stopper().stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_a_trace_of_its_own_and_one_that_cannot_be_read_says_so() {
    for more in ["", "ack: inbox, "] {
        let (collector, broker) = (collector(), Mosquitto::start());
        let mut payloads: Vec<String> = (0..50).map(|n| format!("{{\"n\": {n}}}")).collect();
        payloads.push("{\"n\": ".to_owned());
        let publish = async |running: &Running| publish(&broker, &payloads, running).await;
        let report = run(&stored(&broker, more), &settings(&collector, &[]), publish).await;
        assert!(report.ok, "{report:?}");
        let traces = traces(&collector);
        assert_eq!(traces.len(), 51);
        let (stored, aside): (Vec<_>, Vec<_>) = traces.values().partition(|spans| spans.len() == 2);
        assert!(stored.iter().all(|spans| names(spans) == ["came", "store"]));
        assert!(
            stored
                .iter()
                .all(|spans| spans[0].kind() == SpanKind::Consumer)
        );
        assert_eq!((stored.len(), aside.len()), (50, 1));
        let root = &aside[0][0];
        assert_eq!(
            attribute(&root.attributes, "wiredflow.outcome"),
            json!("dead_lettered")
        );
        let status = root.status.clone().unwrap();
        assert!(status.message.contains("cannot be read"), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_traces_is_whole() {
    let (collector, broker) = (collector(), Mosquitto::start());
    let payloads: Vec<String> = (0..400).map(|n| format!("{{\"n\": {n}}}")).collect();
    let publish = async |running: &Running| publish(&broker, &payloads, running).await;
    let share = [
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
    ];
    run(&stored(&broker, ""), &settings(&collector, &share), publish).await;
    let traces = traces(&collector);
    // Of 400 that are chosen by chance: further off than by 10 standard deviations is no chance.
    assert!((100..300).contains(&traces.len()), "{}", traces.len());
    assert!(traces.values().all(|spans| spans.len() == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_silent_holds_up_nothing() {
    for is_silent in [false, true] {
        let (mut collector, broker) = (HttpPeer::start(), Mosquitto::start());
        collector.on("/v1/traces", Reply::never());
        if !is_silent {
            collector.go_away();
        }
        // More than wait for it.
        let payloads: Vec<String> = (0..6000).map(|n| format!("{{\"n\": {n}}}")).collect();
        let publish = async |running: &Running| publish(&broker, &payloads, running).await;
        let report = run(&stored(&broker, ""), &settings(&collector, &[]), publish).await;
        assert!(report.ok, "{report:?}");
        assert_eq!(report.pipelines["came"].deliveries.committed, 6000);
    }
}
