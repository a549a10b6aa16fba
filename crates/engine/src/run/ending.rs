//! The end of a run: in good order, or at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::storage::Epoch;
use wiredflow_scale::figures::FlowFigures;

use crate::observe::RunReport;
use crate::state::SessionOutcome;

use super::Running;
use super::shared::Shared;
use super::stopping::Stopping;

/// How long a stop waits for what is in flight.
const GRACE: Duration = Duration::from_secs(10);

/// How long, after the end of intake, peers that are away and generators are waited for.
const WAITS: Duration = Duration::from_secs(8);

/// How long a run that ends by itself may stand still (no call begins or ends) before it is ended at once.
pub(super) const STANDSTILL: Duration = Duration::from_secs(60);

/// How long dropped work may take to be gone: a thread that computes cannot be stopped.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Stops a running flow. A cheap clone.
#[derive(Clone, Debug)]
pub struct Stopper {
    stopping: Stopping,
    asked: CancellationToken,
    now: CancellationToken,
}

impl Stopper {
    pub(super) fn new(stopping: Stopping) -> Self {
        Self {
            stopping,
            asked: CancellationToken::new(),
            now: CancellationToken::new(),
        }
    }

    /// Ends intake; what is in flight is finished, within 10 s. The second call ends at once, and loses
    /// nothing that was acknowledged.
    pub fn stop(&self) {
        if self.asked.is_cancelled() {
            self.now.cancel();
        }
        self.asked.cancel();
        self.stopping.end_intake();
    }

    /// Waits until intake has ended, for whatever reason.
    pub async fn stopped(&self) {
        self.stopping.intake_over().await;
    }
}

/// Reads the figures of a running flow, also while its end is awaited. A cheap clone.
#[derive(Clone)]
pub struct Figures(Weak<Shared>);

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

impl Figures {
    /// Whether a stage works at this moment: it does not rest, wait for a peer that is away, or stand behind a
    /// full queue.
    pub fn is_working(&self) -> bool {
        let shared = self.0.upgrade();
        shared.is_some_and(|shared| shared.meters.is_working())
    }

    /// A number that changes whenever a call begins, fails or hands something on.
    pub fn moved(&self) -> u64 {
        let shared = self.0.upgrade();
        shared.map_or(0, |shared| shared.meters.moved())
    }

    /// All figures since the start, for a profile; none after the end.
    pub fn figures(&self) -> Option<FlowFigures> {
        self.0.upgrade().map(|shared| shared.meters.figures())
    }

    /// The figures now; none after the end.
    pub fn snapshot(&self) -> Option<RunReport> {
        self.0.upgrade().map(|shared| shared.report())
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// How its deliveries did.
    pub report: RunReport,
    /// All figures since the start, for a profile.
    pub figures: FlowFigures,
    /// Whether it was ended at once, with work in flight.
    pub at_once: bool,
    /// The epoch of the owner that has taken over, where that is why it ended: nothing is wrong with the flow, which runs
    /// elsewhere.
    pub fenced_by: Option<Epoch>,
}

impl Running {
    /// The figures now.
    pub fn snapshot(&self) -> RunReport {
        self.shared.report()
    }

    /// All figures since the start, for a profile.
    pub fn all_figures(&self) -> FlowFigures {
        self.shared.meters.figures()
    }

    /// What reads the figures while the end is awaited.
    pub fn figures(&self) -> Figures {
        Figures(Arc::downgrade(&self.shared))
    }

    /// What stops it.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for the end: of all pipelines, of a stop and its grace of 10 s, of the second stop, or of the word that another
    /// owner has taken over. No task of the run is left then, its files are closed and its folder is free.
    pub async fn finished(self) -> Ended {
        let at_once = tokio::select! {
            biased;
            () = self.supervisors.finished() => false,
            () = self.stopper.now.cancelled() => true,
            () = self.shared.ownership.lost() => true,
            () = self.overdue() => {
                tracing::warn!("work in flight did not end in time: it is dropped, unacknowledged");
                true
            }
        };
        let shared = &self.shared;
        let fenced = shared.ownership.why_lost();
        if let Some(error) = &fenced {
            tracing::error!("{error}; what is in flight is dropped, unacknowledged");
            shared.note_failure(error.clone());
        }
        let at_once = at_once || fenced.is_some();
        shared.dropped.store(at_once, Ordering::Relaxed);
        shared.tasks.abort();
        tokio::select! {
            () = shared.tasks.finished() => {}
            () = shared.clock.sleep(GONE_WITHIN) => {
                tracing::warn!("a stage that does not give way goes on until the process ends");
            }
        }
        shared.ledger.close();
        shared.desk.close();
        shared.records.finished().await;
        shared.repeats.say();
        if !at_once {
            super::kept::keep_last(shared).await;
        }
        let (report, figures) = (shared.report(), shared.meters.figures());
        let outcome = if report.ok {
            SessionOutcome::Ended
        } else {
            SessionOutcome::Failed
        };
        // First: the state keeps how far the storages' files are committed.
        self.writers.close(&shared.clock).await;
        // Without it the end must not look like one in order.
        let closed = match self.doubts.changed() {
            None => Ok(()),
            Some(in_doubt) => self.state.handle().keep_in_doubt(in_doubt).await,
        };
        let closed = match closed {
            Ok(()) => self.state.close(outcome, shared.clock.now()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = closed {
            tracing::error!("the state was not closed in order: {error}");
        }
        Ended {
            report,
            figures,
            at_once,
            fenced_by: fenced.and_then(|error| error.fenced_by()),
        }
    }

    /// Ends when work in flight is not waited for any longer.
    async fn overdue(&self) {
        tokio::select! {
            () = self.standstill() => {}
            () = async {
                self.stopper.asked.cancelled().await;
                self.shared.clock.sleep(GRACE).await;
            } => {}
        }
    }

    /// Ends when intake is over, peers and generators have had their time, and nothing has moved for long.
    async fn standstill(&self) {
        let (clock, stopping) = (&self.shared.clock, &self.shared.stopping);
        stopping.intake_over().await;
        clock.sleep(WAITS).await;
        stopping.end_waits();
        let mut moved = self.shared.meters.moved();
        loop {
            clock.sleep(self.patience).await;
            let now = self.shared.meters.moved();
            if now == moved {
                return;
            }
            moved = now;
        }
    }
}
