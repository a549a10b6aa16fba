//! Queues: messages that are free, taken, or spent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use wiredflow_core::engine::{
    ANSWER_WITHIN, Name, Published, QueueRules, Settlement, Taken, TakenToken,
};
use wiredflow_core::{Error, Result};

use super::{Client, LONGEST, Look, State, away};

/// How long an id is known.
const KNOWN: Duration = Duration::from_secs(120);

/// The longest id.
const LONGEST_ID: usize = 500;

/// See the module.
pub(super) struct Queue {
    rules: QueueRules,
    /// By the order in which they came.
    messages: BTreeMap<u64, Message>,
    ids: BTreeMap<Arc<str>, Instant>,
}

struct Message {
    id: Arc<str>,
    body: Bytes,
    given: u32,
    /// Until when nobody is given it: it is taken, or is to be given later.
    held: Option<Instant>,
    /// Whether the hold is a taker's.
    taken: bool,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Loses its messages. Those who know the queue make it anew by itself, as they do at a real one.
    pub(super) fn lose(&mut self) {
        self.messages.clear();
        self.ids.clear();
    }

    /// As if all takers had been silent.
    pub(super) fn expire(&mut self) {
        for message in self.messages.values_mut() {
            (message.held, message.taken) = (None, false);
        }
    }

    /// Frees what was held for long enough.
    fn tidy(&mut self, now: Instant) {
        for message in self.messages.values_mut() {
            if message.held.is_some_and(|until| until <= now) {
                (message.held, message.taken) = (None, false);
            }
        }
        self.ids.retain(|_, since| now - *since < KNOWN);
    }

    fn next_free(&self) -> Option<u64> {
        let free =
            |message: &Message| message.held.is_none() && message.given < self.rules.attempts;
        let (number, _) = self.messages.iter().find(|(_, message)| free(message))?;
        Some(*number)
    }

    fn taken(&self) -> u64 {
        self.messages
            .values()
            .filter(|message| message.taken)
            .count() as u64
    }
}

fn unknown(queue: &Name) -> Error {
    let message = format!("there is no queue `{queue}`: somebody must open it");
    Error::remote(message).as_unsent()
}

/// `queue|number|given`: a late word of a taker is about the message, as at the real ones.
fn token(queue: &Name, number: u64, given: u32) -> TakenToken {
    TakenToken(format!("{queue}|{number}|{given}").into())
}

fn parts(token: &TakenToken) -> Option<(&str, u64)> {
    let mut parts = token.0.split('|');
    Some((parts.next()?, parts.next()?.parse().ok()?))
}

impl State {
    pub(super) fn open_queue(&mut self, name: &Name, rules: QueueRules) -> Result<()> {
        let none = rules.attempts == 0 || rules.holds == 0 || rules.taken == 0;
        if none || rules.sign_within.is_zero() {
            return Err(Error::config(format!(
                "the queue `{name}` could give nothing"
            )));
        }
        let queue = self.queues.entry(name.clone());
        let queue = queue.or_insert_with(|| Queue {
            rules,
            messages: BTreeMap::new(),
            ids: BTreeMap::new(),
        });
        queue.rules = rules;
        Ok(())
    }

    fn queue(&mut self, name: &Name) -> Result<&mut Queue> {
        let queue = self.queues.get_mut(name).ok_or_else(|| unknown(name))?;
        queue.tidy(Instant::now());
        Ok(queue)
    }

    pub(super) fn publish(&mut self, queue: &Name, id: &str, body: Bytes) -> Result<Published> {
        if body.len() > LONGEST {
            return Err(Error::data(format!(
                "a message of {} bytes is longer than {LONGEST}: put it as a blob",
                body.len()
            )));
        }
        if id.is_empty() || id.len() > LONGEST_ID || id.chars().any(char::is_control) {
            return Err(Error::data(format!("`{}` is no id", id.escape_debug())));
        }
        let number = self.next_revision();
        let queue = self.queue(queue)?;
        if queue.ids.contains_key(id) {
            return Ok(Published::Again);
        }
        if queue.messages.len() as u64 >= queue.rules.holds {
            return Ok(Published::Full);
        }
        let id: Arc<str> = id.into();
        queue.ids.insert(Arc::clone(&id), Instant::now());
        let message = Message {
            id,
            body,
            given: 0,
            held: None,
            taken: false,
        };
        queue.messages.insert(number, message);
        Ok(Published::New)
    }

    /// Takes what is free.
    fn take(&mut self, client: &str, name: &Name, most: usize) -> Result<Vec<Taken>> {
        let mishaps = self.mishaps_of(client);
        let mut taken = Vec::new();
        while taken.len() < most {
            let twice = self.happens(mishaps.twice);
            let queue = self.queue(name)?;
            if queue.taken() >= queue.rules.taken {
                break;
            }
            let Some(number) = queue.next_free() else {
                break;
            };
            let until = Instant::now() + queue.rules.sign_within;
            let Some(message) = queue.messages.get_mut(&number) else {
                break;
            };
            message.given += 1;
            if !twice {
                (message.held, message.taken) = (Some(until), true);
            }
            taken.push(Taken {
                body: message.body.clone(),
                id: Arc::clone(&message.id),
                attempt: message.given,
                token: token(name, number, message.given),
            });
            if twice {
                break;
            }
        }
        Ok(taken)
    }

    pub(super) fn extend(&mut self, token: &TakenToken) -> Result<()> {
        let Some((name, number)) = parts(token) else {
            return Err(Error::bug("a token that no engine has given"));
        };
        for (queue, held) in &mut self.queues {
            if queue.as_str() == name
                && let Some(message) = held.messages.get_mut(&number)
            {
                message.held = Some(Instant::now() + held.rules.sign_within);
                message.taken = true;
            }
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, token: &TakenToken, how: Settlement) -> Result<()> {
        let Some((name, number)) = parts(token) else {
            return Err(Error::bug("a token that no engine has given"));
        };
        for (queue, held) in &mut self.queues {
            if queue.as_str() != name {
                continue;
            }
            match how {
                Settlement::Done | Settlement::Never => drop(held.messages.remove(&number)),
                Settlement::Again(after) => {
                    if let Some(message) = held.messages.get_mut(&number) {
                        message.taken = false;
                        message.held = (!after.is_zero()).then(|| Instant::now() + after);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn spent(&mut self, name: &Name, most: usize) -> Result<Vec<Taken>> {
        let queue = self.queue(name)?;
        let attempts = queue.rules.attempts;
        let spent = queue
            .messages
            .iter()
            .filter(|(_, message)| message.held.is_none() && message.given >= attempts);
        let spent: Vec<u64> = spent.map(|(number, _)| *number).take(most).collect();
        let taken = spent.into_iter().filter_map(|number| {
            let message = queue.messages.remove(&number)?;
            Some(Taken {
                body: message.body,
                id: message.id,
                attempt: message.given,
                token: token(name, number, message.given),
            })
        });
        Ok(taken.collect())
    }

    pub(super) fn waiting(&mut self, name: &Name) -> Result<u64> {
        Ok(self.queue(name)?.messages.len() as u64)
    }
}

impl Client {
    pub(super) async fn pull_from(
        &self,
        name: &Name,
        most: usize,
        within: Duration,
    ) -> Result<Vec<Taken>> {
        self.go().await?;
        let looked = self.wait_for(within, |state| {
            if state.cut.contains(&*self.name) {
                return Look::Found(Err(away()));
            }
            match state.take(&self.name, name, most) {
                Err(error) => Look::Found(Err(error)),
                Ok(taken) if !taken.is_empty() => Look::Found(Ok(taken)),
                Ok(_) => {
                    let queue = state.queues.get(name);
                    let held = queue.iter().flat_map(|queue| queue.messages.values());
                    let next = held.filter_map(|message| message.held).min();
                    Look::Again(next.map(|next| next - Instant::now()))
                }
            }
        });
        match looked.await {
            None => Ok(Vec::new()),
            Some(Ok(taken)) => self.back(taken).await,
            Some(Err(error)) => {
                tokio::time::sleep(ANSWER_WITHIN).await;
                Err(error)
            }
        }
    }
}
