//! What waits before a stage: a bounded queue that all replicas take from, regrouped where asked.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use wiredflow_core::Batch;
use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::config::Grouping;
use wiredflow_core::delivery::{Outcome, Parcel};

use crate::clock::Clock;
use crate::observe::StageMeter;

use super::channel::Receiver;
use super::port::Exit;
use super::replay::is_replay;

/// How deep the queue of a stage's ordered calls is, beyond the calls that run.
const ORDERED_AHEAD: usize = 1;

/// Records, and deliveries, that a call of a stage takes at most of those that happen to wait together.
const TOGETHER: usize = 256;

/// Where each ordered call announces its queue.
type Announce = mpsc::Sender<Receiver>;

/// The input side of one stage.
pub(crate) struct Intake {
    state: Mutex<State>,
    /// Where ordered calls announce themselves; none where order is not asked for.
    ordered: Option<Announce>,
    grouping: Option<Grouping>,
    /// Whether one call may take a batch of several deliveries.
    many_deliveries: bool,
    exit: Exit,
    clock: Clock,
    meter: Arc<StageMeter>,
}

struct State {
    queue: Receiver,
    /// Taken from the queue and cut to size, not yet given to a call.
    ready: VecDeque<Parcel>,
    /// Taken from the queue, and to be the first of the next group.
    left: Option<Parcel>,
}

impl Intake {
    /// The input side over a queue. With `ordered`, calls announce their output there in order.
    pub(crate) fn new(
        queue: Receiver,
        ordered: Option<Announce>,
        (grouping, many_deliveries): (Option<Grouping>, bool),
        exit: Exit,
        (clock, meter): (Clock, Arc<StageMeter>),
    ) -> Self {
        let state = Mutex::new(State {
            queue,
            ready: VecDeque::new(),
            left: None,
        });
        Self {
            state,
            ordered,
            grouping,
            many_deliveries,
            exit,
            clock,
            meter,
        }
    }

    /// The next batch to work on and where its output goes; `None` when there will be no more. Waiting
    /// for it is charged as starved, but as blocked where the outputs of earlier calls are in the way.
    pub(crate) async fn take(&self, charge: &dyn Charge) -> Option<(Parcel, Exit)> {
        let Some(ordered) = &self.ordered else {
            let parcel = self.next().await?;
            return Some((parcel, self.exit.clone()));
        };
        charge.enter(Activity::Blocked);
        let place = ordered.reserve().await.ok()?;
        charge.enter(Activity::Starved);
        let (exit, output) = self.exit.of_call();
        let mut state = self.state.lock().await;
        let parcel = self.next_of(&mut state).await?;
        // Sent under the lock: announcements are in the order of the calls.
        place.send(output);
        Some((parcel, exit))
    }

    async fn next(&self) -> Option<Parcel> {
        self.next_of(&mut *self.state.lock().await).await
    }

    async fn next_of(&self, state: &mut State) -> Option<Parcel> {
        let parcel = match state.ready.pop_front() {
            Some(parcel) => parcel,
            None => self.refill(state).await?,
        };
        self.meter.queue.taken();
        Some(parcel)
    }

    async fn refill(&self, state: &mut State) -> Option<Parcel> {
        let first = match state.left.take() {
            Some(left) => left,
            None => state.queue.recv().await?,
        };
        let Some(grouping) = &self.grouping else {
            if state.queue.joins() {
                return Some(self.joined(state, first));
            }
            if self.many_deliveries || first.lineage.deliveries() <= 1 {
                return Some(first);
            }
            return self.is_ready(state, 1, first.split_by_delivery());
        };
        if is_replay(&first) {
            // It is called as it was, in nobody's company.
            return self.is_ready(state, 1, chunks(first, grouping.max));
        }
        let until = self.clock.monotonic() + grouping.within;
        let (mut group, mut parcels) = (first, 1);
        // Deliveries are counted too: they may be empty, and there must be an end to what is held.
        while group.batch.len() < grouping.max && group.lineage.deliveries() <= grouping.max {
            let next = tokio::select! {
                biased;
                next = state.queue.recv() => next,
                () = self.clock.sleep_until(until) => None,
            };
            let Some(next) = next else { break };
            if next.params != group.params || is_replay(&next) {
                // Another run of the configuration: its records are not called with these params.
                state.left = Some(next);
                break;
            }
            group.join(next);
            parcels += 1;
        }
        self.is_ready(state, parcels, chunks(group, grouping.max))
    }

    /// A parcel with those behind it that wait already, as many as make a batch of the largest size that a source gives.
    fn joined(&self, state: &mut State, first: Parcel) -> Parcel {
        let (mut group, mut parcels) = (first, 1);
        // Of an empty one nothing would be left among others, and a function behind would not be called for it.
        let is_alone = |parcel: &Parcel| {
            parcel.batch.is_empty() || !parcel.is_told_apart() || is_replay(parcel)
        };
        if is_alone(&group) {
            return group;
        }
        let is_list = group.batch.is_list();
        while group.lineage.deliveries() < TOGETHER
            && group.batch.len() < TOGETHER
            && let Some(next) = state.queue.try_recv()
        {
            let is_too_much = group.batch.len() + next.batch.len() > TOGETHER
                || group.lineage.deliveries() + next.lineage.deliveries() > TOGETHER;
            // A list stays one, and what has params of its own is called with them.
            let is_other =
                next.params != group.params || next.batch.is_list() != is_list || is_alone(&next);
            if is_too_much || is_other {
                state.left = Some(next);
                break;
            }
            group.join(next);
            parcels += 1;
        }
        self.meter.queue.regrouped(parcels, 1);
        group
    }

    /// So many parcels of the queue have become these; the first of them.
    fn is_ready(&self, state: &mut State, from: usize, parts: Vec<Parcel>) -> Option<Parcel> {
        self.meter.queue.regrouped(from, parts.len());
        state.ready.extend(parts);
        state.ready.pop_front()
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.meter.queue.gone();
    }
}

/// Cuts a group into batches of at most `max` records; each is a list, whatever its length.
fn chunks(mut group: Parcel, max: usize) -> Vec<Parcel> {
    if group.batch.len() <= max {
        group.batch = group.batch.as_list(true);
        return vec![group];
    }
    let mut rest = std::mem::take(&mut group.batch)
        .into_records()
        .into_iter()
        .peekable();
    let mut parcels = Vec::new();
    while rest.peek().is_some() {
        let mut batch = Batch::new(rest.by_ref().take(max).collect()).as_list(true);
        let lineage = group.lineage.child(&mut batch);
        parcels.push(Parcel {
            batch,
            lineage,
            params: group.params.clone(),
        });
    }
    group.lineage.close(Outcome::Committed);
    parcels
}

/// Waiting that belongs to no replica: a forwarder's (a call that it holds up is blocked at its queue), and that of what
/// keeps records for a stage.
pub(super) struct Unmetered;

impl Charge for Unmetered {
    fn enter(&self, _: Activity) -> Activity {
        Activity::Overhead
    }
}

/// Takes the outputs of ordered calls one call after the other.
pub(crate) async fn forward(mut calls: mpsc::Receiver<Receiver>, exit: Exit) {
    while let Some(mut output) = calls.recv().await {
        while let Some(parcel) = output.recv().await {
            exit.hand_on(parcel, &Unmetered).await;
        }
    }
}

/// The queue in which ordered calls announce themselves.
pub(crate) fn announcements(parallel: usize) -> (Announce, mpsc::Receiver<Receiver>) {
    mpsc::channel(parallel + ORDERED_AHEAD)
}
