//! What payloads are: how they become records, and how what is sent becomes a payload.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Map;
use wiredflow_core::delivery::{Delivery, Payload};
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::json::{self, MAX_PAYLOAD};
use wiredflow_core::node::Node;
use wiredflow_core::{Error, Result, Value, words};

use crate::senders::Message;

/// The field of a payload that has none: a text, bytes, a bare number.
const VALUE: &str = "value";

words! {
    /// What a payload is.
    pub enum Format {
        /// A JSON document; an array gives many records.
        Json = "json",
        /// One text.
        Text = "text",
        /// Bytes.
        Binary = "binary",
    }
}

/// The field of each record that gets the topic of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicField(String);

impl FromNode for TopicField {
    const EXPECTS: &'static str = "a field's name such as `topic`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let name = String::from_node(node, reading)?;
        if name.is_empty() {
            reading.error(node.span, "`topic_field` is empty: leave it out");
        } else if name == VALUE {
            let help = "another name, such as `topic`";
            let message = format!("`{VALUE}` is where a payload without fields goes");
            reading.error_with_help(node.span, message, help);
        } else {
            return Some(Self(name));
        }
        None
    }
}

/// How messages become records where the engine's reading of JSON is not enough.
#[derive(Debug)]
pub(crate) struct Shaping {
    format: Format,
    topic_field: Option<String>,
}

impl Shaping {
    /// Nothing where the engine does it all.
    pub(crate) fn of(format: Format, topic_field: Option<TopicField>) -> Option<Self> {
        (format != Format::Json || topic_field.is_some()).then_some(Self {
            format,
            topic_field: topic_field.map(|field| field.0),
        })
    }

    /// What a checked source says of it.
    pub(crate) fn said(config: &Node) -> Option<Self> {
        fn read<T: FromNode>(config: &Node, key: &str) -> Option<T> {
            let entry = config.entry(key)?;
            T::from_node(&entry.value, &mut Reading::default())
        }
        let format = read(config, "format").unwrap_or(Format::Json);
        Self::of(format, read(config, "topic_field"))
    }

    /// Whether payloads are JSON.
    pub(crate) fn reads_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A message with its records, or with the reason why it has none.
    pub(crate) fn shaped(&self, mut delivery: Delivery) -> Delivery {
        let Payload::Json(bytes) = delivery.payload else {
            return delivery;
        };
        delivery.payload = match self.format.records(&bytes) {
            Ok(records) => Payload::Values(self.with_topic(records, delivery.origin.as_ref())),
            Err(reason) => Payload::Unreadable { bytes, reason },
        };
        delivery
    }

    fn with_topic(&self, records: Vec<Value>, topic: Option<&Arc<str>>) -> Vec<Value> {
        let (Some(name), Some(topic)) = (&self.topic_field, topic) else {
            return records;
        };
        let with_topic = |record| {
            let mut fields = match record {
                Value::Object(fields) => fields,
                value => fields_of(value),
            };
            fields.insert(name.clone(), Value::from(&**topic));
            Value::Object(fields)
        };
        records.into_iter().map(with_topic).collect()
    }
}

fn fields_of(value: Value) -> Map<String, Value> {
    Map::from_iter([(VALUE.to_owned(), value)])
}

impl Format {
    /// The records of a payload: those of an array of JSON, else one.
    ///
    /// # Errors
    /// Why it cannot be read, in words that follow "cannot be read: ".
    pub(crate) fn records(self, bytes: &[u8]) -> Result<Vec<Value>, String> {
        let value = match self {
            Self::Json => match json::parse(bytes, MAX_PAYLOAD)? {
                Value::Array(values) => return Ok(values),
                value => return Ok(vec![value]),
            },
            Self::Text => {
                let no_text = |_| "not text in UTF-8 (`format: binary` takes any bytes)".to_owned();
                Value::from(std::str::from_utf8(bytes).map_err(no_text)?)
            }
            Self::Binary => Value::from(BASE64_STANDARD.encode(bytes)),
        };
        Ok(vec![Value::Object(fields_of(value))])
    }

    /// The payload of what is sent.
    ///
    /// # Errors
    /// `Data` where it has no such form; it names the record.
    pub(crate) fn body(self, message: &Message) -> Result<Bytes> {
        let refused = |reason: &str| Err(Error::data(reason).at_record(message.record));
        match self {
            Self::Json => Ok(message.body.clone()),
            Self::Text if !message.json => Ok(message.body.clone()),
            Self::Text => match message.body.first() {
                Some(b'{' | b'[') => refused(
                    "a map or a list is no text: name a `field` that holds one, or write \
                     `format: json`",
                ),
                Some(b'"') => match serde_json::from_slice::<String>(&message.body) {
                    Ok(text) => Ok(Bytes::from(text)),
                    Err(error) => refused(&format!("no text: {error}")),
                },
                _ => Ok(message.body.clone()),
            },
            Self::Binary if message.json => refused(
                "`format: binary` sends the bytes that a text stands for in base64: name a `field` \
                 that holds one",
            ),
            Self::Binary => match BASE64_STANDARD.decode(&message.body) {
                Ok(bytes) => Ok(Bytes::from(bytes)),
                Err(error) => refused(&format!("not base64: {error}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wiredflow_core::ErrorKind;
    use wiredflow_core::delivery::Token;

    use super::*;

    fn shaped(format: Format, field: Option<&str>, bytes: &'static [u8]) -> Result<Value, String> {
        let field = field.map(|name| TopicField(name.to_owned()));
        let shaping = Shaping::of(format, field).unwrap();
        let delivery = shaping.shaped(Delivery {
            token: Token::default(),
            identity: None,
            payload: Payload::Json(Bytes::from_static(bytes)),
            origin: Some("plant/a/temp".into()),
        });
        match delivery.payload {
            Payload::Values(values) => Ok(values.into()),
            Payload::Unreadable {
                bytes: kept,
                reason,
            } => {
                assert_eq!(kept, bytes);
                Err(reason)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_and_bytes_are_the_value_of_a_record() {
        let text = |bytes| shaped(Format::Text, None, bytes);
        assert_eq!(text(b" 21.5\n"), Ok(json!([{"value": " 21.5\n"}])));
        assert_eq!(text(b""), Ok(json!([{"value": ""}])));
        assert_eq!(text(b"[1]"), Ok(json!([{"value": "[1]"}])));
        assert!(text(b"\xff").unwrap_err().contains("not text in UTF-8"));
        let binary = |bytes| shaped(Format::Binary, Some("from"), bytes);
        assert_eq!(
            binary(b"\x00\xff\x10"),
            Ok(json!([{"value": "AP8Q", "from": "plant/a/temp"}]))
        );
    }

    #[test]
    fn each_record_gets_the_topic_and_a_bare_value_a_field() {
        let json = |bytes| shaped(Format::Json, Some("topic"), bytes);
        let topic = "plant/a/temp";
        assert_eq!(json(b"{\"n\": 1}"), Ok(json!([{"n": 1, "topic": topic}])));
        assert_eq!(json(b"21.5"), Ok(json!([{"value": 21.5, "topic": topic}])));
        assert_eq!(
            json(b"[{\"n\": 1}, \"x\", [2]]"),
            Ok(json!([
                {"n": 1, "topic": topic},
                {"value": "x", "topic": topic},
                {"value": [2], "topic": topic},
            ]))
        );
        assert_eq!(json(b"[]"), Ok(json!([])));
        // A payload cannot say that it came from elsewhere.
        assert_eq!(
            json(b"{\"topic\": \"plant/b/temp\"}"),
            Ok(json!([{"topic": topic}]))
        );
        assert!(json(b"{").is_err());
        assert!(Shaping::of(Format::Json, None).is_none());
    }

    #[test]
    fn what_is_sent_has_the_form_that_is_asked_for() {
        let body = |format: Format, body: &'static str, json| {
            let message = Message {
                record: 3,
                body: Bytes::from_static(body.as_bytes()),
                json,
            };
            format.body(&message).map_err(|error| {
                assert_eq!((error.kind(), error.record()), (ErrorKind::Data, Some(3)));
                error.message().to_owned()
            })
        };
        let sent = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        assert_eq!(body(Format::Json, "{\"a\":1}", true), sent("{\"a\":1}"));
        assert_eq!(body(Format::Text, "a \"b\"", false), sent("a \"b\""));
        assert_eq!(body(Format::Text, "21.5", true), sent("21.5"));
        assert_eq!(body(Format::Text, "\"a\\nb\"", true), sent("a\nb"));
        assert!(body(Format::Text, "{\"a\":1}", true).is_err());
        assert!(body(Format::Text, "[1]", true).is_err());
        assert_eq!(
            body(Format::Binary, "AP8Q", false),
            Ok(Bytes::from_static(b"\x00\xff\x10"))
        );
        assert!(body(Format::Binary, "AP8", false).is_err());
        assert!(body(Format::Binary, "{\"a\":1}", true).is_err());
    }
}
