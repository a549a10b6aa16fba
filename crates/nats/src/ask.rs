//! Questions and answers: nothing is kept of them.

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use wiredflow_core::engine::{Asked, Listener, Name, Reply};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};

use crate::link::{Answer, Link};
use crate::objects::Objects;

/// All listeners of an address are in one group, of which one gets a question.
const GROUP: &str = "wf";

impl Objects {
    pub(crate) async fn ask(&self, address: &Name, body: Bytes, within: Duration) -> Result<Bytes> {
        let subject = self.names.address(address)?;
        match self.link.ask(&subject, None, body, within).await? {
            Answer::Given(message) => Ok(message.payload),
            Answer::Nobody => {
                Err(Error::remote(format!("nobody listens at `{address}`")).as_unsent())
            }
        }
    }

    pub(crate) async fn listen(&self, address: &Name) -> Result<Box<dyn Listener>> {
        let subject = self.names.address(address)?;
        let link = self.link.clone();
        let questions = link.subscribe(subject, Some(GROUP)).await?;
        // The server takes one line after the other: once it answers this, it has heard of the listener.
        link.request(&self.names.nobody(), None, Bytes::new())
            .await?;
        Ok(Box::new(Questions { questions, link }))
    }
}

#[derive(Debug)]
struct Questions {
    questions: Subscriber,
    link: Link,
}

impl Listener for Questions {
    fn next(&mut self) -> BoxFuture<'_, Result<Asked>> {
        Box::pin(async {
            loop {
                let Some(message) = self.questions.next().await else {
                    return Err(self.link.at(Error::remote("the connection has ended")));
                };
                // Who does not say where his answer goes asks nothing.
                let Some(to) = message.reply else { continue };
                let (to, link) = (to.to_string(), self.link.clone());
                return Ok(Asked {
                    body: message.payload,
                    reply: Box::new(Way { link, to }),
                });
            }
        })
    }
}

#[derive(Debug)]
struct Way {
    link: Link,
    to: String,
}

impl Reply for Way {
    fn send(self: Box<Self>, answer: Bytes) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let sent = self.link.send(&self.to, None, answer).await;
            sent.map_err(|error| self.link.at(error))
        })
    }
}
