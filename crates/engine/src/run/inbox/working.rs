//! The part of a pipeline that works off its inbox.

use std::sync::Arc;

use wiredflow_core::delivery::{Delivery, Settled};
use wiredflow_core::stage::{AnySource, Source};
use wiredflow_core::{ErrorKind, Result};

use crate::resources::Resources;

use super::super::policy::{BACKOFF, backoff};
use super::{Inbox, OpenSource, READ, READ_BYTES, Write};

/// The inbox as a source.
pub(super) fn source(inbox: &Arc<Inbox>) -> OpenSource {
    let inbox = Arc::clone(inbox);
    OpenSource(Arc::new(move |resources: Resources| {
        let inbox = Arc::clone(&inbox);
        Box::pin(async move {
            inbox.open_work().await?;
            let writing = write_ends(Arc::clone(&inbox), resources.clone());
            resources.tasks.spawn("inbox", writing);
            Ok(Box::new(Working(inbox)) as Box<dyn AnySource>)
        })
    }))
}

struct Working(Arc<Inbox>);

impl Source for Working {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        let inbox = &self.0;
        loop {
            let changed = inbox.changed.notified();
            if let Some(error) = inbox.with(|queue| queue.failure.clone())? {
                return Err(error);
            }
            let deliveries = inbox.with(|queue| queue.hand_out(most))?;
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            if inbox.read().await? {
                continue;
            }
            let nothing_waits = inbox.with(|queue| queue.order.waiting() == 0)?;
            if nothing_waits && inbox.received_all.is_cancelled() {
                return Ok(Vec::new());
            }
            tokio::select! {
                () = changed => {}
                () = inbox.received_all.cancelled(), if !inbox.received_all.is_cancelled() => {}
            }
        }
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        self.0.with(|queue| {
            let ended = settled.iter().filter(|end| {
                // One of an earlier session has come again since.
                end.outcome.is_acknowledged() && end.token.epoch == queue.epoch
            });
            ended.for_each(|end| queue.order.ended(end.token.id));
        })?;
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn close(&self) {}
}

impl Inbox {
    /// Opens the inbox for those who work: what was under way comes again.
    async fn open_work(&self) -> Result<()> {
        let _opening = self.opening.lock().await;
        self.load().await?;
        self.with(|queue| {
            queue.order.open_work();
            queue.read.clear();
            queue.epoch += 1;
            queue.failure = None;
        })
    }

    /// Reads what is wanted and not in memory; false when there is nothing to read. Dropping the future loses nothing.
    async fn read(&self) -> Result<bool> {
        let wanted = self.with(|queue| {
            let from = queue.order.wanted().filter(|_| queue.read.is_empty())?;
            let recent = queue.recent.front().map(|row| row.number);
            let to = recent.unwrap_or_else(|| queue.order.next());
            (from < to).then_some((queue.id, from..to))
        })?;
        let Some((id, numbers)) = wanted else {
            return Ok(false);
        };
        let to = numbers.end;
        let _working = self.clock.working();
        let rows = self.state.read_inbox(id, numbers, READ, READ_BYTES).await?;
        self.with(|queue| {
            if rows.is_empty() {
                queue.order.nothing_below(to);
            }
            queue.read.extend(rows);
        })?;
        Ok(true)
    }

    fn to_write(&self) -> Result<Option<(i64, Write)>> {
        self.with(|queue| Some((queue.id, queue.order.to_write()?)))
    }
}

/// Writes down what has ended, as long as the pipeline is open; what ends while the disk is busy goes together.
async fn write_ends(inbox: Arc<Inbox>, resources: Resources) {
    let mut failures: u32 = 0;
    loop {
        let changed = inbox.changed.notified();
        // Looked at before: what has ended when the pipeline ends is written.
        let is_over = resources.stop.is_cancelled();
        let Ok(Some((id, write))) = inbox.to_write() else {
            if is_over {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = resources.stop.cancelled() => {}
            }
            continue;
        };
        let working = inbox.clock.working();
        let (mark, forget) = (write.mark.clone(), write.forget);
        let written = inbox.state.settle_inbox(id, write.low, mark, forget).await;
        drop(working);
        let error = match written {
            Ok(()) => {
                failures = 0;
                // It was loaded before.
                drop(inbox.with(|queue| queue.order.written(&write)));
                inbox.tell_meter();
                inbox.changed.notify_waiters();
                continue;
            }
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Remote {
            drop(inbox.with(|queue| queue.failure = Some(error)));
            inbox.changed.notify_waiters();
            return;
        }
        if is_over {
            tracing::warn!(pipeline = %inbox.pipeline, "what has ended is not written down, and comes again: {error}");
            return;
        }
        failures = failures.saturating_add(1);
        if failures.is_power_of_two() {
            tracing::warn!(pipeline = %inbox.pipeline, "the inbox cannot be written: {error}; trying again");
        }
        let wait = backoff(failures, BACKOFF.0, BACKOFF.1, &resources.dice);
        tokio::select! {
            () = inbox.clock.sleep(wait) => {}
            () = resources.stop.cancelled() => {}
        }
    }
}
