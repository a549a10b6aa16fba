//! TLS to peers: the system's authorities, and the files that a flow names. There is no global setting.

mod failure;
mod server;
mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use wiredflow_core::fields::Reading;
use wiredflow_core::node::Node;
use wiredflow_core::{Error, Result, config};

use crate::resources::Resources;

pub(crate) use failure::failure;
pub use server::ServerKeys;
use verifier::{Trust, Verifier};

/// What is said of a component that takes any certificate.
const INSECURE: &str = "INSECURE: any certificate is taken (`tls: {insecure: true}`), so that anyone between here \
     and the peer can read and change what is sent; name the peer's authority with `tls: {ca: FILE}`";

config! {
    /// TLS to a peer. Paths start at the flow's folder.
    pub struct TlsKeys {
        /// A PEM file of authorities to trust beside those of the system.
        ca: Option<String>,
        /// A PEM file of the client's own certificate, with those between it and its authority.
        cert: Option<String>,
        /// The PEM file of that certificate's key.
        key: Option<String>,
        /// Takes any certificate of the peer: whoever stands between can read and change all. For a trial; it is
        /// logged as a warning at each start.
        insecure: bool = "false",
    }
}

impl TlsKeys {
    /// Reports what cannot work: files that are missing or are no PEM, half an identity. `node` is the map of the
    /// keys, `folder` the flow's.
    pub fn check(&self, node: &Node, folder: &Path, reading: &mut Reading) {
        if self.insecure {
            let span = node.entry("insecure").map_or(node.span, |entry| entry.span);
            if self.ca.is_some() {
                let message = "`insecure: true` beside `ca`: with it no authority is looked at";
                reading.error(span, message);
            }
            reading.warning(span, INSECURE);
        }
        if self.cert.is_some() != self.key.is_some() {
            reading.error(node.span, "`cert` and `key` go together: one is missing");
        }
        let mut report = |key: &str, found: Result<()>| {
            if let Err(error) = found {
                let span = node.entry(key).map_or(node.span, |entry| entry.value.span);
                reading.error(span, error.message());
            }
        };
        for (key, path) in [("ca", &self.ca), ("cert", &self.cert)] {
            let Some(path) = path else { continue };
            let found = read(folder, path).and_then(|pem| certificates(&pem, path).map(drop));
            report(key, found);
        }
        if let Some(path) = &self.key {
            let found = read(folder, path).and_then(|pem| private_key(&pem, path).map(drop));
            report("key", found);
        }
    }

    /// Reads the files anew: a renewed certificate is found when a component is opened again.
    pub fn load(&self, folder: &Path) -> Result<TlsFiles> {
        let load = |path: &Option<String>| {
            let read = |path: &String| Ok((path.clone(), read(folder, path)?));
            path.as_ref().map(read).transpose()
        };
        Ok(TlsFiles {
            ca: load(&self.ca)?,
            cert: load(&self.cert)?,
            key: load(&self.key)?,
            insecure: self.insecure,
        })
    }
}

/// Says at each start that a component takes any certificate, as loudly as a log can.
pub(crate) fn warn_if_insecure(keys: Option<&TlsKeys>, resources: &Resources) {
    if keys.is_some_and(|keys| keys.insecure) {
        tracing::warn!(pipeline = %resources.pipeline, stage = %resources.stage, "{INSECURE}");
    }
}

/// The same of a storage, each time that it is opened.
pub(crate) fn warn_if_insecure_storage(keys: Option<&TlsKeys>, storage: &str) {
    if keys.is_some_and(|keys| keys.insecure) {
        tracing::warn!(storage, "{INSECURE}");
    }
}

/// The contents of the files, each with its name.
#[derive(Clone, Default)]
pub struct TlsFiles {
    ca: Option<(String, Vec<u8>)>,
    cert: Option<(String, Vec<u8>)>,
    key: Option<(String, Vec<u8>)>,
    insecure: bool,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [&self.ca, &self.cert, &self.key]
            .into_iter()
            .flatten()
            .map(|(name, _)| name);
        f.debug_set().entries(names).finish()
    }
}

impl TlsFiles {
    /// Equal for equal contents, so that connections can be shared by those who trust and show the same.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for file in [&self.ca, &self.cert, &self.key] {
            let content = file.as_ref().map_or(&[][..], |(_, content)| content);
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
        hash.update([u8::from(self.insecure)]);
        hash.finalize().into()
    }

    /// What a client needs to greet a peer in TLS 1.2 or 1.3. Certificates are verified unless this very component
    /// is `insecure`; even then the peer proves that it has the certificate's key.
    ///
    /// A system without any authorities is no error here: plain connections need none, and a TLS peer
    /// is refused then as one of an unknown authority.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let more = match &self.ca {
            Some((path, pem)) => authorities(pem, path)?,
            None => RootCertStore::empty(),
        };
        let trust = if self.insecure {
            Trust::Anyone
        } else {
            Trust::Authorities(more)
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(trust, &provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::bug(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        match (&self.cert, &self.key) {
            (Some((cert_path, cert)), Some((key_path, key))) => {
                let (chain, key) = (certificates(cert, cert_path)?, private_key(key, key_path)?);
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable(cert_path, "the certificate of its key", &error))
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }
}

/// What a client needs that believes a peer by its very certificate, the first in this PEM file, whatever its name.
pub fn pinned(path: &Path) -> Result<ClientConfig> {
    let name = path.display().to_string();
    let chain = certificates(&read(Path::new(""), &name)?, &name)?;
    let Some(first) = chain.into_iter().next() else {
        return Err(Error::config(format!("`{name}` holds no certificate")));
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(Trust::One(first), &provider);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::bug(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}

fn read(folder: &Path, path: &str) -> Result<Vec<u8>> {
    let full: PathBuf = folder.join(path);
    std::fs::read(full).map_err(|error| Error::config(format!("cannot read `{path}`: {error}")))
}

fn certificates(pem: &[u8], path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| unusable(path, "certificates in PEM form", &error))?;
    if all.is_empty() {
        return Err(Error::config(format!(
            "`{path}` holds no certificate in PEM form"
        )));
    }
    Ok(all)
}

fn authorities(pem: &[u8], path: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable(path, "certificates", &error))?;
    }
    Ok(roots)
}

fn private_key(pem: &[u8], path: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| Error::config(format!("`{path}` holds no private key in PEM form")))
}

fn unusable(path: &str, what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::config(format!("`{path}` cannot be used as {what}: {error}"))
}
