//! A stage that nothing waits for: one loop keeps what comes and hands it on, others work it off.

use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::delivery::{Outcome, Parcel};
use wiredflow_core::{Error, ErrorKind};

use crate::catalogue::Work;
use crate::observe::ReplicaClock;
use crate::state::Body;

use super::super::outbox::Line;
use super::super::port::Exit;
use super::super::queue::Unmetered;
use super::super::replay::is_replay;
use super::{Failure, Rest, StageRun};

/// How long it goes on with what waits after the flow was told to end.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How long a peer may be silent when nothing more comes, before what waits is left to the next start.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a call may go on after a failure of the pipeline.
const FAILURE_GRACE: Duration = Duration::from_secs(1);

/// Closes the line at the end of the loop that fills it, also when its task is aborted.
struct Closes<'a>(&'a Line);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl StageRun {
    /// Keeps all that comes, and hands it on: one loop, whatever `parallel` says.
    pub(in crate::run) async fn keep_all(self: Arc<Self>) {
        let Some(line) = &self.line else { return };
        let _closes = Closes(line);
        if let Err(error) = line.open().await {
            return self.cannot_keep(error);
        }
        let mut given_up = false;
        while let Some((parcel, exit)) = self.intake.take(&Unmetered).await {
            self.meter.takes(&parcel.batch);
            if given_up || self.stopping().has_failed() {
                continue;
            }
            // A replay's place is among the letters that are asked for.
            if is_replay(&parcel) {
                line.put_ahead(parcel);
                continue;
            }
            match self.kept(line, parcel).await {
                Some(parcel) => exit.hand_on(parcel, &Unmetered).await,
                None => given_up = true,
            }
        }
    }

    /// The parcel, when its records are in the outbox or among the dead letters. Else it is dropped: it comes again.
    async fn kept(&self, line: &Line, mut parcel: Parcel) -> Option<Parcel> {
        if parcel.batch.is_empty() {
            return Some(parcel);
        }
        if line.is_full() {
            return self.set_aside_unkept(line, parcel).await;
        }
        match line.keep(&parcel).await {
            Ok(receipt) => {
                parcel.lineage.add_receipt(receipt);
                Some(parcel)
            }
            Err(error) => {
                if error.kind() != ErrorKind::Remote {
                    self.stopping().fail(self.located(error));
                }
                None
            }
        }
    }

    /// Does as `on_error` says with what finds the outbox full, and lets it go on.
    async fn set_aside_unkept(&self, line: &Line, mut parcel: Parcel) -> Option<Parcel> {
        let (waiting, _) = line.outbox.waiting();
        let failure = Failure {
            error: Error::remote(format!(
                "its outbox is full: {waiting} records wait for it already"
            )),
            attempts: 0,
            emitted: false,
        };
        let mut outcome = self.outcome(&parcel);
        if outcome == Outcome::DeadLettered {
            let body = match parcel.batch.records() {
                [one] if !parcel.batch.is_list() => Body::Json(one.value().clone()),
                _ => Body::Batch(parcel.batch.values().cloned().collect()),
            };
            let of = parcel.lineage.identity(None);
            outcome = self
                .dead_letter(body, of, &parcel, &failure, &Unmetered)
                .await;
        }
        self.tell_end(&failure.error, outcome);
        match outcome {
            Outcome::DeadLettered | Outcome::Skipped | Outcome::Committed => {
                line.meter.set_aside(parcel.batch.len());
                parcel.lineage.add_receipt(line.outbox.receipt(0));
                Some(parcel)
            }
            Outcome::Failed | Outcome::Lost => None,
        }
    }

    /// Works off what waits. One of `parallel` loops.
    pub(super) async fn work_off_line(&self, line: &Line, charge: &Arc<ReplicaClock>) {
        let _rest = Rest(charge);
        let exit = Exit::nowhere(Arc::clone(&self.meter));
        let mut too_late = std::pin::pin!(self.stop_is_over(line));
        self.open_early(line, charge).await;
        while !self.is_over() {
            charge.enter(Activity::Starved);
            let next = tokio::select! {
                biased;
                () = self.stopping().failed() => break,
                () = &mut too_late => break,
                next = line.next(self.together()) => next,
            };
            let part = match next {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => {
                    self.cannot_keep(error);
                    break;
                }
            };
            charge.enter(Activity::Overhead);
            self.meter.begins(part.parcel.batch.len());
            tokio::select! {
                biased;
                () = self.work_off([part].into(), &exit, charge) => {}
                // What was being called stays where it is, and is called again by the next start.
                () = &mut too_late => break,
                () = self.patience_is_over(line) => break,
            }
        }
        charge.enter(Activity::Overhead);
        line.tell_meter();
        if line.one_ends(self.meter.replicas.len()) {
            line.outbox.end().await;
        }
    }

    /// Opens the component before the first record comes: what is wrong with it is told at the start.
    async fn open_early(&self, line: &Line, charge: &ReplicaClock) {
        charge.enter(Activity::External);
        let working = self.shared().clock.working();
        let opened = tokio::select! {
            () = line.closed() => Ok(()),
            () = self.stopping().failed() => Ok(()),
            opened = self.stage.open() => opened,
        };
        drop(working);
        let Err(error) = opened else { return };
        let error = error.map_text(|text| self.shared().scrubber.scrub(text));
        if error.kind() == ErrorKind::Config {
            return self.leave_to_the_next_start(line, &error);
        }
        self.pipeline.meter.error(error.message());
        let (pipeline, stage) = (&self.pipeline.name, &self.plan.name);
        if self
            .pipeline
            .shared
            .is_news(&self.failure("cannot open", &error))
        {
            tracing::warn!(%pipeline, %stage, "{}; what comes for it waits in its outbox", error.message());
        }
    }

    /// What waits is not called in this run any more: first something must be changed.
    pub(super) fn leave_to_the_next_start(&self, line: &Line, error: &Error) {
        line.leave_what_waits();
        self.pipeline.meter.error(error.message());
        let (pipeline, stage) = (&self.pipeline.name, &self.plan.name);
        if self.pipeline.shared.is_news(&self.failure("left", error)) {
            tracing::error!(
                %pipeline, %stage,
                "{}; what comes for it waits in its outbox until the flow is started again", error.told()
            );
        }
    }

    /// Ends a while after nothing more comes because the flow was told to end.
    async fn stop_is_over(&self, line: &Line) {
        line.closed().await;
        self.stopping().intake_over().await;
        self.shared().clock.sleep(STOP_GRACE).await;
    }

    /// Ends when a call is waited for no longer.
    async fn patience_is_over(&self, line: &Line) {
        let clock = &self.shared().clock;
        let failed = async {
            self.stopping().failed().await;
            clock.sleep(FAILURE_GRACE).await;
        };
        let silent = async {
            line.closed().await;
            match self.plan.work {
                Work::Peer | Work::PeerSink => clock.sleep(SILENCE).await,
                Work::Function | Work::Sink | Work::Records => std::future::pending().await,
            }
        };
        tokio::select! {
            () = failed => {}
            () = silent => {}
        }
    }

    /// Ends when no peer is waited for any more that is away. It holds up no end of a pipeline that nothing waits for.
    pub(super) async fn waits_over(&self) {
        match &self.line {
            None => self.stopping().waits_over().await,
            Some(line) => tokio::select! {
                () = self.stopping().waits_over() => {}
                () = line.closed() => {}
            },
        }
    }

    /// Ends when a turn is waited for no longer: after a failure, and, where what waits is safe, with the flow.
    pub(super) async fn turns_over(&self) {
        match &self.line {
            None => self.stopping().failed().await,
            Some(_) => tokio::select! {
                () = self.stopping().failed() => {}
                () = self.stopping().intake_over() => {}
            },
        }
    }
}
