//! The one HTTP client: what the `http` stage and the HTTP senders share.
//!
//! It asks, follows a few redirects without carrying secrets to strangers, looks at the status, and reads
//! within limits. An address that comes from data reaches public ones only ([`Reach`]). It never tries again: that is the engine's.

mod answer;
pub(crate) mod failure;
mod keys;
mod names;
mod parts;
mod reach;
mod request;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wiredflow_core::stage::Cx;
use wiredflow_core::{Error, Result};

use crate::clock::Clock;
use crate::tls::{TlsFiles, TlsKeys};

use names::Names;
use reach::Space;

pub use answer::Answer;
pub use keys::{Auth, Basic, Target, is_local, read_url, set_header};
pub use names::Lookup;
pub use parts::{Body, Parts};
pub(crate) use parts::{JSON, TEXT, query_of};
pub use reach::{AllowedHost, Reach};
pub use request::Request;

/// How many requests to one origin are under way at once; more wait. It keeps a start of thousands of
/// pipelines at one second from opening as many connections.
const AT_ONCE: usize = 512;

/// How long an unused connection is kept.
const KEPT: Duration = Duration::from_secs(60);

/// The time of an attempt when the user says nothing; who says more knows a slow peer.
const USUAL_ATTEMPT: Duration = Duration::from_secs(30);

/// How long single steps of a request may take; the whole has the engine's time limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Finding the host, connecting, greeting in TLS.
    pub connect: Duration,
    /// From one piece of the answer to the next, and from the question to the first.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(10),
        }
    }
}

/// The HTTP clients of a flow. Those who trust and show the same certificates share connections. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct HttpClients {
    limits: Limits,
    names: Names,
    pools: Arc<Mutex<HashMap<[u8; 32], Weak<Pool>>>>,
}

impl HttpClients {
    /// Clients with other limits than the usual ones.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The same clients with another way to find hosts than the system's. Where a request may go is
    /// decided as ever.
    #[must_use]
    pub fn with_lookup(mut self, lookup: Lookup) -> Self {
        self.names = Names::new(lookup);
        self
    }

    /// A client. Reads certificates, connects nowhere; its connections end when its last clone is dropped.
    pub fn open(&self, tls: Option<&TlsKeys>, folder: &Path, clock: &Clock) -> Result<HttpClient> {
        let files = tls.map_or_else(|| Ok(TlsFiles::default()), |keys| keys.load(folder))?;
        let fingerprint = files.fingerprint();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| pool.strong_count() > 0);
        let shared = pools.get(&fingerprint).and_then(Weak::upgrade);
        let pool = match shared {
            Some(pool) => pool,
            None => {
                let pool = Arc::new(Pool::new(&files, self.limits, &self.names)?);
                pools.insert(fingerprint, Arc::downgrade(&pool));
                pool
            }
        };
        let clock = clock.clone();
        Ok(HttpClient { pool, clock })
    }
}

/// Asks peers. A cheap clone of shared connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    pool: Arc<Pool>,
    clock: Clock,
}

#[derive(Debug)]
struct Pool {
    /// For peers on this machine: a proxy could not reach them.
    local: reqwest::Client,
    /// For all others, by the proxy that the environment names, if any.
    remote: reqwest::Client,
    /// For addresses to which a peer of a network leads. Nobody shares a connection with those who may
    /// reach further, and a proxy would find hosts by itself: so each reach has a client of its own.
    inside: reqwest::Client,
    /// For addresses that come from data.
    public: reqwest::Client,
    /// Whether the environment names a proxy.
    proxied: bool,
    limits: Limits,
    /// The places of each origin. Weak, since an address may be made from data.
    origins: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl Pool {
    fn new(files: &TlsFiles, limits: Limits, names: &Names) -> Result<Self> {
        let mut tls = files.client_config()?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let builder = |deepest: Space| {
            reqwest::Client::builder()
                .dns_resolver(names.up_to(deepest))
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("wiredflow/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                .referer(false)
                .connect_timeout(limits.connect)
                .pool_idle_timeout(KEPT)
                .pool_max_idle_per_host(AT_ONCE)
        };
        let build = |builder: reqwest::ClientBuilder| {
            let failed =
                |error| Error::config(format!("HTTP cannot be set up: {}", failure::words(&error)));
            builder.build().map_err(failed)
        };
        Ok(Self {
            local: build(builder(Space::Machine).no_proxy())?,
            remote: build(builder(Space::Machine))?,
            inside: build(builder(Space::Private).no_proxy())?,
            public: build(builder(Space::Public).no_proxy())?,
            proxied: names_a_proxy(),
            limits,
            origins: Mutex::default(),
        })
    }

    fn client(&self, url: &Url, deepest: Space) -> &reqwest::Client {
        match deepest {
            Space::Public => &self.public,
            Space::Private => &self.inside,
            Space::Machine if is_local(url) => &self.local,
            Space::Machine => &self.remote,
        }
    }

    /// How far inside the peer lies that has answered. What a proxy has found may be anywhere.
    fn space(&self, url: &Url, response: &reqwest::Response) -> Space {
        let peer = match reach::literal(url) {
            Some(address) => Some(address),
            None if self.proxied && !is_local(url) => None,
            None => response.remote_addr().map(|address| address.ip()),
        };
        peer.map_or(Space::Public, reach::space)
    }

    /// Waits for a place at the origin of the address.
    async fn place(&self, url: &Url) -> Result<OwnedSemaphorePermit> {
        let origin = url.origin().ascii_serialization();
        let places = {
            let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
            let known = origins.get(&origin).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                if origins.len() == origins.capacity() {
                    origins.retain(|_, places| places.strong_count() > 0);
                }
                let places = Arc::new(Semaphore::new(AT_ONCE));
                origins.insert(origin, Arc::downgrade(&places));
                places
            })
        };
        let closed = |_| Error::bug("the places of an origin were closed");
        places.acquire_owned().await.map_err(closed)
    }

    /// The longest silence of a peer: a stage whose `timeout` is above the usual may wait so long.
    fn idle(&self, cx: &Cx) -> Duration {
        match cx.deadline {
            Some(deadline) if deadline > USUAL_ATTEMPT => deadline,
            _ => self.limits.idle,
        }
    }
}

/// Whether the environment names a proxy for any address.
fn names_a_proxy() -> bool {
    let names = ["http_proxy", "https_proxy", "all_proxy"];
    names.iter().any(|name| {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        set(name) || set(&name.to_uppercase())
    })
}
