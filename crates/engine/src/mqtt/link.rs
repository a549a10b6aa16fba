//! One connection to a broker: the stream, what is read ahead and what waits to be written.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wiredflow_core::delivery::MOST_UNDER_WAY;
use wiredflow_core::{Error, Result};

use super::access::Settings;
use super::packets::{
    self, Frame, Garbled, Hello, MOST_PACKET, Packet, Refusal, Version, Welcome, read_oversized,
};
use super::tls;
use crate::clock::Clock;

/// How long one address of the broker may take to answer.
const ADDRESS_WITHIN: Duration = Duration::from_secs(5);

/// How long the broker may take from the first byte to the answer of CONNECT.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// How much is read at once, and how little room is too little for it.
const READ: usize = 64 << 10;
const ROOM: usize = 4 << 10;

/// How often something must be written at least, unless the broker says otherwise. Something must
/// have been heard within the same time.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that stands.
pub(super) struct Link {
    stream: Box<dyn Stream>,
    version: Version,
    inbox: BytesMut,
    /// What waits to be written; [`Link::poll_flush`] writes it.
    pub(super) outbox: BytesMut,
    /// Written, but perhaps still in a buffer of TLS.
    unflushed: bool,
    /// Bytes of an oversized message that are still to come and to be thrown away.
    skip: usize,
}

/// A connection, what the broker allows on it, and how often it wants to hear from us.
pub(super) struct Connected {
    pub(super) link: Link,
    pub(super) welcome: Welcome,
    pub(super) keep_alive: Duration,
}

/// Why no connection came about.
#[derive(Debug)]
pub(super) enum NoLink {
    /// The broker speaks another version, and whether it said so or only hung up.
    Version { said: bool },
    /// Who must act.
    Error(Error),
}

impl From<Error> for NoLink {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Connects and says hello in one version. Dropping the future ends the attempt.
pub(super) async fn connect(
    settings: &Settings,
    version: Version,
    clock: &Clock,
) -> Result<Connected, NoLink> {
    let stream = reach(settings, clock).await?;
    let rest = async {
        let stream: Box<dyn Stream> = match &settings.tls {
            None => Box::new(stream),
            Some(client) => {
                let name = ServerName::try_from(settings.host.clone()).map_err(|_| {
                    Error::config("tls: the host of `broker` cannot stand in a certificate")
                })?;
                let connector = TlsConnector::from(client.clone());
                let stream = connector.connect(name, stream).await;
                Box::new(stream.map_err(|error| tls::failure(&error))?)
            }
        };
        greet(Link::new(stream, version), settings).await
    };
    match within(clock, WELCOME_WITHIN, rest).await {
        Some(result) => result,
        None => Err(Error::remote("does not answer").into()),
    }
}

async fn within<T>(clock: &Clock, most: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(most) => None,
    }
}

/// The first address that answers.
async fn reach(settings: &Settings, clock: &Clock) -> Result<TcpStream> {
    let away = |error: io::Error| Error::remote(format!("cannot be reached: {error}"));
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((&*settings.host, settings.port))
        .await
        .map_err(away)?
        .collect();
    let mut last = Error::remote("cannot be reached: the name has no address");
    for address in addresses {
        match within(clock, ADDRESS_WITHIN, TcpStream::connect(address)).await {
            Some(Ok(stream)) => {
                stream.set_nodelay(true).map_err(away)?;
                return Ok(stream);
            }
            Some(Err(error)) => last = away(error),
            None => last = Error::remote(format!("cannot be reached: {address} does not answer")),
        }
    }
    Err(last)
}

async fn greet(mut link: Link, settings: &Settings) -> Result<Connected, NoLink> {
    let seconds = KEEP_ALIVE.as_secs() as u16;
    let hello = Hello {
        client_id: &settings.client_id,
        username: settings.username.as_deref(),
        password: settings.password.as_ref(),
        keep_alive: seconds,
        receive_maximum: MOST_UNDER_WAY,
        session: settings.session,
    };
    let unsaid = |Garbled(error)| Error::config(format!("cannot be greeted: {error}"));
    link.version
        .write_hello(&hello, &mut link.outbox)
        .map_err(unsaid)?;
    // A broker may hang up before it has read all: what it has said is still read.
    drop(std::future::poll_fn(|cx| link.poll_flush(cx)).await);
    let packet = loop {
        if let Some(packet) = link.packet().map_err(|error| not_mqtt(&link, error))? {
            break packet;
        }
        match std::future::poll_fn(|cx| link.poll_fill(cx)).await {
            Ok(0) => return Err(NoLink::Version { said: false }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(NoLink::Version { said: false });
            }
            Err(error) => return Err(tls::failure(&error).into()),
        }
    };
    match packet {
        Packet::Welcome(welcome) => {
            let asked = welcome.keep_alive.filter(|seconds| *seconds > 0);
            let keep_alive = Duration::from_secs(asked.unwrap_or(seconds).into());
            Ok(Connected {
                link,
                welcome,
                keep_alive,
            })
        }
        Packet::Refused(Refusal::Version) => Err(NoLink::Version { said: true }),
        Packet::Refused(Refusal::Because(kind, reason)) => {
            Err(Error::new(kind, refused(settings, &reason)).into())
        }
        _ => Err(Error::remote("does not answer as a broker does").into()),
    }
}

fn refused(settings: &Settings, reason: &str) -> String {
    let login = reason.starts_with("bad user name") || reason.starts_with("not authorized");
    let help = match (&settings.username, login) {
        (Some(_), true) => ": is `username` or `password` wrong?",
        (None, true) => ": it wants `username` and `password`",
        (_, false) => "",
    };
    format!("refuses the connection: {reason}{help}")
}

/// A broker that expects TLS answers a plain hello with an alert of TLS.
fn not_mqtt(link: &Link, Garbled(reason): Garbled) -> Error {
    if link.inbox.starts_with(&[0x15, 3]) {
        return Error::config("expects an encrypted connection: add `tls`");
    }
    Error::remote(format!("does not speak MQTT: {reason}"))
}

impl Link {
    fn new(stream: Box<dyn Stream>, version: Version) -> Self {
        Self {
            stream,
            version,
            inbox: BytesMut::with_capacity(READ),
            outbox: BytesMut::new(),
            unflushed: false,
            skip: 0,
        }
    }

    /// Whether a part of a packet has arrived and the rest has not.
    pub(super) fn is_mid_packet(&self) -> bool {
        !self.inbox.is_empty() || self.skip > 0
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Writes the outbox. Ready when everything has left this process.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbox))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there; 0 is the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.inbox.capacity() - self.inbox.len() < ROOM {
            // The rest of a packet whose length is known already needs no more than that.
            let frame = Frame::peek(&self.inbox).ok().flatten();
            let whole = frame.map_or(0, |frame| (frame.head + frame.rest).min(MOST_PACKET));
            self.inbox
                .reserve(whole.saturating_sub(self.inbox.len()).max(READ));
        }
        pin!(self.stream.read_buf(&mut self.inbox)).poll(cx)
    }

    /// The next whole packet that has arrived. Of a message that is too large only the beginning
    /// is kept.
    pub(super) fn packet(&mut self) -> Result<Option<Packet>, Garbled> {
        if self.skip > 0 {
            let now = self.skip.min(self.inbox.len());
            self.inbox.advance(now);
            self.skip -= now;
        }
        let Some(frame) = Frame::peek(&self.inbox)? else {
            return Ok(None);
        };
        let whole = frame.head + frame.rest;
        if whole <= MOST_PACKET {
            if self.inbox.len() < whole {
                return Ok(None);
            }
            return self.version.read(frame, &mut self.inbox).map(Some);
        }
        if !frame.is_message() {
            return Err(Garbled(format!("a packet of {whole} bytes")));
        }
        if self.inbox.len() < MOST_PACKET {
            return Ok(None);
        }
        let kept = self.inbox.split_to(MOST_PACKET).freeze();
        self.skip = whole - MOST_PACKET;
        read_oversized(self.version, frame, kept.slice(frame.head..)).map(Some)
    }

    /// Ends the connection in good order: everything is written, and the broker has read it when
    /// it hangs up in turn. Does not wait longer than `most`.
    pub(super) async fn finish(mut self, clock: &Clock, most: Duration) {
        packets::write_bye(&mut self.outbox);
        let goodbye = async {
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
            self.stream.shutdown().await?;
            let mut rest = [0; 4096];
            // What still comes belongs to the next connection.
            while self.stream.read(&mut rest).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        // A broker that is gone already has nothing more to lose.
        drop(within(clock, most, goodbye).await);
    }
}
