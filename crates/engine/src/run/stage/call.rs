//! One attempt: the call of a stage's component, its time limit, its clocks and its panic.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::delivery::Parcel;
use wiredflow_core::stage::{Cx, Emitter};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Error, Result};

use crate::catalogue::Work;
use crate::observe::ReplicaClock;

use super::super::policy;
use super::super::port::{CallOutlet, Exit};
use super::StageRun;

/// How one call ended.
pub(super) struct Called {
    pub(super) result: Result<()>,
    /// Whether a part of its output is on its way.
    pub(super) emitted: bool,
    /// Whether it was a generator that the end of the run closed.
    pub(super) closed: bool,
    /// How long it took.
    pub(super) took: Duration,
    /// What the stage said of its input.
    pub(super) passed: Option<Option<CommitReceipt>>,
}

impl StageRun {
    /// Calls the component once.
    pub(super) async fn call(
        &self,
        (part, keys): (&Parcel, &Option<Arc<[Arc<str>]>>),
        exit: &Exit,
        charge: &Arc<ReplicaClock>,
        attempt: u32,
    ) -> Called {
        let timeout = policy::timeout(&self.plan.policy, self.plan.work);
        let cx = Cx {
            keys: keys.clone(),
            ..self.cx(part, charge, attempt, timeout)
        };
        let emitted = AtomicUsize::new(0);
        let mut outlet = CallOutlet {
            input: part,
            exit,
            charge: charge.as_ref(),
            closing: self.closing(part),
            emitted: &emitted,
            last_one_out: false,
            closed: false,
            passed: None,
        };
        self.meter.calls.fetch_add(1, Ordering::Relaxed);
        let started = self.shared().clock.monotonic();
        let calling = charge.calling();
        charge.enter(match self.plan.work {
            Work::Peer | Work::PeerSink | Work::Sink => Activity::External,
            Work::Function | Work::Records => Activity::Compute,
        });
        let result = {
            let mut emitter = Emitter::new(&mut outlet);
            let call = self.stage.run(&part.batch, &mut emitter, &cx);
            let call = AssertUnwindSafe(call).catch_unwind();
            let in_time = async {
                match timeout {
                    None => call.await,
                    Some(limit) => match self.within(limit, call, charge).await {
                        Some(result) => result,
                        None => Ok(Err(self.timed_out(limit))),
                    },
                }
            };
            tokio::select! {
                biased;
                result = in_time => Some(result),
                () = self.generators_over(&emitted) => None,
            }
        };
        charge.enter(Activity::Overhead);
        drop(calling);
        let took = self.shared().clock.monotonic() - started;
        self.meter.served(took);
        let cut_short = result.is_none();
        let mut result = match result {
            None => Ok(()),
            Some(result) => result.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))),
        };
        let sink = matches!(self.plan.work, Work::Sink | Work::PeerSink);
        let receipt = matches!(outlet.passed, Some(Some(_)));
        if sink && result.is_ok() && !receipt && !part.batch.is_empty() {
            result = Err(Error::bug("a sink took records and gave no receipt"));
        }
        Called {
            result,
            emitted: emitted.load(Ordering::Relaxed) > 0,
            closed: cut_short || outlet.closed,
            took,
            passed: outlet.passed,
        }
    }

    fn cx(
        &self,
        part: &Parcel,
        charge: &Arc<ReplicaClock>,
        attempt: u32,
        deadline: Option<Duration>,
    ) -> Cx {
        Cx {
            flow: Arc::clone(&self.shared().flow),
            pipeline: Arc::clone(&self.pipeline.name),
            stage: Arc::clone(&self.plan.name),
            params: part.params.clone(),
            attempt,
            epoch: self.shared().ownership.epoch(),
            marks: match self.plan.work {
                Work::Sink => part.lineage.marks(),
                Work::Peer | Work::PeerSink | Work::Function | Work::Records => None,
            },
            keys: None,
            deadline,
            charge: Arc::clone(charge) as Arc<dyn Charge>,
        }
    }

    /// Ends when a call that has given something is waited for no longer: a generator that lets the
    /// end of the run wait for its next batch.
    async fn generators_over(&self, emitted: &AtomicUsize) {
        self.stopping().waits_over().await;
        if emitted.load(Ordering::Relaxed) == 0 {
            // A call that has given nothing yet is finished. The first thing it gives is its last.
            std::future::pending::<()>().await;
        }
    }

    /// The call's result, or `None` when its time is up. Time in which the next stage kept it waiting, or
    /// in which a process was started for it, is not its own and is added.
    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = T>,
        charge: &ReplicaClock,
    ) -> Option<T> {
        let clock = &self.shared().clock;
        let not_its_own = || {
            let clocks = charge.read();
            clocks.of(Activity::Blocked) + clocks.of(Activity::Overhead)
        };
        let before = not_its_own();
        let started = clock.monotonic();
        let mut call = std::pin::pin!(call);
        loop {
            let until = started + limit + not_its_own().saturating_sub(before);
            if clock.monotonic() >= until {
                return None;
            }
            tokio::select! {
                biased;
                result = &mut call => return Some(result),
                () = clock.sleep_until(until) => {}
            }
        }
    }

    fn timed_out(&self, limit: Duration) -> Error {
        let limit = wiredflow_core::units::format_duration(limit);
        match self.plan.work {
            Work::Peer | Work::PeerSink => Error::remote(format!("no answer within {limit}")),
            Work::Function | Work::Sink | Work::Records => {
                Error::data(format!("it took longer than its `timeout` of {limit}"))
            }
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Error::bug(format!("the stage panicked: {message}"))
}
