//! MQTT 5 and 3.1.1 as one language: what is said to a broker and what it answers.
//!
//! Packets with more than an id are written and read by the crate of their version; ids alone, and
//! acknowledgements, are a few bytes and the same in both.

mod v311;
mod v5;

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use wiredflow_core::ErrorKind;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::json::MAX_PAYLOAD;
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;

use super::access::Qos;

/// The largest packet that is kept: the largest payload that is read, with the longest topic and
/// as much again for properties.
pub(super) const MOST_PACKET: usize = MAX_PAYLOAD + (128 << 10);

/// The largest packet that can be written in MQTT.
pub(super) const MOST_SENT: usize = 268_435_455 + 5;

/// The user property that a published message is known by when it comes again.
const KEY: &str = "msg-id";
const USER_PROPERTY: u8 = 0x26;

/// The language of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V5,
    V311,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        })
    }
}

impl FromNode for Version {
    const EXPECTS: &'static str = "`5` or `3.1.1`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let text = String::from_node(node, reading)?;
        match text.as_str() {
            "5" | "5.0" => Some(Self::V5),
            "3.1.1" => Some(Self::V311),
            _ => {
                let message = format!("`{}` is not possible here", text.escape_debug());
                reading.error_with_help(node.span, message, "possible: `5`, `3.1.1`");
                None
            }
        }
    }
}

/// How long a broker keeps what belongs to a client that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// Not at all: it begins anew with each connection.
    Clean,
    /// So many seconds (3.1.1 has no word for it: as long as the broker likes).
    Kept { seconds: u32 },
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello<'a> {
    pub(super) client_id: &'a str,
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a Secret>,
    pub(super) keep_alive: u16,
    pub(super) receive_maximum: u16,
    pub(super) session: Session,
}

/// What a broker says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// The connection stands.
    Welcome(Welcome),
    /// It does not.
    Refused(Refusal),
    /// Something was published.
    Message(Message),
    /// Something was published that is too large to be kept: all but its payload, and how many bytes
    /// that had.
    Oversized(Message, usize),
    /// It has taken what was published under this id, or says why not.
    Taken { id: u16, refused: Option<Denied> },
    /// At QoS 2, the first step of the same: it has what was published, and wants to hear that we know.
    Received { id: u16, refused: Option<Denied> },
    /// At QoS 2, of what it published: it knows that we have it, and wants to hear that it is over.
    Released(u16),
    /// The answer to a subscription, for each filter the granted QoS or why it is refused.
    Subscribed(Vec<Result<u8, Denied>>),
    /// It ends the connection.
    Bye(Bye),
    /// It is alive.
    Other,
}

/// What a broker allows on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) session_present: bool,
    pub(super) keep_alive: Option<u16>,
    pub(super) receive_maximum: u16,
    pub(super) most_packet: usize,
    pub(super) most_qos: u8,
}

/// Why a broker lets nobody in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not speak this version.
    Version,
    /// Who must act, and the reason.
    Because(ErrorKind, String),
}

/// Why a broker refuses one message or subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) kind: ErrorKind,
    pub(super) reason: String,
}

/// Why a broker ended the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bye {
    pub(super) kind: ErrorKind,
    pub(super) reason: String,
    /// Whether the same would likely happen again at once.
    pub(super) repeats: bool,
}

/// A message as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: Bytes,
    /// The packet's id; 0 at QoS 0, where nothing is acknowledged.
    pub(super) id: u16,
    /// Whether it is acknowledged in two steps: QoS 2.
    pub(super) two_steps: bool,
    /// Whether the broker may have delivered it before.
    pub(super) duplicate: bool,
    pub(super) payload: Bytes,
}

/// What came is not MQTT, or breaks its rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Garbled(pub(super) String);

impl Garbled {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The fixed header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) first: u8,
    /// Bytes of the header itself.
    pub(super) head: usize,
    /// Bytes that follow it.
    pub(super) rest: usize,
}

impl Frame {
    /// The header at the start of what has arrived; `None` while it is not complete.
    pub(super) fn peek(bytes: &[u8]) -> Result<Option<Self>, Garbled> {
        let Some((&first, length)) = bytes.split_first() else {
            return Ok(None);
        };
        let mut rest = 0;
        for (index, byte) in length.iter().take(4).enumerate() {
            rest |= usize::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(Some(Self {
                    first,
                    head: index + 2,
                    rest,
                }));
            }
        }
        if length.len() >= 4 {
            return Err(Garbled::new("a packet without a length"));
        }
        Ok(None)
    }

    pub(super) fn is_message(self) -> bool {
        self.first >> 4 == 3
    }

    fn qos(self) -> u8 {
        (self.first >> 1) & 3
    }
}

impl Version {
    pub(super) fn write_hello(self, hello: &Hello<'_>, out: &mut BytesMut) -> Result<(), Garbled> {
        match self {
            Self::V5 => v5::write_hello(hello, out),
            Self::V311 => v311::write_hello(hello, out),
        }
    }

    pub(super) fn write_subscribe(
        self,
        id: u16,
        filters: &[String],
        qos: Qos,
        out: &mut BytesMut,
    ) -> Result<(), Garbled> {
        match self {
            Self::V5 => v5::write_subscribe(id, filters, qos, out),
            Self::V311 => v311::write_subscribe(id, filters, qos, out),
        }
    }

    pub(super) fn write_unsubscribe(
        self,
        id: u16,
        filters: &[String],
        out: &mut BytesMut,
    ) -> Result<(), Garbled> {
        match self {
            Self::V5 => v5::write_unsubscribe(id, filters, out),
            Self::V311 => v311::write_unsubscribe(id, filters, out),
        }
    }

    /// Publishes; `id` is 0 at QoS 0 and is not written. `key` becomes the user property `msg-id`, where there are
    /// properties.
    pub(super) fn write_message(
        self,
        topic: &str,
        qos: Qos,
        id: u16,
        key: Option<&str>,
        payload: &[u8],
        out: &mut BytesMut,
    ) {
        let rest = self.message_rest(topic, qos, key, payload.len());
        out.reserve(rest + 5);
        out.put_u8(0x30 | ((qos as u8) << 1));
        put_length(rest, out);
        out.put_u16(u16::try_from(topic.len()).unwrap_or(u16::MAX));
        out.put_slice(topic.as_bytes());
        if qos != Qos::AtMostOnce {
            out.put_u16(id);
        }
        if self == Self::V5 {
            put_length(properties(key), out);
            if let Some(key) = key {
                out.put_u8(USER_PROPERTY);
                for text in [KEY, key] {
                    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
                    out.put_slice(text.as_bytes());
                }
            }
        }
        out.put_slice(payload);
    }

    /// The size of a published packet.
    pub(super) fn message_size(
        self,
        topic: &str,
        qos: Qos,
        key: Option<&str>,
        payload: usize,
    ) -> usize {
        let rest = self.message_rest(topic, qos, key, payload);
        1 + length_of(rest) + rest
    }

    fn message_rest(self, topic: &str, qos: Qos, key: Option<&str>, payload: usize) -> usize {
        let id = 2 * usize::from(qos != Qos::AtMostOnce);
        let properties = match self {
            Self::V5 => length_of(properties(key)) + properties(key),
            Self::V311 => 0,
        };
        2 + topic.len() + id + properties + payload
    }

    /// Takes one whole packet; `frame` is its header, and all of it has arrived.
    pub(super) fn read(self, frame: Frame, inbox: &mut BytesMut) -> Result<Packet, Garbled> {
        match frame.first >> 4 {
            3 if frame.qos() > 2 => Err(Garbled::new("a message at QoS 3, which there is not")),
            kind @ 4..=7 => {
                let packet = inbox.split_to(frame.head + frame.rest);
                let mut body = &packet[frame.head..];
                if body.len() < 2 {
                    return Err(Garbled::new("an acknowledgement without an id"));
                }
                let id = body.get_u16();
                let reason = body.first().copied().unwrap_or(0);
                let refused = (reason >= 0x80).then(|| v5::denied(reason));
                Ok(match kind {
                    // The last step of QoS 2: that the id is not known there says that it is over.
                    7 => Packet::Taken { id, refused: None },
                    6 => Packet::Released(id),
                    5 => Packet::Received { id, refused },
                    _ => Packet::Taken { id, refused },
                })
            }
            11 | 13 => {
                inbox.advance(frame.head + frame.rest);
                Ok(Packet::Other)
            }
            // A broker that knows no 5 answers in its own version.
            2 if frame.rest == 2 => v311::read(inbox),
            _ if self == Self::V5 => v5::read(inbox),
            _ => v311::read(inbox),
        }
    }
}

/// Reads the beginning of a message that is too large to be kept; its payload is left out and
/// counted.
pub(super) fn read_oversized(
    version: Version,
    frame: Frame,
    mut body: Bytes,
) -> Result<Packet, Garbled> {
    let cut = || Garbled::new("a message that is cut off");
    let length = usize::from(body.try_get_u16().map_err(|_| cut())?);
    if body.len() < length {
        return Err(cut());
    }
    let topic = body.split_to(length);
    let id = match frame.qos() {
        0 => 0,
        1 | 2 => body.try_get_u16().map_err(|_| cut())?,
        _ => return Err(Garbled::new("a message at QoS 3, which there is not")),
    };
    let mut before = 2 + length + 2 * usize::from(frame.qos() > 0);
    if version == Version::V5 {
        // The length of properties is written as that of a packet is.
        let length = Frame::peek(&[&[0], &body[..body.len().min(4)]].concat())?;
        before += length.map_or(0, |frame| frame.head - 1 + frame.rest);
    }
    let message = Message {
        // A copy: the rest of what has arrived need not be kept for it.
        topic: Bytes::copy_from_slice(&topic),
        id,
        two_steps: frame.qos() == 2,
        duplicate: frame.first & 8 > 0,
        payload: Bytes::new(),
    };
    Ok(Packet::Oversized(
        message,
        frame.rest.saturating_sub(before),
    ))
}

pub(super) fn write_ack(id: u16, out: &mut BytesMut) {
    write_step(0x40, id, out);
}

/// The first step of QoS 2 for what has come: we have it.
pub(super) fn write_received(id: u16, out: &mut BytesMut) {
    write_step(0x50, id, out);
}

/// The second step of QoS 2 for what was published: we know that the broker has it.
pub(super) fn write_release(id: u16, out: &mut BytesMut) {
    write_step(0x62, id, out);
}

/// The last step of QoS 2 for what has come: it is over.
pub(super) fn write_complete(id: u16, out: &mut BytesMut) {
    write_step(0x70, id, out);
}

fn write_step(first: u8, id: u16, out: &mut BytesMut) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

pub(super) fn write_ping(out: &mut BytesMut) {
    out.extend_from_slice(&[0xC0, 0]);
}

pub(super) fn write_bye(out: &mut BytesMut) {
    out.extend_from_slice(&[0xE0, 0]);
}

/// The bytes of the properties with which something is published.
fn properties(key: Option<&str>) -> usize {
    key.map_or(0, |key| 1 + 2 + KEY.len() + 2 + key.len())
}

/// The bytes that a length is written in.
fn length_of(length: usize) -> usize {
    match length {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

fn put_length(mut length: usize, out: &mut BytesMut) {
    loop {
        let byte = (length & 0x7F) as u8;
        length >>= 7;
        if length == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

/// `NotAuthorized` as people write it: `not authorized`.
fn in_words(code: impl fmt::Debug) -> String {
    let name = format!("{code:?}");
    let mut words = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// A broker's reason with what it says beside, cut short.
fn with_text(reason: String, text: Option<&str>) -> String {
    match text.filter(|text| !text.is_empty()) {
        None => reason,
        Some(text) => {
            let text: String = text
                .chars()
                .take(200)
                .flat_map(char::escape_debug)
                .collect();
            format!("{reason} ({text})")
        }
    }
}

#[cfg(test)]
mod tests;
