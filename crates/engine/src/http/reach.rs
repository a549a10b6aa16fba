//! How far inside a request may reach: addresses that come from data reach public ones only.
//!
//! What the flow file says in full may be anywhere, because its author is trusted. What comes from data (a
//! configuration's `url`, a redirect) may be a stranger's wish to have this machine ask what he cannot reach
//! himself. The addresses at which clouds hand out credentials are never asked. The reasons stand in
//! docs/adr/0011-where-a-request-may-go.md.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use reqwest::Url;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::node::Node;

/// How far inside an address lies, from the outside in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Anybody may reach it.
    Public,
    /// In a network of its own: private, link-local, shared by a carrier, or set apart for some purpose.
    Private,
    /// On this machine.
    Machine,
}

/// Where the clouds hand out credentials to whoever asks from inside.
const METADATA: [IpAddr; 9] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), // AWS, Azure, Google, Oracle, OpenStack and others
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),   // AWS, to containers
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),  // AWS, to pods
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)), // AWS, to pods
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google
];

/// Their names, for those who ask by a proxy, which finds the address itself.
const METADATA_NAMES: [&str; 2] = ["metadata.google.internal", "metadata.goog"];

/// The address that is reached in truth: several forms of IPv6 hold an address of IPv4.
fn inner(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let segments = v6.segments();
    let tail = || {
        let [.., a, b, c, d] = v6.octets();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // `::` and `::1` are no addresses of IPv4.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        // Compatible, mapped, translated (with and without a zone of its own).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => tail(),
        _ => address,
    }
}

/// How far inside an address lies.
pub(super) fn space(address: IpAddr) -> Space {
    let public = match inner(address) {
        IpAddr::V4(v4) if v4.is_loopback() || v4.octets()[0] == 0 => return Space::Machine,
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => return Space::Machine,
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    };
    if public {
        Space::Public
    } else {
        Space::Private
    }
}

/// All that no registry of special purposes has set apart.
fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [10, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

/// What is given out, without what is set apart in it and the tunnels, which lead anywhere.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let set_apart = matches!(
        address.segments(),
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..]
    );
    matches!(address.segments(), [0x2000..=0x3fff, ..]) && !set_apart
}

/// Why an address is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Whether a host's address may be asked.
pub(super) fn admit(host: &str, address: IpAddr, deepest: Space) -> Result<(), Refused> {
    let named = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(_) => format!("`{host}`"),
        Err(_) => format!("`{host}` ({address})"),
    };
    if METADATA.contains(&inner(address)) {
        return Err(metadata(&named));
    }
    let found = space(address);
    if found <= deepest {
        return Ok(());
    }
    let lies = match found {
        Space::Machine => "is on this machine",
        Space::Private | Space::Public => "is no public address",
    };
    let rule = match deepest {
        Space::Public => "an address that comes from data reaches public ones only",
        Space::Private | Space::Machine => "a peer of the network does not lead to this machine",
    };
    Err(Refused(format!(
        "{named} {lies}, and {rule}: write it in the flow file, or put its host into `allow_hosts` of the `http` stage"
    )))
}

fn metadata(named: &str) -> Refused {
    Refused(format!(
        "{named} is where a cloud hands out credentials: it is never asked"
    ))
}

/// Whether the host of an address may be asked as far as its text tells: names are looked at again when they
/// are found.
pub(super) fn admit_text(url: &Url, deepest: Space) -> Result<(), Refused> {
    let host = url.host_str().unwrap_or_default();
    if let Some(address) = literal(url) {
        return admit(host, address, deepest);
    }
    let name = host.trim_end_matches('.');
    if METADATA_NAMES.contains(&name) {
        return Err(metadata(&format!("`{host}`")));
    }
    Ok(())
}

/// The address of a host that is no name. The reader of addresses has turned all old forms (`0x7f.1`,
/// `2130706433`) into the usual one.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok()
}

/// How far a request may reach, wherever it is led.
#[derive(Clone, Debug)]
pub struct Reach {
    deepest: Space,
    allowed: Arc<[AllowedHost]>,
}

impl Reach {
    /// That of an address which stands in the flow file: anywhere.
    pub fn of_file(allowed: &[AllowedHost]) -> Self {
        Self {
            deepest: Space::Machine,
            allowed: allowed.into(),
        }
    }

    /// That of an address which comes from data.
    #[must_use]
    pub fn of_data(&self) -> Self {
        self.led_by(Space::Public)
    }

    /// That of an address to which a peer leads: a peer leads no further inside than it lies itself.
    #[must_use]
    pub fn led_by(&self, peer: Space) -> Self {
        Self {
            deepest: self.deepest.min(peer),
            allowed: Arc::clone(&self.allowed),
        }
    }

    /// How far inside this address may lie.
    pub(super) fn deepest(&self, url: &Url) -> Space {
        if self.allows(url) {
            Space::Machine
        } else {
            self.deepest
        }
    }

    /// Whether the author has named the host of the address.
    pub fn allows(&self, url: &Url) -> bool {
        self.allowed.iter().any(|allowed| allowed.is_of(url))
    }
}

/// A host that addresses from data may name, wherever it lies: `HOST` or `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    host: String,
    port: Option<u16>,
}

impl AllowedHost {
    fn is_of(&self, url: &Url) -> bool {
        url.host_str() == Some(&self.host)
            && self
                .port
                .is_none_or(|port| url.port_or_known_default() == Some(port))
    }

    fn parse(text: &str) -> Option<Self> {
        let bare_v6 = text.parse::<Ipv6Addr>().is_ok();
        let host = if bare_v6 {
            format!("[{text}]")
        } else {
            text.to_owned()
        };
        let odd = |letter: char| letter.is_whitespace() || "/@?#*\\%".contains(letter);
        if host.is_empty() || host.contains(odd) {
            return None;
        }
        // The port is read by itself: an address forgets that of its scheme.
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (
                name,
                Some(port.parse().ok().filter(|&port: &u16| port > 0)?),
            ),
            _ => (host.as_str(), None),
        };
        let url = Url::parse(&format!("http://{name}/")).ok()?;
        let host = url.host_str()?.to_owned();
        Some(Self { host, port })
    }
}

impl FromNode for AllowedHost {
    const EXPECTS: &'static str = "`HOST` or `HOST:PORT`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let text = String::from_node(node, reading)?;
        let host = Self::parse(&text);
        if host.is_none() {
            let message = format!("`{}` is no host", text.escape_debug());
            let help = "such as `intranet.example`, `10.0.0.7:8080` or `[fd00::7]`: one host, without `http://`, path and `*`";
            reading.error_with_help(node.span, message, help);
        }
        host
    }
}

#[cfg(test)]
mod tests;
