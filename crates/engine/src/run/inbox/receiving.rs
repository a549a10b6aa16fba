//! The part of a pipeline that takes what its source brings into the inbox.

use std::sync::Arc;

use wiredflow_core::delivery::{Delivery, Payload, Settled};
use wiredflow_core::stage::{AnySource, AnyStage, Cx, Emitter, Source, Stage};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Result, Value};

use crate::resources::Resources;
use crate::state::InboxRow;

use super::{Arrived, Inbox, OpenSource, OpenStage, Room, STAGE, kept};

/// The user's source, whose deliveries travel as numbers: what they brought waits in the inbox's desk, as it came.
pub(super) fn source(inbox: &Arc<Inbox>, user: OpenSource) -> OpenSource {
    let inbox = Arc::clone(inbox);
    OpenSource(Arc::new(move |resources: Resources| {
        let (inbox, user) = (Arc::clone(&inbox), user.clone());
        Box::pin(async move {
            let source = (user.0)(resources).await?;
            Ok(Box::new(Receiving { inbox, source }) as Box<dyn AnySource>)
        })
    }))
}

/// The sink that keeps them.
pub(super) fn stage(inbox: &Arc<Inbox>) -> OpenStage {
    let inbox = Arc::clone(inbox);
    OpenStage(Arc::new(move |_| {
        let inbox = Arc::clone(&inbox);
        Box::pin(async move {
            inbox.open_intake().await?;
            Ok(Box::new(Keep(inbox)) as Box<dyn AnyStage>)
        })
    }))
}

struct Receiving {
    inbox: Arc<Inbox>,
    source: Box<dyn AnySource>,
}

impl Source for Receiving {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        let most = tokio::select! {
            biased;
            () = self.inbox.worked_off.cancelled() => return Ok(Vec::new()),
            room = self.inbox.room() => most.min(room?),
        };
        let deliveries = tokio::select! {
            biased;
            () = self.inbox.worked_off.cancelled() => return Ok(Vec::new()),
            deliveries = self.source.next_boxed(most) => deliveries?,
        };
        // No await from here on: what was taken is handed on.
        self.inbox.with(|queue| {
            let travel = |delivery: Delivery| {
                let number = queue.next_arrived;
                queue.next_arrived += 1;
                let (form, body) = kept(&delivery.payload);
                queue.order.arriving(1, body.len());
                let arrived = Arrived {
                    identity: delivery.identity,
                    origin: delivery.origin.clone(),
                    form,
                    body,
                };
                queue.arrived.push_back((number, arrived));
                Delivery {
                    payload: Payload::Values(vec![Value::from(number)]),
                    ..delivery
                }
            };
            deliveries.into_iter().map(travel).collect()
        })
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        self.source.settle_boxed(settled).await
    }

    async fn close(&self) {
        self.source.close_boxed().await;
    }
}

struct Keep(Arc<Inbox>);

impl Stage for Keep {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        let numbers: Option<Vec<u64>> = batch.values().map(Value::as_u64).collect();
        let numbers = numbers.unwrap_or_default();
        self.0.keep(&numbers).await?;
        out.pass(Some(CommitReceipt::issue(STAGE.into(), batch.len())));
        Ok(())
    }
}

impl Inbox {
    /// Opens the intake: what was brought before and is not kept is forgotten, its source brings it again. A commit of
    /// which nobody has heard is heard of now.
    async fn open_intake(&self) -> Result<()> {
        let _opening = self.opening.lock().await;
        self.load().await?;
        let (id, next) = self.with(|queue| {
            queue.arrived.clear();
            queue.order.open_intake();
            (queue.id, queue.order.next())
        })?;
        let _working = self.clock.working();
        let heads = self.state.inbox_heads(id, next).await?;
        if !heads.is_empty() {
            self.with(|queue| {
                // They are on the disk and not in memory: what is recent has a gap before them.
                queue.recent.clear();
                queue.recent_bytes = 0;
                queue.order.kept((0, 0), heads.into_iter());
            })?;
            self.tell_meter();
            self.changed.notify_waiters();
        }
        Ok(())
    }

    /// Waits until the inbox takes more; says how many.
    async fn room(&self) -> Result<usize> {
        loop {
            let changed = self.changed.notified();
            match self.with(|queue| queue.order.room())? {
                Room::For { most, news } => {
                    if news {
                        tracing::info!(pipeline = %self.pipeline, "the inbox has room again: going on with the source");
                    }
                    return Ok(most);
                }
                Room::Full { news } => {
                    let waiting = self.with(|queue| queue.order.waiting())?;
                    if news {
                        tracing::warn!(
                            pipeline = %self.pipeline,
                            waiting,
                            "the inbox is full: nothing more is taken from the source until a tenth of it is worked off"
                        );
                    }
                }
            }
            changed.await;
        }
    }

    /// Makes safe what travels under these numbers; one that the inbox has already is passed over.
    async fn keep(&self, travelling: &[u64]) -> Result<()> {
        let (id, rows) = self.with(|queue| {
            let rows = queue.rows(travelling)?;
            Ok::<_, Error>((queue.id, rows))
        })??;
        if !rows.is_empty() {
            self.state.put_into_inbox(id, Arc::clone(&rows)).await?;
        }
        let again = travelling.len() - rows.len();
        if again > 0 {
            tracing::debug!(pipeline = %self.pipeline, again, "delivered again, and in the inbox already: passed over");
        }
        self.with(|queue| {
            // They were brought in the order of their numbers, and are kept so.
            let mut bytes = 0;
            while let Some((number, arrived)) = queue.arrived.pop_front() {
                bytes += arrived.body.len();
                if Some(&number) == travelling.last() {
                    break;
                }
            }
            queue.kept((travelling.len(), bytes), &rows);
        })?;
        self.meter.taken(travelling.len());
        self.tell_meter();
        self.changed.notify_waiters();
        Ok(())
    }
}

impl super::Queue {
    /// The rows of what travels under these numbers, but for what is here already.
    fn rows(&self, travelling: &[u64]) -> Result<Arc<[InboxRow]>> {
        let gone = || Error::bug("what a source has brought is gone before it was kept");
        let first = self.arrived.front().ok_or_else(gone)?.0;
        let find = |number: &u64| {
            let place = usize::try_from(number.checked_sub(first)?).ok()?;
            self.arrived.get(place).map(|(_, arrived)| arrived)
        };
        let arrived: Option<Vec<&Arrived>> = travelling.iter().map(find).collect();
        let arrived = arrived.ok_or_else(gone)?;
        let identities = arrived.iter().map(|arrived| arrived.identity);
        let numbers = self.order.numbers(identities);
        let row = |(arrived, number): (&Arrived, Option<u64>)| {
            Some(InboxRow {
                number: number?,
                identity: arrived.identity,
                origin: arrived.origin.clone(),
                form: arrived.form.clone(),
                body: arrived.body.clone(),
            })
        };
        Ok(arrived.into_iter().zip(numbers).filter_map(row).collect())
    }
}
