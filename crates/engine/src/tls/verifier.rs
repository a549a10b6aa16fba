//! Whose certificates are taken. The system's authorities are read when the first one is to be verified: they are
//! hundreds of files, and a plain connection needs none.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Who is believed.
#[derive(Debug)]
pub(super) enum Trust {
    /// Whoever proves to have the key of the certificate that it shows.
    Anyone,
    /// Who shows this very certificate.
    One(CertificateDer<'static>),
    /// Whom the system's authorities, or these, have signed.
    Authorities(RootCertStore),
}

/// Verifies certificates as the trust says, and always that the peer has the key of its own.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    authorities: OnceLock<Result<Arc<WebPkiServerVerifier>, rustls::Error>>,
}

impl Verifier {
    pub(super) fn new(trust: Trust, provider: &Arc<CryptoProvider>) -> Self {
        Self {
            trust,
            provider: Arc::clone(provider),
            authorities: OnceLock::new(),
        }
    }

    /// Of the system's authorities and `more`. A system without any is no error of its own: its peers are of an
    /// unknown authority.
    fn load(&self, more: &RootCertStore) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let mut roots = more.clone();
        let system = rustls_native_certs::load_native_certs();
        for error in system.errors {
            tracing::debug!(%error, "an authority of the system cannot be read");
        }
        roots.add_parsable_certificates(system.certs);
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            Trust::Anyone => Ok(ServerCertVerified::assertion()),
            Trust::One(known) if known == certificate => Ok(ServerCertVerified::assertion()),
            Trust::One(_) => Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer,
            )),
            Trust::Authorities(more) => {
                let authorities = self.authorities.get_or_init(|| self.load(more));
                let authorities = authorities.as_ref().map_err(Clone::clone)?;
                authorities.verify_server_cert(certificate, between, name, ocsp, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
