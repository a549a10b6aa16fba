//! Between the connection's thread and the flow: messages go one way, what became of them the
//! other. One lock for many messages, and nothing is copied.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use wiredflow_core::delivery::{Delivery, Identity, Payload, Settled, Token};
use wiredflow_core::json::MAX_PAYLOAD;
use wiredflow_core::{Error, Result};

use super::window::Window;

/// Beyond so many messages, or bytes of them, the connection reads no more.
const MOST_WAITING: usize = 4096;
const MOST_BYTES: usize = 16 << 20;

/// A message for the flow.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) topic: Arc<str>,
    /// The packet's id; 0 where nothing is acknowledged.
    pub(super) packet: u16,
    pub(super) duplicate: bool,
    /// Tells it from another one under the same id.
    pub(super) print: u64,
    /// The session that it belongs to, where it can be known again after this process has ended.
    pub(super) session: Option<u64>,
    pub(super) payload: Result<Bytes, TooLarge>,
}

/// The size of a payload that is over the limit, and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge(pub(super) usize);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(u64, Arrived)>,
    bytes: usize,
    window: Window,
    /// Counts the connections.
    epoch: u64,
    failure: Option<Error>,
    /// The flow takes no more.
    closed: bool,
    /// Nobody is there any more who could settle.
    released: bool,
}

/// The messages that wait for the flow, and the acknowledgements that wait for the connection.
#[derive(Debug, Default)]
pub(super) struct Intake {
    state: Mutex<State>,
    /// Wakes the flow: something waits, or nothing more comes.
    arrival: Notify,
    /// Wakes the connection: something is settled, there is room again, or the flow has gone.
    connection: AtomicWaker,
}

/// What the connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) room: bool,
    pub(super) released: bool,
}

impl Intake {
    // The flow's side.

    /// Waits for the first message, then takes what is there up to `most`. Nothing once closed.
    /// Dropping the future loses nothing.
    pub(super) async fn take(&self, most: usize) -> Result<Vec<Delivery>> {
        loop {
            // Made before looking, so that no arrival in between is missed.
            let arrival = self.arrival.notified();
            if let Some(result) = self.take_now(most) {
                return result;
            }
            arrival.await;
        }
    }

    fn take_now(&self, most: usize) -> Option<Result<Vec<Delivery>>> {
        let mut state = self.lock();
        if state.closed {
            return Some(Ok(Vec::new()));
        }
        if let Some(error) = &state.failure {
            return Some(Err(error.clone()));
        }
        if state.waiting.is_empty() {
            return None;
        }
        let full = !state.has_room();
        let count = state.waiting.len().min(most);
        let mut deliveries = Vec::with_capacity(count);
        let epoch = state.epoch;
        let mut bytes = 0;
        for (number, arrived) in state.waiting.drain(..count) {
            bytes += arrived.kept();
            deliveries.push(Delivery {
                token: Token { epoch, id: number },
                identity: arrived.identity(),
                payload: arrived.payload.map_or_else(TooLarge::told, Payload::Json),
                origin: Some(arrived.topic),
            });
        }
        state.bytes -= bytes;
        let wake = full && state.has_room();
        drop(state);
        if wake {
            self.connection.wake();
        }
        Some(Ok(deliveries))
    }

    /// Notes how deliveries ended.
    pub(super) fn settle(&self, settled: &[Settled]) {
        // A message at QoS 0 has no number, and the connection nothing to say of it.
        let mut numbered = settled.iter().filter(|one| one.token.id > 0).peekable();
        if numbered.peek().is_none() {
            return;
        }
        let mut state = self.lock();
        for one in numbered {
            let acknowledged = one.outcome.is_acknowledged();
            state.window.settle(one.token.id, acknowledged);
        }
        drop(state);
        self.connection.wake();
    }

    /// Ends the intake: what waits is left to the broker.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        state.bytes = 0;
        drop(state);
        self.arrival.notify_one();
    }

    /// Nobody will settle any more: the connection says what is settled and ends.
    pub(super) fn release(&self) {
        self.close();
        self.lock().released = true;
        self.connection.wake();
    }

    // The connection's side.

    /// A connection stands.
    pub(super) fn connected(&self, session_present: bool) {
        let mut state = self.lock();
        state.epoch += 1;
        state.window.connected(session_present);
    }

    /// Messages have come; `batch` is empty afterwards. A message at QoS 1 that the flow has
    /// already is left out.
    pub(super) fn push(&self, batch: &mut Vec<Arrived>) {
        let mut state = self.lock();
        for arrived in batch.drain(..) {
            let number = match arrived.packet {
                0 => 0,
                packet => {
                    match state
                        .window
                        .arrived(packet, arrived.duplicate, arrived.print)
                    {
                        Some(number) => number,
                        None => continue,
                    }
                }
            };
            if !state.closed {
                state.bytes += arrived.kept();
                state.waiting.push_back((number, arrived));
            }
        }
        drop(state);
        self.arrival.notify_one();
    }

    /// Hands out the packet ids to acknowledge, in order, and says what else is to be done. The
    /// connection is woken when that changes.
    pub(super) fn poll(&self, cx: &Context<'_>, acknowledge: impl FnMut(u16)) -> Wishes {
        self.connection.register(cx.waker());
        let mut state = self.lock();
        state.window.release(acknowledge);
        state.wishes()
    }

    /// As `poll`, while there is no connection to acknowledge on.
    pub(super) fn poll_offline(&self, cx: &Context<'_>) -> Wishes {
        self.connection.register(cx.waker());
        self.lock().wishes()
    }

    /// Nothing more comes, and this is why; the first reason stays.
    pub(super) fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.arrival.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.waiting.len() < MOST_WAITING && self.bytes < MOST_BYTES
    }

    fn wishes(&self) -> Wishes {
        Wishes {
            // What comes after the end is not read: the broker keeps it.
            room: self.has_room() && !self.closed,
            released: self.released,
        }
    }
}

impl Arrived {
    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            session: self.session?,
            place: u32::from(self.packet),
            print: self.print,
            again: self.duplicate,
        })
    }

    /// The bytes that it holds.
    fn kept(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }
}

impl TooLarge {
    fn told(self) -> Payload {
        let size = self.0;
        let reason =
            format!("{size} bytes are more than the limit of {MAX_PAYLOAD}, and are not kept");
        Payload::Unreadable {
            bytes: Bytes::new(),
            reason,
        }
    }
}
