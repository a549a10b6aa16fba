//! Connections: how many, how slow they may be, and how they end.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::answer::unavailable;
use super::desk::Desk;
use crate::clock::Clock;
use crate::tasks::Tasks;

/// The longest head of a request, in bytes, and its most headers.
const HEAD: (usize, usize) = (16 * 1024, 64);

/// How long a connection may take to end when the source is closed: its answers are small.
const LINGER: Duration = Duration::from_secs(1);

/// The pause after the system refused a connection, for want of descriptors mostly.
const BREATH: Duration = Duration::from_millis(100);

/// What is said to connections for which there is no room.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Takes connections.
pub(super) struct Server {
    pub(super) desk: Desk,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) limits: Limits,
    pub(super) closing: CancellationToken,
    pub(super) tasks: Tasks,
    pub(super) clock: Clock,
}

impl Server {
    /// Takes connections until it is closed.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
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
            self.tasks.spawn("webhook connection", async move {
                if let Err(error) = server.connection(stream).await {
                    tracing::debug!("a webhook's connection ended: {error}");
                }
                drop(place);
            });
        }
    }

    /// Says so where that is possible without waiting.
    fn turn_away(&self, stream: &TcpStream) {
        if self.tls.is_none() {
            // A sender that does not hear it sees the end of the connection.
            drop(stream.try_write(BUSY));
        }
    }

    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.converse(stream).await,
            Some(acceptor) => {
                let greeting = tokio::time::timeout(self.limits.head, acceptor.accept(stream));
                self.converse(greeting.await??).await
            }
        }
    }

    async fn converse<S>(&self, stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(async |request| {
            let answer = tokio::select! {
                biased;
                answer = self.desk.receive(request) => answer,
                () = self.closing.cancelled() => unavailable("the flow stops: it is not committed"),
            };
            Ok::<_, Infallible>(*answer)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
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
