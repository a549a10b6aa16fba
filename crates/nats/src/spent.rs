//! Messages that were given as often as allowed: set aside by who is given one once more, and looked for.

use std::sync::Arc;

use async_nats::HeaderMap;
use serde_json::Value;
use wiredflow_core::engine::{Name, Taken, TakenToken};
use wiredflow_core::{Error, Result};

use crate::api::{Found, Put, Stored};
use crate::failure;
use crate::objects::Objects;
use crate::pull::{Fetched, Given, at_once};
use crate::put::Place;
use crate::queue::{self, CONSUMER, Queue};

/// The token of a message that is out of its queue.
pub(crate) const TOKEN: &str = "spent";

/// The header that holds the id of a message that was put again.
pub(crate) const ID: &str = "Wf-Id";

/// The header that holds how often it was given before that.
pub(crate) const ATTEMPTS: &str = "Wf-Attempts";

impl Objects {
    /// Puts a message with its attempts where [`Self::spent_of`] finds it, and takes it out of its queue.
    pub(crate) async fn set_aside(
        &self,
        queue: &Queue,
        given: &Given,
        attempts: u32,
    ) -> Result<()> {
        let (stream, known) = self.spent().await?;
        let to = Place {
            stream: &stream,
            made: known.made,
            subject: &queue.place.spent,
        };
        self.moved(queue, given, attempts, to).await
    }

    /// Puts a message under another subject, and ends it in its queue: twice there rather than nowhere.
    async fn moved(
        &self,
        queue: &Queue,
        given: &Given,
        attempts: u32,
        to: Place<'_>,
    ) -> Result<()> {
        let mut headers = HeaderMap::new();
        // Who is interrupted here does the same again.
        headers.insert(
            queue::ID,
            format!("{} {} {attempts}", queue.made, given.sequence),
        );
        headers.insert(ID, given.id());
        headers.insert(ATTEMPTS, attempts.to_string());
        let body = given.message.payload.clone();
        match self.put_at(to, headers, body).await? {
            Put::At(..) => self.end(given).await,
            Put::Refused(refusal) => Err(failure::refused(&refusal)),
            Put::Nowhere | Put::Other => {
                Err(Error::remote("nobody takes what was given too often"))
            }
        }
    }

    async fn end(&self, given: &Given) -> Result<()> {
        let reply = given.message.reply.as_ref().map(|reply| reply.as_str());
        let reply = reply.unwrap_or_default();
        self.link
            .request(reply, None, "+TERM".into())
            .await
            .map(drop)
    }

    pub(crate) async fn spent_of(&self, name: &Name, most: usize) -> Result<Vec<Taken>> {
        let queue = self.queue(name).await?;
        let mut taken = self.set_aside_before(&queue, most).await?;
        while taken.len() < most {
            match self.unseen(&queue).await? {
                Some(one) => taken.push(one),
                None => break,
            }
        }
        Ok(taken)
    }

    /// Whether anything was ever set aside. It is not asked of what is not there: a cluster of old servers is silent then.
    pub(crate) async fn has_spent(&self) -> Result<bool> {
        let stream = self.names.spent().0;
        if self.seen(&stream).is_some() {
            return Ok(true);
        }
        let turn = self.link.turn();
        let told = self.look(&stream).await?;
        let known = told.map(|told| self.note(&stream, turn, told.made, None));
        Ok(known.is_some())
    }

    /// Takes what was set aside. Of several who look one gets each.
    async fn set_aside_before(&self, queue: &Queue, most: usize) -> Result<Vec<Taken>> {
        let (stream, subject) = (self.names.spent().0, &queue.place.spent);
        if !self.has_spent().await? {
            return Ok(Vec::new());
        }
        let (mut taken, mut from) = (Vec::new(), 1);
        while taken.len() < most {
            let Found::Message(stored) = self.link.next(&stream, subject, from).await? else {
                break;
            };
            from = stored.sequence + 1;
            if self.link.delete(&stream, stored.sequence).await? {
                taken.push(of_stored(stored));
            }
        }
        Ok(taken)
    }

    /// Looks in the queue itself, where nobody else would come upon one: nobody waits there for messages, and some were
    /// given more than once, or may not be.
    async fn unseen(&self, queue: &Queue) -> Result<Option<Taken>> {
        let stream = &queue.place.stream;
        let said = self
            .link
            .call(&format!("CONSUMER.INFO.{stream}.{CONSUMER}"), &Value::Null)
            .await?;
        let Ok(said) = said else {
            return Ok(None);
        };
        let figure = |key: &str| said[key].as_u64().unwrap_or_default();
        let again = figure("num_redelivered") > 0 || queue.rules.attempts == 1;
        if figure("num_waiting") > 0 || figure("num_ack_pending") == 0 || !again {
            return Ok(None);
        }
        let Some(told) = self.look(stream).await? else {
            return Ok(None);
        };
        if told.messages >= queue.rules.holds {
            // What is looked at and is not spent could not be put back.
            return Ok(None);
        }
        // What has had no sign of life for too long is given first.
        let Fetched::Messages(given) = self.fetch(queue, &at_once(1), 1, None).await? else {
            return Ok(None);
        };
        let Some(given) = given.into_iter().next() else {
            return Ok(None);
        };
        let attempts = given.attempt - 1;
        if attempts < queue.rules.attempts {
            // A look is no attempt: it goes to the end of the queue as one that was not given now.
            self.moved(queue, &given, attempts, queue.put_place())
                .await?;
            return Ok(None);
        }
        self.end(&given).await?;
        Ok(Some(Taken {
            id: given.id().into(),
            attempt: attempts,
            token: TakenToken(TOKEN.into()),
            body: given.message.payload,
        }))
    }
}

fn of_stored(stored: Stored) -> Taken {
    let id: Arc<str> = stored.header(ID).unwrap_or_default().into();
    let attempts = stored.header(ATTEMPTS).and_then(|text| text.parse().ok());
    Taken {
        id,
        attempt: attempts.unwrap_or_default(),
        token: TakenToken(TOKEN.into()),
        body: stored.body,
    }
}
