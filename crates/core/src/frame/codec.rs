//! Frames into bytes, and bytes from anywhere into frames.

use std::fmt;

use bytes::{Buf, BytesMut};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Frame, VERSION};
use crate::json;
use crate::record::{Map, Value};

/// Why bytes are no frame, or a frame cannot be bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum FrameError {
    /// The frame is longer than the limit; nothing after it can be read.
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The frame's bytes are not a frame; the next frame can be read.
    Malformed {
        /// What is wrong.
        message: String,
        /// The call, when the frame is an output and that much could be read.
        call: Option<u64>,
    },
    /// The other side speaks another version.
    Version {
        /// The version that it named.
        theirs: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, limit } => write!(
                f,
                "a frame of {length} bytes is over the limit of {limit} bytes; use smaller batches"
            ),
            Self::Malformed { message, .. } => write!(f, "a frame cannot be read: {message}"),
            Self::Version { theirs } => write!(
                f,
                "the other side speaks version {theirs} of the worker protocol and this is version \
                 {VERSION}; use the same release of Wiredflow on both"
            ),
        }
    }
}

impl std::error::Error for FrameError {}

/// The frame's bytes, its length in front. `frame` is a [`Frame`] or a [`CallRef`](super::CallRef).
pub fn encode(frame: &impl Serialize, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut bytes, frame).map_err(|err| FrameError::Malformed {
        message: err.to_string(),
        call: None,
    })?;
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= limit => bytes[..4].copy_from_slice(&prefix.to_be_bytes()),
        _ => return Err(FrameError::TooLong { length, limit }),
    }
    Ok(bytes)
}

/// Takes the first frame out of `bytes`; `None` when it is not there as a whole yet.
///
/// A frame over the limit is refused as soon as its length is known. After `Malformed` the frame is out of
/// `bytes`, and the next call reads the frame that follows; after `TooLong` the bytes are of no use.
pub fn decode(bytes: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if bytes.len() - 4 < length {
        return Ok(None);
    }
    bytes.advance(4);
    let body = bytes.split_to(length);
    decode_body(&body).map(Some)
}

/// Refuses a version that is not ours.
pub fn check_version(theirs: u32) -> Result<(), FrameError> {
    if theirs == VERSION {
        return Ok(());
    }
    Err(FrameError::Version { theirs })
}

fn decode_body(body: &[u8]) -> Result<Frame, FrameError> {
    let malformed = |message: String| FrameError::Malformed {
        message,
        call: call_of(body),
    };
    json::exact(body).map_err(malformed)?;
    serde_json::from_slice(body).map_err(|err| malformed(err.to_string()))
}

/// The call whose output cannot be read as a whole, when that stands before what cannot be read.
fn call_of(body: &[u8]) -> Option<u64> {
    let mut head = Head::default();
    // It fails where the frame does; what was read before that is enough.
    drop(head.deserialize(&mut serde_json::Deserializer::from_slice(body)));
    head.id
        .filter(|_| head.tag.is_some_and(|tag| tag == "output"))
}

#[derive(Default)]
struct Head {
    tag: Option<String>,
    id: Option<u64>,
}

impl<'de> DeserializeSeed<'de> for &mut Head {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Head {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => self.tag = Some(map.next_value()?),
                "id" => self.id = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Reads straight into the frame's struct when `type` comes first, as our own encoders write it; another
/// order costs a detour through a map and means the same.
impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FrameVisitor;

        impl<'de> Visitor<'de> for FrameVisitor {
            type Value = Frame;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a `type`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Frame, A::Error> {
                let mut rest = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key != "type" {
                        rest.insert(key, map.next_value()?);
                        continue;
                    }
                    let tag: String = map.next_value()?;
                    if rest.is_empty() {
                        return body_of(&tag, MapAccessDeserializer::new(map));
                    }
                    while let Some((key, value)) = map.next_entry::<String, Value>()? {
                        rest.insert(key, value);
                    }
                    return body_of(&tag, Value::Object(rest)).map_err(de::Error::custom);
                }
                Err(de::Error::missing_field("type"))
            }
        }

        deserializer.deserialize_map(FrameVisitor)
    }
}

fn body_of<'de, D: Deserializer<'de>>(tag: &str, body: D) -> Result<Frame, D::Error> {
    const TAGS: &[&str] = &[
        "start",
        "hello",
        "call",
        "output",
        "more",
        "done",
        "error",
        "load",
        "rows",
        "save",
        "saved",
        "log",
        "progress",
        "heartbeat",
        "cancel",
    ];
    Ok(match tag {
        "start" => Frame::Start(Deserialize::deserialize(body)?),
        "hello" => Frame::Hello(Deserialize::deserialize(body)?),
        "call" => Frame::Call(Deserialize::deserialize(body)?),
        "output" => Frame::Output(Deserialize::deserialize(body)?),
        "more" => Frame::More(Deserialize::deserialize(body)?),
        "done" => Frame::Done(Deserialize::deserialize(body)?),
        "error" => Frame::Error(Deserialize::deserialize(body)?),
        "load" => Frame::Load(Deserialize::deserialize(body)?),
        "rows" => Frame::Rows(Deserialize::deserialize(body)?),
        "save" => Frame::Save(Deserialize::deserialize(body)?),
        "saved" => Frame::Saved(Deserialize::deserialize(body)?),
        "log" => Frame::Log(Deserialize::deserialize(body)?),
        "progress" => Frame::Progress(Deserialize::deserialize(body)?),
        "heartbeat" => Frame::Heartbeat(Deserialize::deserialize(body)?),
        "cancel" => Frame::Cancel(Deserialize::deserialize(body)?),
        other => {
            // The rest is read to its end, so that the message is about the type and nothing else.
            IgnoredAny::deserialize(body)?;
            return Err(de::Error::unknown_variant(other, TAGS));
        }
    })
}
