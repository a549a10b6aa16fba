//! Queues: a stream that forgets what is settled, and one consumer that all takers share.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};
use wiredflow_core::engine::{Name, Published, QueueRules, Settlement, TakenToken};
use wiredflow_core::{Error, Result};

use crate::api::Put;
use crate::failure::{self, NO_CONSUMER, NO_STREAM, NOT_STORED};
use crate::link::Answer;
use crate::names::QueuePlace;
use crate::objects::{DEDUPE, Known, Objects, Told, differing, dropped, nanos};
use crate::put::{Place, no_leader};
use crate::spent;

/// The one consumer of a queue.
pub(crate) const CONSUMER: &str = "wf";

/// The header by which JetStream knows a message again.
pub(crate) const ID: &str = "Nats-Msg-Id";

/// How the rules of a queue are written into its stream. Another number is another way.
const FORMAT: u64 = 1;

/// The longest id of a message.
const LONGEST_ID: usize = 500;

/// How many pulls may wait at a queue at a time, of all takers together.
const WAITING: u64 = 4096;

/// A queue that is there.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) place: QueuePlace,
    pub(crate) made: u64,
    pub(crate) rules: QueueRules,
}

impl Queue {
    pub(crate) fn put_place(&self) -> Place<'_> {
        Place {
            stream: &self.place.stream,
            made: self.made,
            subject: &self.place.subject,
        }
    }
}

impl Objects {
    /// Makes a queue, or changes its rules.
    pub(crate) async fn open_queue(&self, name: &Name, rules: QueueRules) -> Result<()> {
        if rules.attempts == 0
            || rules.holds == 0
            || rules.taken == 0
            || rules.sign_within.as_millis() == 0
        {
            return Err(Error::config(format!(
                "the queue `{name}` could give nothing: each of its rules must be above 0"
            )));
        }
        let place = self.names.queue(name)?;
        let _alone = self.alone(&place.stream).await?;
        self.make_queue(&place, rules).await?;
        Ok(())
    }

    /// A queue as it is. One that has gone is made again by the rules that it had when this process last saw it.
    pub(crate) async fn queue(&self, name: &Name) -> Result<Queue> {
        let place = self.names.queue(name)?;
        let ready = |known: Known| known.rules.map(|rules| (known.made, rules));
        if let Some((made, rules)) = self.seen(&place.stream).and_then(ready) {
            return Ok(Queue { place, made, rules });
        }
        let _alone = self.alone(&place.stream).await?;
        if let Some((made, rules)) = self.seen(&place.stream).and_then(ready) {
            return Ok(Queue { place, made, rules });
        }
        let found = self.look_at(name, &place).await?;
        let Some((made, rules)) = found else {
            let Some(rules) = self.rules_of(&place.stream) else {
                let message = format!("the queue `{name}` is not open: somebody must open it");
                return Err(Error::remote(message).as_unsent());
            };
            let made = self.make_queue(&place, rules).await?;
            return Ok(Queue { place, made, rules });
        };
        Ok(Queue { place, made, rules })
    }

    /// The queue as it is at the server now, by whoever has changed its rules; none where there is none.
    pub(crate) async fn look_at(
        &self,
        name: &Name,
        place: &QueuePlace,
    ) -> Result<Option<(u64, QueueRules)>> {
        let turn = self.link.turn();
        let Some(told) = self.look(&place.stream).await? else {
            return Ok(None);
        };
        let rules = rules_in(name, &told)?;
        self.consumer(place, rules).await?;
        self.note(&place.stream, turn, told.made, Some(rules));
        Ok(Some((told.made, rules)))
    }

    async fn make_queue(&self, place: &QueuePlace, rules: QueueRules) -> Result<u64> {
        let turn = self.link.turn();
        let written = json!({
            "wiredflow": FORMAT,
            "attempts": rules.attempts,
            "sign_within": millis(rules),
            "taken": rules.taken,
        });
        let wanted = json!({
            "name": place.stream,
            "subjects": [place.subject],
            "retention": "workqueue",
            "max_msgs": rules.holds,
            "duplicate_window": nanos(DEDUPE),
            "description": written.to_string(),
        });
        let told = self.stream(wanted).await?;
        self.consumer(place, rules).await?;
        self.note(&place.stream, turn, told.made, Some(rules));
        Ok(told.made)
    }

    /// Has the consumer be there. It gives for ever: what was given too often is seen when it is given again, and set
    /// aside, for a stream keeps what its consumer gives up, and nobody can find out which that is.
    async fn consumer(&self, place: &QueuePlace, rules: QueueRules) -> Result<()> {
        let wanted = json!({
            "durable_name": CONSUMER,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": nanos(rules.sign_within),
            "max_deliver": -1,
            "max_ack_pending": rules.taken,
            "max_waiting": WAITING,
            "replay_policy": "instant",
        });
        let stream = &place.stream;
        let looked = self
            .link
            .call(&format!("CONSUMER.INFO.{stream}.{CONSUMER}"), &Value::Null)
            .await?;
        match looked {
            Ok(said) if agrees(&wanted, &said) => return Ok(()),
            Ok(_) => {}
            Err(refusal) if [NO_CONSUMER, NO_STREAM].contains(&refusal.code) => {}
            Err(refusal) => return Err(failure::refused(&refusal)),
        }
        let verb = format!("CONSUMER.DURABLE.CREATE.{stream}.{CONSUMER}");
        let made = self
            .link
            .call(&verb, &json!({ "stream_name": stream, "config": wanted }))
            .await?;
        let said = made.map_err(|refusal| failure::refused(&refusal))?;
        match said["config"]
            .as_object()
            .map(|config| differing(&wanted, config))
        {
            Some(None) => Ok(()),
            Some(Some(key)) => Err(dropped(&key)),
            None => Err(Error::remote("its JetStream answers without `config`")),
        }
    }

    pub(crate) async fn publish(&self, name: &Name, id: &str, body: Bytes) -> Result<Published> {
        if id.is_empty() || id.len() > LONGEST_ID || id.chars().any(char::is_control) {
            return Err(Error::data(format!(
                "the id of a message has 1 to {LONGEST_ID} bytes without control characters"
            )));
        }
        for _ in 0..2 {
            let queue = self.queue(name).await?;
            let mut headers = HeaderMap::new();
            headers.insert(ID, id);
            let put = self.put_at(queue.put_place(), headers, body.clone());
            match put.await? {
                Put::At(_, false) => return Ok(Published::New),
                Put::At(_, true) => return Ok(Published::Again),
                Put::Refused(refusal)
                    if refusal.code == NOT_STORED && refusal.text.contains("maximum") =>
                {
                    return Ok(Published::Full);
                }
                Put::Refused(refusal) => return Err(failure::refused(&refusal)),
                Put::Nowhere => {}
                Put::Other => {
                    return Err(Error::remote(
                        "its JetStream finds a condition where there is none",
                    ));
                }
            }
        }
        Err(no_leader(name.as_str()).as_unsent())
    }

    /// Gives a sign of life.
    pub(crate) async fn extend(&self, taken: &TakenToken) -> Result<()> {
        self.answer(taken, "+WPI").await
    }

    pub(crate) async fn settle(&self, taken: &TakenToken, how: Settlement) -> Result<()> {
        match how {
            Settlement::Done => self.answer(taken, "+ACK").await,
            Settlement::Never => self.answer(taken, "+TERM").await,
            Settlement::Again(after) => {
                let body = format!("-NAK {}", json!({ "delay": nanos(after) }));
                self.answer(taken, &body).await
            }
        }
    }

    async fn answer(&self, taken: &TakenToken, what: &str) -> Result<()> {
        let Some((made, subject)) = read_token(taken)? else {
            return Ok(());
        };
        let stream = stream_of(subject).unwrap_or_default();
        // The numbers of a queue that was lost come again in the one that was made in its place.
        if let Some(known) = self.here(stream).await?
            && known != made
        {
            return Ok(());
        }
        match self
            .link
            .request(subject, None, what.to_owned().into())
            .await?
        {
            Answer::Given(_) => Ok(()),
            Answer::Nobody => {
                // Its queue has gone with it, and it is settled; or nobody leads that queue.
                match self.is_still_there(stream, made).await? {
                    true => Err(no_leader(stream)),
                    false => Ok(()),
                }
            }
        }
    }

    /// When the stream was made that is there now; none where there is none.
    async fn here(&self, stream: &str) -> Result<Option<u64>> {
        if let Some(known) = self.seen(stream) {
            return Ok(Some(known.made));
        }
        let turn = self.link.turn();
        let Some(told) = self.look(stream).await? else {
            return Ok(None);
        };
        // Its rules are not looked at here, so it is noted with what was known of them.
        if let Some(rules) = self.rules_of(stream) {
            self.note(stream, turn, told.made, Some(rules));
        }
        Ok(Some(told.made))
    }

    pub(crate) async fn waiting(&self, name: &Name) -> Result<u64> {
        let queue = self.queue(name).await?;
        if let Some(told) = self.look(&queue.place.stream).await? {
            return Ok(told.messages);
        }
        self.doubt(&queue.place.stream);
        self.queue(name).await?;
        Ok(0)
    }

    pub(crate) async fn remove_queue(&self, name: &Name) -> Result<()> {
        let place = self.names.queue(name)?;
        let _alone = self.alone(&place.stream).await?;
        let said = self
            .link
            .call(&format!("STREAM.DELETE.{}", place.stream), &Value::Null)
            .await?;
        match said {
            Ok(_) => {}
            Err(refusal) if refusal.code == NO_STREAM => {}
            Err(refusal) => return Err(failure::refused(&refusal)),
        }
        self.forget(&place.stream);
        match self.has_spent().await? {
            true => self.link.purge(&self.names.spent().0, &place.spent).await,
            false => Ok(()),
        }
    }
}

fn agrees(wanted: &Value, said: &Value) -> bool {
    let found = said["config"].as_object();
    found.is_some_and(|found| differing(wanted, found).is_none())
}

fn millis(rules: QueueRules) -> u64 {
    u64::try_from(rules.sign_within.as_millis()).unwrap_or(u64::MAX)
}

/// The rules that are written into a stream.
fn rules_in(name: &Name, told: &Told) -> Result<QueueRules> {
    let written = told.config.get("description").and_then(Value::as_str);
    let written: Option<Value> = written.and_then(|text| serde_json::from_str(text).ok());
    let rules = written
        .filter(|written| written["wiredflow"] == FORMAT)
        .and_then(|written| {
            Some(QueueRules {
                sign_within: std::time::Duration::from_millis(written["sign_within"].as_u64()?),
                attempts: u32::try_from(written["attempts"].as_u64()?).ok()?,
                holds: told.config.get("max_msgs").and_then(Value::as_u64)?,
                taken: written["taken"].as_u64()?,
            })
        });
    rules.ok_or_else(|| {
        Error::config(format!(
            "the queue `{name}` was made by another version, or by somebody else: remove its stream, or use another \
             namespace"
        ))
    })
}

/// Writes what a taken message is known by: its queue's moment, and where its answers go.
pub(crate) fn token(made: u64, subject: &str) -> TakenToken {
    TakenToken(format!("{made} {subject}").into())
}

/// Reads it again; none where the message is out of its queue already.
fn read_token(taken: &TakenToken) -> Result<Option<(u64, &str)>> {
    if &*taken.0 == spent::TOKEN {
        return Ok(None);
    }
    let parts = taken.0.split_once(' ');
    let parts = parts.and_then(|(made, subject)| Some((made.parse().ok()?, subject)));
    parts
        .map(Some)
        .ok_or_else(|| Error::bug("no message was taken by this token"))
}

/// The stream that an answer goes to.
fn stream_of(subject: &str) -> Option<&str> {
    let parts = subject.split('.').count();
    // `$JS.ACK.STREAM.CONSUMER.…`, or with domain and account before the stream.
    subject.split('.').nth(if parts == 9 { 2 } else { 4 })
}
