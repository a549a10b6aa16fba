//! `source: {webhook: …}`: each request of some sender is a delivery.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use wiredflow_core::config::TriggerConfig;
use wiredflow_core::delivery::{Delivery, Settled};
use wiredflow_core::fields::{FromNode, Reading, Size};
use wiredflow_core::node::Node;
use wiredflow_core::stage::Source;
use wiredflow_core::{Result, config, json, words};

use crate::catalogue::{CheckCx, SourceKind};
use crate::http::Auth;
use crate::payload::Format;
use crate::resources::Resources;
use crate::tls::ServerKeys;
use crate::webhook::{Limits, Rules, Webhook, login_fault};

config! {
    /// Requests of other programs, each a delivery. The answer is 200 when the data is committed, and not before: what
    /// gets another answer or none may be sent again, and may be stored twice then. 400: it cannot be read (it is in the
    /// dead letters); 401: no login; 413: too long; 429 and 503: come again after `Retry-After`; 500: the flow failed on it.
    pub(crate) struct WebhookConfig {
        /// Where to listen. An address that other machines reach wants `tls` and `auth`.
        listen: ListenAddress,
        /// The path of the requests.
        path: String = "/",
        /// The method of the requests.
        method: Verb = "POST",
        /// What a sender must show: `{bearer: TOKEN}` or `{basic: {username, password}}`.
        auth: Option<Auth>,
        /// The certificate that senders are shown: `{cert, key}`, files in PEM.
        tls: Option<ServerKeys>,
        /// What bodies are: `json`, where an array gives many records; `text` and `binary` give one with the field
        /// `value`: the text as it is, the bytes in base64.
        format: Format = "json",
        /// The most bytes of a body, up to 1MiB.
        max_bytes: Size = "1MiB",
        /// How long a sender waits for its commit; then it is told 503, and the work goes on.
        reply_within: Duration = "30s",
    }
}

words! {
    /// The method of a request that brings data.
    pub(crate) enum Verb {
        Post = "POST",
        Put = "PUT",
        Patch = "PATCH",
    }
}

/// An address of this machine: `ADDRESS:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

impl FromNode for ListenAddress {
    const EXPECTS: &'static str = "an address such as `127.0.0.1:9000`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let text = String::from_node(node, reading)?;
        let address = parse(&text);
        if address.is_none() {
            let message = format!("`{}` is no address to listen at", text.escape_debug());
            let help =
                "such as `127.0.0.1:9000` for senders on this machine, or `0.0.0.0:9000` for all";
            reading.error_with_help(node.span, message, help);
        }
        address.map(Self)
    }
}

/// Reads `ADDRESS:PORT`, where `localhost` is 127.0.0.1.
pub(crate) fn parse(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}").parse().ok(),
        None => text.parse().ok(),
    }
}

/// Requests of other programs.
#[derive(Debug)]
pub(crate) struct WebhookSource(Webhook);

impl SourceKind for WebhookSource {
    const NAME: &'static str = "webhook";
    const EXAMPLE: &'static str = "webhook: {listen: \"127.0.0.1:9000\", path: /readings}";
    type Config = WebhookConfig;

    fn check(config: &WebhookConfig, node: &Node, cx: &mut CheckCx<'_>) {
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
        let address = config.listen.0;
        if !address.ip().to_canonical().is_loopback() {
            let mut missing = Vec::new();
            if config.tls.is_none() {
                missing.push("`tls: {cert: FILE, key: FILE}`");
            }
            if config.auth.is_none() {
                missing.push("`auth: {bearer: \"${env:TOKEN}\"}`");
            }
            if !missing.is_empty() {
                let message = format!(
                    "other machines reach `{address}`: it wants {}",
                    missing.join(" and ")
                );
                let help = "add that, or listen at `127.0.0.1` behind a proxy that does both";
                cx.reading.error_with_help(span("listen"), message, help);
            }
        }
        if let Some(other) = taken_by(address, cx) {
            let message = format!("pipeline `{other}` listens at that port already");
            let help = "give each webhook a port of its own";
            cx.reading.error_with_help(span("listen"), message, help);
        }
        let usual = |letter: char| letter.is_ascii_graphic() && !"?#<>\"\\^`{|}".contains(letter);
        if !config.path.starts_with('/') || !config.path.chars().all(usual) {
            let message = format!("`{}` is no path", config.path.escape_debug());
            let help = "such as `/readings`: it begins with `/`, and has no `?` and no space";
            cx.reading.error_with_help(span("path"), message, help);
        }
        if let Some(fault) = config.auth.as_ref().and_then(login_fault) {
            cx.reading.error(span("auth"), fault);
        }
        if !(1..=json::MAX_PAYLOAD as u64).contains(&config.max_bytes.0) {
            let message = "`max_bytes` must be from 1 to 1MiB: no source takes more at a time";
            cx.reading.error(span("max_bytes"), message);
        }
        if config.reply_within < Duration::from_millis(10) {
            let message = "`reply_within` must be at least 10ms";
            cx.reading.error(span("reply_within"), message);
        }
        if let (Some(tls), Some(entry)) = (&config.tls, node.entry("tls")) {
            let folder = cx.folder;
            cx.reading
                .inside("tls", |reading| tls.check(&entry.value, folder, reading));
        }
    }

    async fn open(config: WebhookConfig, resources: &Resources) -> Result<Self> {
        let rules = Rules {
            listen: config.listen.0,
            path: config.path,
            method: match config.method {
                Verb::Post => Method::POST,
                Verb::Put => Method::PUT,
                Verb::Patch => Method::PATCH,
            },
            auth: config.auth,
            tls: config.tls,
            max_bytes: usize::try_from(config.max_bytes.0).unwrap_or(usize::MAX),
            format: config.format,
            reply_within: config.reply_within,
        };
        Webhook::open(rules, Limits::default(), resources)
            .await
            .map(Self)
    }
}

impl Source for WebhookSource {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        self.0.next(most).await
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        self.0.settle(settled).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// The pipeline before this one that listens at the same port.
fn taken_by(address: SocketAddr, cx: &CheckCx<'_>) -> Option<String> {
    let clashes = |other: SocketAddr| {
        let everywhere = other.ip().is_unspecified() || address.ip().is_unspecified();
        address.port() != 0
            && other.port() == address.port()
            && (everywhere || other.ip() == address.ip())
    };
    let earlier = cx.flow.pipelines.iter();
    let mut earlier = earlier.take_while(|pipeline| pipeline.name != cx.pipeline);
    earlier.find_map(|pipeline| {
        let TriggerConfig::Source { kind, config } = &pipeline.trigger else {
            return None;
        };
        let listen = config.entry("listen").filter(|_| kind == "webhook")?;
        let other = parse(listen.value.as_text()?)?;
        clashes(other).then(|| pipeline.name.clone())
    })
}
