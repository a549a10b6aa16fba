//! `http`: a service that takes a call by POST and answers with what it made, at once or later.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use wiredflow_core::charge::Activity;
use wiredflow_core::fields::Pairs;
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::{BoxFuture, Cx};
use wiredflow_core::{Batch, Error, ErrorKind, Result, config};

use super::{Caller, CallerKind, Order};
use crate::catalogue::CheckCx;
use crate::clock::Clock;
use crate::http::{Auth, HttpClient, JSON, Parts, Request, Target};
use crate::resources::Resources;
use crate::tasks::Tasks;
use crate::tls::{TlsKeys, warn_if_insecure};

/// The longest answer, in bytes: as long as a frame of a worker.
const MOST: usize = wiredflow_core::frame::FRAME_LIMIT;

/// What a call is known by when it comes again.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

config! {
    /// A service that does a stage's work: it takes each call by POST, and answers with what it made (200), or with an
    /// address at which that is asked for (202).
    pub struct HttpRemoteConfig short url {
        /// The address: `http://…` or `https://…`.
        url: String,
        /// Headers.
        headers: Pairs<Secret>,
        /// Pairs for the address's query; a list repeats its name.
        query: Pairs<Vec<Secret>>,
        /// How to log in: `{basic: {username, password}}` or `{bearer: TOKEN}`.
        auth: Option<Auth>,
        /// Certificates: `{ca, cert, key}`; `{insecure: true}` takes any, for a trial.
        tls: Option<TlsKeys>,
        /// How often an answer that takes its time is asked for, unless the service says (`Retry-After`).
        poll: Duration = "1s",
        /// Calls at once, of all stages together.
        slots: usize = "4",
    }
}

impl HttpRemoteConfig {
    fn target(&self) -> Target<'_> {
        Target {
            url: &self.url,
            query: &self.query,
            headers: &self.headers,
            auth: self.auth.as_ref(),
            tls: self.tls.as_ref(),
            allow_hosts: &[],
        }
    }
}

/// See [`HttpRemoteConfig`].
#[derive(Debug)]
pub(crate) struct Http {
    client: HttpClient,
    parts: Parts,
    poll: Duration,
    clock: Clock,
    tasks: Tasks,
}

impl CallerKind for Http {
    const NAME: &'static str = "http";
    const EXAMPLE: &'static str =
        r#"http: {url: "https://score.internal/run", auth: {bearer: "${env:TOKEN:-none}"}}"#;
    type Config = HttpRemoteConfig;

    fn check(config: &HttpRemoteConfig, node: &Node, cx: &mut CheckCx<'_>) {
        config.target().check(node, cx);
    }

    fn slots(config: &HttpRemoteConfig) -> usize {
        config.slots
    }

    fn open(config: &HttpRemoteConfig, resources: &Resources) -> Result<Self> {
        let tls = config.tls.as_ref();
        let client = resources
            .http
            .open(tls, &resources.folder, &resources.clock)?;
        warn_if_insecure(tls, resources);
        Ok(Self {
            client,
            parts: config.target().parts()?,
            poll: config.poll,
            clock: resources.clock.clone(),
            tasks: resources.tasks.clone(),
        })
    }
}

impl Caller for Http {
    fn call<'a>(&'a self, order: Order<'a>) -> BoxFuture<'a, Result<Batch>> {
        Box::pin(self.have_done(order))
    }

    fn look<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let mut request = self.parts.request(Method::OPTIONS);
            // Whatever it says, it is there; but a login that it refuses would be refused to calls too.
            request.also = &[
                StatusCode::BAD_REQUEST,
                StatusCode::NOT_FOUND,
                StatusCode::METHOD_NOT_ALLOWED,
                StatusCode::NOT_IMPLEMENTED,
            ];
            let answer = self.client.ask(&request, MOST, cx).await?;
            Ok(format!(
                "the service answers ({} to OPTIONS); calls were not made",
                answer.status()
            ))
        })
    }
}

impl Http {
    async fn have_done(&self, order: Order<'_>) -> Result<Batch> {
        let mut request = self.parts.request(Method::POST);
        request = request.with_body(order.document().to_string(), JSON);
        if let Ok(key) = HeaderValue::from_str(order.id) {
            request.headers.entry(KEY).or_insert(key);
        }
        let mut answer = self.client.ask(&request, MOST, order.cx).await?;
        let mut under_way: Option<Ends> = None;
        while answer.status() == StatusCode::ACCEPTED {
            let place = answer.header(&LOCATION).map(str::to_owned);
            let wait = answer
                .header(&RETRY_AFTER)
                .and_then(|text| text.parse().ok());
            let wait = wait.map_or(self.poll, Duration::from_secs);
            let request = match (place, &under_way) {
                (Some(place), _) => self.at(&place)?,
                (None, Some(known)) => Arc::clone(&known.request),
                (None, None) => {
                    return Err(Error::data(format!(
                        "{}: it answers 202 and does not say where to ask for the result (`Location`)",
                        self.parts.url
                    )));
                }
            };
            match &mut under_way {
                Some(known) => known.request = Arc::clone(&request),
                None => under_way = Some(Ends::new(self, &request)),
            }
            order
                .cx
                .spend(Activity::External, self.clock.sleep(wait))
                .await;
            let asked = self.client.ask(&request, MOST, order.cx).await;
            if let (Err(error), Some(ends)) = (&asked, &mut under_way) {
                // It goes on: the next attempt asks for the same.
                ends.is_over = error.kind() == ErrorKind::Remote;
            }
            answer = asked.map_err(Error::as_sent)?;
        }
        if let Some(ends) = &mut under_way {
            ends.is_over = true;
        }
        answer.into_batch()
    }

    /// A request for what is made at a place that the service has named.
    fn at(&self, place: &str) -> Result<Arc<Request>> {
        let url = self.parts.url.join(place).map_err(|error| {
            Error::data(format!(
                "{}: `Location` is no address: {error}",
                self.parts.url
            ))
        })?;
        let mut parts = self.parts.clone();
        parts.lead_to(url);
        parts.query.clear();
        Ok(Arc::new(parts.request(Method::GET)))
    }
}

/// Tells the service that nobody waits any more, when it is dropped before the end.
struct Ends {
    request: Arc<Request>,
    client: HttpClient,
    tasks: Tasks,
    is_over: bool,
}

impl Ends {
    fn new(http: &Http, request: &Arc<Request>) -> Self {
        Self {
            request: Arc::clone(request),
            client: http.client.clone(),
            tasks: http.tasks.clone(),
            is_over: false,
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.is_over || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let mut request = (*self.request).clone();
        request.method = Method::DELETE;
        let client = self.client.clone();
        // It is a favour: a service that cannot be told goes on for nobody.
        self.tasks
            .farewell(async move { client.tell(&request).await });
    }
}
