//! Where a stage's output goes: the next queue, in the order of the input where that is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::delivery::{Outcome, Parcel, Way};
use wiredflow_core::stage::{BoxFuture, Outlet};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Params, Result};

use crate::observe::{PipelineMeter, StageMeter};

use super::channel::{NotSent, Receiver, Sender, channel};
use super::stopping::Stopping;

/// The way out of one stage.
#[derive(Clone)]
pub(crate) struct Exit {
    to: To,
    meter: Arc<StageMeter>,
    /// Where what leaves the stage counts as what came into the pipeline: for the first stage of a
    /// schedule, whose ticks bring no records.
    brings_in: Option<Arc<PipelineMeter>>,
    /// Whether what leaves counts as handed on by the stage.
    counts: bool,
}

#[derive(Clone)]
enum To {
    /// The queue before the next stage.
    Next(Sender, Arc<StageMeter>),
    /// A queue of one call: a forwarder takes these in the order of the calls.
    Call(Sender),
    /// The end of the pipeline.
    End(Arc<PipelineMeter>),
    /// Nowhere: its delivery has been dealt with before.
    Nowhere,
}

impl Exit {
    /// The way into the next stage's queue, or to the end. `brings_in`: see [`Exit`].
    pub(crate) fn new(
        next: Option<(Sender, Arc<StageMeter>)>,
        meter: Arc<StageMeter>,
        pipeline: Arc<PipelineMeter>,
        brings_in: bool,
    ) -> Self {
        let brings_in = brings_in.then(|| Arc::clone(&pipeline));
        let to = match next {
            Some((queue, next)) => To::Next(queue, next),
            None => To::End(pipeline),
        };
        Self {
            to,
            meter,
            brings_in,
            counts: true,
        }
    }

    /// The same way out, on which nothing counts as handed on: the stage has not done its work on it yet.
    pub(crate) fn uncounted(self) -> Self {
        Self {
            counts: false,
            ..self
        }
    }

    /// The way out for what goes no further.
    pub(crate) fn nowhere(meter: Arc<StageMeter>) -> Self {
        Self {
            to: To::Nowhere,
            meter,
            brings_in: None,
            counts: true,
        }
    }

    /// The way into a call's own queue.
    pub(crate) fn of_call(&self) -> (Self, Receiver) {
        let (queue, receiver) = channel(false);
        let exit = Self {
            to: To::Call(queue),
            meter: Arc::clone(&self.meter),
            brings_in: None,
            counts: self.counts,
        };
        (exit, receiver)
    }

    /// Hands a parcel on; waits while the queue is full, and charges that as blocked.
    pub(crate) async fn hand_on(&self, parcel: Parcel, charge: &dyn Charge) {
        let (queue, waiting) = match &self.to {
            To::Call(queue) => (queue, None),
            To::Next(queue, next) => {
                self.count(&parcel);
                (queue, Some(next.queue.arrives()))
            }
            To::Nowhere => {
                self.count(&parcel);
                parcel.lineage.close(Outcome::Committed);
                return;
            }
            To::End(pipeline) => {
                self.count(&parcel);
                let records = parcel.batch.len() as u64;
                pipeline.records_out.fetch_add(records, Ordering::Relaxed);
                parcel.lineage.count(&parcel.batch, Way::Out);
                parcel.lineage.close(Outcome::Committed);
                return;
            }
        };
        let mut waiting = waiting;
        let queued = match queue.try_send(parcel) {
            Ok(()) => true,
            Err(NotSent::Closed) => false,
            Err(NotSent::Full(parcel)) => {
                if let Some(waiting) = &mut waiting {
                    waiting.is_outside();
                }
                let before = charge.enter(Activity::Blocked);
                let sent = queue.send(parcel).await;
                charge.enter(before);
                sent
            }
        };
        if queued && let Some(waiting) = waiting {
            waiting.stays();
        }
    }

    fn count(&self, parcel: &Parcel) {
        if self.counts {
            self.meter.gives(&parcel.batch);
        }
        if let Some(pipeline) = &self.brings_in {
            let records = parcel.batch.len() as u64;
            pipeline.records_in.fetch_add(records, Ordering::Relaxed);
            parcel.lineage.count(&parcel.batch, Way::In);
        }
    }
}

/// A counted way into a stage's queue, for what starts deliveries. `held_by` is told how long it waits there.
pub(crate) async fn feed(
    queue: &Sender,
    meter: &StageMeter,
    held_by: Option<&PipelineMeter>,
    parcel: Parcel,
) {
    let mut waiting = meter.queue.arrives();
    let sent = match queue.try_send(parcel) {
        Ok(()) => true,
        Err(NotSent::Closed) => false,
        Err(NotSent::Full(parcel)) => {
            waiting.is_outside();
            let _held = held_by.map(PipelineMeter::held);
            queue.send(parcel).await
        }
    };
    if sent {
        waiting.stays();
    }
}

/// The outlet of one call.
pub(crate) struct CallOutlet<'a> {
    pub(crate) input: &'a Parcel,
    pub(crate) exit: &'a Exit,
    pub(crate) charge: &'a dyn Charge,
    pub(crate) closing: Closing<'a>,
    /// How many batches were handed on.
    pub(crate) emitted: &'a AtomicUsize,
    /// Whether a batch was handed on after the end had come: the next one is refused.
    pub(crate) last_one_out: bool,
    /// Whether a batch was refused: the call is a generator that the end of the run closes.
    pub(crate) closed: bool,
    /// What the stage said of its input.
    pub(crate) passed: Option<Option<CommitReceipt>>,
}

/// When a generator is closed.
#[derive(Clone, Copy)]
pub(crate) enum Closing<'a> {
    /// With the end of intake, after its current batch: one that a schedule has started may go on for ever.
    AtEnd(&'a Stopping),
    /// When waiting ends: one that works on a message is finished, else all of it would come again.
    WithWaits(&'a Stopping),
}

impl Closing<'_> {
    fn is_now(self) -> bool {
        match self {
            Self::AtEnd(stopping) => stopping.is_intake_over(),
            Self::WithWaits(stopping) => stopping.are_waits_over(),
        }
    }
}

impl Outlet for CallOutlet<'_> {
    fn emit(&mut self, mut batch: Batch, params: Option<Params>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.last_one_out {
                self.closed = true;
                return Err(Error::remote("the flow ends: the generator is closed"));
            }
            self.last_one_out = self.closing.is_now();
            let lineage = self.input.lineage.child(&mut batch);
            let params = params.unwrap_or_else(|| Params::clone(&self.input.params));
            let parcel = Parcel {
                batch,
                lineage,
                params,
            };
            // Before it can be dropped on its way: what was handed on in part is not called again.
            self.emitted.fetch_add(1, Ordering::Relaxed);
            self.exit.hand_on(parcel, self.charge).await;
            Ok(())
        })
    }

    fn pass(&mut self, receipt: Option<CommitReceipt>) {
        self.passed = Some(receipt);
    }

    fn share(&mut self) -> Vec<Parcel> {
        let Parcel {
            batch,
            lineage,
            params,
        } = self.input;
        let input = Parcel {
            batch: batch.clone(),
            lineage: lineage.hold(),
            params: Params::clone(params),
        };
        input.split_by_delivery()
    }

    fn pass_over(&mut self, records: usize, why: &str) {
        self.exit.meter.passed_over(records, why);
    }
}
