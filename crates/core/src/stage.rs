//! The contracts of those who do the work: sources and stages.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::charge::{Activity, Charge};
use crate::delivery::{Delivery, Mark, Parcel, Settled};
use crate::error::Result;
use crate::record::{Batch, Params};
use crate::storage::{CommitReceipt, Epoch};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One step of work.
///
/// The engine calls `run` with a batch, from several tasks at once where the user asked for `parallel`.
/// The stage hands on what it makes through `out`, as it appears; `Ok` says that the whole input is
/// dealt with, also where nothing was handed on. After an error nothing of the input counts as done; the
/// engine may call again with the same batch, unless something was handed on already. A stage never retries,
/// sleeps, counts or logs failures. The engine may drop the future at any await: a stage must lose nothing then that it has
/// claimed to be done, and must leave no work running.
pub trait Stage: Send + Sync + 'static {
    /// Works on a batch.
    fn run(
        &self,
        batch: &Batch,
        out: &mut Emitter<'_>,
        cx: &Cx,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// Starts work from outside: messages, requests.
///
/// `next` and `settle` are called from two tasks at the same time.
pub trait Source: Send + Sync + 'static {
    /// Waits for what arrives: at least one delivery and at most `most`; an empty list ends the
    /// pipeline in good order. Dropping the future must lose nothing. An error of kind `Remote` makes
    /// the engine open the source again after a back-off; `Config` stops the flow.
    fn next(&self, most: usize) -> impl Future<Output = Result<Vec<Delivery>>> + Send;

    /// Is told how deliveries ended, in the order in which they ended; acknowledges those whose outcome
    /// says so, in the order in which they arrived, and never one of an earlier connection.
    fn settle(&self, settled: Vec<Settled>) -> impl Future<Output = Result<()>> + Send;

    /// Takes no more from outside; what has arrived stays unacknowledged unless it is settled. Settling
    /// goes on to work until the source is dropped.
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// Whether it goes on after the end of intake, until it gives an empty list: what it takes comes from within the
    /// flow, and must go through before that can end.
    fn outlives_intake(&self) -> bool {
        false
    }
}

/// What a stage knows of the call at hand.
#[derive(Clone)]
pub struct Cx {
    /// The flow's name.
    pub flow: Arc<str>,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The stage's name.
    pub stage: Arc<str>,
    /// The params that a configuration stage made last.
    pub params: Params,
    /// Which attempt of this call it is, from 1.
    pub attempt: u32,
    /// The owner's epoch, for commits that can check it.
    pub epoch: Epoch,
    /// The deliveries of the call's batch by their places, for sinks that must know one which comes again; none
    /// where no source can tell.
    pub marks: Option<Arc<[Mark]>>,
    /// What each record of the call's batch is known by at a peer, the same whenever it is sent again; none where no
    /// peer is told.
    pub keys: Option<Arc<[Arc<str>]>>,
    /// How long the engine will wait for this attempt.
    pub deadline: Option<Duration>,
    /// Where time is charged.
    pub charge: Arc<dyn Charge>,
}

/// Charges nothing.
struct NoCharge;

impl Charge for NoCharge {
    fn enter(&self, _: Activity) -> Activity {
        Activity::Overhead
    }
}

impl Cx {
    /// That of a first call outside any run: `names` are those of its flow, its pipeline and its stage. Its time is
    /// charged to nobody.
    pub fn alone([flow, pipeline, stage]: [&str; 3]) -> Self {
        Self {
            flow: flow.into(),
            pipeline: pipeline.into(),
            stage: stage.into(),
            params: Params::default(),
            attempt: 1,
            epoch: Epoch::default(),
            marks: None,
            keys: None,
            deadline: None,
            charge: Arc::new(NoCharge),
        }
    }

    /// Charges the time that `work` takes to an activity, then goes back to what was charged before.
    pub async fn spend<T>(&self, activity: Activity, work: impl Future<Output = T>) -> T {
        let before = self.charge.enter(activity);
        let result = work.await;
        self.charge.enter(before);
        result
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{} attempt {}",
            self.pipeline, self.stage, self.attempt
        )
    }
}

/// Takes what a stage hands on. Implemented by the engine.
pub trait Outlet: Send {
    /// Queues a batch, with new params where a configuration made them. Waits while the queue is full.
    fn emit(&mut self, batch: Batch, params: Option<Params>) -> BoxFuture<'_, Result<()>>;

    /// Hands on the input itself, with the receipt of the sink that has it now.
    fn pass(&mut self, receipt: Option<CommitReceipt>);

    /// The input once more, to be settled by somebody else: see [`Emitter::share`].
    fn share(&mut self) -> Vec<Parcel> {
        Vec::new()
    }

    /// Is told that so many records of the input had nothing for this stage, and why: they are counted,
    /// and the first of them is logged. Told once for a call, when it has ended well.
    fn pass_over(&mut self, records: usize, why: &str) {
        let _ = (records, why);
    }
}

/// How a stage hands on its results.
pub struct Emitter<'a> {
    outlet: &'a mut dyn Outlet,
}

impl<'a> Emitter<'a> {
    /// An emitter over the engine's outlet.
    pub fn new(outlet: &'a mut dyn Outlet) -> Self {
        Self { outlet }
    }

    /// Hands on a batch. Waits while the next stage is behind; an error means that the flow ends: pass
    /// it on with `?`. An empty batch travels on too: it is what "nothing" looks like to a function.
    pub async fn emit(&mut self, batch: Batch) -> Result<()> {
        self.outlet.emit(batch, None).await
    }

    /// Hands on params for the stages that follow, with the input's records.
    pub async fn emit_params(&mut self, batch: Batch, params: Params) -> Result<()> {
        self.outlet.emit(batch, Some(params)).await
    }

    /// Hands on the input as it is, once the call has ended well. A sink gives its receipt.
    pub fn pass(&mut self, receipt: Option<CommitReceipt>) {
        self.outlet.pass(receipt);
    }

    /// The input once more, one parcel for each delivery, with shares of its own: none of these deliveries is settled
    /// before its parcel is closed, and a parcel that is dropped counts as lost. So take them only when the call can no
    /// longer fail. None where the stage runs in another process.
    pub fn share(&mut self) -> Vec<Parcel> {
        self.outlet.share()
    }

    /// Says that so many records of the input had nothing for this stage, and why.
    pub fn pass_over(&mut self, records: usize, why: &str) {
        if records > 0 {
            self.outlet.pass_over(records, why);
        }
    }
}

impl fmt::Debug for Emitter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Emitter")
    }
}

/// A stage of any type, for the engine's list of mixed stages.
pub trait AnyStage: Send + Sync + 'static {
    /// See [`Stage::run`].
    fn run_boxed<'a>(
        &'a self,
        batch: &'a Batch,
        out: &'a mut Emitter<'_>,
        cx: &'a Cx,
    ) -> BoxFuture<'a, Result<()>>;
}

impl<S: Stage> AnyStage for S {
    fn run_boxed<'a>(
        &'a self,
        batch: &'a Batch,
        out: &'a mut Emitter<'_>,
        cx: &'a Cx,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.run(batch, out, cx))
    }
}

/// A source of any type.
pub trait AnySource: Send + Sync + 'static {
    /// See [`Source::next`].
    fn next_boxed(&self, most: usize) -> BoxFuture<'_, Result<Vec<Delivery>>>;

    /// See [`Source::settle`].
    fn settle_boxed(&self, settled: Vec<Settled>) -> BoxFuture<'_, Result<()>>;

    /// See [`Source::close`].
    fn close_boxed(&self) -> BoxFuture<'_, ()>;

    /// See [`Source::outlives_intake`].
    fn outlives_intake(&self) -> bool;
}

impl<S: Source> AnySource for S {
    fn next_boxed(&self, most: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.next(most))
    }

    fn settle_boxed(&self, settled: Vec<Settled>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.settle(settled))
    }

    fn close_boxed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.close())
    }

    fn outlives_intake(&self) -> bool {
        Source::outlives_intake(self)
    }
}
