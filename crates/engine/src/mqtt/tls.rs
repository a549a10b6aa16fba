//! TLS to a broker: whether there is any, and what a failure of it means.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::{Error, Result};

use crate::resources::Resources;
use crate::tls::{self, TlsKeys, warn_if_insecure};

/// `true`, `false`, or the files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsChoice(Option<TlsKeys>);

impl FromNode for TlsChoice {
    const EXPECTS: &'static str = "`true`, or `{ca, cert, key}`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        match node.kind {
            NodeKind::Map(_) => TlsKeys::from_node(node, reading).map(|keys| Self(Some(keys))),
            NodeKind::Bool(_) | NodeKind::Filled(_) => {
                if bool::from_node(node, reading)? {
                    let none = Node::empty_map().at(node.span);
                    return TlsKeys::from_node(&none, reading).map(|keys| Self(Some(keys)));
                }
                Some(Self(None))
            }
            NodeKind::Null | NodeKind::Number(_) | NodeKind::Text(_) | NodeKind::List(_) => {
                reading.expected(Self::EXPECTS, node);
                None
            }
        }
    }

    fn when_absent() -> Option<Self> {
        Some(Self(None))
    }
}

impl TlsChoice {
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Reads the files, so that a wrong one is told before anything starts. `node` is the value of `tls`.
    pub(super) fn check(&self, node: &Node, folder: &Path, reading: &mut Reading) {
        if let Some(keys) = &self.0 {
            reading.inside("tls", |reading| keys.check(node, folder, reading));
        }
    }

    /// Says so at each start where any certificate is taken.
    pub(super) fn warn_if_insecure(&self, resources: &Resources) {
        warn_if_insecure(self.0.as_ref(), resources);
    }

    /// What rustls needs, if anything. Blocks on reading files.
    pub(super) fn client(&self, folder: &Path) -> Result<Option<Arc<ClientConfig>>> {
        let Some(keys) = &self.0 else {
            return Ok(None);
        };
        let client = keys.load(folder)?.client_config()?;
        Ok(Some(Arc::new(client)))
    }
}

/// Tells a certificate that will never do from a network that is away.
pub(super) fn failure(error: &std::io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(error) = inner else {
        return Error::remote(format!("the connection was lost: {error}"));
    };
    tls::failure(error)
}
