//! `http_post` and `http_put`: one request for each message.

use std::sync::Arc;

use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use wiredflow_core::fields::Pairs;
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::Cx;
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Error, ErrorKind, Result, config};

use crate::catalogue::{CheckCx, SenderKind};
use crate::http::{Auth, HttpClient, JSON, Request, TEXT, Target};
use crate::resources::Resources;
use crate::senders::{Message, Sender};
use crate::tls::{TlsKeys, warn_if_insecure};

/// Where a peer finds what a message is known by when it comes again.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

config! {
    /// Sends each record to a peer by HTTP, one request after the other. A status of success (2xx) confirms it.
    pub struct HttpSenderConfig short url {
        /// The address: `http://…` or `https://…`.
        url: String,
        /// Headers. `Content-Type` is JSON, or plain text where a field's bare text is sent, and `Idempotency-Key` is
        /// the same when a record is sent again, also after a crash, unless they stand here.
        headers: Pairs<Secret>,
        /// Pairs for the address's query; a list repeats its name.
        query: Pairs<Vec<Secret>>,
        /// How to log in: `{basic: {username, password}}` or `{bearer: TOKEN}`.
        auth: Option<Auth>,
        /// Certificates: `{ca, cert, key}`; `{insecure: true}` takes any, for a trial.
        tls: Option<TlsKeys>,
    }
}

impl HttpSenderConfig {
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

/// Sends by POST.
#[derive(Debug)]
pub(super) struct HttpPost(HttpSender);

/// Sends by PUT.
#[derive(Debug)]
pub(super) struct HttpPut(HttpSender);

impl SenderKind for HttpPost {
    const NAME: &'static str = "http_post";
    const EXAMPLE: &'static str =
        r#"send: {http_post: {url: "http://localhost:8027"}, field: value}"#;
    type Config = HttpSenderConfig;

    fn check(config: &HttpSenderConfig, node: &Node, cx: &mut CheckCx<'_>) {
        config.target().check(node, cx);
    }

    async fn open(config: HttpSenderConfig, resources: &Resources) -> Result<Self> {
        HttpSender::open(&config, Method::POST, resources).map(Self)
    }
}

impl SenderKind for HttpPut {
    const NAME: &'static str = "http_put";
    const EXAMPLE: &'static str = r#"send: {http_put: {url: "http://localhost:8027/latest", auth: {bearer: "${env:TOKEN:-none}"}}}"#;
    type Config = HttpSenderConfig;

    fn check(config: &HttpSenderConfig, node: &Node, cx: &mut CheckCx<'_>) {
        config.target().check(node, cx);
    }

    async fn open(config: HttpSenderConfig, resources: &Resources) -> Result<Self> {
        HttpSender::open(&config, Method::PUT, resources).map(Self)
    }
}

impl Sender for HttpPost {
    async fn send(&self, messages: &[Message], cx: &Cx) -> Result<CommitReceipt> {
        self.0.send(messages, cx).await
    }
}

impl Sender for HttpPut {
    async fn send(&self, messages: &[Message], cx: &Cx) -> Result<CommitReceipt> {
        self.0.send(messages, cx).await
    }
}

#[derive(Debug)]
struct HttpSender {
    client: HttpClient,
    /// The request without its body.
    request: Request,
    sink: Arc<str>,
}

impl HttpSender {
    fn open(config: &HttpSenderConfig, method: Method, resources: &Resources) -> Result<Self> {
        let (tls, folder) = (config.tls.as_ref(), &resources.folder);
        let client = resources.http.open(tls, folder, &resources.clock)?;
        warn_if_insecure(tls, resources);
        let parts = config.target().parts()?;
        let request = parts.request(method);
        let sink = Arc::clone(&resources.stage);
        Ok(Self {
            client,
            request,
            sink,
        })
    }

    async fn send(&self, messages: &[Message], cx: &Cx) -> Result<CommitReceipt> {
        for message in messages {
            let kind = if message.json { JSON } else { TEXT };
            let mut request = self.request.clone().with_body(message.body.clone(), kind);
            if let Some(key) = cx.keys.as_ref().and_then(|keys| keys.get(message.record))
                && let Ok(key) = HeaderValue::from_str(key)
            {
                request.headers.entry(KEY).or_insert(key);
            }
            let confirmed = self.client.confirm(&request, cx).await;
            confirmed.map_err(|error| refused(error, message))?;
        }
        Ok(CommitReceipt::issue(Arc::clone(&self.sink), messages.len()))
    }
}

/// What the peer will never take is the one message's fault.
fn refused(error: Error, message: &Message) -> Error {
    match error.kind() {
        ErrorKind::Data => error.at_record(message.record),
        ErrorKind::Config | ErrorKind::Remote | ErrorKind::Bug => error,
    }
}
