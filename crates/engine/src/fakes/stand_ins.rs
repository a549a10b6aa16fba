//! What stands in for connectors, sources and receivers.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use wiredflow_core::delivery::{Delivery, Payload, Settled, Token};
use wiredflow_core::node::Node;
use wiredflow_core::stage::{AnySource, Cx, Emitter, Source, Stage};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Result, Value, json};

use crate::catalogue::{OpenSource, Prepared, Work};
use crate::clock::Clock;
use crate::http::failure;
use crate::payload::Shaping;
use crate::senders::{AnySender, Message, Sender};
use crate::stages::SendStage;

use super::{Outside, Said, Sent, StageName, Streams, receiver_of};

/// The most bytes of an answer; a test file has no more.
const MOST_BYTES: usize = 1 << 24;

/// Hands on what it is given, and nothing else.
pub(super) fn passes() -> Prepared {
    Prepared::new(Work::Records, |_| async { Ok(Passes) })
}

struct Passes;

impl Stage for Passes {
    async fn run(&self, _: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        out.pass(None);
        Ok(())
    }
}

/// Hands on what the test gives.
pub(super) fn connector(outside: Outside, name: StageName, work: Work) -> Prepared {
    Prepared::new(work, move |resources| {
        let (outside, name) = (outside.clone(), name.clone());
        async move {
            Ok(Connector {
                outside,
                name,
                clock: resources.clock.clone(),
            })
        }
    })
}

struct Connector {
    outside: Outside,
    name: StageName,
    clock: Clock,
}

impl Stage for Connector {
    async fn run(&self, _: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let place = format!("{}.{}", self.name.0, self.name.1);
        let Some(said) = self.outside.next_answer(&self.name, &cx.params) else {
            return Err(Error::config(format!(
                "the test gives nothing (more) for `{place}`: write it under `given`"
            )));
        };
        let document = match said {
            Said::Json(value) => value,
            Said::Raw(text) => json::parse(text.as_bytes(), MOST_BYTES)
                .map_err(|reason| Error::data(format!("the answer is {reason}")))?,
            Said::Away => {
                return Err(Error::remote(format!(
                    "the test says that `{place}` is away"
                )));
            }
            Said::Status(code) => return Err(self.refused(code, &place)),
        };
        out.emit(Batch::of_document(document)).await
    }
}

impl Connector {
    fn refused(&self, code: u16, place: &str) -> Error {
        match StatusCode::from_u16(code) {
            Ok(status) => failure::refused(status, &HeaderMap::new(), place, b"", self.clock.now()),
            Err(_) => Error::data(format!("`{code}` is no HTTP status")),
        }
    }
}

/// Brings the messages that the test gives, all at once, in the form that the source gives them.
pub(super) fn source(
    outside: Outside,
    pipeline: &str,
    config: &Node,
    streams: Streams,
) -> OpenSource {
    let pipeline: Arc<str> = pipeline.into();
    let topic = config
        .entry("topic")
        .and_then(|entry| entry.value.as_text());
    let origin: Arc<str> = topic.unwrap_or("the test").into();
    let shaping = Shaping::said(config).map(Arc::new);
    OpenSource(Arc::new(move |_| {
        let stream = Stream {
            origin: Arc::clone(&origin),
            shaping: shaping.clone(),
            outside: outside.clone(),
            pipeline: Arc::clone(&pipeline),
            streams,
        };
        Box::pin(async move { Ok(Box::new(stream) as Box<dyn AnySource>) })
    }))
}

struct Stream {
    outside: Outside,
    pipeline: Arc<str>,
    origin: Arc<str>,
    shaping: Option<Arc<Shaping>>,
    streams: Streams,
}

impl Source for Stream {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        let said = self.outside.next_messages(&self.pipeline, most);
        if said.is_empty() && self.streams == Streams::Stay {
            std::future::pending::<()>().await;
        }
        let shaping = self.shaping.as_deref();
        let bare = shaping.is_some_and(|shaping| !shaping.reads_json());
        let delivery = |said| {
            let delivery = Delivery {
                token: Token::default(),
                identity: None,
                payload: Payload::Json(match said {
                    Said::Json(Value::String(text)) if bare => Bytes::from(text),
                    Said::Json(value) => Bytes::from(value.to_string()),
                    Said::Raw(text) => Bytes::from(text),
                    Said::Status(_) | Said::Away => Bytes::new(),
                }),
                origin: Some(Arc::clone(&self.origin)),
            };
            match shaping {
                Some(shaping) => shaping.shaped(delivery),
                None => delivery,
            }
        };
        Ok(said.into_iter().map(delivery).collect())
    }

    async fn settle(&self, _: Vec<Settled>) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {}
}

/// Keeps what a `send` stage would send.
pub(super) fn receiver(outside: Outside, name: StageName, work: Work, config: &Node) -> Prepared {
    let (to, field) = receiver_of(config);
    Prepared::new(work, move |_| {
        let receiver = Receiver {
            outside: outside.clone(),
            name: name.clone(),
            to: to.clone(),
        };
        let field = field.clone();
        async move {
            Ok(SendStage::by(
                Box::new(receiver) as Box<dyn AnySender>,
                field,
            ))
        }
    })
}

struct Receiver {
    outside: Outside,
    name: StageName,
    to: String,
}

impl Sender for Receiver {
    async fn send(&self, messages: &[Message], _: &Cx) -> Result<CommitReceipt> {
        for message in messages {
            let text = || Value::String(String::from_utf8_lossy(&message.body).into_owned());
            let payload = if message.json {
                serde_json::from_slice(&message.body).unwrap_or_else(|_| text())
            } else {
                text()
            };
            self.outside.note(Sent {
                stage: self.name.clone(),
                to: self.to.clone(),
                payload,
            });
        }
        Ok(CommitReceipt::issue(
            self.name.1.as_str().into(),
            messages.len(),
        ))
    }
}

/// Keeps what a function would store.
pub(super) fn store(outside: Outside, name: StageName, work: Work) -> Prepared {
    Prepared::new(work, move |_| {
        let store = Store {
            outside: outside.clone(),
            name: name.clone(),
        };
        async move { Ok(store) }
    })
}

struct Store {
    outside: Outside,
    name: StageName,
}

impl Stage for Store {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        for value in batch.values() {
            self.outside.note(Sent {
                stage: self.name.clone(),
                to: "a function".to_owned(),
                payload: value.clone(),
            });
        }
        let receipt = || CommitReceipt::issue(self.name.1.as_str().into(), batch.len());
        out.pass((!batch.is_empty()).then(receipt));
        Ok(())
    }
}
