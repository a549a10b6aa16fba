//! Schedules at work: wait for the tick, claim it, start its delivery.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;
use wiredflow_core::delivery::{Parcel, Settle};
use wiredflow_core::schedule::{CATCH_UP_CAP, Overlap, Schedule};
use wiredflow_core::{Error, Result};

use crate::plan::{PipelinePlan, Steady};

use super::PipelineShared;
use super::book::{Book, RunOf};
use super::port::feed;

/// How far behind its ticks a schedule may be before it passes over some.
const LONG_AGO: SignedDuration = SignedDuration::from_secs(60);

/// The longest sleep before the clock is looked at again: wall time can jump.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Starts the deliveries of one scheduled pipeline until intake ends or there is no further tick.
pub(crate) struct Trigger {
    pub(crate) plan: PipelinePlan,
    pub(crate) pipeline: Arc<PipelineShared>,
    pub(crate) book: Arc<Book>,
    pub(crate) queue: mpsc::Sender<Parcel>,
    /// One delivery now, after `delay`, whatever the schedule says.
    pub(crate) once: bool,
    /// Whether it is the pipeline's first session in this run of the flow.
    pub(crate) first_session: bool,
    /// Where interval schedules take their time from: see [`Trigger::now`].
    pub(crate) started: (Timestamp, Instant),
}

impl Trigger {
    /// Runs until intake ends; the queue closes when it returns.
    pub(crate) async fn run(self, schedule: Option<(Schedule, Steady)>) {
        let stopping = self.pipeline.stopping.clone();
        let work = async {
            self.wait_for_others().await;
            match schedule {
                Some((schedule, steady)) if !self.once => self.ticks(&schedule, steady).await,
                _ => {
                    self.pipeline.shared.clock.sleep(self.delay()).await;
                    self.start(self.pipeline.shared.clock.now()).await
                }
            }
        };
        tokio::select! {
            biased;
            () = stopping.intake_over() => {}
            result = work => if let Err(error) = result {
                self.pipeline.fail(error);
            },
        }
    }

    async fn wait_for_others(&self) {
        if self.first_session && self.plan.delay.is_none() && self.plan.waits_for_others {
            self.pipeline
                .shared
                .first_round
                .wait(&self.pipeline.shared.clock)
                .await;
        }
    }

    fn delay(&self) -> Duration {
        if self.first_session {
            self.plan.delay.unwrap_or_default()
        } else {
            Duration::ZERO
        }
    }

    /// The time by which ticks come due. For a fixed grid it follows the monotonic clock from the
    /// session's start, so that a step of the wall clock neither stalls nor bunches its ticks.
    fn now(&self, steady: Steady) -> Timestamp {
        let clock = &self.pipeline.shared.clock;
        match steady {
            Steady::No => clock.now(),
            Steady::Yes => {
                let (wall, since) = self.started;
                wall.saturating_add(clock.monotonic() - since)
                    .unwrap_or(Timestamp::MAX)
            }
        }
    }

    async fn ticks(&self, schedule: &Schedule, steady: Steady) -> Result<()> {
        let state = &self.pipeline.shared.state;
        let name = &self.plan.name;
        let definition = schedule.to_string();
        let first = schedule.first(self.now(steady), self.delay());
        let anchor = first
            .filter(|_| steady == Steady::Yes)
            .unwrap_or_else(|| self.now(steady));
        let known = state.schedule(name, &definition, anchor).await?;
        for interrupted in known.interrupted {
            // Its run has been ended as failed; `catch_up` decides about it as about any missed tick.
            state.finish_tick(name, interrupted).await?;
        }
        let mut last = match (known.last_tick, first) {
            (Some(last), _) => self.catch_up(schedule, known.anchor, last, steady).await?,
            (None, None) => {
                tracing::warn!(pipeline = %name, "`{schedule}` has no tick after this start");
                return Ok(());
            }
            (None, Some(first)) => {
                let first = if steady == Steady::Yes {
                    known.anchor
                } else {
                    first
                };
                self.wait_for(first, steady).await;
                self.due(first, steady).await?
            }
        };
        while let Some(tick) = schedule.next_after(known.anchor, self.not_long_ago(last, steady)) {
            self.wait_for(tick, steady).await;
            last = self.due(tick, steady).await?;
        }
        Ok(())
    }

    /// Where to look for the next tick from: when it is long behind (a suspended machine, a stall),
    /// ticks in between are passed over, not run in a burst.
    fn not_long_ago(&self, last: Timestamp, steady: Steady) -> Timestamp {
        let now = self.now(steady);
        if now.duration_since(last) > LONG_AGO {
            now
        } else {
            last
        }
    }

    async fn catch_up(
        &self,
        schedule: &Schedule,
        anchor: Timestamp,
        last: Timestamp,
        steady: Steady,
    ) -> Result<Timestamp> {
        let now = self.now(steady);
        let missed = schedule.missed(anchor, last, now, self.plan.catch_up, CATCH_UP_CAP);
        if missed.dropped > 0 {
            tracing::info!(
                pipeline = %self.plan.name,
                run = missed.ticks.len(),
                passed_over = missed.dropped,
                "ticks were missed while the flow was down",
            );
        }
        for tick in &missed.ticks {
            if self.plan.overlap != Overlap::Allow {
                self.book.all_settled().await;
            }
            self.start(*tick).await?;
        }
        Ok(now.max(last))
    }

    /// Waits until a tick's time, looking at the wall clock again and again.
    async fn wait_for(&self, tick: Timestamp, steady: Steady) {
        let clock = &self.pipeline.shared.clock;
        loop {
            let left = tick.duration_since(self.now(steady));
            let Ok(left) = Duration::try_from(left) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            clock.sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    /// Starts a tick's delivery, as `overlap` allows. Returns the time up to which ticks are dealt with.
    async fn due(&self, tick: Timestamp, steady: Steady) -> Result<Timestamp> {
        let mut dealt_with = tick;
        match self.plan.overlap {
            Overlap::Skip if self.book.open() > 0 => {
                self.pipeline
                    .meter
                    .ticks_skipped
                    .fetch_add(1, Ordering::Relaxed);
                return Ok(tick);
            }
            Overlap::Queue if self.book.open() > 0 => {
                self.book.all_settled().await;
                // One tick waits; those that came while it waited are passed over.
                dealt_with = dealt_with.max(self.now(steady));
            }
            Overlap::Skip | Overlap::Queue | Overlap::Allow => {}
        }
        let shared = &self.pipeline.shared;
        if !self.plan.jitter.is_zero() {
            shared
                .clock
                .sleep(shared.dice.up_to(self.plan.jitter))
                .await;
        }
        self.start(tick).await?;
        Ok(dealt_with)
    }

    async fn start(&self, tick: Timestamp) -> Result<()> {
        let shared = &self.pipeline.shared;
        let now = shared.clock.now();
        let run = shared
            .patiently(|| shared.state.start_tick(&self.plan.name, tick, now))
            .await?;
        let Some(run) = run else { return Ok(()) };
        self.book.opened(1);
        let token = self.book.token(RunOf { run });
        let settle: Arc<dyn Settle> = Arc::clone(&self.book) as Arc<dyn Settle>;
        let parcel = Parcel::start(vec![(token, Vec::new())], &settle);
        if let Some(limit) = self.plan.timeout {
            self.watch(token.id, limit);
        }
        feed(&self.queue, &self.pipeline.first_stage.queued, parcel).await;
        Ok(())
    }

    /// Fails the pipeline when the delivery is still open after its time.
    fn watch(&self, id: u64, limit: Duration) {
        let (book, pipeline) = (Arc::clone(&self.book), Arc::clone(&self.pipeline));
        self.pipeline.tasks.spawn("delivery timeout", async move {
            tokio::select! {
                () = book.settled_one(id) => {}
                () = pipeline.shared.clock.sleep(limit) => {
                    let limit = wiredflow_core::units::format_duration(limit);
                    pipeline.fail(Error::data(format!("a delivery took longer than its `timeout` of {limit}")));
                }
            }
        });
    }
}
