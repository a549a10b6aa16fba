//! Spans: the way of each delivery as tools for traces show it. One span for the delivery, and below it one for each call of a
//! stage that it was in. Where nobody wants them, none is made.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use wiredflow_core::Error;
use wiredflow_core::delivery::{Outcome, Parcel, Settled, Tally, Token};

use crate::catalogue::Work;
use crate::clock::{Clock, Dice};
use crate::plan::StagePlan;

/// Who is told of spans. Called by the tasks of a run: it must not block.
pub trait Spans: Debug + Send + Sync {
    /// Whether the spans of this trace are wanted.
    fn wants(&self, trace: u128) -> bool;

    /// A span that is wanted has ended.
    fn ended(&self, span: Span);
}

/// A time in the life of a delivery.
#[derive(Clone, Debug)]
pub struct Span {
    /// The delivery's own number: no other has it, in any run of any flow.
    pub trace: u128,
    /// Tells the spans of a trace apart.
    pub id: u64,
    /// The span around it; the delivery's own has none.
    pub parent: Option<u64>,
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// When it began, by the wall clock at its end.
    pub began: Timestamp,
    /// How long it took.
    pub lasted: Duration,
    /// What took the time.
    pub what: What,
    /// Why it did not go well, scrubbed of secrets.
    pub failure: Option<Arc<str>>,
}

/// What a span is of.
#[derive(Clone, Debug)]
pub enum What {
    /// The whole way, from the intake until it was settled.
    Delivery {
        /// Whether a source brought it; else a schedule made it.
        is_from_source: bool,
        /// How it ended.
        outcome: Outcome,
        /// Records that came in and went out.
        tally: Tally,
    },
    /// One attempt of a stage at a batch that has records of it.
    Call {
        /// The stage.
        stage: Arc<str>,
        /// Its component.
        kind: String,
        /// What its work is like.
        work: Work,
        /// 1 for the first attempt.
        attempt: u32,
        /// Records of the batch.
        records: usize,
        /// Deliveries of the batch: each has a span like this one.
        deliveries: usize,
    },
}

/// Makes the spans of one session of a pipeline.
pub(crate) struct Traced {
    to: Arc<dyn Spans>,
    clock: Clock,
    pipeline: Arc<str>,
    is_from_source: bool,
    /// Chance: what tells this session from all others.
    session: u64,
    calls: AtomicU64,
    /// Since when those deliveries are on their way that are wanted.
    open: Mutex<HashMap<Token, Instant>>,
}

impl Traced {
    pub(crate) fn new(
        to: &Arc<dyn Spans>,
        (clock, dice): (&Clock, &Dice),
        pipeline: &Arc<str>,
        is_from_source: bool,
    ) -> Self {
        Self {
            to: Arc::clone(to),
            clock: clock.clone(),
            pipeline: Arc::clone(pipeline),
            is_from_source,
            session: dice.number(),
            calls: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// A delivery is on its way.
    pub(crate) fn begins(&self, token: Token) {
        if self.to.wants(self.trace(token)) {
            self.open().insert(token, self.clock.monotonic());
        }
    }

    /// A delivery has ended.
    pub(crate) fn settled(&self, settled: &Settled) {
        let Some(began) = self.open().remove(&settled.token) else {
            return;
        };
        let trace = self.trace(settled.token);
        let is_well = settled.outcome == Outcome::Committed;
        let unsaid = || Arc::from(settled.outcome.word());
        let failure = (!is_well).then(|| settled.reason.clone().unwrap_or_else(unsaid));
        let what = What::Delivery {
            is_from_source: self.is_from_source,
            outcome: settled.outcome,
            tally: settled.tally,
        };
        let lasted = self.clock.monotonic() - began;
        self.tell((trace, root(trace), None), lasted, what, failure);
    }

    /// A call has ended, after so long. What the pipeline's own trigger did not bring has no span: a replay, and what a stage
    /// that is not required works off later.
    pub(crate) fn called(
        &self,
        stage: &StagePlan,
        (parcel, attempt): (&Parcel, u32),
        lasted: Duration,
        failure: Option<&Error>,
    ) {
        let deliveries = parcel.lineage.deliveries();
        let open = self.open();
        let wanted = parcel
            .lineage
            .tokens()
            .filter(|token| open.contains_key(token));
        let wanted: Vec<Token> = wanted.collect();
        drop(open);
        for token in wanted {
            let trace = self.trace(token);
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            let id = mixed(self.session ^ number).max(1);
            let what = What::Call {
                stage: Arc::clone(&stage.name),
                kind: stage.kind.clone(),
                work: stage.work,
                attempt,
                records: parcel.batch.len(),
                deliveries,
            };
            let failure = failure.map(|error| error.message().into());
            self.tell((trace, id, Some(root(trace))), lasted, what, failure);
        }
    }

    fn tell(
        &self,
        (trace, id, parent): (u128, u64, Option<u64>),
        lasted: Duration,
        what: What,
        failure: Option<Arc<str>>,
    ) {
        let began = self.clock.now().saturating_sub(lasted);
        self.to.ended(Span {
            trace,
            id,
            parent,
            pipeline: Arc::clone(&self.pipeline),
            began: began.unwrap_or(Timestamp::UNIX_EPOCH),
            lasted,
            what,
            failure,
        });
    }

    fn trace(&self, token: Token) -> u128 {
        let low = mixed(mixed(self.session ^ token.epoch) ^ token.id);
        (u128::from(self.session) << 64) | u128::from(low)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Token, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The span of a trace that is the delivery's own.
fn root(trace: u128) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let low = trace as u64;
    mixed(low).max(1)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): different numbers stay
/// different, and look like chance.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::mixed;

    #[test]
    fn different_numbers_stay_different_and_fall_on_both_halves() {
        let mixed: HashSet<u64> = (0..10_000).map(mixed).collect();
        assert_eq!(mixed.len(), 10_000);
        let low = mixed
            .iter()
            .filter(|number| **number < u64::MAX / 2)
            .count();
        assert!((4_700..5_300).contains(&low), "{low}");
    }
}
