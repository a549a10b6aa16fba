//! One stage at work: take a batch, call, and do what the failure table says.

mod aside;
mod best_effort;
mod call;
mod component;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::delivery::{Outcome, Parcel};
use wiredflow_core::{Error, ErrorKind, Result};

use crate::observe::{ReplicaClock, StageMeter, repeats};
use crate::plan::{StagePlan, TriggerPlan};

use super::outbox::{Line, Outbox, Part, Row, Together};
use super::pace::Pace;
use super::policy::{self, Verdict};
use super::port::{Closing, Exit};
use super::queue::Intake;
use super::replay::is_replay;
use super::stopping::Stopping;
use super::{PipelineShared, Shared};

pub(super) use component::Component;

/// What was tried again for so long is said to work again.
const WORTH_A_WORD: Duration = Duration::from_secs(5);

/// One opened stage of a running pipeline, shared by its replicas.
pub(crate) struct StageRun {
    plan: StagePlan,
    stage: Component,
    intake: Intake,
    meter: Arc<StageMeter>,
    pipeline: Arc<PipelineShared>,
    pace: Option<Pace>,
    /// Where the records of a sender are kept until its peer has them.
    outbox: Option<Arc<Outbox>>,
    /// What waits before it, where nothing waits for it: it is called with what comes from there.
    line: Option<Line>,
    /// Whether the end of the run has found a batch that could not be finished: what comes behind it
    /// is dropped too, and comes again in order.
    given_up: AtomicBool,
}

/// How the attempts of one batch ended.
enum Ended {
    /// It goes on as it is.
    Passed,
    /// The stage has made something else of it, or nothing.
    UsedUp,
    /// It is a generator's, which the end of the run has closed.
    Closed,
    /// The flow ends while its peer is away.
    GivenUp,
    /// The attempts are used up.
    Failed(Failure),
}

/// A call that failed for the last time.
struct Failure {
    error: Error,
    attempts: u32,
    /// Whether a part of its output is on its way, so that no part of its input is called again.
    emitted: bool,
}

/// A replica at rest, also when its task is aborted.
struct Rest<'a>(&'a ReplicaClock);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.enter(Activity::Starved);
    }
}

impl StageRun {
    pub(crate) fn new(
        plan: StagePlan,
        stage: Component,
        intake: Intake,
        meter: Arc<StageMeter>,
        pipeline: Arc<PipelineShared>,
    ) -> Arc<Self> {
        let pace = plan.policy.rate_limit.map(Pace::new);
        let outbox = plan
            .has_outbox()
            .then(|| Outbox::new(&pipeline, &plan.name, !plan.required));
        let line = outbox.as_ref().zip(meter.outbox.as_ref());
        let limits = (pipeline.shared.limits, plan.policy.parallel);
        let line = line.map(|(outbox, meter)| Line::new(outbox, meter, limits));
        Arc::new(Self {
            line,
            outbox,
            plan,
            stage,
            intake,
            meter,
            pipeline,
            pace,
            given_up: AtomicBool::new(false),
        })
    }

    /// Works off the queue until it ends. One of `parallel` loops.
    pub(crate) async fn replica(self: Arc<Self>, charge: Arc<ReplicaClock>) {
        if let Some(line) = &self.line {
            return Box::pin(self.work_off_line(line, &charge)).await;
        }
        let _rest = Rest(&charge);
        if let Some(outbox) = &self.outbox {
            Box::pin(self.send_from_before(outbox, &charge)).await;
        }
        loop {
            charge.enter(Activity::Starved);
            let Some((parcel, exit)) = self.take(&charge).await else {
                break;
            };
            charge.enter(Activity::Overhead);
            self.meter.takes(&parcel.batch);
            self.meter.begins(parcel.batch.len());
            let parts = match &self.outbox {
                // A replay's place is among the letters that are asked for.
                Some(outbox) if !self.is_over() && !is_replay(&parcel) => {
                    Box::pin(self.keep(outbox, parcel, &charge)).await
                }
                Some(_) | None => VecDeque::from([Part::of(parcel)]),
            };
            self.work_off(parts, &exit, &charge).await;
        }
        if let Some(outbox) = &self.outbox {
            Box::pin(outbox.end()).await;
        }
    }

    /// The next batch. While none comes, the state is told what was sent.
    async fn take(&self, charge: &ReplicaClock) -> Option<(Parcel, Exit)> {
        let Some(outbox) = &self.outbox else {
            return self.intake.take(charge).await;
        };
        let mut take = std::pin::pin!(self.intake.take(charge));
        tokio::select! {
            biased;
            taken = &mut take => taken,
            () = Box::pin(outbox.rest()) => None,
        }
    }

    /// Sends what an earlier session has left in the outbox.
    async fn send_from_before(&self, outbox: &Outbox, charge: &Arc<ReplicaClock>) {
        let exit = Exit::nowhere(Arc::clone(&self.meter));
        if let Err(error) = self.work_off_from_before(outbox, &exit, charge).await {
            self.cannot_keep(error);
        }
    }

    async fn work_off_from_before(
        &self,
        outbox: &Outbox,
        exit: &Exit,
        charge: &Arc<ReplicaClock>,
    ) -> Result<()> {
        charge.enter(Activity::External);
        let Some(mut from_before) = outbox.begin().await? else {
            return Ok(());
        };
        while !self.is_over()
            && let Some(parts) = from_before.next(self.together()).await?
        {
            charge.enter(Activity::Overhead);
            let mut records = 0;
            for part in &parts {
                self.meter.takes(&part.parcel.batch);
                records += part.parcel.batch.len();
            }
            self.meter.begins(records);
            self.work_off(parts, exit, charge).await;
            charge.enter(Activity::External);
        }
        Ok(())
    }

    /// Which records that wait may go into one call.
    fn together(&self) -> Together {
        let one_by_one = self.plan.work.takes_many_deliveries();
        match one_by_one && self.plan.policy.batch.is_none() {
            true => Together::Any,
            false => Together::AsTheyCame,
        }
    }

    /// Puts a batch into the outbox; what is left to be done of it.
    async fn keep(&self, outbox: &Outbox, parcel: Parcel, charge: &ReplicaClock) -> VecDeque<Part> {
        charge.enter(Activity::External);
        let kept = outbox.keep(parcel).await;
        charge.enter(Activity::Overhead);
        kept.unwrap_or_else(|error| {
            self.cannot_keep(error);
            VecDeque::new()
        })
    }

    /// The outbox cannot be used: what was to be put there is dropped, unacknowledged.
    fn cannot_keep(&self, error: Error) {
        if error.kind() == ErrorKind::Remote {
            self.given_up.store(true, Ordering::Relaxed);
        } else {
            self.pipeline.stopping.fail(self.located(error));
        }
    }

    fn stopping(&self) -> &Stopping {
        &self.pipeline.stopping
    }

    fn shared(&self) -> &Shared {
        &self.pipeline.shared
    }

    /// Whether what is queued is dropped: its deliveries are not acknowledged and come again.
    fn is_over(&self) -> bool {
        self.stopping().has_failed() || self.given_up.load(Ordering::Relaxed)
    }

    /// Brings one batch to its end, in parts where a part of it fails.
    async fn work_off(&self, mut parts: VecDeque<Part>, exit: &Exit, charge: &Arc<ReplicaClock>) {
        while let Some(mut part) = parts.pop_front() {
            if self.is_over() {
                return;
            }
            let is_left = self.line.as_ref().is_some_and(Line::is_left);
            if is_left && !is_replay(&part.parcel) {
                continue;
            }
            if let (true, Some(outbox)) = (part.is_sent, &self.outbox) {
                let receipt = outbox.receipt(part.parcel.batch.len());
                part.parcel.lineage.add_receipt(receipt);
                exit.hand_on(part.parcel, charge.as_ref()).await;
                continue;
            }
            match self.attempts(&mut part, exit, charge).await {
                Ended::Passed => {
                    self.leave(&part.rows, Outcome::Committed);
                    exit.hand_on(part.parcel, charge.as_ref()).await;
                }
                Ended::UsedUp => {
                    self.leave(&part.rows, Outcome::Committed);
                    part.parcel.lineage.close(Outcome::Committed);
                }
                Ended::Closed => self.close(part.parcel),
                Ended::GivenUp => self.given_up.store(true, Ordering::Relaxed),
                Ended::Failed(failure) => {
                    let smaller = self.failed(part, failure, charge).await;
                    for part in smaller.into_iter().rev() {
                        parts.push_front(part);
                    }
                }
            }
        }
    }

    /// Takes rows of the outbox out whose records have come to this end.
    fn leave(&self, rows: &[Row], outcome: Outcome) {
        let Some(outbox) = &self.outbox else { return };
        match outcome {
            Outcome::Committed | Outcome::Skipped | Outcome::DeadLettered => outbox.sent(rows),
            Outcome::Failed => outbox.not_sent(rows),
            // It stays for the next start.
            Outcome::Lost => {}
        }
    }

    /// Settles the batch of a generator that was closed. A tick is over then; a message has more to
    /// give, so it is not acknowledged, nor is what a failure has cut short.
    fn close(&self, part: Parcel) {
        if let (Closing::AtEnd(_), false) = (self.closing(&part), self.stopping().has_failed()) {
            tracing::info!(
                pipeline = %self.pipeline.name,
                stage = %self.plan.name,
                "the run ends: the generator is closed after its current batch, and its delivery counts as skipped",
            );
            part.lineage
                .explain(&"the run ended: the generator was closed".into());
            part.lineage.close(Outcome::Skipped);
        }
    }

    fn closing(&self, part: &Parcel) -> Closing<'_> {
        match self.pipeline.trigger {
            // What is left of a replay is made by the next one, which its letter still asks for.
            _ if is_replay(part) => Closing::WithWaits(self.stopping()),
            TriggerPlan::Source { .. } => Closing::WithWaits(self.stopping()),
            TriggerPlan::Schedule(..) | TriggerPlan::Once => Closing::AtEnd(self.stopping()),
        }
    }

    /// Does with a batch whose call has failed as the failure table says; gives the parts of it that
    /// are to be called by themselves.
    async fn failed(&self, mut part: Part, failure: Failure, charge: &ReplicaClock) -> Vec<Part> {
        if failure.error.kind() == ErrorKind::Config {
            match &self.line {
                None => self.stop_flow(part.parcel, failure.error),
                Some(_) if is_replay(&part.parcel) => self.set_aside(part, &failure, charge).await,
                Some(line) => self.leave_to_the_next_start(line, &failure.error),
            }
            return Vec::new();
        }
        if failure.emitted {
            self.set_aside(part, &failure, charge).await;
            return Vec::new();
        }
        let record = failure.error.record();
        if let Some(index) = record.filter(|index| *index < part.parcel.batch.len()) {
            self.set_aside_record(&mut part, index, &failure, charge)
                .await;
            if !part.parcel.batch.is_empty() {
                return vec![part];
            }
            // Each of its records has been marked with what became of it.
            part.parcel.lineage.close(Outcome::Committed);
            return Vec::new();
        }
        match self.take_apart(part, &failure.error) {
            Ok(smaller) => smaller,
            Err(part) => {
                self.set_aside(part, &failure, charge).await;
                Vec::new()
            }
        }
    }

    /// Smaller batches of one that failed as a whole: by delivery first, then, for what records go
    /// through one by one, by record. `Err` gives back what cannot be made smaller, or would fail in
    /// parts too because its peer is away.
    fn take_apart(&self, part: Part, error: &Error) -> Result<Vec<Part>, Part> {
        if error.kind() == ErrorKind::Remote {
            return Err(part);
        }
        if part.parcel.lineage.deliveries() > 1 && self.plan.policy.batch.is_none() {
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
        if one_by_one && part.parcel.batch.len() > 1 {
            Ok(part.split_by_record())
        } else {
            Err(part)
        }
    }

    /// Calls until it works or the table says stop.
    async fn attempts(&self, part: &mut Part, exit: &Exit, charge: &Arc<ReplicaClock>) -> Ended {
        let mut attempt = 1;
        let mut failing_since = None;
        let keys = part.keys();
        loop {
            if !self.wait_for_turn(charge).await {
                return Ended::GivenUp;
            }
            let called = self
                .call((&part.parcel, &keys), exit, charge, attempt)
                .await;
            let result = called
                .result
                .map_err(|error| error.map_text(|text| self.shared().scrubber.scrub(text)));
            if let Some(traced) = &self.pipeline.traced {
                let failure = result.as_ref().err();
                traced.called(&self.plan, (&part.parcel, attempt), called.took, failure);
            }
            if called.closed {
                return Ended::Closed;
            }
            let error = match result {
                Ok(()) => {
                    if let Some(since) = failing_since {
                        self.tell_back(since, attempt);
                    }
                    let Some(receipt) = called.passed else {
                        return Ended::UsedUp;
                    };
                    if let Some(receipt) = receipt {
                        part.parcel.lineage.add_receipt(receipt);
                    }
                    return Ended::Passed;
                }
                Err(error) => error,
            };
            self.meter.errors.fetch_add(1, Ordering::Relaxed);
            if error.is_limit() {
                self.meter.limited.fetch_add(1, Ordering::Relaxed);
            }
            let (policy, dice) = (&self.plan.policy, &self.shared().dice);
            let verdict = policy::judge(&error, attempt, called.emitted, policy, dice);
            let Verdict::Again(wait) = verdict else {
                return Ended::Failed(Failure {
                    error,
                    attempts: attempt,
                    emitted: called.emitted,
                });
            };
            failing_since.get_or_insert_with(|| self.shared().clock.monotonic());
            self.tell_retry(&error, attempt, wait);
            charge.enter(Activity::Throttled);
            tokio::select! {
                biased;
                () = self.waits_over() => {
                    let reason = format!("the run ended while it was tried again: {}", error.message());
                    part.parcel.lineage.explain(&reason.into());
                    return Ended::GivenUp;
                }
                () = self.shared().clock.sleep(wait) => {}
            }
            charge.enter(Activity::Overhead);
            self.meter.retries.fetch_add(1, Ordering::Relaxed);
            attempt = attempt.saturating_add(1);
        }
    }

    /// Waits until the rate limit allows a call; false when a failure of the pipeline ends the wait.
    async fn wait_for_turn(&self, charge: &ReplicaClock) -> bool {
        let Some(pace) = &self.pace else { return true };
        let clock = &self.shared().clock;
        let now = clock.monotonic();
        let turn = pace.turn(now);
        if turn <= now {
            return true;
        }
        charge.enter(Activity::Throttled);
        let in_time = tokio::select! {
            biased;
            () = self.turns_over() => false,
            () = clock.sleep_until(turn) => true,
        };
        charge.enter(Activity::Overhead);
        in_time
    }

    fn tell_retry(&self, error: &Error, attempt: u32, wait: Duration) {
        self.pipeline.meter.error(error.message());
        let failure = repeats::Failure {
            attempt: Some(attempt),
            ..self.failure("trying again", error)
        };
        let (pipeline, stage) = (&self.pipeline.name, &self.plan.name);
        let wait = wiredflow_core::units::format_duration(wait);
        if self.pipeline.shared.is_news(&failure) {
            tracing::warn!(%pipeline, %stage, attempt, %wait, "{}; trying again", error.message());
        } else {
            tracing::debug!(%pipeline, %stage, attempt, %wait, "{}; trying again", error.message());
        }
    }

    /// Says that what was tried again for long works.
    fn tell_back(&self, since: Instant, attempt: u32) {
        let time = self.shared().clock.monotonic() - since;
        if time >= WORTH_A_WORD {
            let (pipeline, stage) = (&self.pipeline.name, &self.plan.name);
            let time = wiredflow_core::units::format_duration(Duration::from_secs(time.as_secs()));
            tracing::info!(%pipeline, %stage, attempt, "works again after {time}");
        }
    }

    /// A failure as the log tells of it.
    fn failure<'a>(&'a self, what: &'static str, error: &'a Error) -> repeats::Failure<'a> {
        repeats::Failure {
            pipeline: &self.pipeline.name,
            stage: &self.plan.name,
            what,
            kind: error.kind().word(),
            message: error.message(),
            attempt: None,
        }
    }
}
