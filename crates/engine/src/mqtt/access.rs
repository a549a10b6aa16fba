//! What a flow file says of a broker, and what a connection needs of it.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::node::{Node, NodeKind, Span};
use wiredflow_core::secret::Secret;
use wiredflow_core::{Error, Result};

use super::packets::{Session, Version};
use super::tls::TlsChoice;
use crate::catalogue::CheckCx;

/// The longest text that MQTT can carry.
const MOST_TEXT: usize = u16::MAX as usize;

/// Where a broker listens: `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerAddress {
    host: String,
    port: Option<u16>,
}

impl FromNode for BrokerAddress {
    const EXPECTS: &'static str = "`HOST:PORT`, or `HOST` with the usual port";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let text = String::from_node(node, reading)?;
        let address = Self::parse(&text);
        if address.is_none() {
            let message = format!("`{}` is not the address of a broker", text.escape_debug());
            let help = if text.contains("://") {
                "write `HOST:PORT` alone; for an encrypted connection add `tls: true`"
            } else {
                "such as `localhost:1883`, or `[::1]:1883`"
            };
            reading.error_with_help(node.span, message, help);
        }
        address
    }
}

impl BrokerAddress {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                match after {
                    "" => (host, None),
                    after => (host, Some(after.strip_prefix(':')?)),
                }
            }
            None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|port: &u16| *port > 0)?),
            None => None,
        };
        let odd = |letter: char| letter.is_whitespace() || letter.is_control();
        let fits = !host.is_empty() && !host.contains(['/', '@']) && !host.contains(odd);
        fits.then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// How sure a message is on its way over a connection: 0, 1, or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the protocol's own words")]
pub(crate) enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

impl FromNode for Qos {
    const EXPECTS: &'static str = "`0`, `1` or `2`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        match u8::from_node(node, reading)? {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            other => {
                let message = format!("`{other}` is not possible here");
                reading.error_with_help(node.span, message, "possible: `0`, `1`, `2`");
                None
            }
        }
    }
}

/// What a source subscribes to; `+` and `#` stand for any level and all that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicFilter(pub(crate) String);

impl FromNode for TopicFilter {
    const EXPECTS: &'static str = "a topic such as `plant/+/temperature`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        if matches!(node.kind, NodeKind::List(_)) {
            let message = "expected a topic, found a list".to_owned();
            reading.error_with_help(
                node.span,
                message,
                "several stand under `topics`: `topics: [a, b]`",
            );
            return None;
        }
        let text = topic_text(node, reading)?;
        if rumqttc::valid_filter(&text) {
            return Some(Self(text));
        }
        let message = format!("`{}` is not a topic", text.escape_debug());
        let help = "`+` stands for one whole level, `#` for all that follow and comes last";
        reading.error_with_help(node.span, message, help);
        None
    }
}

/// Where a sender publishes: one topic, without wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicName(pub(crate) String);

impl FromNode for TopicName {
    const EXPECTS: &'static str = "a topic such as `plant/alarm`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let text = topic_text(node, reading)?;
        if text.contains(['+', '#']) {
            let message = format!("`{}` has a wildcard", text.escape_debug());
            let help = "a message is published to one topic";
            reading.error_with_help(node.span, message, help);
            return None;
        }
        if text == "$SYS" || text.starts_with("$SYS/") {
            let message = format!("`{}` belongs to the broker", text.escape_debug());
            reading.error_with_help(node.span, message, "publish to a topic outside `$SYS`");
            return None;
        }
        Some(Self(text))
    }
}

fn topic_text(node: &Node, reading: &mut Reading) -> Option<String> {
    let text = String::from_node(node, reading)?;
    let fault = if text.is_empty() {
        "a topic cannot be empty".to_owned()
    } else if text.contains('\0') {
        "a topic cannot contain NUL".to_owned()
    } else if text.len() > MOST_TEXT {
        format!("a topic of {} bytes: {MOST_TEXT} are the most", text.len())
    } else {
        return Some(text);
    };
    reading.error(node.span, fault);
    None
}

/// The keys that source and sender share.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) broker: BrokerAddress,
    pub(crate) version: Option<Version>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) client_id: Option<String>,
    pub(crate) tls: TlsChoice,
}

impl Access {
    /// Reports what the types alone cannot say.
    pub(crate) fn check(&self, node: &Node, cx: &mut CheckCx<'_>) {
        if self.password.is_some() && self.username.is_none() {
            let span = span_of(node, "password");
            cx.reading.error(span, "`password` goes with `username`");
        }
        let texts = [
            ("username", self.username.as_deref()),
            ("password", self.password.as_ref().map(Secret::expose)),
            ("client_id", self.client_id.as_deref()),
        ];
        for (key, text) in texts {
            if text.is_some_and(|text| text.len() > MOST_TEXT || text.contains('\0')) {
                let message = format!("`{key}` has NUL, or more than {MOST_TEXT} bytes");
                cx.reading.error(span_of(node, key), message);
            }
        }
        if self.client_id.as_deref() == Some("") {
            let message = "`client_id` is empty: leave it out to have one made and kept";
            cx.reading.error(span_of(node, "client_id"), message);
        }
        if let Some(entry) = node.entry("tls") {
            self.tls.check(&entry.value, cx.folder, cx.reading);
        }
    }

    /// What a connection needs; reads the certificates.
    pub(super) fn settings(
        &self,
        folder: &Path,
        client_id: String,
        session: Session,
    ) -> Result<Settings> {
        let usual = if self.tls.is_some() { 8883 } else { 1883 };
        Ok(Settings {
            host: self.broker.host.clone(),
            port: self.broker.port.unwrap_or(usual),
            tls: self.tls.client(folder)?,
            version: self.version,
            username: self.username.clone(),
            password: self.password.clone(),
            client_id,
            session,
        })
    }
}

/// The place of a key's value, or of the whole where it is left out.
pub(crate) fn span_of(node: &Node, key: &str) -> Span {
    node.entry(key).map_or(node.span, |entry| entry.value.span)
}

/// What a connection needs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) version: Option<Version>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) client_id: String,
    pub(super) session: Session,
}

impl Settings {
    /// The broker as people name it, for messages.
    pub(super) fn broker(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Puts the broker's name before an error.
    pub(super) fn named(&self, error: Error) -> Error {
        error.context(format_args!("mqtt broker `{}`", self.broker()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromNode>(text: &str) -> Result<T, String> {
        let mut reading = Reading::default();
        match T::from_node(&Node::text(text), &mut reading) {
            Some(value) => Ok(value),
            None => Err(reading.into_problems()[0].message.clone()),
        }
    }

    #[track_caller]
    fn check_address(text: &str, expected: Option<(&str, Option<u16>)>) {
        let address = read::<BrokerAddress>(text).ok();
        let address = address.as_ref().map(|at| (at.host.as_str(), at.port));
        assert_eq!(address, expected, "{text}");
    }

    #[test]
    fn an_address_is_a_host_with_or_without_port() {
        check_address("localhost:1883", Some(("localhost", Some(1883))));
        check_address("broker.example", Some(("broker.example", None)));
        check_address("[::1]:2883", Some(("::1", Some(2883))));
        check_address("[::1]", Some(("::1", None)));
        check_address("::1", Some(("::1", None)));
        for text in [
            "",
            ":1883",
            "host:",
            "host:0",
            "host:99999",
            "host:x",
            "a b:1",
            "mqtt://host:1883",
            "[::1",
            "[host]:1",
            "user@host:1",
            "host:1:2",
        ] {
            check_address(text, None);
        }
    }

    #[test]
    fn c18_topics_that_cannot_be_are_refused() {
        for text in [
            "a",
            "/a//b/",
            "+/a/+",
            "#",
            "a/#",
            "a b",
            "../../etc",
            "$SYS/#",
        ] {
            assert_eq!(read(text), Ok(TopicFilter(text.to_owned())));
        }
        for text in ["a/#/b", "a#", "a/+b", "", "a\0b"] {
            assert!(read::<TopicFilter>(text).is_err(), "{text:?}");
        }
        let long = "x".repeat(65_536);
        assert!(read::<TopicFilter>(&long).unwrap_err().contains("65535"));
        assert!(read::<TopicName>(&long).unwrap_err().contains("65535"));
        for text in ["a", "../../etc", "$share/x", "$SYSTEM"] {
            assert_eq!(read(text), Ok(TopicName(text.to_owned())));
        }
        for text in ["a/+", "#", "$SYS", "$SYS/x", "a\0", ""] {
            assert!(read::<TopicName>(text).is_err(), "{text:?}");
        }
    }
}
