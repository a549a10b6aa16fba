//! JetStream's own requests: JSON there and back.

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use wiredflow_core::{Error, Result};

use crate::failure::{self, NO_MESSAGE, NO_STREAM, OTHER_SEQUENCE};
use crate::link::{Answer, Link};

/// What only looks, and is asked again where nobody answers: a cluster says nothing while it has no leader for it.
const READS: &[&str] = &["STREAM.INFO.", "CONSUMER.INFO.", "STREAM.MSG.GET."];

/// What JetStream says where it does not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u64,
    pub(crate) text: String,
}

/// What has become of a message that was put into a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Its number, and whether it was there already.
    At(u64, bool),
    /// The condition does not hold.
    Other,
    /// The server has no such stream, or it has no leader.
    Nowhere,
    Refused(Refusal),
}

/// A message of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) body: Bytes,
    headers: String,
}

/// What was looked for in a stream.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Message(Stored),
    /// There is none.
    None,
    /// There is no such stream.
    NoStream,
}

impl Stored {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(key, value)| (key == name).then_some(value.trim()))
    }
}

impl Link {
    /// Asks JetStream: `verb` is like `STREAM.INFO.name`.
    pub(crate) async fn call(&self, verb: &str, body: &Value) -> Result<Result<Value, Refusal>> {
        let body = match body {
            Value::Null => Bytes::new(),
            body => body.to_string().into(),
        };
        let subject = format!("$JS.API.{verb}");
        let answer = match READS.iter().any(|read| verb.starts_with(read)) {
            true => self.request_until(&subject, body).await?,
            false => self.request(&subject, None, body).await?,
        };
        match answer {
            Answer::Nobody => Ok(Err(Refusal {
                code: failure::OFF[0],
                text: "nobody answers for it".to_owned(),
            })),
            Answer::Given(message) => {
                let odd = |_| Error::remote("its JetStream answers with no JSON");
                let said: Value = serde_json::from_slice(&message.payload).map_err(odd)?;
                Ok(match said.get("error") {
                    Some(error) => Err(refusal(error)),
                    None => Ok(said),
                })
            }
        }
    }

    /// Puts a message into the stream that has this subject.
    pub(crate) async fn put(&self, subject: &str, headers: HeaderMap, body: Bytes) -> Result<Put> {
        let headers = (!headers.is_empty()).then_some(headers);
        let message = match self.request(subject, headers, body).await? {
            Answer::Nobody => return Ok(Put::Nowhere),
            Answer::Given(message) => message,
        };
        let said: Value = serde_json::from_slice(&message.payload)
            .map_err(|_| Error::remote("something else than a stream takes what is put"))?;
        if let Some(error) = said.get("error") {
            let refusal = refusal(error);
            return Ok(match refusal.code {
                code if OTHER_SEQUENCE.contains(&code) => Put::Other,
                NO_STREAM => Put::Nowhere,
                _ => Put::Refused(refusal),
            });
        }
        let again = said.get("duplicate").and_then(Value::as_bool);
        Ok(Put::At(number(&said, "seq")?, again.unwrap_or_default()))
    }

    /// The newest message of a subject, as the leader has it.
    pub(crate) async fn last(&self, stream: &str, subject: &str) -> Result<Found> {
        self.message(stream, &json!({ "last_by_subj": subject }))
            .await
    }

    /// The first message of a subject from this number on, as the leader has it.
    pub(crate) async fn next(&self, stream: &str, subject: &str, from: u64) -> Result<Found> {
        self.message(stream, &json!({ "seq": from, "next_by_subj": subject }))
            .await
    }

    async fn message(&self, stream: &str, which: &Value) -> Result<Found> {
        let said = match self
            .call(&format!("STREAM.MSG.GET.{stream}"), which)
            .await?
        {
            Ok(said) => said,
            Err(refusal) if refusal.code == NO_MESSAGE => return Ok(Found::None),
            Err(refusal) if refusal.code == NO_STREAM => return Ok(Found::NoStream),
            Err(refusal) => return Err(failure::refused(&refusal)),
        };
        let message = &said["message"];
        let part = |key: &str| {
            let text = message.get(key).and_then(Value::as_str).unwrap_or_default();
            let odd = |_| Error::remote("its JetStream gives a message that cannot be read");
            STANDARD.decode(text).map_err(odd)
        };
        Ok(Found::Message(Stored {
            sequence: number(message, "seq")?,
            body: part("data")?.into(),
            headers: String::from_utf8_lossy(&part("hdrs")?).into_owned(),
        }))
    }

    /// Takes a message out of a stream; false where it is not there.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<bool> {
        let which = json!({ "seq": sequence, "no_erase": true });
        match self
            .call(&format!("STREAM.MSG.DELETE.{stream}"), &which)
            .await?
        {
            Ok(said) => Ok(said["success"].as_bool().unwrap_or_default()),
            Err(refusal)
                if [NO_STREAM, NO_MESSAGE, failure::NOT_DELETED].contains(&refusal.code) =>
            {
                Ok(false)
            }
            Err(refusal) => Err(failure::refused(&refusal)),
        }
    }

    /// Takes all messages of a subject, which may have wildcards, out of a stream.
    pub(crate) async fn purge(&self, stream: &str, subject: &str) -> Result<()> {
        let which = json!({ "filter": subject });
        match self.call(&format!("STREAM.PURGE.{stream}"), &which).await? {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == NO_STREAM => Ok(()),
            Err(refusal) => Err(failure::refused(&refusal)),
        }
    }
}

fn refusal(error: &Value) -> Refusal {
    let text = error.get("description").and_then(Value::as_str);
    Refusal {
        // Only old servers and some proxies leave the finer code out.
        code: error
            .get("err_code")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
        text: text.unwrap_or("it does not say why").to_owned(),
    }
}

/// A number in an answer.
pub(crate) fn number(said: &Value, key: &str) -> Result<u64> {
    let odd = || Error::remote(format!("its JetStream answers without `{key}`"));
    said.get(key).and_then(Value::as_u64).ok_or_else(odd)
}
