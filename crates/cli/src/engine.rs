//! The engine of a cluster, as the command line names it.

use std::path::PathBuf;
use std::sync::Arc;

use wiredflow_core::engine::Engine;
use wiredflow_core::secret::Secret;
use wiredflow_engine::pool::NAMESPACE;
use wiredflow_nats::{Access, Login, Nats, TlsFiles};

use crate::exit::Failure;

/// How an engine is reached. Passwords come from the environment: the process list shows arguments to everybody.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "The engine")]
pub(crate) struct EngineArguments {
    /// The servers of NATS JetStream, with commas between them: `nats://host:4222` or `tls://host:4222`. Who we are says the
    /// environment: `WIREDFLOW_ENGINE_USER` and `WIREDFLOW_ENGINE_PASSWORD`, or `WIREDFLOW_ENGINE_TOKEN`, or
    /// `WIREDFLOW_ENGINE_SEED` (of an NKey)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub(crate) engine: Vec<String>,

    /// A file of credentials, as `nsc` writes them
    #[arg(long, value_name = "FILE", requires = "engine")]
    engine_credentials: Option<PathBuf>,

    /// The authority that the servers' certificates are from, in place of those of the system
    #[arg(long, value_name = "FILE", requires = "engine")]
    engine_ca: Option<PathBuf>,

    /// Our own certificate, where the servers want one
    #[arg(long, value_name = "FILE", requires = "engine_key")]
    engine_cert: Option<PathBuf>,

    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "engine_cert")]
    engine_key: Option<PathBuf>,

    /// Take servers on other machines without TLS or without a login too: for a trial
    #[arg(long, requires = "engine")]
    insecure: bool,
}

impl EngineArguments {
    /// Whether one is named.
    pub(crate) fn is_given(&self) -> bool {
        !self.engine.is_empty()
    }

    /// Where it is and who we are.
    ///
    /// # Errors
    /// `Wrong`, where there is more than one login.
    pub(crate) fn access(&self) -> Result<Access, Failure> {
        let says = |name: &str| std::env::var(format!("WIREDFLOW_ENGINE_{name}")).ok();
        let secret = |name: &str| says(name).map(Secret::new);
        let user = says("USER").zip(secret("PASSWORD"));
        let logins = [
            user.map(|(user, password)| Login::Password { user, password }),
            secret("TOKEN").map(Login::Token),
            secret("SEED").map(Login::Seed),
            self.engine_credentials.clone().map(Login::Credentials),
        ];
        let mut logins: Vec<Login> = logins.into_iter().flatten().collect();
        if logins.len() > 1 {
            return Err(Failure::wrong(
                "the engine is told more than one login: a file of credentials and the WIREDFLOW_ENGINE_… variables are alternatives",
            ));
        }
        let files = [&self.engine_ca, &self.engine_cert, &self.engine_key];
        let tls = files.iter().any(|file| file.is_some()).then(|| TlsFiles {
            ca: self.engine_ca.clone(),
            cert: self.engine_cert.clone(),
            key: self.engine_key.clone(),
        });
        Ok(Access {
            urls: self.engine.clone(),
            login: logins.pop(),
            tls,
            insecure: self.insecure,
        })
    }

    /// Connects.
    ///
    /// # Errors
    /// `Failed`, where it is away or refuses us.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn Engine>, Failure> {
        let connected = Nats::connect(&self.access()?, NAMESPACE).await;
        let nats = connected
            .map_err(|error| Failure::failed(format!("the engine: {}", error.message())))?;
        Ok(nats as Arc<dyn Engine>)
    }
}
