//! What a failure of TLS means, and who must act.

use rustls::{AlertDescription, CertificateError};
use wiredflow_core::Error;

/// Tells a certificate that will never do from a network that is away.
pub(crate) fn failure(error: &rustls::Error) -> Error {
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
            "its certificate is for another host: write the address as the certificate names it"
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
