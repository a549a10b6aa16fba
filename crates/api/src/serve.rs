//! The API at work: a port, and the flow that is shown on it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::connections::{Answering, Connections, cannot_listen};
use wiredflow_engine::listen::{self, Listen};
use wiredflow_engine::state::create_folder;
use wiredflow_engine::tasks::Tasks;

use crate::address::{Left, Note};
use crate::answer::guarded;
use crate::desk::{Desk, Live};
use crate::logs::Recent;
use crate::tokens::{Keys, Role, token_file};
use crate::{events, gate, routes};

/// Connections at once; more are turned away.
const CONNECTIONS: usize = 256;

/// How long a caller may take to say what it wants.
const HEAD: Duration = Duration::from_secs(5);

/// How many ports from the default one on are tried.
const PORTS: u16 = 100;

/// A port that is open, on which nothing is answered yet.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<wiredflow_engine::tls::ServerKeys>,
    folder: PathBuf,
    state: PathBuf,
    keys: Keys,
    is_default: bool,
}

impl Door {
    /// Takes the port, and reads or makes the tokens in the state folder. None where the flow listens nowhere, or the
    /// file says nothing and no port can be had, which is told. Must be called inside the runtime.
    ///
    /// # Errors
    /// `Config`: a port that the file names is taken, or the tokens are not safe.
    pub async fn open(listen: &Listen, folder: &Path, state: &Path) -> Result<Option<Self>> {
        let (listener, tls) = match listen {
            Listen::Off => return Ok(None),
            Listen::At { address, tls } => {
                let listener = TcpListener::bind(address).await;
                let failed = |error: io::Error| Error::config(cannot_listen(*address, &error));
                (listener.map_err(failed)?, tls.clone())
            }
            Listen::Default => match any_port().await {
                Ok(listener) => (listener, None),
                Err(error) => {
                    tracing::warn!("no API: cannot listen at {}: {error}", listen::DEFAULT);
                    return Ok(None);
                }
            },
        };
        let told = |error: io::Error| Error::config(format!("cannot listen: {error}"));
        let address = listener.local_addr().map_err(told)?;
        create_folder(state)?;
        Ok(Some(Self {
            listener,
            address,
            tls,
            folder: folder.to_owned(),
            state: state.to_owned(),
            keys: Keys::open(state)?,
            is_default: *listen == Listen::Default,
        }))
    }

    /// Answers from now on, of the flow that is [shown](Server::show); until then that none runs.
    ///
    /// # Errors
    /// `Config` when the certificate cannot be used.
    pub fn serve(self, clock: &Clock, logs: &Recent) -> Result<Server> {
        let keys = self.tls.as_ref();
        let tls = keys.map(|keys| keys.load(&self.folder)).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", self.address);
        let desk = Arc::new(Desk {
            live: RwLock::default(),
            keys: self.keys,
            limiter: crate::limiter::Limiter::default(),
            clock: clock.clone(),
            logs: logs.clone(),
            events: broadcast::channel(events::BEHIND).0,
            listeners: Arc::new(Semaphore::new(events::READERS)),
            readers: Desk::readers(),
            is_loopback: self.address.ip().to_canonical().is_loopback(),
            has_tls: tls.is_some(),
            url: url.clone(),
            closing: CancellationToken::new(),
        });
        let tasks = Tasks::default();
        let connections = Connections {
            answering: Answers {
                router: TowerToHyperService::new(routes::router(Arc::clone(&desk))),
                desk: Arc::clone(&desk),
            },
            whose: "the API",
            tls: tls.map(Into::into),
            most: CONNECTIONS,
            head: HEAD,
            closing: desk.closing.clone(),
            tasks: tasks.clone(),
            clock: clock.clone(),
        };
        tasks.spawn("api", Arc::new(connections).run(self.listener));
        tasks.spawn("events", events::tell(Arc::clone(&desk)));
        let cert = self
            .tls
            .as_ref()
            .map(|keys| self.folder.join(keys.cert_file()));
        let note = Note {
            url: url.clone(),
            cert: cert.map(|cert| std::path::absolute(&cert).unwrap_or(cert)),
            pid: std::process::id(),
        };
        let left = match Left::leave(&self.state, &note) {
            Ok(left) => Some(left),
            Err(error) => {
                tracing::warn!(
                    "the verbs that ask a running flow will not find it by its file: {error}"
                );
                None
            }
        };
        let token = token_file(&self.state, Role::Admin);
        let usual = listen::DEFAULT.port();
        if self.is_default && self.address.port() != usual {
            tracing::info!(token = %token.display(), "API at {url}, as port {usual} is taken");
        } else {
            tracing::info!(token = %token.display(), "API at {url}");
        }
        Ok(Server {
            desk,
            tasks,
            address: self.address,
            _left: left,
        })
    }
}

/// The default port, or the next one that is free.
async fn any_port() -> io::Result<TcpListener> {
    let first = listen::DEFAULT;
    let mut last = None;
    for port in first.port()..first.port() + PORTS {
        match TcpListener::bind((first.ip(), port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
            listener => return listener,
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// The API of a running flow. Dropping it closes the port at once.
#[derive(Debug)]
pub struct Server {
    desk: Arc<Desk>,
    tasks: Tasks,
    address: SocketAddr,
    _left: Option<Left>,
}

impl Server {
    /// Where it listens, with the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows this flow from now on, or that none runs.
    pub fn show(&self, live: Option<Live>) {
        let mut shown = self
            .desk
            .live
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *shown = live.map(Arc::new);
    }

    /// Ends it in good order: answers that are being given are given, within a second.
    pub async fn close(self) {
        self.desk.closing.cancel();
        self.tasks.finished().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.desk.closing.cancel();
        self.tasks.abort();
    }
}

/// What answers on connections.
struct Answers {
    desk: Arc<Desk>,
    router: TowerToHyperService<Router>,
}

impl Answering for Answers {
    type Body = Body;

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        guarded(match gate::admit(&self.desk, request, peer).await {
            Ok(request) => match self.router.call(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            },
            Err(refused) => *refused,
        })
    }
}
