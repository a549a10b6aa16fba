//! Traces for an OpenTelemetry collector, where the build has them (`--features traces`) and the environment names one.

use std::sync::Arc;

use wiredflow_engine::run::RunOptions;
use wiredflow_engine::spans::Spans;

use crate::exit::Failure;

/// The variables that name a collector.
const COLLECTOR: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// What sends traces while a flow runs.
#[derive(Debug)]
pub(crate) struct Sending {
    #[cfg(feature = "traces")]
    traces: Option<wiredflow_traces::Traces>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn collector() -> Option<String> {
    let named = COLLECTOR.iter().filter_map(|name| variable(name));
    // Without a name and a password, which may stand before the `@`.
    let shown = |text: String| {
        text.trim()
            .rsplit('@')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    named.map(shown).find(|text| !text.is_empty())
}

#[cfg(feature = "traces")]
impl Sending {
    /// Begins, where the environment asks for it. Must be called inside the runtime.
    pub(crate) fn begin(flow: &str, options: &RunOptions) -> Result<Self, Failure> {
        let told = |error: wiredflow_core::Error| Failure::wrong(error.message());
        let settings = wiredflow_traces::Settings::read(&variable).map_err(told)?;
        let begin = |settings| wiredflow_traces::Traces::begin(flow, &settings, &options.clock);
        let traces = settings.map(begin).transpose().map_err(told)?;
        if let (Some(_), Some(collector)) = (&traces, collector()) {
            tracing::info!(%collector, "traces are sent");
        }
        Ok(Self { traces })
    }

    /// Who is told of spans.
    pub(crate) fn spans(&self) -> Option<Arc<dyn Spans>> {
        self.traces.as_ref().map(wiredflow_traces::Traces::spans)
    }

    /// Sends what waits.
    pub(crate) async fn close(self) {
        if let Some(traces) = self.traces {
            traces.close().await;
        }
    }
}

#[cfg(not(feature = "traces"))]
impl Sending {
    /// Says so where the environment asks for what this build does not have.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "a build with traces can fail here"
    )]
    pub(crate) fn begin(_: &str, _: &RunOptions) -> Result<Self, Failure> {
        if let Some(collector) = collector() {
            tracing::warn!(
                %collector,
                "no traces are sent: this build has none; one with `cargo build --release --features traces` has"
            );
        }
        Ok(Self {})
    }

    /// Nobody.
    #[expect(clippy::unused_self, reason = "a build with traces has somebody")]
    pub(crate) fn spans(&self) -> Option<Arc<dyn Spans>> {
        None
    }

    /// Nothing is to be done.
    #[expect(clippy::unused_async, reason = "a build with traces sends what waits")]
    pub(crate) async fn close(self) {}
}
