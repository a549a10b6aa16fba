//! What becomes of records whose attempts are used up: failed, set aside, or passed over.

use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::config::OnError;
use wiredflow_core::delivery::{Identity, Outcome, Parcel};
use wiredflow_core::{Error, ErrorKind, Value};

use crate::observe::ReplicaClock;
use crate::state::{Body, DeadLetter};

use super::super::outbox::Part;
use super::super::replay::is_replay;
use super::{Failure, StageRun};

/// The most letters of a record that a message shows.
const SHOWN: usize = 120;

impl StageRun {
    /// Ends the flow: its file must be changed first.
    pub(super) fn stop_flow(&self, part: Parcel, error: Error) {
        part.lineage.explain(&error.message().into());
        self.pipeline.stopping.fail(self.located(error));
        part.lineage.close(Outcome::Failed);
    }

    /// Does with one record as `on_error` says.
    pub(super) async fn set_aside_record(
        &self,
        Part {
            parcel: part, rows, ..
        }: &mut Part,
        index: usize,
        failure: &Failure,
        charge: &ReplicaClock,
    ) {
        let mut outcome = self.outcome(part);
        if outcome == Outcome::DeadLettered {
            let record = &part.batch.records()[index];
            let (value, of) = (record.value().clone(), part.lineage.identity(Some(record)));
            let body = Body::Json(value);
            outcome = self.dead_letter(body, of, part, failure, charge).await;
        }
        let error = match outcome {
            Outcome::Failed => {
                self.with_record(&failure.error, part.batch.records()[index].value())
            }
            _ => failure.error.clone(),
        };
        part.take_out(index, outcome, &error.message().into());
        if index < rows.len() {
            let row = rows.remove(index);
            self.leave(&[row], outcome);
        }
        self.tell_end(&error, outcome);
    }

    /// An error that stops the pipeline for one record, with that record and the way to go on without it. Where it
    /// is set aside, the dead letter has it.
    fn with_record(&self, error: &Error, record: &Value) -> Error {
        let record = self.shared().scrubber.scrub(&record.to_string());
        let mut shown: String = record.chars().take(SHOWN).collect();
        if shown.len() < record.len() {
            shown.push('…');
        }
        let told = Error::new(
            error.kind(),
            format!(
                "{} in the record {shown}; with `on_error: dead_letter` at the stage such records are set aside, \
                 and the rest goes on",
                error.message()
            ),
        );
        match error.trace() {
            Some(trace) => told.with_trace(trace),
            None => told,
        }
    }

    /// Does with a whole batch as `on_error` says.
    pub(super) async fn set_aside(&self, part: Part, failure: &Failure, charge: &ReplicaClock) {
        let Part {
            parcel: part, rows, ..
        } = part;
        let mut outcome = self.outcome(&part);
        if outcome == Outcome::DeadLettered {
            let body = match part.batch.records() {
                [one] if !part.batch.is_list() => Body::Json(one.value().clone()),
                _ => Body::Batch(part.batch.values().cloned().collect()),
            };
            let of = part.lineage.identity(None);
            outcome = self.dead_letter(body, of, &part, failure, charge).await;
        }
        part.lineage.explain(&failure.error.message().into());
        self.tell_end(&failure.error, outcome);
        self.leave(&rows, outcome);
        part.lineage.close(outcome);
    }

    /// What `on_error` says. What is replayed and fails again is a dead letter again: it stops nothing.
    pub(super) fn outcome(&self, part: &Parcel) -> Outcome {
        match self.plan.policy.on_error.unwrap_or_default() {
            OnError::Stop if is_replay(part) => Outcome::DeadLettered,
            OnError::Stop => Outcome::Failed,
            OnError::DeadLetter => Outcome::DeadLettered,
            OnError::Skip => Outcome::Skipped,
        }
    }

    pub(super) fn tell_end(&self, error: &Error, outcome: Outcome) {
        self.pipeline.meter.error(error.message());
        let (pipeline, stage) = (&self.pipeline.name, &self.plan.name);
        let what = match outcome {
            Outcome::Failed => {
                return self.pipeline.stopping.fail(self.located(error.clone()));
            }
            Outcome::DeadLettered => "to the dead letters",
            Outcome::Lost => "not kept, so it is not acknowledged",
            Outcome::Skipped | Outcome::Committed => "skipped",
        };
        if self.pipeline.shared.is_news(&self.failure(what, error)) {
            tracing::warn!(%pipeline, %stage, "{what}: {}", error.told());
        } else {
            tracing::debug!(%pipeline, %stage, "{what}: {}", error.told());
        }
    }

    pub(super) fn located(&self, error: Error) -> Error {
        error.context(format!("stage `{}`", self.plan.name))
    }

    /// Keeps a dead letter. When that is not possible for good, the delivery has failed instead; when
    /// the flow ends first, it is lost: not acknowledged.
    pub(super) async fn dead_letter(
        &self,
        body: Body,
        of: Option<Identity>,
        part: &Parcel,
        failure: &Failure,
        charge: &dyn Charge,
    ) -> Outcome {
        let (shared, error) = (self.shared(), &failure.error);
        let (params, secrets) = match part.params.is_empty() {
            true => (None, None),
            false => {
                let (params, secrets) = shared.scrubber.keep(&part.params);
                (Some(params), secrets)
            }
        };
        let letter = DeadLetter {
            pipeline: self.pipeline.name.to_string(),
            stage: self.plan.name.to_string(),
            kind: error.kind(),
            reason: error.message().to_owned(),
            trace: error.trace().map(str::to_owned),
            time: shared.clock.now(),
            delivery: of.map(|identity| identity.to_string()),
            again: of.is_some_and(|identity| identity.again),
            attempts: failure.attempts,
            origin: None,
            params,
            secrets,
            body,
        };
        if is_replay(part) {
            shared.desk.failed(part, letter);
            return Outcome::DeadLettered;
        }
        charge.enter(Activity::External);
        let kept = shared.dead_letter(letter, self.stopping()).await;
        charge.enter(Activity::Overhead);
        match kept {
            Ok(()) => Outcome::DeadLettered,
            Err(error) if error.kind() == ErrorKind::Remote => Outcome::Lost,
            Err(error) => {
                let error = error.context("a dead letter cannot be kept");
                self.pipeline.stopping.fail(self.located(error));
                Outcome::Failed
            }
        }
    }
}
