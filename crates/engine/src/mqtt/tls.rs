//! TLS to a broker: whether there is any, and what a failure of it means.

use std::path::Path;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, ClientConfig};
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::{Error, Result};

use crate::resources::Resources;
use crate::tls::{TlsKeys, warn_if_insecure};

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
    match error {
        rustls::Error::InvalidCertificate(fault) => Error::config(its_certificate(fault)),
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        rustls::Error::InvalidMessage(_) => {
            Error::config("it does not speak TLS: take `tls` out, or name its port for TLS")
        }
        rustls::Error::PeerIncompatible(fault) => Error::config(format!(
            "its TLS is not possible here (1.2 and 1.3 are): {fault:?}"
        )),
        other => Error::remote(format!("tls: {other}")),
    }
}

fn its_certificate(fault: &CertificateError) -> String {
    match fault {
        // Another authority of the same name gives a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by nobody who is trusted here: name the authority's file in \
             `tls: {ca: …}`"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another host: write `broker` as the certificate names it"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is this machine's clock right?".to_owned()
        }
        // Where the server shows what `openssl req -x509` makes.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is self-signed, as an authority's is: have an authority sign one for the \
             server, and name the authority's file in `tls: {ca: …}`"
                .to_owned()
        }
        other => format!("its certificate is refused: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> Error {
    match alert {
        AlertDescription::CertificateRequired => {
            Error::config("it asks for a certificate of ours: name `cert` and `key` in `tls`")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => Error::config(format!(
            "it refuses our certificate (`tls: {{cert, key}}`): {alert:?}"
        )),
        AlertDescription::ProtocolVersion => {
            Error::config("its TLS is too old, or another one: 1.2 and 1.3 are possible here")
        }
        AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity
        | AlertDescription::UnrecognisedName => {
            Error::config(format!("it refuses the TLS connection: {alert:?}"))
        }
        other => Error::remote(format!("tls: it answers {other:?}")),
    }
}
