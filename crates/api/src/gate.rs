//! Where a request is let in or not: by its host, its origin, its token, and the size of its body.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, CONNECTION, FORWARDED, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};

use crate::answer::{Answer, later, refused, with};
use crate::desk::Desk;
use crate::limiter::Verdict;
use crate::routes::{METRICS, is_open};
use crate::tokens::Role;

/// The most bytes of a body.
const MOST: usize = 1 << 20;

/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// What it may do.
    pub(crate) role: Role,
    /// Where it is.
    pub(crate) peer: SocketAddr,
}

/// Lets a request in, with its body read, or says why not.
pub(crate) async fn admit(
    desk: &Desk,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Request<Body>, Answer> {
    let (mut head, body) = request.into_parts();
    known_host(desk, &head)?;
    own_origin(desk, &head)?;
    let caller = caller(desk, &head, peer)?;
    let bytes = whole(body).await?;
    let is_nothing = bytes.trim_ascii().is_empty() || bytes.trim_ascii() == b"{}";
    if !is_nothing {
        return Err(refused(
            StatusCode::BAD_REQUEST,
            "nothing here takes a body: leave it out",
        ));
    }
    head.extensions.insert(caller);
    Ok(Request::from_parts(head, Body::empty()))
}

/// A page of another site whose name leads to this machine must not reach it: without TLS, which shows that the name
/// is right, only names of this machine are answered.
fn known_host(desk: &Desk, head: &Parts) -> Result<(), Answer> {
    let refuse = |why| Err(refused(StatusCode::FORBIDDEN, why));
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return refuse("one `Host` header is wanted");
    };
    if desk.has_tls {
        return Ok(());
    }
    let is_known = |host: &str| is_of_this_machine(name_of(host));
    let named = head.uri.authority().map(|authority| authority.as_str());
    if !host.to_str().is_ok_and(is_known) || !named.is_none_or(is_known) {
        return refuse("this name does not stand for this machine: ask `localhost` or `127.0.0.1`");
    }
    Ok(())
}

/// The name in `NAME:PORT`.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_of_this_machine(name: &str) -> bool {
    let address: Option<IpAddr> = name.parse().ok();
    name.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// No page of another site may use this, with whatever token.
fn own_origin(desk: &Desk, head: &Parts) -> Result<(), Answer> {
    let foreign = || {
        refused(
            StatusCode::FORBIDDEN,
            "pages of other sites may not use this",
        )
    };
    let site = head.headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(foreign());
    }
    let scheme = if desk.has_tls { "https" } else { "http" };
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let own = format!("{scheme}://{}", host.unwrap_or_default());
    let is_own = |origin: &HeaderValue| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes());
    if head.headers.get_all(ORIGIN).iter().all(is_own) {
        Ok(())
    } else {
        Err(foreign())
    }
}

/// Who it is, by its token.
fn caller(desk: &Desk, head: &Parts, peer: SocketAddr) -> Result<Caller, Answer> {
    let viewer = Caller {
        role: Role::Viewer,
        peer,
    };
    let shown = bearer(&head.headers);
    if let Shown::One(token) = shown
        && let Some(role) = desk.keys.role_of(token)
    {
        return Ok(Caller { role, peer });
    }
    let path = head.uri.path();
    // A load balancer and a scraper on this machine need none; what a proxy hands on comes from elsewhere.
    let is_near = desk.is_loopback && !is_handed_on(&head.headers);
    let needs_none =
        is_open(&head.method, path) || (is_near && path == METRICS && reads(&head.method));
    if needs_none && matches!(shown, Shown::Nothing) {
        return Ok(viewer);
    }
    let challenge = |answer| with(answer, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    if matches!(shown, Shown::Nothing) {
        let why = "a token is wanted: `Authorization: Bearer TOKEN`, with a token of the flow's state folder";
        return Err(challenge(refused(StatusCode::UNAUTHORIZED, why)));
    }
    match desk.limiter.wrong(peer.ip(), desk.clock.monotonic()) {
        Verdict::Wrong => Err(challenge(refused(
            StatusCode::UNAUTHORIZED,
            "the token is wrong",
        ))),
        Verdict::TooMany { after, first } => {
            if first {
                let from = peer.ip();
                tracing::warn!(%from, "more than 10 wrong tokens within a minute: more are answered with 429");
            }
            let why = "too many wrong tokens from this address";
            Err(later(StatusCode::TOO_MANY_REQUESTS, after, why))
        }
    }
}

/// Whether a method changes nothing.
fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// What a request shows of a token.
enum Shown<'a> {
    Nothing,
    One(&'a [u8]),
    /// Something that is none, or more than one.
    Wrong,
}

fn bearer(headers: &HeaderMap) -> Shown<'_> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    match (shown.next(), shown.next()) {
        (None, _) => Shown::Nothing,
        (Some(header), None) => match header.as_bytes().split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
                match token.trim_ascii() {
                    b"" => Shown::Wrong,
                    token => Shown::One(token),
                }
            }
            _ => Shown::Wrong,
        },
        (Some(_), Some(_)) => Shown::Wrong,
    }
}

fn is_handed_on(headers: &HeaderMap) -> bool {
    let marks = ["x-forwarded-for", "x-real-ip", "via"];
    headers.contains_key(FORWARDED) || marks.iter().any(|mark| headers.contains_key(*mark))
}

/// Reads the whole body, unless it is too long or too slow.
async fn whole(body: Incoming) -> Result<Bytes, Answer> {
    let close = |answer| with(answer, CONNECTION, HeaderValue::from_static("close"));
    let too_long = || {
        let why = "the body is longer than 1MiB";
        close(refused(StatusCode::PAYLOAD_TOO_LARGE, why))
    };
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > MOST as u64 {
        return Err(too_long());
    }
    let reading = tokio::time::timeout(BODY_WITHIN, Limited::new(body, MOST).collect());
    match reading.await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(refused(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => Err(close(refused(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time",
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h6_only_names_of_this_machine_are_known_and_no_part_of_a_name_counts() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8420",
            "127.9.9.9",
            "[::1]:8420",
            "[::1]",
        ] {
            assert!(is_of_this_machine(name_of(host)), "{host}");
        }
        for host in [
            "evil",
            "evil:8420",
            "localhost.evil",
            "127.0.0.1.evil:1",
            "evil@localhost",
            "10.0.0.1",
            "[::2]",
            "",
            "[",
            "xlocalhost",
            "0.0.0.0",
        ] {
            assert!(!is_of_this_machine(name_of(host)), "{host}");
        }
    }
}
