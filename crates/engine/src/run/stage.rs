//! One stage at work: take a batch, call, and do what the failure table says.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use governor::clock::{Clock as _, MonotonicClock};
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::config::OnError;
use wiredflow_core::delivery::{Outcome, Parcel};
use wiredflow_core::stage::{AnyStage, Cx, Emitter};
use wiredflow_core::storage::Epoch;
use wiredflow_core::{Error, ErrorKind, Result, Value};

use crate::catalogue::Work;
use crate::observe::{ReplicaClock, StageMeter};
use crate::plan::StagePlan;
use crate::state::{Body, DeadLetter};

use super::policy::{self, Verdict};
use super::port::{CallOutlet, Exit};
use super::queue::Intake;
use super::stopping::Stopping;
use super::{PipelineShared, Shared};

/// A limit of calls in a second, for all replicas together.
type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock>;

/// One opened stage of a running pipeline, shared by its replicas.
pub(crate) struct StageRun {
    plan: StagePlan,
    stage: Box<dyn AnyStage>,
    intake: Intake,
    meter: Arc<StageMeter>,
    pipeline: Arc<PipelineShared>,
    limiter: Option<Limiter>,
}

/// What becomes of a batch after a call that went well.
enum Input {
    /// It goes on as it is.
    Passed,
    /// The stage has made something else of it, or nothing.
    UsedUp,
}

/// How one call ended.
struct Called {
    result: Result<()>,
    emitted: bool,
    closed: bool,
    passed: Option<Option<wiredflow_core::storage::CommitReceipt>>,
}

impl StageRun {
    pub(crate) fn new(
        plan: StagePlan,
        stage: Box<dyn AnyStage>,
        intake: Intake,
        meter: Arc<StageMeter>,
        pipeline: Arc<PipelineShared>,
    ) -> Arc<Self> {
        let limiter = plan.policy.rate_limit.and_then(limiter);
        Arc::new(Self {
            plan,
            stage,
            intake,
            meter,
            pipeline,
            limiter,
        })
    }

    /// Works off the queue until it ends. One of `parallel` loops.
    pub(crate) async fn replica(self: Arc<Self>, charge: Arc<ReplicaClock>) {
        loop {
            charge.enter(Activity::Starved);
            let Some((parcel, exit)) = self.intake.take().await else {
                break;
            };
            charge.enter(Activity::Overhead);
            if self.stopping().has_failed() {
                // Dropped: its deliveries are not acknowledged and come again.
                continue;
            }
            self.meter
                .records_in
                .fetch_add(parcel.batch.len() as u64, Ordering::Relaxed);
            self.work_off(parcel, &exit, &charge).await;
        }
        charge.enter(Activity::Starved);
    }

    fn stopping(&self) -> &Stopping {
        &self.pipeline.stopping
    }

    fn shared(&self) -> &Shared {
        &self.pipeline.shared
    }

    /// Brings one batch to its end, in parts where a part of it fails.
    async fn work_off(&self, parcel: Parcel, exit: &Exit, charge: &Arc<ReplicaClock>) {
        let mut parts = VecDeque::from([parcel]);
        while let Some(mut part) = parts.pop_front() {
            let (error, attempts) = match self.attempts(&mut part, exit, charge).await {
                Ok(Input::Passed) => {
                    exit.hand_on(part, charge.as_ref()).await;
                    continue;
                }
                Ok(Input::UsedUp) => {
                    part.lineage.close(Outcome::Committed);
                    continue;
                }
                Err(failure) => failure,
            };
            let Some(error) = error else {
                part.lineage.close(Outcome::Skipped);
                continue;
            };
            if error.kind() == ErrorKind::Config {
                self.pipeline.fail(self.located(error));
                part.lineage.close(Outcome::Failed);
                continue;
            }
            if let Some(index) = error.record().filter(|index| *index < part.batch.len()) {
                self.set_aside_record(&mut part, index, &error, attempts, charge)
                    .await;
                if part.batch.is_empty() || self.stopping().has_failed() {
                    part.lineage.close(Outcome::Committed);
                } else {
                    parts.push_front(part);
                }
                continue;
            }
            let taken_apart = self.take_apart(part);
            match taken_apart {
                Ok(smaller) => smaller
                    .into_iter()
                    .rev()
                    .for_each(|part| parts.push_front(part)),
                Err(part) => self.set_aside(part, &error, attempts, charge).await,
            }
        }
    }

    /// Smaller batches of one that failed as a whole: by delivery first, then, for what records go
    /// through one by one, by record. `Err` gives back what cannot be made smaller.
    fn take_apart(&self, part: Parcel) -> std::result::Result<Vec<Parcel>, Parcel> {
        if part.lineage.deliveries() > 1 && self.plan.policy.batch.is_none() {
            let mut parts = part.split_by_delivery();
            if parts.len() > 1 {
                return Ok(parts);
            }
            return match parts.pop() {
                Some(part) => Err(part),
                None => Ok(Vec::new()),
            };
        }
        let one_by_one = self.plan.work.takes_many_deliveries();
        if one_by_one && part.batch.len() > 1 {
            Ok(part.split_by_record())
        } else {
            Err(part)
        }
    }

    /// Calls until it works or the table says stop. `Err((None, …))`: a generator that the end of the
    /// run closed.
    async fn attempts(
        &self,
        part: &mut Parcel,
        exit: &Exit,
        charge: &Arc<ReplicaClock>,
    ) -> std::result::Result<Input, (Option<Error>, u32)> {
        let mut attempt = 1;
        loop {
            self.wait_for_limit(charge).await;
            let called = self.call(part, exit, charge, attempt).await;
            charge.enter(Activity::Overhead);
            let error = match called.result {
                Ok(()) => {
                    let Some(receipt) = called.passed else {
                        return Ok(Input::UsedUp);
                    };
                    receipt
                        .into_iter()
                        .for_each(|receipt| part.lineage.add_receipt(receipt));
                    return Ok(Input::Passed);
                }
                Err(_) if called.closed => return Err((None, attempt)),
                Err(error) => error.map_text(|text| self.shared().scrubber.scrub(text)),
            };
            self.meter.errors.fetch_add(1, Ordering::Relaxed);
            let verdict = policy::judge(
                &error,
                attempt,
                called.emitted,
                &self.plan.policy,
                &self.shared().dice,
            );
            let Verdict::Again(wait) = verdict else {
                return Err((Some(error), attempt));
            };
            self.tell_retry(&error, attempt, wait);
            charge.enter(Activity::Throttled);
            self.shared().clock.sleep(wait).await;
            charge.enter(Activity::Overhead);
            self.meter.retries.fetch_add(1, Ordering::Relaxed);
            attempt = attempt.saturating_add(1);
        }
    }

    async fn call(
        &self,
        part: &Parcel,
        exit: &Exit,
        charge: &Arc<ReplicaClock>,
        attempt: u32,
    ) -> Called {
        let timeout = policy::timeout(&self.plan.policy, self.plan.work);
        let cx = Cx {
            flow: Arc::clone(&self.shared().flow),
            pipeline: Arc::clone(&self.pipeline.name),
            stage: Arc::clone(&self.plan.name),
            params: part.params.clone(),
            attempt,
            epoch: Epoch::default(),
            deadline: timeout,
            charge: Arc::clone(charge) as Arc<dyn Charge>,
        };
        let mut outlet = CallOutlet {
            input: part,
            exit,
            charge: charge.as_ref(),
            stopping: self.stopping(),
            emitted: 0,
            last_one_out: false,
            closed: false,
            passed: None,
        };
        self.meter.calls.fetch_add(1, Ordering::Relaxed);
        let started = self.shared().clock.monotonic();
        charge.enter(match self.plan.work {
            Work::Peer | Work::PeerSink | Work::Sink => Activity::External,
            Work::Function | Work::Records => Activity::Compute,
        });
        let result = {
            let mut emitter = Emitter::new(&mut outlet);
            let call = self.stage.run_boxed(&part.batch, &mut emitter, &cx);
            let call = AssertUnwindSafe(call).catch_unwind();
            match timeout {
                None => call.await,
                Some(limit) => match self.within(limit, call, charge).await {
                    Some(result) => result,
                    None => Ok(Err(self.timed_out(limit))),
                },
            }
        };
        charge.enter(Activity::Overhead);
        self.meter.served(self.shared().clock.monotonic() - started);
        let mut result = result.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        let sink = matches!(self.plan.work, Work::Sink | Work::PeerSink);
        if sink && result.is_ok() && outlet.passed == Some(None) && !part.batch.is_empty() {
            result = Err(Error::bug("a sink took records and gave no receipt"));
        }
        Called {
            result,
            emitted: outlet.emitted > 0,
            closed: outlet.closed,
            passed: outlet.passed,
        }
    }

    /// The call's result, or `None` when its time is up. Time in which the next stage kept it waiting
    /// is not its own and is added.
    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = T>,
        charge: &ReplicaClock,
    ) -> Option<T> {
        let clock = &self.shared().clock;
        let blocked_before = charge.read().of(Activity::Blocked);
        let started = clock.monotonic();
        let mut call = std::pin::pin!(call);
        loop {
            let blocked = charge
                .read()
                .of(Activity::Blocked)
                .saturating_sub(blocked_before);
            let until = started + limit + blocked;
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

    async fn wait_for_limit(&self, charge: &ReplicaClock) {
        let Some(limiter) = &self.limiter else { return };
        while let Err(not_yet) = limiter.check() {
            charge.enter(Activity::Throttled);
            let wait = not_yet.wait_time_from(MonotonicClock.now());
            self.shared().clock.sleep(wait).await;
            charge.enter(Activity::Overhead);
        }
    }

    fn tell_retry(&self, error: &Error, attempt: u32, wait: Duration) {
        self.pipeline.meter.error(error.message());
        // The first failure is news, then each power of two: an outage of a day is no flood.
        if attempt.is_power_of_two() {
            tracing::warn!(
                pipeline = %self.pipeline.name,
                stage = %self.plan.name,
                attempt,
                wait = %wiredflow_core::units::format_duration(wait),
                "{}; trying again", error.message(),
            );
        }
    }

    /// Does with one record as `on_error` says.
    async fn set_aside_record(
        &self,
        part: &mut Parcel,
        index: usize,
        error: &Error,
        attempts: u32,
        charge: &ReplicaClock,
    ) {
        let mut outcome = self.outcome();
        if outcome == Outcome::DeadLettered {
            let value = part.batch.records()[index].value().clone();
            outcome = self.dead_letter(value, part, error, attempts, charge).await;
        }
        part.take_out(index, outcome);
        self.tell_end(error, outcome);
    }

    /// Does with a whole batch as `on_error` says.
    async fn set_aside(&self, part: Parcel, error: &Error, attempts: u32, charge: &ReplicaClock) {
        let mut outcome = self.outcome();
        if outcome == Outcome::DeadLettered {
            let body = match part.batch.records() {
                [one] => one.value().clone(),
                _ => Value::Array(part.batch.values().cloned().collect()),
            };
            outcome = self.dead_letter(body, &part, error, attempts, charge).await;
        }
        part.lineage.close(outcome);
        self.tell_end(error, outcome);
    }

    fn outcome(&self) -> Outcome {
        match self.plan.policy.on_error {
            OnError::Stop => Outcome::Failed,
            OnError::DeadLetter => Outcome::DeadLettered,
            OnError::Skip => Outcome::Skipped,
        }
    }

    fn tell_end(&self, error: &Error, outcome: Outcome) {
        self.pipeline.meter.error(error.message());
        let (pipeline, stage) = (&self.pipeline.name, &self.plan.name);
        let trace = error
            .trace()
            .map(|trace| format!("\n{trace}"))
            .unwrap_or_default();
        match outcome {
            Outcome::Failed => self.pipeline.fail(self.located(error.clone())),
            Outcome::DeadLettered => {
                tracing::warn!(%pipeline, %stage, "to the dead letters: {}{trace}", error.message());
            }
            _ => tracing::warn!(%pipeline, %stage, "skipped: {}{trace}", error.message()),
        }
    }

    fn located(&self, error: Error) -> Error {
        error.context(format!("stage `{}`", self.plan.name))
    }

    /// Keeps a dead letter. When that is not possible for good, the delivery has failed instead.
    async fn dead_letter(
        &self,
        body: Value,
        part: &Parcel,
        error: &Error,
        attempts: u32,
        charge: &ReplicaClock,
    ) -> Outcome {
        let letter = DeadLetter {
            pipeline: self.pipeline.name.to_string(),
            stage: self.plan.name.to_string(),
            kind: error.kind(),
            reason: error.message().to_owned(),
            trace: error.trace().map(str::to_owned),
            time: self.shared().clock.now(),
            delivery: None,
            attempts,
            params: (!part.params.is_empty()).then(|| part.params.as_ref().clone()),
            body: Body::Json(body),
        };
        charge.enter(Activity::External);
        let kept = self.shared().dead_letter(letter).await;
        charge.enter(Activity::Overhead);
        match kept {
            Ok(()) => Outcome::DeadLettered,
            Err(error) => {
                self.pipeline
                    .fail(error.context("a dead letter cannot be kept"));
                Outcome::Failed
            }
        }
    }
}

fn limiter(per_second: f64) -> Option<Limiter> {
    // One call each 1/n seconds, no burst: the peer's limit is a rate, not a budget.
    let quota = Quota::with_period(Duration::from_secs_f64(1.0 / per_second))?;
    Some(RateLimiter::direct_with_clock(quota, MonotonicClock))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Error::bug(format!("the stage panicked: {message}"))
}
