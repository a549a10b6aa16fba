//! `ack: inbox`: a durable queue in state.db between a source and the stages of its pipeline.
//!
//! ```text
//! receiving:  source ─> [number of each delivery] ─> keep: state.db ─> settled, acknowledged
//!                                                        │
//! working:                      the inbox as a source <──┘ ─> stages ─> … ─> settled ─> written down
//! ```
//!
//! Both parts are pipelines of their own for the run loop, under the name of the one that the user wrote: each is
//! opened and opened again without the other. So what waits is worked off while the source is away, and what comes is
//! taken while the stages are in trouble.

mod order;
mod receiving;
mod working;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wiredflow_core::config::{Ack, StagePolicy};
use wiredflow_core::delivery::{Delivery, Identity, Payload, Token};
use wiredflow_core::{Error, Result};

use crate::catalogue::{OpenSource, OpenStage, Work};
use crate::clock::Clock;
use crate::observe::InboxMeter;
use crate::plan::{PipelinePlan, StagePlan, TriggerPlan};
use crate::state::{InboxForm, InboxRow, StateHandle};
use crate::tasks::Tasks;

use super::Shared;
use super::pipeline::supervise;
use order::{Found, HandOut, Order, Room, WINDOW, Write};

pub use order::InboxLimits;

/// The name of the stage that keeps what arrives; it stands behind the pipeline's in messages.
const STAGE: &str = "inbox";

/// How many of the newest rows stay in memory, and how many bytes of them: what is worked off at once is not read again.
const MOST_RECENT: usize = 4096;
const MOST_RECENT_BYTES: usize = 16 << 20;

/// How many rows are read at a time, and about how many bytes.
const READ: usize = 1024;
const READ_BYTES: usize = 4 << 20;

/// The part of a pipeline that takes what arrives into its inbox.
pub(super) struct ReceivingPart {
    pub(super) plan: PipelinePlan,
    pub(super) inbox: Arc<Inbox>,
}

/// Parts those pipelines at their inboxes that have one: each is the part that works then.
pub(super) fn part_all(
    mut pipelines: Vec<PipelinePlan>,
    state: &StateHandle,
    limits: InboxLimits,
    clock: &Clock,
) -> (Vec<PipelinePlan>, Vec<ReceivingPart>) {
    let parted = pipelines.iter_mut();
    let parted = parted.filter_map(|plan| part(plan, state, limits, clock));
    let receiving = parted.collect();
    (pipelines, receiving)
}

/// Starts the parts that receive; their meters are those from number `first` on.
pub(super) fn receive_all(
    parts: Vec<ReceivingPart>,
    first: usize,
    shared: &Arc<Shared>,
    supervisors: &Tasks,
) {
    let with_inbox = parts
        .iter()
        .map(|part| Arc::clone(&part.plan.name))
        .collect();
    shared
        .tasks
        .spawn("inboxes", tell_left(Arc::clone(shared), with_inbox));
    for (index, ReceivingPart { plan, inbox }) in parts.into_iter().enumerate() {
        let supervised = supervise(Arc::new(plan), first + index, Arc::clone(shared), false);
        supervisors.spawn("inbox", async move {
            supervised.await;
            inbox.received_all.cancel();
        });
    }
}

/// Parts a pipeline at its inbox, where it has one.
fn part(
    plan: &mut PipelinePlan,
    state: &StateHandle,
    limits: InboxLimits,
    clock: &Clock,
) -> Option<ReceivingPart> {
    let TriggerPlan::Source { kind, open } = &plan.trigger else {
        return None;
    };
    if plan.ack != Ack::Inbox {
        return None;
    }
    let inbox = Inbox::new(&plan.name, state, limits, clock);
    let trigger = |open| TriggerPlan::Source {
        kind: kind.clone(),
        open,
    };
    let receiving = PipelinePlan {
        trigger: trigger(receiving::source(&inbox, open.clone())),
        stages: vec![StagePlan {
            name: STAGE.into(),
            kind: STAGE.to_owned(),
            work: Work::Sink,
            open: receiving::stage(&inbox),
            policy: StagePolicy::default(),
            required: true,
        }],
        is_receiving: true,
        ..plan.clone()
    };
    let working = trigger(working::source(&inbox));
    plan.trigger = working;
    Some(ReceivingPart {
        plan: receiving,
        inbox,
    })
}

/// The queue of one pipeline. Both parts hold it as long as the flow runs.
pub(super) struct Inbox {
    pipeline: Arc<str>,
    state: StateHandle,
    limits: InboxLimits,
    clock: Clock,
    pub(super) meter: Arc<InboxMeter>,
    queue: Mutex<Option<Queue>>,
    /// Held while the disk is asked what there is.
    opening: tokio::sync::Mutex<()>,
    /// Something has arrived, ended, or was written: everybody looks again.
    changed: Notify,
    /// No more is received, for good.
    received_all: CancellationToken,
    /// Nobody works any more, for good.
    worked_off: CancellationToken,
}

struct Queue {
    id: i64,
    session: u64,
    order: Order,
    /// Read from the disk, to be handed out next.
    read: VecDeque<InboxRow>,
    /// The newest rows, without a gap up to the last that arrived.
    recent: VecDeque<InboxRow>,
    recent_bytes: usize,
    /// What the source has brought and is not kept yet, by the numbers under which it travels.
    arrived: VecDeque<(u64, Arrived)>,
    next_arrived: u64,
    /// Counts how often those who work were there anew.
    epoch: u64,
    /// Why nothing can be written down any more.
    failure: Option<Error>,
}

impl Inbox {
    fn new(
        pipeline: &Arc<str>,
        state: &StateHandle,
        limits: InboxLimits,
        clock: &Clock,
    ) -> Arc<Self> {
        Arc::new(Self {
            pipeline: Arc::clone(pipeline),
            state: state.clone(),
            limits,
            clock: clock.clone(),
            meter: Arc::default(),
            queue: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            received_all: CancellationToken::new(),
            worked_off: CancellationToken::new(),
        })
    }

    /// Asks the disk what there is, the first time.
    async fn load(&self) -> Result<()> {
        if self.lock().is_some() {
            return Ok(());
        }
        let _working = self.clock.working();
        let found = self.state.open_inbox(&self.pipeline, WINDOW).await?;
        let waiting = found.waiting.0;
        if waiting > 0 {
            tracing::info!(
                pipeline = %self.pipeline,
                waiting,
                "deliveries from before wait in the inbox"
            );
        }
        let (id, session) = (found.id, found.session);
        let found = Found {
            low: found.low,
            next: found.next,
            dealt: found.dealt,
            waiting: found.waiting,
            known: found.known,
        };
        *self.lock() = Some(Queue {
            id,
            session,
            order: Order::new(self.limits, found),
            read: VecDeque::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            arrived: VecDeque::new(),
            next_arrived: 0,
            epoch: 0,
            failure: None,
        });
        self.tell_meter();
        Ok(())
    }

    /// Those who work have ended for good: nothing more is received, and it is said how many wait.
    pub(super) async fn working_is_over(&self) {
        self.worked_off.cancel();
        self.received_all.cancelled().await;
        let waiting = self
            .lock()
            .as_ref()
            .map_or(0, |queue| queue.order.waiting());
        if waiting > 0 {
            tracing::info!(
                pipeline = %self.pipeline,
                waiting,
                "deliveries wait in the inbox for the next start"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Queue>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the queue, which is loaded.
    fn with<T>(&self, look: impl FnOnce(&mut Queue) -> T) -> Result<T> {
        match self.lock().as_mut() {
            Some(queue) => Ok(look(queue)),
            None => Err(Error::bug("the inbox is used before it is opened")),
        }
    }

    fn tell_meter(&self) {
        if let Some(queue) = self.lock().as_ref() {
            self.meter.waiting(queue.order.waiting());
        }
    }
}

/// What a source has brought, as it is kept.
struct Arrived {
    identity: Option<Identity>,
    origin: Option<Arc<str>>,
    form: InboxForm,
    body: Bytes,
}

impl Queue {
    /// Notes rows that are on the disk now. `came`: how many deliveries came, and their bytes.
    fn kept(&mut self, came: (usize, usize), rows: &[InboxRow]) {
        let heads = rows.iter().map(|row| (row.identity, row.body.len()));
        self.order.kept(came, heads);
        for row in rows {
            self.recent_bytes += row.body.len();
            self.recent.push_back(row.clone());
        }
        while self.recent.len() > MOST_RECENT || self.recent_bytes > MOST_RECENT_BYTES {
            self.drop_recent();
        }
    }

    fn drop_recent(&mut self) -> Option<InboxRow> {
        let row = self.recent.pop_front()?;
        self.recent_bytes -= row.body.len();
        Some(row)
    }

    /// The next deliveries that may be handed out, from memory.
    fn hand_out(&mut self, most: usize) -> Vec<Delivery> {
        let mut out = Vec::new();
        while out.len() < most
            && let Some(from) = self.order.wanted()
        {
            while self.recent.front().is_some_and(|row| row.number < from) {
                self.drop_recent();
            }
            // What was read is older than what is recent.
            let from_disk = !self.read.is_empty();
            let queue = if from_disk { &self.read } else { &self.recent };
            let Some(row) = queue.front() else { break };
            if !from_disk && row.number > from {
                break;
            }
            let handed = self.order.hand_out(row.number, row.body.len());
            if handed == HandOut::NotYet {
                break;
            }
            let row = if from_disk {
                self.read.pop_front()
            } else {
                self.drop_recent()
            };
            if let (HandOut::Yes { again }, Some(row)) = (handed, row) {
                out.push(self.delivery(row, again));
            }
        }
        out
    }

    /// A row as its source has brought it, but for its names: those are the inbox's own.
    fn delivery(&self, row: InboxRow, again: bool) -> Delivery {
        let number = row.number;
        Delivery {
            token: Token {
                epoch: self.epoch,
                id: number,
            },
            identity: Some(Identity {
                session: self.session,
                place: number as u32,
                print: number >> 32,
                again,
            }),
            payload: payload(row.form, row.body),
            origin: row.origin,
        }
    }
}

/// A payload as it is kept.
fn kept(payload: &Payload) -> (InboxForm, Bytes) {
    match payload {
        Payload::Empty => (InboxForm::Empty, Bytes::new()),
        // Copied: what arrived may be a piece of something longer.
        Payload::Json(bytes) => (InboxForm::Json, Bytes::copy_from_slice(bytes)),
        Payload::Values(values) => match serde_json::to_vec(values) {
            Ok(text) => (InboxForm::Values, text.into()),
            Err(error) => (InboxForm::Unreadable(error.to_string()), Bytes::new()),
        },
        // `check` lets no link end at an inbox.
        Payload::Handed(..) => {
            let reason = "it was handed over by another pipeline";
            (InboxForm::Unreadable(reason.to_owned()), Bytes::new())
        }
        Payload::Unreadable { bytes, reason } => {
            let form = InboxForm::Unreadable(reason.clone());
            (form, Bytes::copy_from_slice(bytes))
        }
    }
}

/// What was kept as a payload; what cannot be read is set aside like any other.
fn payload(form: InboxForm, bytes: Bytes) -> Payload {
    match form {
        InboxForm::Empty => Payload::Empty,
        InboxForm::Json => Payload::Json(bytes),
        InboxForm::Values => match serde_json::from_slice(&bytes) {
            Ok(values) => Payload::Values(values),
            Err(error) => Payload::Unreadable {
                bytes,
                reason: error.to_string(),
            },
        },
        InboxForm::Unreadable(reason) => Payload::Unreadable { bytes, reason },
    }
}

/// Tells of pipelines that have an inbox no more, and in which deliveries wait all the same.
async fn tell_left(shared: Arc<Shared>, with_inbox: Vec<Arc<str>>) {
    let ask = || shared.state.waiting_inboxes();
    let waiting = shared.patiently(&shared.stopping, ask).await;
    for pipeline in waiting.unwrap_or_default() {
        if !with_inbox.iter().any(|name| **name == *pipeline) {
            tracing::warn!(
                %pipeline,
                "deliveries wait in its inbox, and the flow has no such pipeline with `ack: inbox`: they stay there; \
                 with that line again they are worked off"
            );
        }
    }
}
