//! Spans of a running flow, sent to an OpenTelemetry collector by OTLP over HTTP.
//!
//! What the collector is, and how many traces it gets, is told by the environment, in the words that all OpenTelemetry programs
//! know. A collector that is away, or slow, holds up nothing: what does not fit into the queue is dropped, and counted.

mod settings;
mod shape;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::mpsc;
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::spans::{Span, Spans};
use wiredflow_engine::tasks::Tasks;
use wiredflow_engine::tls::TlsFiles;

pub use settings::Settings;
use settings::Share;

/// Spans that wait to be sent. About 1 kB each.
const ROOM: usize = 8192;

/// Spans of one request.
const MOST: usize = 512;

/// How long spans are gathered.
const EACH: Duration = Duration::from_millis(500);

/// How long the last ones are waited for.
const LAST_MOMENTS: Duration = Duration::from_secs(3);

/// Spans on their way to a collector.
#[derive(Debug)]
pub struct Traces {
    queue: Arc<Queue>,
    tasks: Tasks,
    clock: Clock,
}

#[derive(Debug)]
struct Queue {
    share: Share,
    sender: std::sync::Mutex<Option<mpsc::Sender<Span>>>,
    dropped: AtomicU64,
}

impl Traces {
    /// Begins to send. Must be called inside a runtime.
    ///
    /// # Errors
    /// `Config` when the environment names no collector that can be asked.
    pub fn begin(flow: &str, settings: &Settings, clock: &Clock) -> Result<Self> {
        let tls = TlsFiles::default().client_config()?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(settings.timeout)
            .build()
            .map_err(|error| Error::bug(format!("no client for traces: {error}")))?;
        let mut exporter = OtlpExporter::builder()
            .with_http()
            .with_endpoint(&settings.endpoint)
            .with_http_client(client)
            .build()
            .map_err(|error| Error::config(format!("traces cannot be sent: {error}")))?;
        exporter.set_resource(&resource(flow, settings));
        let (sender, receiver) = mpsc::channel(ROOM);
        let queue = Arc::new(Queue {
            share: settings.share,
            sender: std::sync::Mutex::new(Some(sender)),
            dropped: AtomicU64::new(0),
        });
        let tasks = Tasks::default();
        let sending = send(
            exporter,
            receiver,
            Arc::clone(&queue),
            clock.clone(),
            flow.into(),
        );
        tasks.spawn("traces", sending);
        Ok(Self {
            queue,
            tasks,
            clock: clock.clone(),
        })
    }

    /// Who is to be told of spans.
    pub fn spans(&self) -> Arc<dyn Spans> {
        Arc::clone(&self.queue) as Arc<dyn Spans>
    }

    /// Sends what waits, within 3 s; what is told after this is dropped.
    pub async fn close(self) {
        drop(self.queue.sender().take());
        tokio::select! {
            () = self.tasks.finished() => {}
            () = self.clock.sleep(LAST_MOMENTS) => {
                tracing::warn!("the collector of traces does not answer: the last spans are dropped");
            }
        }
        self.tasks.abort();
        self.tasks.finished().await;
    }
}

impl Queue {
    fn sender(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Span>>> {
        self.sender
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Says how many spans did not fit since the last time.
    fn tell_dropped(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "more spans than the collector takes: set OTEL_TRACES_SAMPLER=traceidratio and OTEL_TRACES_SAMPLER_ARG=0.01 for a hundredth of the traces"
            );
        }
    }
}

impl Spans for Queue {
    fn wants(&self, trace: u128) -> bool {
        self.share.has(trace)
    }

    fn ended(&self, span: Span) {
        let is_full = |sender: &mpsc::Sender<Span>| sender.try_send(span).is_err();
        if self.sender().as_ref().is_some_and(is_full) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends what comes until the queue is closed and empty.
async fn send(
    exporter: OtlpExporter,
    mut spans: mpsc::Receiver<Span>,
    queue: Arc<Queue>,
    clock: Clock,
    flow: Arc<str>,
) {
    let mut is_away = false;
    let mut batch = Vec::with_capacity(MOST);
    while gather(&mut spans, &mut batch, &clock).await {
        let shaped: Vec<SpanData> = batch
            .drain(..)
            .map(|span| shape::shaped(span, &flow))
            .collect();
        let number = shaped.len();
        // It says why in words of its own; whose collector is away for hours hears of it once.
        let sent = exporter.export(shaped).await;
        match sent {
            Ok(()) if is_away => tracing::info!("the collector of traces is back"),
            Err(ref error) if !is_away => tracing::warn!(
                spans = number,
                "traces cannot be sent, and spans are dropped until they can: {error}"
            ),
            Ok(()) | Err(_) => {}
        }
        is_away = sent.is_err();
        queue.tell_dropped();
    }
}

/// Waits for spans, and then for as many as go together, or for the time that is given them; false at the end of all.
async fn gather(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>, clock: &Clock) -> bool {
    if spans.recv_many(batch, MOST).await == 0 {
        return false;
    }
    let mut time_is_over = std::pin::pin!(clock.sleep(EACH));
    while batch.len() < MOST {
        let room = MOST - batch.len();
        tokio::select! {
            number = spans.recv_many(batch, room) => if number == 0 { break },
            () = &mut time_is_over => break,
        }
    }
    true
}

/// What the spans are of: the environment's words first.
fn resource(flow: &str, settings: &Settings) -> Resource {
    let resource = Resource::builder();
    let resource = match settings.names_the_service {
        true => resource,
        false => resource.with_service_name(flow.to_owned()),
    };
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    resource.with_attribute(version).build()
}
