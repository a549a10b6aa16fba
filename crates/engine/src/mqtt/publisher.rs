//! The sender's side: publishes messages and waits until the broker has taken them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use wiredflow_core::{Error, ErrorKind, Result};

use super::access::{Access, Qos};
use super::client_id::ClientId;
use super::keeper::{Keeper, Role};
use super::packets::{Denied, MOST_SENT, Packet, Session, Version, Welcome, write_release};
use crate::resources::Resources;

/// The most messages at QoS 1 and 2 that wait for the broker's word, unless it wants fewer.
const WINDOW: u16 = 1024;

/// The same at QoS 2 in 3.1.1, where brokers have a limit (mosquitto: 20) and no word for it.
const UNSAID_WINDOW: u16 = 10;

/// Beyond so many bytes that wait to be written no more are added.
const MOST_OUTBOX: usize = 256 << 10;

/// Calls that wait for the connection's thread.
const QUEUE: usize = 64;

/// One thing to publish.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// The record that it was made from, for errors.
    pub(crate) record: usize,
    pub(crate) body: Bytes,
    /// What it is known by when it comes again, where the version can say it.
    pub(crate) key: Option<Arc<str>>,
}

impl Letter {
    fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

/// A connection to publish by, which outlives its network connections.
#[derive(Debug)]
pub(crate) struct Publishing {
    /// Dropped first: that ends the thread.
    jobs: mpsc::Sender<Job>,
    /// Why the thread has ended, if it has.
    failure: Arc<OnceLock<Error>>,
    _keeper: Keeper,
}

/// One call: its letters in order, and who waits for them.
#[derive(Debug)]
struct Job {
    letters: Vec<Letter>,
    reply: oneshot::Sender<Result<()>>,
}

impl Publishing {
    /// Connects. Dropping the future ends the attempt.
    pub(crate) async fn open(
        access: &Access,
        topic: &str,
        qos: Qos,
        resources: &Resources,
    ) -> Result<Self> {
        let client_id = ClientId::of_sender(resources, access.client_id.as_deref())?;
        let client_id = client_id.text().to_owned();
        let settings = access.settings(&resources.folder, client_id, Session::Clean)?;
        access.tls.warn_if_insecure(resources);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (ready, stands) = oneshot::channel();
        let failure = Arc::<OnceLock<Error>>::default();
        let publisher = Publisher {
            topic: topic.to_owned(),
            broker: settings.broker(),
            failure: Arc::clone(&failure),
            qos,
            queue,
            ready: Some(ready),
            work: VecDeque::new(),
            first: 0,
            unsent: 0,
            under_way: HashMap::new(),
            received: Vec::new(),
            last_id: 0,
            window: WINDOW,
            most_packet: MOST_SENT,
        };
        let clock = resources.clock.clone();
        let keeper = Keeper::start(Arc::new(settings), publisher, clock, resources.dice.clone())?;
        let publishing = Self {
            jobs,
            failure,
            _keeper: keeper,
        };
        stands.await.unwrap_or_else(|_| Err(publishing.ended()))?;
        Ok(publishing)
    }

    /// Publishes in order, and returns when the broker has taken all of them (at QoS 0: when they
    /// are written). After an error some may have been taken. Dropping the future leaves open
    /// which were.
    pub(crate) async fn publish(&self, letters: Vec<Letter>) -> Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { letters, reply };
        self.jobs.send(job).await.map_err(|_| self.ended())?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    fn ended(&self) -> Error {
        let unexplained = || Error::bug("the thread of the mqtt connection has ended");
        self.failure.get().cloned().unwrap_or_else(unexplained)
    }
}

/// A call in work.
struct Work {
    letters: Vec<Letter>,
    /// How many have been written, and how many of those taken.
    sent: usize,
    taken: usize,
    /// `None` once it is answered: nothing more of it is written.
    reply: Option<oneshot::Sender<Result<()>>>,
}

impl Work {
    fn answer(&mut self, result: Result<()>) {
        if let Some(reply) = self.reply.take() {
            // Whoever waited may have gone.
            drop(reply.send(result));
        }
    }

    /// Whether nobody waits for it any more.
    fn is_answered(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Whether letters are still to be written for somebody.
    fn wants(&self) -> bool {
        !self.is_answered() && self.sent < self.letters.len()
    }
}

struct Publisher {
    topic: String,
    broker: String,
    failure: Arc<OnceLock<Error>>,
    qos: Qos,
    queue: mpsc::Receiver<Job>,
    ready: Option<oneshot::Sender<Result<()>>>,
    /// Calls in order, numbered from `first`.
    work: VecDeque<Work>,
    first: u64,
    /// How many calls at the front have nothing left to be written.
    unsent: usize,
    /// By packet id: the call, and the letter's place in it.
    under_way: HashMap<u16, (u64, usize)>,
    /// Ids at QoS 2 that the broker has and wants to hear of.
    received: Vec<u16>,
    last_id: u16,
    window: u16,
    most_packet: usize,
}

impl Role for Publisher {
    fn connected(&mut self, welcome: &Welcome, version: Version, _: &mut BytesMut) -> Result<()> {
        if welcome.most_qos < self.qos as u8 {
            return Err(Error::config(format!(
                "takes nothing at QoS {}: write `qos: {}`",
                self.qos as u8, welcome.most_qos
            )));
        }
        self.window = match (self.qos, version) {
            (Qos::ExactlyOnce, Version::V311) => UNSAID_WINDOW,
            _ => WINDOW.min(welcome.receive_maximum),
        };
        self.most_packet = welcome.most_packet;
        if let Some(ready) = self.ready.take() {
            // Whoever opened may have gone: the queue is closed then.
            drop(ready.send(Ok(())));
        }
        Ok(())
    }

    fn stands(&self) -> bool {
        self.ready.is_none()
    }

    fn poll_write(
        &mut self,
        version: Version,
        out: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let gone = self.poll_gone(cx);
        self.received
            .drain(..)
            .for_each(|id| write_release(id, out));
        while self.unsent < self.work.len() && out.len() < MOST_OUTBOX {
            let number = self.first + self.unsent as u64;
            let work = &mut self.work[self.unsent];
            if !work.wants() {
                self.unsent += 1;
                continue;
            }
            if self.under_way.len() >= usize::from(self.window) {
                break;
            }
            let size = |letter: &Letter| {
                version.message_size(&self.topic, self.qos, letter.key(), letter.body.len())
            };
            if work.sent == 0
                && let Some(letter) = work
                    .letters
                    .iter()
                    .find(|letter| size(letter) > self.most_packet)
            {
                let error = Error::data(format!(
                    "mqtt broker `{}`: a message of {} bytes is too large for it",
                    self.broker,
                    letter.body.len()
                ));
                let error = error.at_record(letter.record);
                work.answer(Err(error));
                continue;
            }
            let id = match self.qos {
                Qos::AtMostOnce => 0,
                Qos::AtLeastOnce | Qos::ExactlyOnce => next_id(&mut self.last_id, &self.under_way),
            };
            let letter = &work.letters[work.sent];
            let (key, body) = (letter.key(), &letter.body);
            version.write_message(&self.topic, self.qos, id, key, body, out);
            if id > 0 {
                self.under_way.insert(id, (number, work.sent));
            }
            work.sent += 1;
        }
        self.clear_answered();
        gone
    }

    fn flushed(&mut self) {
        if self.qos == Qos::AtMostOnce {
            for work in &mut self.work {
                if work.sent == work.letters.len() {
                    work.answer(Ok(()));
                }
            }
            self.clear_answered();
        }
    }

    fn read(&mut self, packet: Packet) -> Result<()> {
        let (id, refused) = match packet {
            Packet::Received { id, refused: None } => {
                self.received.push(id);
                return Ok(());
            }
            // Refused at the first step of QoS 2, it has no second.
            Packet::Taken { id, refused } | Packet::Received { id, refused } => (id, refused),
            _ => return Ok(()),
        };
        if let Some((number, place)) = self.under_way.remove(&id)
            && let Some(index) = number.checked_sub(self.first)
            && let Some(work) = self.work.get_mut(index as usize)
        {
            work.taken += 1;
            match refused {
                Some(Denied { kind, reason }) => {
                    let message = format!(
                        "mqtt broker `{}`: refuses a message to `{}`: {reason}",
                        self.broker, self.topic
                    );
                    let error = Error::new(kind, message);
                    work.answer(Err(match kind {
                        ErrorKind::Data => error.at_record(work.letters[place].record),
                        ErrorKind::Config | ErrorKind::Remote | ErrorKind::Bug => error,
                    }));
                }
                None if work.taken == work.letters.len() => work.answer(Ok(())),
                None => {}
            }
            self.clear_answered();
        }
        Ok(())
    }

    fn lost(&mut self, error: &Error) {
        self.answer_all(error);
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // As many calls as there are stages at work: each waits for its answer.
        loop {
            match self.queue.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(job)) => self.work.push_back(Work {
                    letters: job.letters,
                    sent: 0,
                    taken: 0,
                    reply: Some(job.reply),
                }),
            }
        }
    }

    fn hurries(&self) -> bool {
        self.work.iter().any(Work::wants)
    }

    fn failed(&mut self, error: Error) {
        // Only this thread sets it, and ends then.
        drop(self.failure.set(error.clone()));
        self.queue.close();
        while let Ok(job) = self.queue.try_recv() {
            drop(job.reply.send(Err(error.clone())));
        }
        self.answer_all(&error);
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Err(error)));
        }
    }
}

impl Publisher {
    fn answer_all(&mut self, error: &Error) {
        for work in &mut self.work {
            work.answer(Err(error.clone()));
        }
        self.under_way.clear();
        self.received.clear();
        self.clear_answered();
    }

    /// Forgets the calls at the front that nobody waits for.
    fn clear_answered(&mut self) {
        while self.work.front().is_some_and(Work::is_answered) {
            self.work.pop_front();
            self.first += 1;
            self.unsent = self.unsent.saturating_sub(1);
        }
    }
}

/// The next id that is free; there are more ids than the window has places.
fn next_id(last: &mut u16, taken: &HashMap<u16, (u64, usize)>) -> u16 {
    loop {
        *last = last.checked_add(1).unwrap_or(1);
        if !taken.contains_key(last) {
            return *last;
        }
    }
}
