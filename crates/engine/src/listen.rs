//! `listen`: where the API of a running flow is reached.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use wiredflow_core::config;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::node::{Node, NodeKind};

use crate::sources::ListenAddress;
use crate::tls::ServerKeys;

/// Where it listens when the file says nothing.
pub const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8420);

/// Where a flow listens.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Listen {
    /// At [`DEFAULT`], or the next port that is free.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// There and nowhere else.
    At {
        /// The address; port 0 is any free one.
        address: SocketAddr,
        /// The certificate that callers are shown.
        tls: Option<ServerKeys>,
    },
}

config! {
    /// Where the API listens, and the certificate that callers are shown.
    struct ListenKeys {
        /// The address: `127.0.0.1:8420`, `0.0.0.0:8420`.
        address: ListenAddress,
        /// The certificate and its key, files in PEM.
        tls: Option<ServerKeys>,
    }
}

impl Listen {
    /// Reads and checks `listen` of a flow file; `folder` is the flow's.
    pub(crate) fn read(node: Option<&Node>, folder: &Path, reading: &mut Reading) -> Self {
        let Some(node) = node else {
            return Self::Default;
        };
        reading.inside("listen", |reading| match &node.kind {
            NodeKind::Map(_) => {
                let Some(keys) = ListenKeys::from_node(node, reading) else {
                    return Self::Off;
                };
                if let (Some(tls), Some(entry)) = (&keys.tls, node.entry("tls")) {
                    reading.inside("tls", |reading| tls.check(&entry.value, folder, reading));
                }
                Self::at(keys.address.0, keys.tls, node, reading)
            }
            NodeKind::Text(_) | NodeKind::Filled(_) if node.as_text() == Some("off") => Self::Off,
            // YAML 1.1 readers take the word so.
            NodeKind::Bool(false) => Self::Off,
            _ => match ListenAddress::from_node(node, reading) {
                Some(address) => Self::at(address.0, None, node, reading),
                None => Self::Off,
            },
        })
    }

    fn at(
        address: SocketAddr,
        tls: Option<ServerKeys>,
        node: &Node,
        reading: &mut Reading,
    ) -> Self {
        if tls.is_none() && !address.ip().to_canonical().is_loopback() {
            let message = format!(
                "other machines reach `{address}`: it wants `tls: {{cert: FILE, key: FILE}}`"
            );
            let help = "write `listen: {address: …, tls: {cert: …, key: …}}`, or listen at `127.0.0.1` behind a proxy that has TLS";
            let span = node
                .entry("address")
                .map_or(node.span, |entry| entry.value.span);
            reading.error_with_help(span, message, help);
        }
        Self::At { address, tls }
    }
}
