//! Asks a running flow, for the verbs.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use wiredflow_core::{Error, Result};
use wiredflow_engine::tls::{TlsFiles, pinned};

use crate::address::Note;
use crate::tokens;

/// How long an answer may take, beside what is asked for.
const WITHIN: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const LONGEST: usize = 64 << 20;

/// A running flow, and the token that it is asked with.
#[derive(Debug)]
pub struct Client {
    url: Url,
    token: String,
    http: reqwest::Client,
}

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The flow has answered so.
    Answer(u16, String),
    /// There was no answer.
    Away(String),
}

impl Refusal {
    /// What is told.
    pub fn message(&self) -> &str {
        match self {
            Self::Answer(_, message) | Self::Away(message) => message,
        }
    }
}

impl Client {
    /// The flow at this URL, verified by the authorities of the system; `token` is the file of its token.
    ///
    /// # Errors
    /// `Config`: the URL or the file is wrong.
    pub fn of_url(url: &str, token: &Path) -> Result<Self> {
        let url = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
            .ok_or_else(|| Error::config("a URL of a flow looks like `http://127.0.0.1:8420`"))?;
        let is_near = match url.host_str() {
            Some("localhost") => true,
            Some(host) => {
                let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
                address.is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
            None => false,
        };
        if url.scheme() == "http" && !is_near {
            return Err(Error::config(
                "a token is sent to other machines over `https` only",
            ));
        }
        let tls = TlsFiles::default().client_config()?;
        Self::new(url, token, tls)
    }

    /// The flow that has left this note, known by its very certificate.
    ///
    /// # Errors
    /// `Config`: the file of the token or of the certificate is not as it should be.
    pub fn of_note(note: &Note, token: &Path) -> Result<Self> {
        let mut url = Url::parse(&note.url)
            .map_err(|_| Error::config(format!("`{}` is no URL", note.url)))?;
        let address = url.host_str().map(|host| host.trim_matches(['[', ']']));
        let address = address.and_then(|host| host.parse::<std::net::IpAddr>().ok());
        if address.is_some_and(|address| address.is_unspecified()) {
            // It listens everywhere, so here too.
            let here = match address {
                Some(std::net::IpAddr::V6(_)) => "[::1]",
                _ => "127.0.0.1",
            };
            url.set_host(Some(here))
                .map_err(|error| Error::bug(format!("no address: {error}")))?;
        }
        let tls = match &note.cert {
            Some(cert) => pinned(cert)?,
            None => TlsFiles::default().client_config()?,
        };
        Self::new(url, token, tls)
    }

    fn new(url: Url, token: &Path, tls: rustls::ClientConfig) -> Result<Self> {
        let token = tokens::read(token)?.ok_or_else(|| {
            Error::config(format!(
                "there is no token in `{}`: name its file with `--token-file`",
                token.display()
            ))
        })?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("wiredflow/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(WITHIN)
            .build()
            .map_err(|error| Error::config(format!("HTTP cannot be set up: {error}")))?;
        Ok(Self { url, token, http })
    }

    /// Where it asks.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Reads a document: `path` below `/api/v1`, `query` by name. `more` is how long the question itself takes.
    ///
    /// # Errors
    /// What the flow says, or that it is not there.
    pub async fn get(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        more: Duration,
    ) -> std::result::Result<Value, Refusal> {
        self.ask(Method::GET, path, query, more).await
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post(&self, path: &[&str]) -> std::result::Result<Value, Refusal> {
        self.ask(Method::POST, path, &[], Duration::ZERO).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        more: Duration,
    ) -> std::result::Result<Value, Refusal> {
        let mut url = self.url.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url).bearer_auth(&self.token);
        let away = |error: reqwest::Error| {
            let mut words = error.without_url().to_string();
            words.truncate(200);
            Refusal::Away(format!("no answer from {}: {words}", self.url))
        };
        let sent = request.timeout(WITHIN + more).send().await;
        let mut answer = sent.map_err(away)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(away)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LONGEST {
                return Err(Refusal::Away("the answer is too long".to_owned()));
            }
        }
        let document: Option<Value> = serde_json::from_slice(&bytes).ok();
        if status.is_success() {
            let none = || {
                Refusal::Away(format!(
                    "{} answers with something else than JSON",
                    self.url
                ))
            };
            return document.ok_or_else(none);
        }
        let said = document
            .as_ref()
            .and_then(|document| document["error"].as_str());
        let said = match (said, status) {
            (Some(said), _) => said.to_owned(),
            (None, StatusCode::SERVICE_UNAVAILABLE) => {
                "it has no room for another caller".to_owned()
            }
            (None, status) => format!("the answer is {status}"),
        };
        Err(Refusal::Answer(status.as_u16(), said))
    }
}
