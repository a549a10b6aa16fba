//! `http`: asks a peer and hands on the JSON of its answer.

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use wiredflow_core::charge::Activity;
use wiredflow_core::fields::{Pairs, Size};
use wiredflow_core::node::Node;
use wiredflow_core::problem::possible;
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Error, Map, Result, Value, config};

use crate::catalogue::{CheckCx, StageKind, Work};
use crate::http::{
    AllowedHost, Answer, Auth, Body, HttpClient, Parts, Request, Target, query_of, read_url,
    set_header,
};
use crate::resources::Resources;
use crate::tls::{TlsKeys, warn_if_insecure};

/// From this length on an answer is read on a thread that may take its time.
const LONG: usize = 256 * 1024;

/// The highest `max_bytes`.
const MOST_BYTES: u64 = 1 << 30;

/// The params of a configuration that replace the stage's own keys.
const PARAMS: [&str; 7] = ["url", "params", "query", "headers", "data", "body", "json"];

config! {
    /// Asks a peer by HTTP: its JSON answer is what the next stage gets, an array as many records, an object as one.
    pub struct HttpConfig short url {
        /// The address: `http://…` or `https://…`.
        url: String,
        /// `GET`, `POST` or any other.
        method: String = "GET",
        /// Headers of the request, by name.
        headers: Pairs<Secret>,
        /// Pairs for the address's query; a list repeats its name.
        query: Pairs<Vec<Secret>>,
        /// A text to send.
        body: Option<Secret>,
        /// A value to send as JSON.
        json: Option<Value>,
        /// How to log in: `{basic: {username, password}}` or `{bearer: TOKEN}`.
        auth: Option<Auth>,
        /// Certificates: `{ca, cert, key}`; `{insecure: true}` takes any, for a trial.
        tls: Option<TlsKeys>,
        /// Hosts, as `HOST` or `HOST:PORT`, that the `url` of a configuration may name though they are not public. The
        /// host, scheme and port of the stage's own `url` are always allowed; any other host must be public, and gets
        /// neither the stage's `headers` and `query` nor its login.
        allow_hosts: Vec<AllowedHost>,
        /// The most bytes of an answer, after unpacking.
        max_bytes: Size = "16MiB",
    }
}

impl HttpConfig {
    fn target(&self) -> Target<'_> {
        Target {
            url: &self.url,
            query: &self.query,
            headers: &self.headers,
            auth: self.auth.as_ref(),
            tls: self.tls.as_ref(),
            allow_hosts: &self.allow_hosts,
        }
    }
}

/// Asks a peer by HTTP.
#[derive(Debug)]
pub(super) struct Http {
    client: HttpClient,
    method: Method,
    max_bytes: usize,
    /// What the flow file says; a configuration may replace parts of it.
    parts: Parts,
    /// The request where nothing is replaced.
    request: Request,
}

impl StageKind for Http {
    const NAME: &'static str = "http";
    const EXAMPLE: &'static str =
        r#"http: {url: "http://localhost:8027", headers: {apikey: "${env:API_KEY:-none}"}}"#;
    const WORK: Work = Work::Peer;
    type Config = HttpConfig;

    fn check(config: &HttpConfig, node: &Node, cx: &mut CheckCx<'_>) {
        config.target().check(node, cx);
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
        if let Err(error) = read_method(&config.method) {
            cx.reading.error(span("method"), error.message());
        }
        if config.body.is_some() && config.json.is_some() {
            let message = "`body` beside `json`: a request has one body";
            cx.reading.error(span("json"), message);
        }
        if !(1..=MOST_BYTES).contains(&config.max_bytes.0) {
            let message = "`max_bytes` must be from 1 to 1GiB";
            cx.reading.error(span("max_bytes"), message);
        }
    }

    async fn open(config: HttpConfig, resources: &Resources) -> Result<Self> {
        let (tls, folder) = (config.tls.as_ref(), &resources.folder);
        let client = resources.http.open(tls, folder, &resources.clock)?;
        warn_if_insecure(tls, resources);
        let method = read_method(&config.method)?;
        let max_bytes = usize::try_from(config.max_bytes.0).unwrap_or(usize::MAX);
        let mut parts = config.target().parts()?;
        parts.body = match (&config.json, &config.body) {
            (Some(json), _) => Some(Body::Json(json.to_string())),
            (None, Some(text)) => Some(Body::Text(text.expose().to_owned())),
            (None, None) => None,
        };
        let request = parts.request(method.clone());
        Ok(Self {
            client,
            method,
            max_bytes,
            parts,
            request,
        })
    }
}

impl Stage for Http {
    async fn run(&self, _: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let answer = if cx.params.is_empty() {
            self.client.ask(&self.request, self.max_bytes, cx).await?
        } else {
            let parts = replaced(&self.parts, &cx.params)?;
            let request = parts.request(self.method.clone());
            self.client.ask(&request, self.max_bytes, cx).await?
        };
        let batch = if self.method == Method::HEAD {
            Batch::default()
        } else {
            cx.spend(Activity::Compute, read(answer)).await?
        };
        out.emit(batch).await
    }
}

async fn read(answer: Answer) -> Result<Batch> {
    if answer.length() < LONG {
        return answer.into_batch();
    }
    let reading = tokio::task::spawn_blocking(|| answer.into_batch());
    let stopped = |error| Error::bug(format!("the reading of an answer ended: {error}"));
    reading.await.map_err(stopped)?
}

/// Methods are written in any case.
fn read_method(text: &str) -> Result<Method> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes());
    match method {
        Ok(Method::CONNECT | Method::TRACE) | Err(_) => Err(Error::config(format!(
            "`{}` is no method that can be asked: `GET`, `POST`, `PUT`, `PATCH` and `DELETE` are the usual ones",
            text.escape_debug()
        ))),
        Ok(method) => Ok(method),
    }
}

/// The parts with the params of a configuration in their places. One that is null counts as not given.
fn replaced(parts: &Parts, params: &Map) -> Result<Parts> {
    if let Some(name) = params.keys().find(|name| !PARAMS.contains(&name.as_str())) {
        let help = possible(name, PARAMS);
        return Err(Error::data(format!(
            "the configuration gave `{name}`, which `http` does not know: {help}"
        )));
    }
    let given = |name: &str| params.get(name).filter(|value| !value.is_null());
    let either = |one: &str, other: &str| match (given(one), given(other)) {
        (Some(_), Some(_)) => Err(Error::data(format!(
            "the configuration gave both `{one}` and `{other}`, which stand for the same"
        ))),
        (found, None) | (None, found) => Ok(found),
    };
    let mut parts = parts.clone();
    if let Some(url) = given("url") {
        let text = url.as_str().ok_or_else(|| expected("url", "a text"))?;
        let (url, login) = read_url(text).map_err(|error| misfit(&error))?;
        parts.lead_to(url);
        parts.login = login.or(parts.login);
    }
    parts.query = match either("params", "query")? {
        None => parts.query,
        Some(Value::String(text)) => query_of(text),
        Some(Value::Object(map)) => pairs(map, "params")?,
        Some(_) => return Err(expected("params", "a dict or a text")),
    };
    if let Some(headers) = given("headers") {
        let map = headers.as_object();
        let map = map.ok_or_else(|| expected("headers", "a dict"))?;
        parts.headers = HeaderMap::new();
        for (name, value) in pairs(map, "headers")? {
            set_header(&mut parts.headers, &name, &value).map_err(|error| misfit(&error))?;
        }
        if parts.headers.contains_key(AUTHORIZATION) {
            parts.login = None;
        }
    }
    parts.body = match (either("data", "body")?, given("json")) {
        (None, None) => parts.body,
        (None, Some(json)) => Some(Body::Json(json.to_string())),
        (Some(Value::String(text)), None) => Some(Body::Text(text.clone())),
        (Some(Value::Object(map)), None) => Some(Body::Form(pairs(map, "data")?)),
        (Some(_), None) => return Err(expected("data", "a text or a dict")),
        (Some(_), Some(_)) => {
            let message = "the configuration gave `json` beside another body: a request has one";
            return Err(Error::data(message));
        }
    };
    Ok(parts)
}

/// A dict as pairs: a list repeats its name, a null is passed over.
fn pairs(map: &Map, of: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (name, value) in map {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                Value::Array(_) | Value::Object(_) => {
                    return Err(expected(&format!("{of}.{name}"), "a text or a number"));
                }
            };
            pairs.push((name.clone(), text));
        }
    }
    Ok(pairs)
}

fn expected(name: &str, what: &str) -> Error {
    Error::data(format!("the configuration's `{name}` must be {what}"))
}

/// What would be the user's mistake in the file is the function's in its params.
fn misfit(error: &Error) -> Error {
    Error::data(format!("the configuration's params: {}", error.message()))
}
