//! TLS to a broker: whom to trust, and who we are.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use wiredflow_core::fields::{Config, FromNode, Reading};
use wiredflow_core::node::{Node, NodeKind, Span};
use wiredflow_core::{Error, Result, config};

use crate::catalogue::CheckCx;

config! {
    /// An encrypted connection.
    pub(crate) struct TlsFiles {
        /// The file of the authorities to trust (PEM); the system's when left out.
        ca: Option<String>,
        /// The file of the client's own certificate (PEM), with `key`.
        cert: Option<String>,
        /// The file of its key (PEM).
        key: Option<String>,
    }
}

/// `true`, or the files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tls(TlsFiles);

/// `tls: false` is no TLS.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsChoice(Option<Tls>);

impl TlsChoice {
    pub(crate) fn chosen(&self) -> Option<Tls> {
        self.0.clone()
    }
}

impl FromNode for TlsChoice {
    const EXPECTS: &'static str = "`true`, or `{ca, cert, key}`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        match node.kind {
            NodeKind::Map(_) => Some(Self(Some(Tls(TlsFiles::from_node(node, reading)?)))),
            NodeKind::Bool(_) | NodeKind::Filled(_) => {
                let wanted = bool::from_node(node, reading)?;
                let files = TlsFiles {
                    ca: None,
                    cert: None,
                    key: None,
                };
                Some(Self(wanted.then_some(Tls(files))))
            }
            NodeKind::Null | NodeKind::Number(_) | NodeKind::Text(_) | NodeKind::List(_) => {
                let names = TlsFiles::fields();
                let names: Vec<&str> = names.iter().map(|field| field.name).collect();
                let what = format!("`true`, or a map of `{}`", names.join("`, `"));
                reading.expected(&what, node);
                None
            }
        }
    }

    fn when_absent() -> Option<Self> {
        Some(Self(None))
    }
}

impl Tls {
    /// Reads the files, so that a wrong one is told before anything starts.
    pub(super) fn check(&self, span: Span, cx: &mut CheckCx<'_>) {
        if let Err(error) = client(self, cx.folder) {
            cx.reading.error(span, error.message());
        }
    }
}

/// What rustls needs. Blocks on reading files.
pub(super) fn client(tls: &Tls, folder: &Path) -> Result<Arc<ClientConfig>> {
    let Tls(TlsFiles { ca, cert, key }) = tls;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::bug(format!("tls: {error}")))?
        .with_root_certificates(trusted(ca.as_deref(), folder)?);
    let client = match (cert, key) {
        (None, None) => client.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, folder)?;
            let path = folder.join(key);
            let key = PrivateKeyDer::from_pem_slice(&read(key, folder)?).map_err(|_| {
                Error::config(format!("tls: `{}` holds no private key", path.display()))
            })?;
            client
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::config(format!("tls: `cert` and `key`: {error}")))?
        }
        _ => return Err(Error::config("tls: `cert` and `key` go together")),
    };
    Ok(Arc::new(client))
}

fn trusted(ca: Option<&str>, folder: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = ca else {
        let (added, _) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            let message = "tls: this system trusts no authority: install `ca-certificates`, or name a file in `tls: {ca: …}`";
            return Err(Error::config(message));
        }
        return Ok(roots);
    };
    for certificate in certificates(ca, folder)? {
        roots
            .add(certificate)
            .map_err(|error| Error::config(format!("tls: `{ca}`: {error}")))?;
    }
    Ok(roots)
}

fn certificates(file: &str, folder: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(file, folder)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Error::config(format!(
            "tls: `{file}` holds no certificate in PEM"
        ))),
    }
}

fn read(file: &str, folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join(file);
    fs::read(&path)
        .map_err(|error| Error::config(format!("tls: cannot read `{}`: {error}", path.display())))
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
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity
        | AlertDescription::UnrecognisedName => {
            Error::config(format!("it refuses the TLS connection: {alert:?}"))
        }
        other => Error::remote(format!("tls: it answers {other:?}")),
    }
}
