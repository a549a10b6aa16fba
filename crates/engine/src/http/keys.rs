//! The keys that the stage and the senders have in common, and what is made of them.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use wiredflow_core::fields::Pairs;
use wiredflow_core::node::{Node, NodeKind, Span};
use wiredflow_core::secret::Secret;
use wiredflow_core::{Error, Result, config};

use super::parts::Parts;
use super::reach::{AllowedHost, Reach, Space, admit_text};
use crate::catalogue::CheckCx;
use crate::tls::TlsKeys;

config! {
    /// How to log in: one of the two.
    pub struct Auth {
        /// A user's name and password.
        basic: Option<Basic>,
        /// A token.
        bearer: Option<Secret>,
    }
}

config! {
    /// A user's name and password.
    pub struct Basic {
        /// The name.
        username: Secret,
        /// The password.
        password: Secret,
    }
}

/// Whom to ask and how to log in, as it stands in the flow file.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The address.
    pub url: &'a str,
    /// Pairs for the address's query; a list repeats its name.
    pub query: &'a Pairs<Vec<Secret>>,
    /// Headers.
    pub headers: &'a Pairs<Secret>,
    /// How to log in.
    pub auth: Option<&'a Auth>,
    /// Certificates.
    pub tls: Option<&'a TlsKeys>,
    /// Hosts that addresses from data may name, wherever they lie.
    pub allow_hosts: &'a [AllowedHost],
}

/// No pairs at all.
static NO_QUERY: Pairs<Vec<Secret>> = Pairs(Vec::new());
static NO_HEADERS: Pairs<Secret> = Pairs(Vec::new());

impl<'a> Target<'a> {
    /// An address alone.
    pub fn plain(url: &'a str, tls: Option<&'a TlsKeys>) -> Self {
        Self {
            url,
            query: &NO_QUERY,
            headers: &NO_HEADERS,
            auth: None,
            tls,
            allow_hosts: &[],
        }
    }
}

impl Target<'_> {
    /// Reports what the types alone cannot say. `node` is the config.
    pub fn check(&self, node: &Node, cx: &mut CheckCx<'_>) {
        let inner = |key: &str| node.entry(key).map(|entry| &entry.value);
        let span = |key: &str| inner(key).map_or(node.span, |value| value.span);
        let mut login = false;
        match read_url(self.url) {
            Ok((url, found)) => {
                login = found.is_some();
                if let Err(refused) = admit_text(&url, Space::Machine) {
                    cx.reading.error(span("url"), refused.to_string());
                }
            }
            Err(error) => cx.reading.error(span("url"), error.message()),
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers.0 {
            if let Err(error) = set_header(&mut headers, name, value.expose()) {
                let span = entry_span(inner("headers"), name).unwrap_or(node.span);
                cx.reading.error(span, error.message());
            }
        }
        if let Some(auth) = self.auth {
            if auth.basic.is_some() == auth.bearer.is_some() {
                let help = "`auth: {basic: {username: …, password: …}}` or `auth: {bearer: …}`";
                cx.reading.error_with_help(
                    span("auth"),
                    "`auth` has exactly one of `basic` and `bearer`".to_owned(),
                    help,
                );
            } else if let Err(error) = auth.header() {
                cx.reading.error(span("auth"), error.message());
            }
            login = true;
        }
        if login && headers.contains_key(AUTHORIZATION) {
            let span = entry_span(inner("headers"), "authorization").unwrap_or(node.span);
            let message = "an `Authorization` header beside another login: one of them is enough";
            cx.reading.error(span, message);
        }
        if let (Some(tls), Some(tls_node)) = (self.tls, inner("tls")) {
            cx.reading.inside("tls", |reading| {
                let folder = cx.folder;
                tls.check(tls_node, folder, reading);
            });
        }
    }

    /// The parts of a request to it, without a body.
    pub fn parts(&self) -> Result<Parts> {
        let (url, login) = read_url(self.url)?;
        let pairs = |(name, values): &(String, Vec<Secret>)| {
            let pair = |value: &Secret| (name.clone(), value.expose().to_owned());
            values.iter().map(pair).collect::<Vec<_>>()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers.0 {
            set_header(&mut headers, name, value.expose())?;
        }
        let auth = self.auth.map(Auth::header).transpose()?;
        Ok(Parts {
            url,
            query: self.query.0.iter().flat_map(pairs).collect(),
            headers,
            login: auth.or(login),
            body: None,
            reach: Reach::of_file(self.allow_hosts),
        })
    }
}

impl Auth {
    /// The value of the `Authorization` header.
    pub fn header(&self) -> Result<HeaderValue> {
        let text = match (&self.basic, &self.bearer) {
            (Some(basic), _) if basic.username.expose().contains(':') => {
                return Err(Error::config("a `username` cannot hold a colon"));
            }
            (Some(basic), _) => basic_login(basic.username.expose(), basic.password.expose()),
            (None, Some(token)) => format!("Bearer {}", token.expose()),
            (None, None) => return Err(Error::config("`auth` has neither `basic` nor `bearer`")),
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| {
            Error::config("a login cannot hold line ends or other control characters")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn basic_login(username: &str, password: &str) -> String {
    let pair = format!("{username}:{password}");
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// What an address lacks most often.
const BEGINNING: &str = "it must begin with `http://` or `https://`";

/// Reads an address, and takes the login out of it. Messages do not quote it: it may hold secrets.
pub fn read_url(text: &str) -> Result<(Url, Option<HeaderValue>)> {
    let wrong = |why: &str| Error::config(format!("`url` is no address that can be asked: {why}"));
    // `example.com/x`, which a parser of addresses calls relative.
    if !text.contains("://") {
        return Err(wrong(BEGINNING));
    }
    let mut url = Url::parse(text.trim()).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(BEGINNING));
    }
    let login = match (url.username(), url.password()) {
        ("", None) => None,
        (username, password) => {
            let login = basic_login(&unescape(username), &unescape(password.unwrap_or_default()));
            let mut value =
                HeaderValue::try_from(login).map_err(|_| wrong("its login is unusable"))?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    if login.is_some() && (url.set_username("").is_err() || url.set_password(None).is_err()) {
        return Err(wrong("it has a login but no host"));
    }
    url.set_fragment(None);
    Ok((url, login))
}

/// Text without its percent signs.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                plain.push(code);
                rest = &tail[2..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Sets one header. Line ends and the headers that only the client itself can set right are refused; what
/// looks like a secret is marked, so that it is neither shown nor kept in tables of the connection.
pub fn set_header(headers: &mut HeaderMap, name: &str, value: &str) -> Result<()> {
    let shown = name.escape_debug();
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Error::config(format!("`{shown}` cannot be the name of a header")))?;
    if matches!(
        header.as_str(),
        "content-length" | "transfer-encoding" | "connection"
    ) {
        return Err(Error::config(format!(
            "the header `{shown}` is set by the client itself: leave it out"
        )));
    }
    let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
        Error::config(format!(
            "the header `{shown}` holds line ends or other control characters"
        ))
    })?;
    const SECRET: [&str; 6] = ["auth", "cookie", "key", "pass", "secret", "token"];
    value.set_sensitive(SECRET.iter().any(|word| header.as_str().contains(word)));
    headers.insert(header, value);
    Ok(())
}

/// Whether the address is on this machine.
pub fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn entry_span(map: Option<&Node>, key: &str) -> Option<Span> {
    match map.map(|node| &node.kind) {
        Some(NodeKind::Map(entries)) => entries
            .iter()
            .find(|entry| entry.key.eq_ignore_ascii_case(key))
            .map(|entry| entry.span),
        _ => None,
    }
}
