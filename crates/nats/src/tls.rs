//! TLS to a server: whom we trust, what we show, and what a failure of it means.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use wiredflow_core::{Error, Result};

use crate::access::TlsFiles;

/// What a client needs to greet a server in TLS 1.2 or 1.3.
///
/// # Errors
/// `Config`, where a file cannot be read or is no PEM.
pub(crate) fn client_config(files: &TlsFiles) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                let added = roots.add(certificate);
                added.map_err(|error| unusable(path, "an authority", &error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::bug(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots);
    match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| unusable(cert, "the certificate of its key", &error)),
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| unusable(path, "certificates in PEM form", &error))?;
    match all.is_empty() {
        false => Ok(all),
        true => {
            let path = path.display();
            let message = format!("`{path}` holds no certificate in PEM form");
            Err(Error::config(message))
        }
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| {
        let path = path.display();
        Error::config(format!("`{path}` holds no private key in PEM form"))
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Error::config(format!("cannot read `{}`: {error}", path.display())))
}

fn unusable(path: &Path, what: &str, error: &dyn std::fmt::Display) -> Error {
    let path = path.display();
    Error::config(format!("`{path}` cannot be used as {what}: {error}"))
}

/// Tells a certificate that will never do from a network that is away.
pub(crate) fn failure(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(fault) => Error::config(its_certificate(fault)),
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        rustls::Error::InvalidMessage(_) => Error::config(
            "it does not speak TLS there: have the server speak TLS, or write `nats://` where that is allowed",
        ),
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
            "its certificate is signed by nobody who is trusted here: name the file of its authority".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another host: write the address as the certificate names it".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is this machine's clock right?".to_owned()
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is self-signed, as an authority's is: have an authority sign one for the server, and name \
             the file of that authority"
                .to_owned()
        }
        other => format!("its certificate is refused: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> Error {
    match alert {
        AlertDescription::CertificateRequired => {
            Error::config("it asks for a certificate of ours: name the files of one and of its key")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => {
            Error::config(format!("it refuses our certificate: {alert:?}"))
        }
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity
        | AlertDescription::UnrecognisedName => {
            Error::config(format!("it refuses the TLS connection: {alert:?}"))
        }
        other => Error::remote(format!("tls: it answers {other:?}")),
    }
}
