//! Requests from outside as deliveries: the sender hears of success when its data is committed.
//!
//! ```text
//! connection ─> desk: path, method, login, size, JSON ─> [queue] ─> engine ─> … ─> settled
//!      ^                                                                              │
//!      └───────────────────── 200 · 400 · 500 · 503 <─────────────────────────────────┘
//! ```
//!
//! A sender that gets no answer may send again: what it sent may be stored twice then, and is never lost.

mod answer;
mod desk;
mod login;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use reqwest::Method;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use wiredflow_core::delivery::{Delivery, Payload, Settled, Token};
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::Source;
use wiredflow_core::{Error, Result};

use crate::connections::{Answering, Connections, cannot_listen};
use crate::http::Auth;
use crate::payload::Format;
use crate::resources::Resources;
use crate::tls::ServerKeys;

use answer::unavailable;
use desk::Desk;

/// What a webhook is made of.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The path that is answered.
    pub path: String,
    /// The method that is answered.
    pub method: Method,
    /// What a sender must know.
    pub auth: Option<Auth>,
    /// The certificate that senders are shown.
    pub tls: Option<ServerKeys>,
    /// The most bytes of a body.
    pub max_bytes: usize,
    /// What a body is.
    pub format: Format,
    /// How long a sender waits for its commit.
    pub reply_within: Duration,
}

/// What is taken from senders at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more are turned away.
    pub connections: usize,
    /// From the beginning of a connection, or the end of the last answer, to the end of the next head.
    pub head: Duration,
    /// From the end of a head to the end of its body.
    pub body: Duration,
    /// Requests that wait for the engine; more are told to come again.
    pub queue: usize,
    /// KiB of all bodies that are read, wait, or are worked on.
    pub kibibytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            queue: 256,
            kibibytes: 64 * 1024,
        }
    }
}

/// A request whose sender waits for its end.
#[derive(Debug)]
struct Waiting {
    payload: Payload,
    /// Closed when the sender has gone away.
    tell: oneshot::Sender<Settled>,
}

/// A source that listens. Dropping it closes the port; who still waits is told to come again.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    origin: Arc<str>,
    queue: tokio::sync::Mutex<mpsc::Receiver<Waiting>>,
    next: AtomicU64,
    /// Who waits for the end of which delivery.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Settled>>>,
    closing: CancellationToken,
}

impl Webhook {
    /// Listens. A port that cannot be had is an error of kind `Config`.
    pub async fn open(rules: Rules, limits: Limits, resources: &Resources) -> Result<Self> {
        let tls = rules.tls.as_ref();
        let tls = tls.map(|keys| keys.load(&resources.folder)).transpose()?;
        let auth = rules.auth.as_ref().map(Auth::header).transpose()?;
        let listen = rules.listen;
        let failed = |error: io::Error| Error::config(cannot_listen(listen, &error));
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!(
            pipeline = %resources.pipeline,
            "listening at {scheme}://{address}{}", rules.path
        );
        let (sender, queue) = mpsc::channel(limits.queue);
        let origin = Arc::from(format!("{address}{}", rules.path));
        let closing = resources.stop.child_token();
        let desk = Desk {
            path: rules.path,
            method: rules.method,
            login: auth.map(|header| login::Login::new(&header)),
            max_bytes: rules.max_bytes,
            format: rules.format,
            reply_within: rules.reply_within,
            body_within: limits.body,
            queue: sender,
            memory: Arc::new(Semaphore::new(limits.kibibytes)),
        };
        let connections = Connections {
            answering: Door {
                desk,
                closing: closing.clone(),
            },
            whose: "a webhook",
            tls: tls.map(Into::into),
            most: limits.connections,
            head: limits.head,
            closing: closing.clone(),
            tasks: resources.tasks.clone(),
            clock: resources.clock.clone(),
        };
        let serving = Arc::new(connections).run(listener);
        resources.tasks.spawn("webhook", serving);
        Ok(Self {
            address,
            origin,
            queue: tokio::sync::Mutex::new(queue),
            next: AtomicU64::new(0),
            waiting: Mutex::default(),
            closing,
        })
    }

    /// Where it listens, with the port that was found where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Settled>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns a request into a delivery, unless its sender has gone: he was told nothing, and sends again.
    fn admit(&self, request: Waiting) -> Option<Delivery> {
        if request.tell.is_closed() {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(id, request.tell);
        Some(Delivery {
            token: Token { epoch: 0, id },
            identity: None,
            payload: request.payload,
            origin: Some(Arc::clone(&self.origin)),
        })
    }
}

/// The desk, until it is closed.
struct Door {
    desk: Desk,
    closing: CancellationToken,
}

impl Answering for Door {
    type Body = Full<Bytes>;

    async fn answer(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<Full<Bytes>> {
        let answer = tokio::select! {
            biased;
            answer = self.desk.receive(request) => answer,
            () = self.closing.cancelled() => unavailable("the flow stops: it is not committed"),
        };
        *answer
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl Source for Webhook {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        let mut queue = self.queue.lock().await;
        loop {
            let mut arrived = Vec::new();
            if queue.recv_many(&mut arrived, most).await == 0 {
                return Ok(Vec::new());
            }
            // No await from here on: what was taken from the queue is handed on.
            let admitted = arrived
                .into_iter()
                .filter_map(|request| self.admit(request));
            let deliveries: Vec<Delivery> = admitted.collect();
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
        }
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        let mut waiting = self.waiting();
        for end in settled {
            if let Some(tell) = waiting.remove(&end.token.id) {
                // A sender that has gone away hears nothing.
                drop(tell.send(end));
            }
        }
        Ok(())
    }

    async fn close(&self) {
        let mut queue = self.queue.lock().await;
        queue.close();
        // Who waits in the queue is told to come again.
        while queue.try_recv().is_ok() {}
    }
}

/// Whether a login lets nobody in or everybody: one of the two forms, and nothing empty.
pub(crate) fn login_fault(auth: &Auth) -> Option<String> {
    let empty = |secret: &Secret| secret.expose().trim().is_empty();
    match (&auth.basic, &auth.bearer) {
        (Some(_), Some(_)) | (None, None) => {
            Some("`auth` has exactly one of `basic` and `bearer`".to_owned())
        }
        (None, Some(token)) if empty(token) => Some("the token is empty".to_owned()),
        (Some(basic), None) if empty(&basic.username) || empty(&basic.password) => {
            Some("the name or the password is empty".to_owned())
        }
        _ => auth.header().err().map(|error| error.message().to_owned()),
    }
}
