//! Watching a shelf: a consumer of the server's that tells of what is there, and then of what comes.

use std::collections::VecDeque;
use std::future::{Pending, pending};
use std::pin::Pin;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Timeout, timeout};
use wiredflow_core::engine::{Entry, Name, Seen, Shelf, Watch};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};

use crate::api::number;
use crate::failure::{self, NO_STREAM};
use crate::link::Link;
use crate::names::{Bucket, Names};
use crate::objects::{Known, Objects, nanos};
use crate::shelf::{is_removal, operation};

/// How often the server says that it is still there when nothing comes.
const BEAT: Duration = Duration::from_secs(2);

/// How old the mark of a removal is when it is swept away: every watch has told of it by then.
const OLD: Duration = Duration::from_secs(60);

/// How many marks one watch remembers to sweep.
const MARKS: usize = 10_000;

impl Objects {
    pub(crate) async fn watch(&self, shelf: Shelf, below: Option<&Name>) -> Result<Box<dyn Watch>> {
        let bucket = Bucket::Shelf(shelf);
        let filter = self.names.entries(bucket, below)?;
        for _ in 0..2 {
            let (stream, known) = self.bucket(bucket).await?;
            let turn = self.link.turn();
            let inbox = self.link.client.new_inbox();
            let changes = self.link.subscribe(inbox.clone(), None).await?;
            let config = json!({
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "filter_subject": filter,
                "ack_policy": "none",
                "replay_policy": "instant",
                "max_deliver": 1,
                "flow_control": true,
                "idle_heartbeat": nanos(BEAT),
                "mem_storage": true,
                "num_replicas": 1,
            });
            let verb = format!("CONSUMER.CREATE.{stream}");
            let asked = json!({ "stream_name": stream, "config": config });
            let said = match self.link.call(&verb, &asked).await? {
                Ok(said) => said,
                Err(refusal) if refusal.code == NO_STREAM => {
                    self.doubt(&stream);
                    continue;
                }
                Err(refusal) => return Err(failure::refused(&refusal)),
            };
            return Ok(Box::new(Changes {
                changes,
                silence: silence(),
                link: self.link.clone(),
                turn,
                known,
                stream,
                told: 0,
                now: time_in(&said),
                marks: VecDeque::new(),
                sweeps: shelf == Shelf::Kept,
                left: Some(number(&said, "num_pending")?),
            }));
        }
        Err(Error::remote(format!(
            "the shelf {shelf:?} is made and removed by others all the time"
        )))
    }
}

/// Ends when a server that says nothing counts as gone.
type Silence = Pin<Box<Timeout<Pending<()>>>>;

fn silence() -> Silence {
    Box::pin(timeout(3 * BEAT, pending()))
}

#[derive(Debug)]
struct Changes {
    changes: Subscriber,
    /// Ends when nothing has come for long, however often it was asked meanwhile.
    silence: Silence,
    link: Link,
    turn: u64,
    known: Known,
    stream: String,
    /// How many messages the consumer has sent: the next is one more, or some were lost.
    told: u64,
    /// What time it is at the server, as far as it has told, in nanoseconds.
    now: u64,
    /// The marks of removals that are not old yet: their time and number.
    marks: VecDeque<(u64, u64)>,
    sweeps: bool,
    /// How many of those that were there at the beginning are still to come; none when that is over.
    left: Option<u64>,
}

impl Watch for Changes {
    fn next(&mut self) -> BoxFuture<'_, Result<Seen>> {
        Box::pin(async {
            let seen = self.seen().await;
            seen.map_err(|error| self.link.at(error))
        })
    }
}

impl Changes {
    async fn seen(&mut self) -> Result<Seen> {
        loop {
            if self.left == Some(0) {
                self.left = None;
                return Ok(Seen::UpToDate);
            }
            let message = tokio::select! {
                biased;
                message = self.changes.next() => message,
                _ = &mut self.silence => {
                    return Err(Error::remote("the watch is silent: begin another"));
                }
            };
            let Some(message) = message else {
                return Err(Error::remote("the connection has ended"));
            };
            self.silence = silence();
            if self.link.turn() != self.turn {
                return Err(Error::remote("the connection broke: begin another watch"));
            }
            match message.status {
                Some(StatusCode::IDLE_HEARTBEAT) => self.beat(&message).await?,
                Some(_) => {
                    let said = message.description.unwrap_or_default();
                    return Err(Error::remote(format!("it ends the watch: {said}")));
                }
                None => {
                    if let Some(seen) = self.change(message)? {
                        return Ok(seen);
                    }
                }
            }
            self.sweep().await?;
        }
    }

    /// A sign of life. Some want an answer before more is sent, and all say what was sent last.
    async fn beat(&mut self, message: &Message) -> Result<()> {
        let header = |name: &str| {
            let headers: Option<&HeaderMap> = message.headers.as_ref();
            headers
                .and_then(|headers| headers.get(name))
                .map(|value| value.as_str().to_owned())
        };
        let stalled = header("Nats-Consumer-Stalled");
        let wanting = message.reply.as_ref().map(ToString::to_string).or(stalled);
        if let Some(to) = wanting {
            self.link.send(&to, None, Bytes::new()).await?;
        }
        let last = header("Nats-Last-Consumer").and_then(|last| last.parse::<u64>().ok());
        match last {
            Some(last) if last != self.told => Err(lost()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, message: Message) -> Result<Option<Seen>> {
        let Some(numbers) = numbers(&message) else {
            return Ok(None);
        };
        if numbers.told != self.told + 1 {
            return Err(lost());
        }
        self.told = numbers.told;
        self.now = self.now.max(numbers.time);
        if self.left.is_some() {
            self.left = Some(numbers.left);
        }
        let revision = self.known.revision(numbers.sequence);
        let removed = is_removal(operation(message.headers.as_ref()));
        if removed && self.sweeps && self.marks.len() < MARKS {
            self.marks.push_back((numbers.time, numbers.sequence));
        }
        let Some(name) = Names::of_entry(&message.subject) else {
            return Ok(None);
        };
        Ok(Some(match (removed, self.left) {
            // At the beginning only what is there is told.
            (true, Some(_)) => return Ok(None),
            (true, None) => Seen::Removed(name, revision),
            (false, _) => {
                let value = message.payload;
                Seen::Put(name, Entry { value, revision })
            }
        }))
    }

    /// Takes marks out of the stream that are old by the server's own clock, so that they do not pile up.
    async fn sweep(&mut self) -> Result<()> {
        while let Some((time, sequence)) = self.marks.front().copied() {
            if time + nanos(OLD) > self.now {
                break;
            }
            self.marks.pop_front();
            let which = json!({ "seq": sequence, "no_erase": true }).to_string();
            let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", self.stream);
            self.link.send(&subject, None, which.into()).await?;
        }
        Ok(())
    }
}

fn lost() -> Error {
    Error::remote("changes were lost on their way: begin another watch")
}

/// What the subject of answers of a change says.
struct Numbers {
    sequence: u64,
    told: u64,
    time: u64,
    left: u64,
}

fn numbers(message: &Message) -> Option<Numbers> {
    let parts: Vec<&str> = message.reply.as_ref()?.split('.').collect();
    // `$JS.ACK.STREAM.CONSUMER.GIVEN.NUMBER.TOLD.TIME.LEFT`, or with domain and account before the stream.
    let parts = parts.get(if parts.len() == 9 { 5 } else { 7 }..)?;
    let number = |index: usize| parts.get(index)?.parse().ok();
    Some(Numbers {
        sequence: number(0)?,
        told: number(1)?,
        time: number(2)?,
        left: number(3)?,
    })
}

/// When the consumer was made, in nanoseconds.
fn time_in(said: &Value) -> u64 {
    let made = said["created"]
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    made.and_then(|time| u64::try_from(time.as_nanosecond()).ok())
        .unwrap_or_default()
}
