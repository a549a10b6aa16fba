//! TLS for what listens: the certificate that peers are shown.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use wiredflow_core::fields::Reading;
use wiredflow_core::node::Node;
use wiredflow_core::{Error, Result, config};

use super::{certificates, private_key, read, unusable};

config! {
    /// TLS for what listens. Paths start at the flow's folder.
    pub struct ServerKeys {
        /// A PEM file of the certificate, with those between it and its authority.
        cert: String,
        /// The PEM file of that certificate's key.
        key: String,
    }
}

impl ServerKeys {
    /// The file of the certificate, from the flow's folder.
    pub fn cert_file(&self) -> &str {
        &self.cert
    }

    /// Reports files that are missing or are no PEM. `node` is the map of the keys, `folder` the flow's.
    pub fn check(&self, node: &Node, folder: &Path, reading: &mut Reading) {
        let mut report = |key: &str, found: Result<()>| {
            if let Err(error) = found {
                let span = node.entry(key).map_or(node.span, |entry| entry.value.span);
                reading.error(span, error.message());
            }
        };
        let cert = read(folder, &self.cert).and_then(|pem| certificates(&pem, &self.cert));
        report("cert", cert.map(drop));
        let key = read(folder, &self.key).and_then(|pem| private_key(&pem, &self.key));
        report("key", key.map(drop));
    }

    /// What greets a peer in TLS 1.2 or 1.3. Reads the files anew.
    pub fn load(&self, folder: &Path) -> Result<Arc<ServerConfig>> {
        let chain = certificates(&read(folder, &self.cert)?, &self.cert)?;
        let key = private_key(&read(folder, &self.key)?, &self.key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::bug(format!("TLS cannot be set up: {error}")))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&self.cert, "the certificate of its key", &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
