//! Questions and answers between clients. Nothing of them is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use wiredflow_core::engine::{Asked, Listener, Name, Reply};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};

use super::{Client, LONGEST, World, away};

/// How many questions may wait at a listener.
const WAITING: usize = 1024;

/// Who listens where.
#[derive(Default)]
pub(super) struct Talk {
    listeners: HashMap<Name, Vec<Listens>>,
}

/// A client that listens.
type Listens = (Arc<str>, mpsc::Sender<Asked>);

impl Talk {
    /// All listeners of a client end.
    pub(super) fn end_of(&mut self, client: &str) {
        for listeners in self.listeners.values_mut() {
            listeners.retain(|(who, _)| **who != *client);
        }
    }
}

#[derive(Debug)]
struct Ear(mpsc::Receiver<Asked>);

impl Listener for Ear {
    fn next(&mut self) -> BoxFuture<'_, Result<Asked>> {
        Box::pin(async { self.0.recv().await.ok_or_else(away) })
    }
}

/// The way back, from the client that listens.
struct Back {
    from: Client,
    answer: oneshot::Sender<Bytes>,
}

impl std::fmt::Debug for Back {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Back({})", self.from.name)
    }
}

impl Reply for Back {
    fn send(self: Box<Self>, answer: Bytes) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            fits(&answer)?;
            self.from.go().await?;
            // Who has asked may wait no more.
            drop(self.answer.send(answer));
            Ok(())
        })
    }
}

fn fits(body: &Bytes) -> Result<()> {
    match body.len() > LONGEST {
        true => Err(Error::data(format!(
            "{} bytes are too many to ask or answer",
            body.len()
        ))),
        false => Ok(()),
    }
}

impl World {
    /// Hands a question to one of those who listen; none is given back.
    fn hand_over(
        self: &Arc<Self>,
        address: &Name,
        body: Bytes,
    ) -> Option<oneshot::Receiver<Bytes>> {
        let mut state = self.lock();
        let listeners = state.talk.listeners.get_mut(address)?;
        listeners.retain(|(_, listener)| !listener.is_closed());
        let count = listeners.len();
        let which = if count > 1 {
            state.chance.below(count)
        } else {
            0
        };
        let (who, listener) = state.talk.listeners.get(address)?.get(which)?;
        let (answer, answered) = oneshot::channel();
        let from = Client {
            world: Arc::clone(self),
            name: Arc::clone(who),
        };
        let reply = Box::new(Back { from, answer });
        // A full one drops the question, as a server does.
        drop(listener.try_send(Asked { body, reply }));
        Some(answered)
    }
}

impl Client {
    pub(super) async fn ask_at(
        &self,
        address: &Name,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes> {
        fits(&body)?;
        let end = Instant::now() + within;
        let asked = async {
            self.go().await?;
            let Some(answered) = self.world.hand_over(address, body) else {
                let message = format!("nobody listens at `{address}`");
                return Err(Error::remote(message).as_unsent());
            };
            match answered.await {
                Ok(answer) => self.back(answer).await,
                Err(_) => {
                    sleep_until(end).await;
                    Err(away())
                }
            }
        };
        timeout_at(end, asked).await.unwrap_or_else(|_| Err(away()))
    }

    pub(super) async fn listen_at(&self, address: &Name) -> Result<Box<dyn Listener>> {
        self.call(|state| {
            let (questions, ear) = mpsc::channel(WAITING);
            let listeners = state.talk.listeners.entry(address.clone()).or_default();
            listeners.push((Arc::clone(&self.name), questions));
            Ok(Box::new(Ear(ear)) as Box<dyn Listener>)
        })
        .await
    }
}
