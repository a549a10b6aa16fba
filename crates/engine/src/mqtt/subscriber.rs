//! The source's side: subscribes, takes messages in, acknowledges what is settled.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use wiredflow_core::delivery::{Delivery, Settled};
use wiredflow_core::json::MAX_PAYLOAD;
use wiredflow_core::{Error, Result};

use super::access::{Access, Qos};
use super::client_id::ClientId;
use super::intake::{Arrived, Intake, TooLarge};
use super::keeper::{Keeper, Role};
use super::packet_ids::{Ids, PacketIds};
use super::packets::{Denied, Garbled, Message, Packet, Session, Version, Welcome};
use super::two_steps::TwoSteps;
use crate::clock::Clock;
use crate::resources::Resources;

/// The ids of our own packets; a connection has one of each.
const SUBSCRIBE: u16 = 1;
const UNSUBSCRIBE: u16 = 2;

/// A subscription that outlives connections.
#[derive(Debug)]
pub(crate) struct Subscription {
    intake: Arc<Intake>,
    /// Dropped after the intake is released, which ends the thread.
    _keeper: Keeper,
}

impl Subscription {
    /// Connects and subscribes. `seconds` is how long the broker keeps what comes while we are
    /// away. Dropping the future ends the attempt.
    pub(crate) async fn open(
        access: &Access,
        topics: Vec<String>,
        qos: Qos,
        seconds: u32,
        resources: &Resources,
    ) -> Result<Self> {
        let client_id = ClientId::of_source(resources, access.client_id.as_deref())?;
        let session = Session::Kept { seconds };
        let settings =
            Arc::new(access.settings(&resources.folder, client_id.text().to_owned(), session)?);
        access.tls.warn_if_insecure(resources);
        let intake = Arc::new(Intake::default());
        let (ready, stands) = oneshot::channel();
        let subscriber = Subscriber {
            intake: Arc::clone(&intake),
            expects_session: client_id.was_used(),
            stale: client_id.topics_besides(&topics),
            ids: PacketIds::of(client_id.ids()),
            client_id,
            topics,
            qos,
            pipeline: Arc::clone(&resources.pipeline),
            ready: Some(ready),
            is_subscribed: false,
            batch: Vec::new(),
            steps: TwoSteps::default(),
            last_topic: Arc::from(""),
            room: true,
            clock: resources.clock.clone(),
        };
        let clock = resources.clock.clone();
        let keeper = Keeper::start(settings, subscriber, clock, resources.dice.clone())?;
        let subscription = Self {
            intake,
            _keeper: keeper,
        };
        let gone = || Error::bug("the thread of the mqtt connection has ended");
        stands.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(subscription)
    }

    /// See [`Source::next`](wiredflow_core::stage::Source::next).
    pub(crate) async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        self.intake.take(most).await
    }

    /// See [`Source::settle`](wiredflow_core::stage::Source::settle).
    pub(crate) fn settle(&self, settled: &[Settled]) {
        self.intake.settle(settled);
    }

    /// See [`Source::close`](wiredflow_core::stage::Source::close).
    pub(crate) fn close(&self) {
        self.intake.close();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.intake.release();
    }
}

struct Subscriber {
    intake: Arc<Intake>,
    client_id: ClientId,
    topics: Vec<String>,
    qos: Qos,
    pipeline: Arc<str>,
    /// Subscribed by an earlier run, and no longer wanted.
    stale: Vec<String>,
    /// Whether the broker should know of us.
    expects_session: bool,
    /// Answered once the subscription stands, or cannot.
    ready: Option<oneshot::Sender<Result<()>>>,
    /// Whether the broker has answered our subscription, in this run.
    is_subscribed: bool,
    batch: Vec<Arrived>,
    steps: TwoSteps,
    ids: PacketIds,
    clock: Clock,
    /// Messages of one topic mostly come in a row: its text is made once.
    last_topic: Arc<str>,
    room: bool,
}

impl Role for Subscriber {
    fn connected(&mut self, welcome: &Welcome, version: Version, out: &mut BytesMut) -> Result<()> {
        self.intake.connected(welcome.session_present);
        self.steps.connected(welcome.session_present);
        self.ids.connected();
        if !welcome.session_present {
            self.client_id.begin_session()?;
            self.ids = PacketIds::of(self.client_id.ids());
        }
        if !welcome.session_present && self.expects_session {
            tracing::warn!(
                pipeline = &*self.pipeline,
                client_id = self.client_id.text(),
                "mqtt: the broker has lost the session: messages that it held for this flow may \
                 be lost; subscribing again"
            );
        }
        // A session that goes on has its subscriptions; the first connection of a run may want others than
        // the last run.
        if self.is_subscribed && welcome.session_present {
            return Ok(());
        }
        let unsaid = |Garbled(error)| Error::config(format!("cannot subscribe: {error}"));
        if welcome.session_present && !self.stale.is_empty() {
            version
                .write_unsubscribe(UNSUBSCRIBE, &self.stale, out)
                .map_err(unsaid)?;
        }
        version
            .write_subscribe(SUBSCRIBE, &self.topics, self.qos, out)
            .map_err(unsaid)
    }

    fn stands(&self) -> bool {
        self.ready.is_none()
    }

    fn poll_write(&mut self, _: Version, out: &mut BytesMut, cx: &mut Context<'_>) -> Poll<()> {
        let (steps, mut some) = (&mut self.steps, false);
        let wishes = self.intake.poll(cx, |id| {
            steps.acknowledge(id, out);
            some = true;
        });
        if some && self.ids.known() == Ids::Unknown {
            self.ids.acknowledged(self.clock.monotonic());
        }
        steps.write(out);
        self.room = wishes.room;
        if !self.room {
            self.opens_early();
        }
        if wishes.released {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn may_read(&self) -> bool {
        self.room
    }

    fn may_rest(&self) -> bool {
        self.qos == Qos::AtMostOnce
    }

    fn read(&mut self, packet: Packet) -> Result<()> {
        match packet {
            Packet::Message(message) => {
                self.take_in(message, None);
                Ok(())
            }
            Packet::Oversized(message, size) => {
                self.take_in(message, Some(size));
                Ok(())
            }
            Packet::Released(id) => {
                self.steps.released(id);
                Ok(())
            }
            Packet::Subscribed(granted) => self.subscribed(&granted),
            _ => Ok(()),
        }
    }

    fn read_all(&mut self) {
        if !self.batch.is_empty() {
            self.intake.push(&mut self.batch);
        }
    }

    fn lost(&mut self, _: &Error) {}

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let abandoned = self.ready.as_ref().is_some_and(oneshot::Sender::is_closed);
        if abandoned || self.intake.poll_offline(cx).released {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn failed(&mut self, error: Error) {
        match self.ready.take() {
            // Whoever opened may have gone.
            Some(ready) => drop(ready.send(Err(error))),
            None => self.intake.fail(error),
        }
    }
}

impl Subscriber {
    /// `size` is that of a payload which is not there.
    fn take_in(&mut self, message: Message, size: Option<usize>) {
        let size = size.unwrap_or(message.payload.len());
        let payload = match size > MAX_PAYLOAD {
            true => Err(TooLarge(size)),
            false => Ok(message.payload),
        };
        let mut arrived = Arrived {
            topic: self.text_of(&message.topic),
            packet: message.id,
            duplicate: message.duplicate,
            print: 0,
            session: None,
            payload,
        };
        if message.id > 0 {
            if !message.duplicate {
                self.learn(message.id);
            }
            arrived.print = print(&arrived);
            let counted = self.ids.known() == Ids::Counted;
            arrived.session = counted.then(|| self.client_id.session());
        }
        if message.two_steps {
            let (id, print) = (arrived.packet, arrived.print);
            if !self.steps.arrived(id, arrived.duplicate, print) {
                return;
            }
        } else {
            self.steps.arrived_in_one(arrived.packet);
        }
        self.batch.push(arrived);
    }

    /// Looks what the session's packet ids tell.
    fn learn(&mut self, id: u16) {
        if self.ids.known() != Ids::Unknown {
            return;
        }
        self.ids.arrived(id, self.clock.monotonic());
        let known = self.ids.known();
        if known == Ids::Reused {
            tracing::info!(
                pipeline = &*self.pipeline,
                "mqtt: the broker uses packet ids again at once: after a crash, what it delivers again may be stored twice"
            );
        }
        if known != Ids::Unknown
            && let Err(error) = self.client_id.set_ids(known)
        {
            // Found out again by the next start; until then what comes again is stored again.
            tracing::debug!("{error}");
            self.ids = PacketIds::default();
        }
    }

    fn text_of(&mut self, topic: &Bytes) -> Arc<str> {
        if self.last_topic.as_bytes() != &topic[..] {
            self.last_topic = String::from_utf8_lossy(topic).into();
        }
        Arc::clone(&self.last_topic)
    }

    fn subscribed(&mut self, granted: &[Result<u8, Denied>]) -> Result<()> {
        let asked = self.qos as u8;
        for (topic, granted) in self.topics.iter().zip(granted) {
            match granted {
                Ok(granted) if *granted >= asked => {}
                Ok(granted) => {
                    return Err(Error::config(format!(
                        "grants QoS {granted} for `{topic}`, and {asked} is asked for: write \
                         `qos: {granted}`, or ask its administrator"
                    )));
                }
                Err(Denied { kind, reason }) => {
                    return Err(Error::new(
                        *kind,
                        format!("refuses the subscription to `{topic}`: {reason}"),
                    ));
                }
            }
        }
        self.expects_session = true;
        if self.is_subscribed {
            return Ok(());
        }
        self.is_subscribed = true;
        let remembered = self.client_id.remember(&self.topics);
        match self.ready.take() {
            // Whoever opened may have gone: the role is told so by its intake.
            Some(ready) => drop(ready.send(remembered)),
            None => remembered?,
        }
        Ok(())
    }

    /// The subscription stands though its answer has not come. Of a session that goes on the broker sends all that was not
    /// acknowledged before it answers: when that is more than there is room for, somebody must take it first.
    fn opens_early(&mut self) {
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Ok(())));
        }
    }
}

/// The digest of a topic and a payload: tells messages that had the same packet id apart.
fn print(arrived: &Arrived) -> u64 {
    let mut digest = Sha256::new();
    digest.update((arrived.topic.len() as u64).to_le_bytes());
    digest.update(arrived.topic.as_bytes());
    match &arrived.payload {
        Ok(payload) => digest.update(payload),
        Err(TooLarge(size)) => digest.update((*size as u64).to_le_bytes()),
    }
    let digest = digest.finalize();
    let mut print = [0; 8];
    print.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(print)
}

impl Drop for Subscriber {
    /// Also by a panic of the thread: nobody waits for a message that cannot come.
    fn drop(&mut self) {
        self.intake
            .fail(Error::bug("the thread of the mqtt connection has ended"));
    }
}
