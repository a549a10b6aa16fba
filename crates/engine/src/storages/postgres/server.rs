//! The connection to a server, driven from a storage's own thread.
//!
//! No statement has a name: a pooler between (PgBouncer) may give each transaction another connection.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config as Address, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use wiredflow_core::{Error, Result};

use super::PostgresConfig;
use super::failure::Failure;
use crate::tls::{TlsKeys, warn_if_insecure_storage};

/// How long a server may take to answer a login.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a commit or a load may take: a server that is frozen is one that is away.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection. Nothing happens on it but inside [`Server::run`].
pub(super) struct Server {
    client: Client,
    runtime: Runtime,
    told: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.told)
    }
}

/// Reads where the database is.
///
/// # Errors
/// `Config`, without the words of the URL, which may be secret.
pub(super) fn address(config: &PostgresConfig) -> Result<Address> {
    let odd = "`url` is no address of a PostgreSQL database: it looks like `postgres://user:password@host:5432/database`";
    let mut address = Address::from_str(config.url.expose()).map_err(|_| Error::config(odd))?;
    if address.get_hosts().is_empty() {
        return Err(Error::config(format!("{odd}; it names no host")));
    }
    if config.tls.is_some() {
        address.ssl_mode(SslMode::Require);
    } else if address.get_ssl_mode() == SslMode::Prefer {
        // What is tried and given up without a word protects nothing.
        address.ssl_mode(SslMode::Disable);
    }
    address.connect_timeout(CONNECT);
    address.tcp_user_timeout(ANSWER);
    if address.get_application_name().is_none() {
        address.application_name("wiredflow");
    }
    Ok(address)
}

/// The database, in words that may be shown.
pub(super) fn told(address: &Address) -> String {
    let host = match address.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = address.get_ports().first().copied().unwrap_or(5432);
    let database = address.get_dbname().or(address.get_user());
    format!("`{host}:{port}/{}`", database.unwrap_or_default())
}

impl Server {
    /// Logs in.
    pub(super) fn connect(address: &Address, tls: Option<&TlsKeys>, folder: &Path) -> Result<Self> {
        let told = told(address);
        let failed = |error| Error::remote(format!("cannot start a runtime: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let client = match address.get_ssl_mode() {
            SslMode::Disable => runtime.block_on(async {
                let (client, connection) = address.connect(NoTls).await?;
                runtime.spawn(connection);
                Ok::<_, tokio_postgres::Error>(client)
            }),
            _ => {
                warn_if_insecure_storage(tls, &told);
                let keys = match tls {
                    Some(keys) => keys.load(folder)?,
                    None => crate::tls::TlsFiles::default(),
                };
                let tls = MakeRustlsConnect::new(keys.client_config()?);
                runtime.block_on(async {
                    let (client, connection) = address.connect(tls).await?;
                    runtime.spawn(connection);
                    Ok(client)
                })
            }
        };
        let client = client.map_err(|error| Failure::from(error).into_error(&told))?;
        Ok(Self {
            client,
            runtime,
            told,
        })
    }

    /// The database, in words that may be shown.
    pub(super) fn told(&self) -> &str {
        &self.told
    }

    /// Does something at the server, and waits for it.
    pub(super) fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Self {
            client, runtime, ..
        } = self;
        runtime.block_on(async {
            let answered = tokio::time::timeout(ANSWER, work(client)).await;
            answered.unwrap_or_else(|_| {
                let seconds = ANSWER.as_secs();
                Err(Error::remote(format!("no answer within {seconds} s")).into())
            })
        })
    }
}
