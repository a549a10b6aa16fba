//! What a request is made of, before it is one: a configuration may replace any part.

use std::fmt;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};

use super::failure;
use super::request::Request;

/// The type of a bare text.
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The type of JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// The parts of a request.
#[derive(Clone)]
pub struct Parts {
    /// The address, without a login.
    pub url: Url,
    /// Pairs that are added to the address's query.
    pub query: Vec<(String, String)>,
    /// Headers.
    pub headers: HeaderMap,
    /// The value of the `Authorization` header.
    pub login: Option<HeaderValue>,
    /// What is sent.
    pub body: Option<Body>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&failure::address(&self.url))
    }
}

/// What a request sends.
#[derive(Clone)]
pub enum Body {
    /// A bare text.
    Text(String),
    /// A JSON document.
    Json(String),
    /// Pairs, as a form sends them.
    Form(Vec<(String, String)>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl Parts {
    /// The request. A body brings its content type, unless the headers name another.
    pub fn request(&self, method: Method) -> Request {
        let mut url = self.url.clone();
        // Touching an absent query would leave a bare `?`.
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        let mut headers = self.headers.clone();
        if let Some(login) = &self.login {
            headers.insert(AUTHORIZATION, login.clone());
        }
        let request = Request {
            method,
            url,
            headers,
            body: None,
        };
        match &self.body {
            None => request,
            Some(Body::Text(text)) => request.with_body(text.clone(), TEXT),
            Some(Body::Json(json)) => request.with_body(json.clone(), JSON),
            Some(Body::Form(pairs)) => request.with_body(form(pairs), FORM),
        }
    }
}

impl Request {
    /// With a body, and its content type where the headers name none.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>, kind: HeaderValue) -> Self {
        self.body = Some(body.into());
        self.headers.entry(CONTENT_TYPE).or_insert(kind);
        self
    }
}

/// The pairs of a query that is written out: `a=b&c`.
pub(crate) fn query_of(text: &str) -> Vec<(String, String)> {
    let mut url = blank();
    url.set_query(Some(text.trim_start_matches('?')));
    url.query_pairs().into_owned().collect()
}

fn form(pairs: &[(String, String)]) -> String {
    let mut url = blank();
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

/// An address that stands in for none: forms are written as its query.
#[expect(clippy::expect_used, reason = "a constant")]
fn blank() -> Url {
    Url::parse("http://localhost/").expect("it is an address")
}
