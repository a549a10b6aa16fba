//! Schedules at work: wait for the tick, claim it, start its delivery.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use wiredflow_core::delivery::{Parcel, Settle};
use wiredflow_core::schedule::{CATCH_UP_CAP, CatchUp, Overlap, Schedule};
use wiredflow_core::{Error, ErrorKind, Result};

use crate::clock::Mark;
use crate::plan::{PipelinePlan, Steady, TriggerPlan};
use crate::state::StartedRun;

use super::PipelineShared;
use super::book::Book;
use super::channel::Sender;
use super::control::Refused;
use super::port::feed;

/// How late a tick may be (a suspended machine, a stall) before it counts as missed.
const LONG_AGO: SignedDuration = SignedDuration::from_secs(60);

/// The longest sleep before the clock is looked at again: wall time can jump.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Starts the deliveries of one scheduled pipeline until intake ends or there is no further tick.
pub(crate) struct Trigger {
    pub(crate) plan: Arc<PipelinePlan>,
    pub(crate) pipeline: Arc<PipelineShared>,
    pub(crate) book: Arc<Book>,
    pub(crate) queue: Sender,
    /// One delivery now, after `delay`, whatever the schedule says.
    pub(crate) once: bool,
    /// Whether it is the pipeline's first session in this run of the flow.
    pub(crate) first_session: bool,
    /// Where interval schedules take their time from: see [`Ticks::now`].
    pub(crate) started: Mark,
    /// Deliveries that are about to be in the book.
    pub(crate) beginning: AtomicUsize,
}

/// Why a trigger ends before its schedule does.
enum Stop {
    /// Intake is over.
    Intake,
    /// The state cannot be used.
    Failed(Error),
}

/// What a delivery is started for.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// A run without a tick.
    Unscheduled,
    /// A tick that is later than all that were ever claimed.
    New(Timestamp),
    /// A tick that may have been claimed: the state must say who has it.
    Old(Timestamp),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Trigger {
    /// Runs until intake ends; the queue closes when it returns.
    pub(crate) async fn run(self) {
        let over = CancellationToken::new();
        let scheduled = async {
            self.scheduled().await;
            over.cancel();
        };
        // A run that is asked for has begun or has not: both end in order.
        tokio::join!(scheduled, self.on_request(&over));
    }

    async fn scheduled(&self) {
        let ended = match &self.plan.trigger {
            TriggerPlan::Schedule(schedule, steady) if !self.once => {
                let ticks = Ticks {
                    trigger: self,
                    schedule,
                    steady: *steady,
                    newest: AtomicI64::new(i64::MIN),
                    passed_over: Mutex::default(),
                };
                let ended = ticks.run().await;
                ticks.close().await;
                ended
            }
            _ => self.one_run().await,
        };
        self.tell(ended);
    }

    fn tell(&self, ended: Result<(), Stop>) {
        match ended {
            Ok(()) | Err(Stop::Intake) => {}
            // A disk that is full at the end of a run is no failure of the pipeline.
            Err(Stop::Failed(error))
                if error.kind() == ErrorKind::Remote && self.pipeline.stopping.is_intake_over() => {
            }
            Err(Stop::Failed(error)) => self.pipeline.stopping.fail(error),
        }
    }

    /// Starts a run whenever somebody asks for one, until the schedule is over.
    async fn on_request(&self, over: &CancellationToken) {
        let (switch, name) = (&self.pipeline.switch, &self.plan.name);
        loop {
            let answer = tokio::select! {
                biased;
                () = over.cancelled() => return,
                answer = switch.asked() => answer,
            };
            if self.plan.overlap == Overlap::Skip && self.is_busy() {
                let why = format!("`{name}` runs already, and its `overlap` is `skip`");
                // Who has asked may have gone.
                drop(answer.send(Err(Refused::Conflict(why))));
                continue;
            }
            drop(answer.send(Ok(())));
            tracing::info!(pipeline = %name, "a run was asked for");
            // Boxed: it is seldom, and takes no room while the pipeline rests.
            let started = Box::pin(async {
                if self.plan.overlap == Overlap::Queue {
                    self.unless_over(self.book.all_settled()).await?;
                }
                self.begin(Cause::Unscheduled).await
            });
            self.tell(started.await);
        }
    }

    /// Whether a delivery is on its way, or about to be.
    fn is_busy(&self) -> bool {
        self.book.open() > 0 || self.beginning.load(Ordering::Relaxed) > 0
    }

    async fn one_run(&self) -> Result<(), Stop> {
        self.wait_for_others().await?;
        self.unless_over(self.pipeline.shared.clock.sleep(self.delay()))
            .await?;
        self.unless_over(self.pipeline.switch.resumed()).await?;
        self.start(Cause::Unscheduled).await
    }

    async fn wait_for_others(&self) -> Result<(), Stop> {
        let shared = &self.pipeline.shared;
        if self.first_session && self.plan.delay.is_none() && self.plan.waits_for_others {
            self.unless_over(shared.first_round.wait(&shared.clock))
                .await?;
        }
        Ok(())
    }

    fn delay(&self) -> Duration {
        if self.first_session {
            self.plan.delay.unwrap_or_default()
        } else {
            Duration::ZERO
        }
    }

    /// Waits, but not beyond the end of intake.
    async fn unless_over<T>(&self, wait: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.pipeline.stopping.intake_over() => Err(Stop::Intake),
            result = wait => Ok(result),
        }
    }

    /// Starts a delivery: of a tick, if nobody else has had it, or of a run without one.
    async fn start(&self, cause: Cause) -> Result<(), Stop> {
        let shared = &self.pipeline.shared;
        if !self.plan.jitter.is_zero() {
            let wait = shared.dice.up_to(self.plan.jitter);
            self.unless_over(shared.clock.sleep(wait)).await?;
        }
        self.begin(cause).await
    }

    /// As [`Trigger::start`], without jitter.
    async fn begin(&self, cause: Cause) -> Result<(), Stop> {
        let (shared, name) = (&self.pipeline.shared, &self.plan.name);
        let _beginning = Beginning::of(&self.beginning);
        if self.pipeline.stopping.is_intake_over() {
            return Err(Stop::Intake);
        }
        // From here on nothing is broken off: a run that is in the history has a delivery.
        let stopping = &self.pipeline.stopping;
        let run = match cause {
            Cause::Unscheduled => shared.ledger.begin(name, None, stopping).await?,
            Cause::New(tick) => shared.ledger.begin(name, Some(tick), stopping).await?,
            Cause::Old(tick) => {
                shared.ledger.written().await;
                let started = shared.clock.now();
                let begin = || shared.state.start_tick(name, tick, started);
                let Some(id) = shared.patiently(stopping, begin).await? else {
                    return Ok(());
                };
                StartedRun {
                    id,
                    scheduled_at: Some(tick),
                    started,
                }
            }
        };
        self.book.opened(1);
        let token = self.book.token(run);
        let settle: Arc<dyn Settle> = Arc::clone(&self.book) as Arc<dyn Settle>;
        let parcel = Parcel::start(vec![(token, None)], &settle);
        if let Some(limit) = self.plan.timeout {
            self.watch(token.id, limit);
        }
        tokio::select! {
            biased;
            // The queue may be full for good; what waits to enter it is dropped as what is in it.
            () = self.pipeline.stopping.failed() => {}
            () = feed(&self.queue, &self.pipeline.first_stage, Some(&self.pipeline.meter), parcel) => {}
        }
        Ok(())
    }

    /// Fails the pipeline when the delivery is still open after its time.
    fn watch(&self, id: u64, limit: Duration) {
        let (book, pipeline) = (Arc::clone(&self.book), Arc::clone(&self.pipeline));
        let errors = pipeline.meter.errors();
        self.pipeline.tasks.spawn("delivery timeout", async move {
            tokio::select! {
                () = book.settled_one(id) => {}
                () = pipeline.shared.clock.sleep(limit) => {
                    let limit = wiredflow_core::units::format_duration(limit);
                    let mut reason = format!("a delivery took longer than its `timeout` of {limit}");
                    // Most often it is what the attempts until now were about.
                    if let Some(error) = pipeline.meter.error_after(errors) {
                        reason = format!("{reason}; the last error: {error}");
                    }
                    if book.overdue(id, &reason) {
                        pipeline.stopping.fail_at_once(Error::data(reason));
                    }
                }
            }
        });
    }
}

/// Counts a delivery that is about to be in the book.
struct Beginning<'a>(&'a AtomicUsize);

impl<'a> Beginning<'a> {
    fn of(number: &'a AtomicUsize) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How the wait for a tick ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// Its time has come.
    Due,
    /// The wall clock was put back: other ticks may come first.
    PutBack,
}

/// A schedule's way through time.
struct Ticks<'a> {
    trigger: &'a Trigger,
    schedule: &'a Schedule,
    steady: Steady,
    /// The newest tick that was ever claimed, in milliseconds since 1970.
    newest: AtomicI64,
    /// The newest tick that was passed over, when no later one has run.
    passed_over: Mutex<Option<Timestamp>>,
}

impl Ticks<'_> {
    async fn run(&self) -> Result<(), Stop> {
        let trigger = self.trigger;
        let (shared, name) = (&trigger.pipeline.shared, &trigger.plan.name);
        trigger.wait_for_others().await?;
        let first = self.schedule.first(self.now(), trigger.delay());
        let anchor = match (self.steady, first) {
            (Steady::Yes, Some(first)) => first,
            _ => self.now(),
        };
        let definition = self.schedule.to_string();
        // What an earlier session has begun must be seen.
        trigger.unless_over(shared.ledger.written()).await?;
        let known = || shared.state.schedule(name, &definition, anchor);
        let known = shared.patiently(&trigger.pipeline.stopping, known).await?;
        if let Some(newest) = known.newest {
            self.newest
                .fetch_max(newest.as_millisecond(), Ordering::Relaxed);
        }
        let anchor_now = anchor.as_millisecond() == known.anchor.as_millisecond();
        let anchor = known.anchor;
        let mut last = if anchor_now && known.last_tick.is_none() {
            let Some(first) = first else {
                tracing::warn!(pipeline = %name, "`{}` has no tick after this start", self.schedule);
                return Ok(());
            };
            let first = match self.steady {
                Steady::Yes => anchor,
                Steady::No => first,
            };
            match self.wait_for(first).await? {
                Waited::Due => self.due(anchor, first).await?,
                Waited::PutBack => self.now(),
            }
        } else {
            trigger
                .unless_over(shared.clock.sleep(trigger.delay()))
                .await?;
            let before_all = anchor
                .saturating_sub(Duration::from_nanos(1))
                .unwrap_or(anchor);
            let last = known.last_tick.unwrap_or(before_all);
            self.catch_up(anchor, last, known.interrupted).await?
        };
        loop {
            // What has run by a clock that was wrong is no reason to wait until it is that late again. A tick that
            // has run under its own name does not run twice.
            if last.duration_since(self.now()) > LONG_AGO {
                last = self.now();
            }
            let Some(tick) = self.schedule.next_after(anchor, last) else {
                return Ok(());
            };
            if self.wait_for(tick).await? == Waited::PutBack {
                tracing::warn!(pipeline = %name, "the clock was put back: `{}` goes on from now", self.schedule);
                last = last.min(self.now());
                continue;
            }
            last = if self.now().duration_since(tick) > LONG_AGO {
                self.catch_up(anchor, last, Vec::new()).await?
            } else {
                self.due(anchor, tick).await?
            };
        }
    }

    /// Remembers that ticks were passed over at the end, so that the next start does not take them for missed.
    async fn close(&self) {
        let shared = &self.trigger.pipeline.shared;
        let Some(tick) = self.lock_passed_over().take() else {
            return;
        };
        let name = &self.trigger.plan.name;
        let noted = async {
            shared.state.claim_tick(name, tick).await?;
            shared.state.finish_tick(name, tick).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(pipeline = %name, "a tick that was passed over was not noted: {error}");
        }
    }

    /// The time by which ticks come due. For a fixed grid it follows the monotonic clock from the
    /// session's start, so that a step of the wall clock neither stalls nor bunches its ticks.
    fn now(&self) -> Timestamp {
        let clock = &self.trigger.pipeline.shared.clock;
        match self.steady {
            Steady::No => clock.now(),
            Steady::Yes => clock.since(self.trigger.started),
        }
    }

    /// Runs what was missed since `last`, and what an earlier start had begun and did not finish, as
    /// `catch_up` wants it. Returns the time up to which ticks are dealt with.
    async fn catch_up(
        &self,
        anchor: Timestamp,
        last: Timestamp,
        mut interrupted: Vec<Timestamp>,
    ) -> Result<Timestamp, Stop> {
        let (trigger, now) = (self.trigger, self.now());
        let (shared, plan) = (&trigger.pipeline.shared, &trigger.plan);
        let catch_up = match trigger.pipeline.switch.is_paused() {
            true => CatchUp::None,
            false => plan.catch_up,
        };
        let missed = self
            .schedule
            .missed(anchor, last, now, catch_up, CATCH_UP_CAP);
        let mut ticks = missed.ticks;
        match catch_up {
            CatchUp::None => {}
            CatchUp::Latest if !ticks.is_empty() => {}
            CatchUp::Latest => ticks.extend(interrupted.pop()),
            CatchUp::All => ticks.splice(..0, interrupted.drain(..)).for_each(drop),
        }
        let dropped = missed.dropped + interrupted.len() as u64;
        for tick in interrupted {
            let finish = || shared.state.finish_tick(&plan.name, tick);
            shared.patiently(&trigger.pipeline.stopping, finish).await?;
        }
        if dropped > 0 || !ticks.is_empty() {
            let run = ticks.len();
            let missed = dropped + run as u64;
            let word = if missed == 1 { "tick" } else { "ticks" };
            tracing::info!(pipeline = %plan.name, "{missed} missed {word}, {run} to be run now");
        }
        for tick in ticks {
            if plan.overlap != Overlap::Allow {
                trigger.unless_over(trigger.book.all_settled()).await?;
            }
            self.start(tick).await?;
        }
        Ok(now.max(last))
    }

    /// Waits until a tick's time, looking at the wall clock again and again.
    async fn wait_for(&self, tick: Timestamp) -> Result<Waited, Stop> {
        let clock = &self.trigger.pipeline.shared.clock;
        let mut newest = self.now();
        loop {
            let now = self.now();
            if newest.duration_since(now) > LONG_AGO {
                return Ok(Waited::PutBack);
            }
            newest = newest.max(now);
            let left = Duration::try_from(tick.duration_since(now)).unwrap_or_default();
            if left.is_zero() {
                return Ok(Waited::Due);
            }
            self.trigger
                .unless_over(clock.nap(left, LOOK_AGAIN))
                .await?;
        }
    }

    /// Starts a tick's delivery, as `overlap` allows. Returns the time up to which ticks are dealt with.
    async fn due(&self, anchor: Timestamp, tick: Timestamp) -> Result<Timestamp, Stop> {
        let trigger = self.trigger;
        match trigger.plan.overlap {
            _ if trigger.pipeline.switch.is_paused() => {
                self.pass_over(tick, 1);
                return Ok(tick);
            }
            Overlap::Skip if trigger.is_busy() => {
                self.pass_over(tick, 1);
                return Ok(tick);
            }
            Overlap::Queue if trigger.is_busy() => {
                trigger.unless_over(trigger.book.all_settled()).await?;
                if trigger.pipeline.switch.is_paused() {
                    self.pass_over(tick, 1);
                    return Ok(tick);
                }
                // One tick waits; those that came while it waited are passed over.
                let behind = self
                    .schedule
                    .missed(anchor, tick, self.now(), CatchUp::Latest, 1);
                self.start(tick).await?;
                let Some(newest) = behind.ticks.last() else {
                    return Ok(tick);
                };
                self.pass_over(*newest, behind.dropped + 1);
                return Ok(*newest);
            }
            Overlap::Skip | Overlap::Queue | Overlap::Allow => {}
        }
        self.start(tick).await?;
        Ok(tick)
    }

    async fn start(&self, tick: Timestamp) -> Result<(), Stop> {
        // The state knows ticks by the millisecond.
        let millisecond = tick.as_millisecond();
        let newest = self.newest.fetch_max(millisecond, Ordering::Relaxed);
        let cause = if millisecond > newest {
            Cause::New(tick)
        } else {
            Cause::Old(tick)
        };
        self.trigger.start(cause).await?;
        *self.lock_passed_over() = None;
        Ok(())
    }

    fn pass_over(&self, newest: Timestamp, ticks: u64) {
        let counter = &self.trigger.pipeline.meter.ticks_skipped;
        counter.fetch_add(ticks, Ordering::Relaxed);
        *self.lock_passed_over() = Some(newest);
    }

    fn lock_passed_over(&self) -> std::sync::MutexGuard<'_, Option<Timestamp>> {
        self.passed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
