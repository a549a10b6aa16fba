//! How a flow did: the document of `run --json`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use wiredflow_scale::profile::StageProfile;

use super::inbox::InboxReport;
use super::outbox::OutboxReport;

/// How a flow did, or does: the document of `run --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunReport {
    /// The flow.
    pub flow: String,
    /// Whether nothing failed.
    pub ok: bool,
    /// How long it has run.
    pub seconds: f64,
    /// Why it stopped by itself, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Each pipeline.
    pub pipelines: BTreeMap<String, PipelineReport>,
    /// Each stage.
    pub stages: Vec<StageProfile>,
}

/// How a pipeline did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelineReport {
    /// Its deliveries by their end.
    pub deliveries: Deliveries,
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
    /// Records that had nothing for a stage: without the field that is to be sent.
    pub records_skipped: u64,
    /// How often it was opened again.
    pub restarts: u64,
    /// Ticks that came while the last delivery still ran.
    pub ticks_skipped: u64,
    /// What its inbox did, with `ack: inbox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbox: Option<InboxReport>,
    /// What waits for its stages with `required: false`, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outboxes: BTreeMap<String, OutboxReport>,
    /// The newest error's words.
    pub last_error: Option<String>,
    /// When it came.
    pub last_error_at: Option<Timestamp>,
}

impl PipelineReport {
    /// Adds the counts of an earlier run of the same pipeline.
    pub fn add(&mut self, earlier: &Self) {
        let (now, then) = (&mut self.deliveries, &earlier.deliveries);
        for (count, more) in [
            (&mut now.committed, then.committed),
            (&mut now.failed, then.failed),
            (&mut now.dead_lettered, then.dead_lettered),
            (&mut now.skipped, then.skipped),
            (&mut now.unfinished, then.unfinished),
            (&mut self.records_in, earlier.records_in),
            (&mut self.records_out, earlier.records_out),
            (&mut self.records_skipped, earlier.records_skipped),
            (&mut self.restarts, earlier.restarts),
            (&mut self.ticks_skipped, earlier.ticks_skipped),
        ] {
            *count += more;
        }
        if let (Some(now), Some(then)) = (&mut self.inbox, &earlier.inbox) {
            now.taken += then.taken;
        }
        for (stage, now) in &mut self.outboxes {
            let then = earlier.outboxes.get(stage);
            now.set_aside += then.map_or(0, |then| then.set_aside);
        }
        self.know_error((earlier.last_error.clone(), earlier.last_error_at));
    }

    /// Takes another's newest error, where it has none of its own.
    fn know_error(&mut self, (error, at): (Option<String>, Option<Timestamp>)) {
        if self.last_error.is_none() {
            (self.last_error, self.last_error_at) = (error, at);
        }
    }

    /// Adds what became of the part that takes deliveries into its inbox: its source has those that were not taken.
    pub(super) fn add_receiving(&mut self, receiving: Self, inbox: InboxReport) {
        self.deliveries.failed += receiving.deliveries.failed;
        self.deliveries.unfinished += receiving.deliveries.unfinished;
        self.restarts += receiving.restarts;
        self.know_error((receiving.last_error, receiving.last_error_at));
        self.inbox = Some(inbox);
    }
}

/// Deliveries by their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deliveries {
    /// Every required sink has committed.
    pub committed: u64,
    /// A stage failed after its last attempt.
    pub failed: u64,
    /// A part is in the dead letters.
    pub dead_lettered: u64,
    /// A policy or the end of the run passed over a part.
    pub skipped: u64,
    /// Dropped by a stop before their end; their source has them still.
    pub unfinished: u64,
}

impl Deliveries {
    pub(super) fn sum(&self) -> u64 {
        self.committed + self.failed + self.dead_lettered + self.skipped + self.unfinished
    }
}
