//! What listens for HTTP: how many connections, how slow they may be, and how they end. The webhook source and
//! the API of a running flow stand on it.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::tasks::Tasks;

/// The longest head of a request, in bytes, and its most headers.
const HEAD: (usize, usize) = (16 * 1024, 64);

/// How long a connection may take to end when what listens is closed: its answers are small.
const LINGER: Duration = Duration::from_secs(1);

/// The pause after the system refused a connection, for want of descriptors mostly.
const BREATH: Duration = Duration::from_millis(100);

/// What is said to connections for which there is no room.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Answers requests.
pub trait Answering: Send + Sync + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static;

    /// Answers one request of `peer`. The future is dropped when the peer has gone.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Takes connections.
pub struct Connections<A> {
    /// What answers.
    pub answering: A,
    /// For its log lines: `a webhook`.
    pub whose: &'static str,
    /// The certificate that peers are shown.
    pub tls: Option<TlsAcceptor>,
    /// Connections at once; more are turned away.
    pub most: usize,
    /// From the beginning of a connection, or the end of the last answer, to the end of the next head.
    pub head: Duration,
    /// Ends it: no more connections are taken, and those there are end within a second.
    pub closing: CancellationToken,
    /// Owns a task for each connection.
    pub tasks: Tasks,
    /// The clock.
    pub clock: Clock,
}

impl<A> std::fmt::Debug for Connections<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connections({})", self.whose)
    }
}

impl<A: Answering> Connections<A> {
    /// Takes connections until it is closed.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.most));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("a connection could not be taken: {error}");
                    self.clock.sleep(BREATH).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.turn_away(&stream);
                continue;
            };
            let server = Arc::clone(&self);
            self.tasks.spawn("connection", async move {
                if let Err(error) = server.connection(stream, peer).await {
                    tracing::debug!("a connection of {} ended: {error}", server.whose);
                }
                drop(place);
            });
        }
    }

    /// Says so where that is possible without waiting.
    fn turn_away(&self, stream: &TcpStream) {
        if self.tls.is_none() {
            // A peer that does not hear it sees the end of the connection.
            drop(stream.try_write(BUSY));
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.converse(stream, peer).await,
            Some(acceptor) => {
                let greeting = tokio::time::timeout(self.head, acceptor.accept(stream));
                self.converse(greeting.await??, peer).await
            }
        }
    }

    async fn converse<S>(&self, stream: S, peer: SocketAddr) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(|request| async move {
            Ok::<_, Infallible>(self.answering.answer(request, peer).await)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head)
            .max_headers(HEAD.1)
            .max_buf_size(HEAD.0)
            .serve_connection(TokioIo::new(stream), service);
        let mut served = pin!(served);
        let ended = tokio::select! {
            ended = &mut served => ended,
            () = self.closing.cancelled() => {
                served.as_mut().graceful_shutdown();
                tokio::time::timeout(LINGER, served).await?
            }
        };
        ended.map_err(io::Error::other)
    }
}

/// Why a port could not be had, and what to do.
pub fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "cannot listen at {address}: another program has the port; end it, or name another in `listen`"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "cannot listen at {address}: ports below 1024 want rights of their own; name one above in `listen`"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("cannot listen at {address}: this machine does not have that address")
        }
        _ => format!("cannot listen at {address}: {error}"),
    }
}
