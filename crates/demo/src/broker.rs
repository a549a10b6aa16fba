//! An MQTT broker (v5 and v3.1.1) inside this process. It keeps everything in memory.
//!
//! All calls of the broker's crate are behind plain functions of this module, so that its code is compiled here once
//! and not again in each program.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use mqtt5::broker::{BrokerConfig, MqttBroker, PasswordAuthProvider, config::StorageConfig};

use crate::{
    Error, Result,
    background::{Background, Serve, Stop},
};

/// How the broker is called in messages.
const PEER: &str = "MQTT broker";

/// A running broker. Dropping it stops it; what it kept for clients that were away is gone then.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    _running: Background,
}

/// The only name and password that a broker lets in.
#[derive(Clone)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// The password, in the clear.
    pub password: String,
}

impl Broker {
    /// Starts a broker on a port of 127.0.0.1 (0: any free one) that lets everybody in, with any name and password or
    /// none.
    pub fn start(port: u16) -> Result<Self> {
        Self::begin(port, None)
    }

    /// As `start`, but only `login` is let in. Five wrong logins within a minute shut the sender out for five minutes.
    pub fn start_with_login(port: u16, login: Login) -> Result<Self> {
        Self::begin(port, Some(login))
    }

    /// Where the broker listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, within half a second, and frees the port.
    pub fn stop(self) {}

    fn begin(port: u16, login: Option<Login>) -> Result<Self> {
        // The broker's own error for a taken port is only a text: find out beforehand.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .map_err(|error| Error::bind(PEER, port, &error))?;
        let (running, address) = Background::start(PEER, move |stop| set_up(port, login, stop))?;
        Ok(Self {
            address,
            _running: running,
        })
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

async fn set_up(port: u16, login: Option<Login>, stop: Stop) -> Result<(SocketAddr, Serve)> {
    let not_started = |reason: String| Error::NotStarted { peer: PEER, reason };
    // Anonymous logins stay allowed in the configuration, else it asks for a password file; a provider says no to them.
    let config = BrokerConfig::default()
        .with_bind_address((Ipv4Addr::LOCALHOST, port))
        .with_max_packet_size(16 * 1024 * 1024)
        .with_storage(StorageConfig::default().with_persistence(false));
    let mut broker = MqttBroker::with_config(config)
        .await
        .map_err(|error| not_started(error.to_string()))?;
    if let Some(Login { username, password }) = login {
        let provider = PasswordAuthProvider::new().with_anonymous(false);
        provider
            .add_user(username, &password)
            .map_err(|error| not_started(error.to_string()))?;
        broker = broker.with_auth_provider(Arc::new(provider));
    }
    let address = broker
        .local_addr()
        .ok_or_else(|| not_started("it has no address".to_owned()))?;
    let handle = broker.shutdown_handle();
    let mut ready = broker.ready_receiver();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(async move { broker.run().await });
    tokio::select! {
        ready = ready.wait_for(|ready| *ready) => match ready {
            Ok(_) => {}
            Err(error) => return Err(not_started(error.to_string())),
        },
        ended = running.join_next() => return Err(not_started(format!("it ended at once: {ended:?}"))),
    }
    let serve = Box::pin(async move {
        tokio::select! {
            () = stop.heard() => handle.shutdown(),
            ended = running.join_next() => {
                tracing::error!(?ended, "the {PEER} ended by itself");
                return;
            }
        }
        while running.join_next().await.is_some() {}
    });
    Ok((address, serve))
}
