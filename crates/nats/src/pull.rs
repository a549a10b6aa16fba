//! Taking messages: what is there at once, or the first that comes.

use std::time::Duration;

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use wiredflow_core::engine::{ANSWER_WITHIN, Name, Taken};
use wiredflow_core::{Error, Result};

use crate::link::is_nobody;
use crate::objects::{Objects, nanos};
use crate::put::{PATIENCE, no_leader};
use crate::queue::{CONSUMER, ID, Queue, token};
use crate::spent;

/// The most messages of one pull: a quarter of what a subscription holds.
pub(crate) const MOST: usize = 1000;

/// How often the server says while a pull waits that it is still there.
const BEAT: Duration = Duration::from_secs(1);

/// How long the server may wait for what is there at once. Without a limit it would wait for ever where no more may be
/// taken at a time.
const MOMENT: Duration = Duration::from_millis(100);

/// A message as it came, with what its subject of answers says.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) message: Message,
    /// Its number in the stream.
    pub(crate) sequence: u64,
    /// How often it was given, over all the times that it was set back.
    pub(crate) attempt: u32,
}

/// What was fetched.
#[derive(Debug)]
pub(crate) enum Fetched {
    Messages(Vec<Given>),
    /// There is no such consumer.
    Nobody,
}

/// A request for what is there, or the first that comes in a moment.
pub(crate) fn at_once(most: usize) -> Value {
    json!({ "batch": most, "no_wait": true, "expires": nanos(MOMENT) })
}

impl Objects {
    pub(crate) async fn pull(
        &self,
        name: &Name,
        most: usize,
        within: Duration,
    ) -> Result<Vec<Taken>> {
        let most = most.clamp(1, MOST);
        let taken = self.take(name, &at_once(most), most, None).await?;
        let within = within.saturating_sub(MOMENT);
        if !taken.is_empty() || within.is_zero() {
            return Ok(taken);
        }
        // One alone: a request for more would go on at the server after the first has come.
        let mut wait = json!({ "batch": 1, "expires": nanos(within) });
        if within >= 3 * BEAT {
            wait["idle_heartbeat"] = nanos(BEAT).into();
        }
        self.take(name, &wait, 1, Some(within)).await
    }

    async fn take(
        &self,
        name: &Name,
        request: &Value,
        most: usize,
        within: Option<Duration>,
    ) -> Result<Vec<Taken>> {
        for _ in 0..PATIENCE {
            let queue = self.queue(name).await?;
            match self.fetch(&queue, request, most, within).await {
                Ok(Fetched::Messages(given)) => return self.sorted(name, &queue, given).await,
                Ok(Fetched::Nobody) => {
                    self.doubt(&queue.place.stream);
                    self.link.moment().await;
                }
                Err(error) => {
                    // Old servers say nothing at all where there is no consumer.
                    self.doubt(&queue.place.stream);
                    return Err(error);
                }
            }
        }
        Err(no_leader(name.as_str()))
    }

    /// Fetches messages: what the server has at once, or the first within a time.
    pub(crate) async fn fetch(
        &self,
        queue: &Queue,
        request: &Value,
        most: usize,
        within: Option<Duration>,
    ) -> Result<Fetched> {
        let inbox = self.link.client.new_inbox();
        let mut answers = self.link.subscribe(inbox.clone(), None).await?;
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}",
            queue.place.stream
        );
        self.link
            .send(&subject, Some(&inbox), request.to_string().into())
            .await?;
        let beats = request.get("idle_heartbeat").is_some();
        let silent = match within {
            None => ANSWER_WITHIN,
            Some(_) if beats => 3 * BEAT,
            Some(within) => within + ANSWER_WITHIN,
        };
        let mut given = Vec::new();
        let broken = self.link.broken(&subject);
        tokio::pin!(broken);
        while given.len() < most {
            let next = tokio::select! {
                biased;
                next = timeout(silent, answers.next()) => next,
                error = &mut broken => return if given.is_empty() { Err(error) } else { break },
            };
            let Ok(Some(message)) = next else {
                // What has come is the caller's; the next pull finds out.
                if !given.is_empty() {
                    break;
                }
                return Err(Error::remote(
                    "the queue is silent: it has gone, or has no leader",
                ));
            };
            match message.status {
                None => given.extend(read(message)),
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                Some(_) if is_nobody(&message) => return Ok(Fetched::Nobody),
                Some(_) if !given.is_empty() => break,
                Some(status) => {
                    let said = message.description.unwrap_or_default();
                    return Err(Error::remote(format!("it ends the pull: {status} {said}")));
                }
            }
        }
        Ok(Fetched::Messages(given))
    }

    /// Parts what is to be worked on from what was given too often, and sets that aside.
    async fn sorted(&self, name: &Name, queue: &Queue, given: Vec<Given>) -> Result<Vec<Taken>> {
        let mut attempts = queue.rules.attempts;
        if given.iter().any(|one| one.attempt > attempts)
            && let Ok(Some((_, rules))) = self.look_at(name, &queue.place).await
        {
            // Somebody may allow more by now.
            attempts = rules.attempts;
        }
        let mut taken = Vec::with_capacity(given.len());
        for one in given {
            if one.attempt <= attempts {
                taken.extend(one.taken(queue));
                continue;
            }
            // Where it cannot be set aside now, it comes again.
            drop(self.set_aside(queue, &one, one.attempt - 1).await);
        }
        Ok(taken)
    }
}

impl Given {
    /// Its id, as its publisher named it.
    pub(crate) fn id(&self) -> &str {
        let headers = self.message.headers.as_ref();
        let header = |name: &str| headers.and_then(|headers| headers.get(name));
        let id = header(spent::ID).or_else(|| header(ID));
        id.map(async_nats::HeaderValue::as_str).unwrap_or_default()
    }

    fn taken(self, queue: &Queue) -> Option<Taken> {
        let reply = self.message.reply.as_ref()?;
        Some(Taken {
            id: self.id().into(),
            attempt: self.attempt,
            token: token(queue.made, reply),
            body: self.message.payload,
        })
    }
}

/// Reads what the subject of answers says; none where it is not one.
fn read(message: Message) -> Option<Given> {
    let reply = message.reply.as_ref()?;
    let parts: Vec<&str> = reply.split('.').collect();
    // `$JS.ACK.STREAM.CONSUMER.GIVEN.NUMBER.…`, or with domain and account before the stream.
    let numbers = parts.get(if parts.len() == 9 { 4 } else { 6 }..)?;
    let given: u32 = numbers.first()?.parse().ok()?;
    let sequence = numbers.get(1)?.parse().ok()?;
    let headers = message.headers.as_ref();
    let before = headers.and_then(|headers| headers.get(spent::ATTEMPTS));
    let before: u32 = before
        .and_then(|before| before.as_str().parse().ok())
        .unwrap_or_default();
    Some(Given {
        attempt: given.saturating_add(before),
        sequence,
        message,
    })
}
