//! A span as OpenTelemetry has it. Names of attributes with a meaning there are theirs, all others begin with `wiredflow.`.

use std::sync::Arc;

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::spans::{Span, What};

/// The span for a collector.
pub(crate) fn shaped(span: Span, flow: &Arc<str>) -> SpanData {
    let context = SpanContext::new(
        TraceId::from(span.trace),
        SpanId::from(span.id),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let mut attributes = vec![
        text("wiredflow.flow", flow),
        text("wiredflow.pipeline", &span.pipeline),
    ];
    let (kind, name) = match span.what {
        What::Delivery {
            is_from_source,
            outcome,
            tally,
        } => {
            attributes.push(KeyValue::new("wiredflow.outcome", outcome.word()));
            attributes.push(number("wiredflow.records_in", tally.records_in));
            attributes.push(number("wiredflow.records_out", tally.records_out));
            let kind = match is_from_source {
                true => SpanKind::Consumer,
                false => SpanKind::Internal,
            };
            (kind, span.pipeline.to_string())
        }
        What::Call {
            stage,
            kind,
            work,
            attempt,
            records,
            deliveries,
        } => {
            attributes.push(text("wiredflow.stage", &stage));
            attributes.push(KeyValue::new("wiredflow.kind", kind));
            attributes.push(number("wiredflow.attempt", attempt));
            attributes.push(number("wiredflow.records", records));
            attributes.push(number("wiredflow.deliveries", deliveries));
            let kind = match work {
                Work::Peer | Work::PeerSink => SpanKind::Client,
                Work::Function | Work::Sink | Work::Records => SpanKind::Internal,
            };
            (kind, stage.to_string())
        }
    };
    let began = span.began.into();
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: false,
        span_kind: kind,
        name: name.into(),
        start_time: began,
        end_time: began + span.lasted,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match span.failure {
            None => Status::Unset,
            Some(failure) => Status::error(failure.to_string()),
        },
        instrumentation_scope: InstrumentationScope::builder("wiredflow")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn text(name: &'static str, value: &Arc<str>) -> KeyValue {
    KeyValue::new(name, StringValue::from(Arc::clone(value)))
}

fn number(name: &'static str, value: impl TryInto<i64>) -> KeyValue {
    KeyValue::new(name, value.try_into().unwrap_or(i64::MAX))
}
