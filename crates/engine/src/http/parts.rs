//! What a request is made of, before it is one: a configuration may replace any part.

use std::fmt;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};

use super::failure;
use super::reach::Reach;
use super::request::{Request, for_strangers};

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
    /// How far a request may go.
    pub reach: Reach,
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
    /// Leads to another address, which comes from data. One of the same origin, or of a host that the author has
    /// named, is as trusted as the file's own; any other reaches public addresses only, and gets nothing that may be
    /// a secret.
    pub fn lead_to(&mut self, url: Url) {
        if url.origin() != self.url.origin() {
            self.reach = self.reach.of_data();
            if !self.reach.allows(&url) {
                self.headers = for_strangers(std::mem::take(&mut self.headers));
                self.login = None;
                self.query.clear();
            }
        }
        self.url = url;
    }

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
            reach: self.reach.clone(),
            also: &[],
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

#[cfg(test)]
mod tests {
    use reqwest::header::ACCEPT;

    use super::*;

    #[test]
    fn d6_another_origin_that_data_names_gets_nothing_that_may_be_a_secret() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, JSON);
        headers.insert("apikey", JSON);
        let parts = Parts {
            url: Url::parse("https://own.test/x?key=k").unwrap(),
            query: vec![("key".to_owned(), "k".to_owned())],
            headers,
            login: Some(JSON),
            body: None,
            reach: Reach::of_file(&[]),
        };
        let led = |text: &str| {
            let mut parts = parts.clone();
            parts.lead_to(Url::parse(text).unwrap());
            let request = parts.request(Method::GET);
            (request.url.to_string(), request.headers.len())
        };
        assert_eq!(
            led("https://own.test/y"),
            ("https://own.test/y?key=k".to_owned(), 3)
        );
        for other in [
            "https://other.test/",
            "http://own.test/",
            "https://own.test:8443/",
        ] {
            assert_eq!(led(other), (other.to_owned(), 1));
        }
    }
}
