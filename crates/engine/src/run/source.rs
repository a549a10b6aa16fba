//! Stream sources at work: take what arrives, read it, settle what has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wiredflow_core::delivery::{Delivery, Outcome, Parcel, Payload, Settle, Token};
use wiredflow_core::stage::AnySource;
use wiredflow_core::{Error, ErrorKind, Result, Value, json};

use crate::state::{Body, DeadLetter};

use super::PipelineShared;
use super::book::Book;
use super::port::feed;

/// The most deliveries that one batch takes from a source at a time.
const MOST: usize = 256;

/// Feeds a pipeline from a source until intake ends or the source does. Returns why, if it failed.
pub(crate) async fn take_in(
    source: &dyn AnySource,
    kind: &str,
    book: &Arc<Book>,
    pipeline: &Arc<PipelineShared>,
    queue: mpsc::Sender<Parcel>,
) -> Result<()> {
    let settle: Arc<dyn Settle> = Arc::clone(book) as Arc<dyn Settle>;
    loop {
        let deliveries = tokio::select! {
            biased;
            () = pipeline.stopping.intake_over() => return Ok(()),
            deliveries = source.next_boxed(MOST) => deliveries?,
        };
        if deliveries.is_empty() {
            return Ok(());
        }
        book.opened(deliveries.len());
        let mut readable = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let token = delivery.token;
            match read(delivery) {
                Ok(values) => readable.push((token, values)),
                Err(unreadable) => set_aside(token, unreadable, kind, &settle, pipeline).await?,
            }
        }
        if readable.is_empty() {
            continue;
        }
        let parcel = Parcel::start(readable, &settle);
        pipeline
            .meter
            .records_in
            .fetch_add(parcel.batch.len() as u64, Ordering::Relaxed);
        feed(&queue, &pipeline.first_stage.queued, parcel).await;
    }
}

/// Tells a source how its deliveries ended, until it is told that there will be no more.
pub(crate) async fn settle(
    source: &dyn AnySource,
    book: &Book,
    pipeline: &PipelineShared,
    until: &CancellationToken,
) {
    loop {
        let ended = tokio::select! {
            biased;
            ended = book.ended() => ended,
            () = until.cancelled() => return,
        };
        if let Err(error) = source.settle_boxed(ended).await {
            // What could not be acknowledged comes again; a lost connection shows at the next intake.
            tracing::warn!(pipeline = %pipeline.name, "not acknowledged: {error}");
        }
    }
}

struct Unreadable {
    body: Body,
    reason: String,
}

fn read(delivery: Delivery) -> Result<Vec<Value>, Unreadable> {
    match delivery.payload {
        Payload::Empty => Ok(Vec::new()),
        Payload::Values(values) => Ok(values),
        Payload::Json(bytes) => match json::parse(&bytes, json::MAX_PAYLOAD) {
            Ok(Value::Array(values)) => Ok(values),
            Ok(value) => Ok(vec![value]),
            Err(reason) => {
                let reason = match &delivery.origin {
                    Some(origin) => format!("the payload from `{origin}` cannot be read: {reason}"),
                    None => format!("the payload cannot be read: {reason}"),
                };
                Err(Unreadable {
                    body: Body::Bytes(bytes),
                    reason,
                })
            }
        },
    }
}

async fn set_aside(
    token: Token,
    unreadable: Unreadable,
    kind: &str,
    settle: &Arc<dyn Settle>,
    pipeline: &PipelineShared,
) -> Result<()> {
    let parcel = Parcel::start(vec![(token, Vec::new())], settle);
    pipeline.meter.error(&unreadable.reason);
    tracing::warn!(pipeline = %pipeline.name, source = kind, "to the dead letters: {}", unreadable.reason);
    let letter = DeadLetter {
        pipeline: pipeline.name.to_string(),
        stage: kind.to_owned(),
        kind: ErrorKind::Data,
        reason: unreadable.reason,
        trace: None,
        time: pipeline.shared.clock.now(),
        delivery: None,
        attempts: 1,
        params: None,
        body: unreadable.body,
    };
    pipeline.shared.dead_letter(letter).await?;
    parcel.lineage.close(Outcome::DeadLettered);
    Ok(())
}

/// Whether a source that failed so is opened again after a while.
pub(crate) fn is_away(error: &Error) -> bool {
    error.kind() == ErrorKind::Remote
}
