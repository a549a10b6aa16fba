//! Where a stage's output goes: the next queue, in the order of the input where that is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::delivery::{Outcome, Parcel};
use wiredflow_core::stage::{BoxFuture, Outlet};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Params, Result};

use crate::observe::{PipelineMeter, StageMeter};

use super::stopping::Stopping;

/// How many batches wait between two stages.
pub(crate) const QUEUE: usize = 2;

/// The way out of one stage.
#[derive(Clone)]
pub(crate) struct Exit {
    to: To,
    meter: Arc<StageMeter>,
}

#[derive(Clone)]
enum To {
    /// The queue before the next stage.
    Next(mpsc::Sender<Parcel>, Arc<StageMeter>),
    /// A queue of one call: a forwarder takes these in the order of the calls.
    Call(mpsc::Sender<Parcel>),
    /// The end of the pipeline.
    End(Arc<PipelineMeter>),
}

impl Exit {
    /// The way into the next stage's queue, or to the end.
    pub(crate) fn new(
        next: Option<(mpsc::Sender<Parcel>, Arc<StageMeter>)>,
        meter: Arc<StageMeter>,
        pipeline: Arc<PipelineMeter>,
    ) -> Self {
        let to = match next {
            Some((queue, next)) => To::Next(queue, next),
            None => To::End(pipeline),
        };
        Self { to, meter }
    }

    /// The way into a call's own queue.
    pub(crate) fn of_call(&self) -> (Self, mpsc::Receiver<Parcel>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (
            Self {
                to: To::Call(queue),
                meter: Arc::clone(&self.meter),
            },
            receiver,
        )
    }

    /// Hands a parcel on; waits while the queue is full, and charges that as blocked.
    pub(crate) async fn hand_on(&self, parcel: Parcel, charge: &dyn Charge) {
        if !matches!(self.to, To::Call(_)) {
            self.meter
                .records_out
                .fetch_add(parcel.batch.len() as u64, Ordering::Relaxed);
        }
        let queue = match &self.to {
            To::Next(queue, next) => {
                next.queued.fetch_add(1, Ordering::Relaxed);
                queue
            }
            To::Call(queue) => queue,
            To::End(pipeline) => {
                pipeline
                    .records_out
                    .fetch_add(parcel.batch.len() as u64, Ordering::Relaxed);
                parcel.lineage.close(Outcome::Committed);
                return;
            }
        };
        // A parcel that finds its queue closed is dropped: its deliveries count as lost, as they should.
        match queue.try_send(parcel) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(parcel)) => {
                let before = charge.enter(Activity::Blocked);
                drop(queue.send(parcel).await);
                charge.enter(before);
            }
        }
    }
}

/// A counted way into the first stage's queue, for triggers.
pub(crate) async fn feed(queue: &mpsc::Sender<Parcel>, queued: &AtomicUsize, parcel: Parcel) {
    queued.fetch_add(1, Ordering::Relaxed);
    drop(queue.send(parcel).await);
}

/// The outlet of one call.
pub(crate) struct CallOutlet<'a> {
    pub(crate) input: &'a Parcel,
    pub(crate) exit: &'a Exit,
    pub(crate) charge: &'a dyn Charge,
    pub(crate) stopping: &'a Stopping,
    /// How many batches were handed on.
    pub(crate) emitted: usize,
    /// Whether a batch was handed on after intake had ended: the next one is refused.
    pub(crate) last_one_out: bool,
    /// Whether a batch was refused: the call is a generator that the end of the run closes.
    pub(crate) closed: bool,
    /// What the stage said of its input.
    pub(crate) passed: Option<Option<CommitReceipt>>,
}

impl Outlet for CallOutlet<'_> {
    fn emit(&mut self, mut batch: Batch, params: Option<Params>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.last_one_out {
                self.closed = true;
                return Err(Error::remote("the flow ends: the generator is closed"));
            }
            self.last_one_out = self.stopping.is_intake_over();
            let lineage = self.input.lineage.child(&mut batch);
            let params = params.unwrap_or_else(|| Params::clone(&self.input.params));
            self.exit
                .hand_on(
                    Parcel {
                        batch,
                        lineage,
                        params,
                    },
                    self.charge,
                )
                .await;
            self.emitted += 1;
            Ok(())
        })
    }

    fn pass(&mut self, receipt: Option<CommitReceipt>) {
        self.passed = Some(receipt);
    }
}
