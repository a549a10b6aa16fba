//! All peers together.

use std::{net::SocketAddr, time::Duration};

use crate::{Broker, Heard, HttpPeers, Publisher, Received, Result, Server, listener::Listener};

/// How often upstream's publishers say something.
const EVERY: Duration = Duration::from_secs(1);

/// The HTTP servers, the broker, the publisher and a listener, running. Dropping them stops them all.
#[derive(Debug)]
pub struct Peers {
    publisher: Publisher, // the order of the fields is the order in which they end
    listener: Listener,
    http: HttpPeers,
    broker: Broker,
}

/// The ports of 127.0.0.1 on which the peers listen; 0 is any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of the HTTP server of greetings.
    pub hello: u16,
    /// Of the HTTP server of letters.
    pub letters: u16,
    /// Of the HTTP server of integers.
    pub integers: u16,
    /// Of the MQTT broker.
    pub mqtt: u16,
}

impl Ports {
    /// Any free ports.
    pub const FREE: Self = Self {
        hello: 0,
        letters: 0,
        integers: 0,
        mqtt: 0,
    };
    /// The ports of upstream's examples.
    pub const UPSTREAM: Self = Self {
        hello: 8025,
        letters: 8026,
        integers: 8027,
        mqtt: 1883,
    };
}

impl Peers {
    /// Starts all peers; the publisher says something each second. When one of them cannot start, those before it are
    /// stopped and the error names the peer and its port. Blocks for a few hundredths of a second.
    pub fn start(ports: Ports) -> Result<Self> {
        Self::start_publishing_every(EVERY, ports)
    }

    /// As `start`, with a period of its own for the publisher.
    pub fn start_publishing_every(period: Duration, ports: Ports) -> Result<Self> {
        let http = HttpPeers::start(ports.hello, ports.letters, ports.integers)?;
        let broker = Broker::start(ports.mqtt)?;
        let listener = Listener::start(broker.address())?;
        let publisher = Publisher::start(broker.address(), None, period)?;
        Ok(Self {
            publisher,
            listener,
            http,
            broker,
        })
    }

    /// The address of an HTTP server as a flow names it: `http://127.0.0.1:PORT`.
    pub fn url(&self, server: Server) -> String {
        self.http.url(server)
    }

    /// Where the broker listens.
    pub fn broker(&self) -> SocketAddr {
        self.broker.address()
    }

    /// What was PUT and POSTed to the HTTP servers, oldest first: the last thousand bodies.
    pub fn received(&self) -> Vec<Received> {
        self.http.received()
    }

    /// As `received`, without the first `seen`; and how many there were in all.
    pub fn received_since(&self, seen: u64) -> (Vec<Received>, u64) {
        self.http.received_since(seen)
    }

    /// What others than the publisher sent to the broker, oldest first, without the first `seen`, as far as
    /// it is among the last thousand; and how many there were in all.
    pub fn heard_since(&self, seen: u64) -> (Vec<Heard>, u64) {
        self.listener.since(seen)
    }

    /// Stops all peers and frees their ports. Blocks, usually for less than a tenth of a second.
    pub fn stop(self) {
        self.publisher.stop();
        self.listener.stop();
        self.http.stop();
        self.broker.stop();
    }
}
