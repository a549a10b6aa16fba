//! One question to a peer: the hops of its redirects, and what each may carry.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::OwnedSemaphorePermit;
use wiredflow_core::charge::Activity;
use wiredflow_core::stage::Cx;
use wiredflow_core::{Error, Result};

use super::answer::Answer;
use super::reach::{Reach, admit_text};
use super::{HttpClient, failure};

/// How many redirects are followed.
const MOST_REDIRECTS: usize = 3;

/// How much is read of an answer that nobody wants, so that its connection can be used again.
const UNWANTED: usize = 16 * 1024;

/// The headers that may go to another origin. All others may hold secrets: an API key has any name.
const FOR_STRANGERS: [&str; 4] = ["accept", "accept-language", "content-type", "user-agent"];

/// The headers without those that another origin must not see.
pub(super) fn for_strangers(headers: HeaderMap) -> HeaderMap {
    headers
        .into_iter()
        .filter_map(|(name, value)| Some((name?, value)))
        .filter(|(name, _)| FOR_STRANGERS.contains(&HeaderName::as_str(name)))
        .collect()
}

/// What a redirect may change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Redirects {
    /// As browsers do: after 301, 302 and 303 a POST becomes a GET without a body.
    AsBrowsers,
    /// A redirect that would drop the body is an error: a GET that succeeds confirms no POST.
    KeepBody,
}

/// A question, ready to be asked any number of times.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The address, without a login.
    pub url: Url,
    /// The headers, with the login.
    pub headers: HeaderMap,
    /// The body, if there is one.
    pub body: Option<Bytes>,
    /// How far it may go.
    pub reach: Reach,
    /// What is an answer too, beside success.
    pub also: &'static [StatusCode],
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&failure::place(&self.method, &self.url))
    }
}

impl HttpClient {
    /// Asks once, and gives an answer of success (2xx) with a body of at most `most` bytes when unpacked.
    ///
    /// A refused login or certificate is `Config`; a peer that is away, slow, overloaded or broken is
    /// `Remote`, with the wait it asks for; any other status, a redirect too many and an answer
    /// over the limit are `Data`. Dropping the future closes the connection that it used.
    pub async fn ask(&self, request: &Request, most: usize, cx: &Cx) -> Result<Answer> {
        let idle = self.pool.idle(cx);
        let asking = async {
            let reached = self.reach(request, Redirects::AsBrowsers, idle).await?;
            Answer::whole(reached.response, most, idle, reached.place).await
        };
        self.spend(asking, request, cx).await
    }

    /// Sends once, and returns when the peer has confirmed it by a status of success (2xx), whatever it
    /// says beside. Errors are those of [`HttpClient::ask`].
    pub async fn confirm(&self, request: &Request, cx: &Cx) -> Result<()> {
        let idle = self.pool.idle(cx);
        let sending = async {
            let reached = self.reach(request, Redirects::KeepBody, idle).await?;
            drop(Answer::beginning(reached.response, UNWANTED).await);
            Ok(())
        };
        self.spend(sending, request, cx).await
    }

    /// Tells a peer something that needs no answer: whether it was heard is not known.
    pub async fn tell(&self, request: &Request) {
        drop(
            self.reach(request, Redirects::KeepBody, self.pool.limits.idle)
                .await,
        );
    }

    async fn spend<T>(
        &self,
        work: impl Future<Output = Result<T>>,
        request: &Request,
        cx: &Cx,
    ) -> Result<T> {
        // Boxed, so that the futures of those who ask stay small.
        let done = cx.spend(Activity::External, Box::pin(work)).await;
        done.map_err(|error| error.map_text(|text| hide(text, &request.headers)))
    }

    /// Asks, and follows redirects, until there is an answer of success.
    async fn reach(
        &self,
        request: &Request,
        redirects: Redirects,
        idle: Duration,
    ) -> Result<Reached> {
        let mut hop = request.clone();
        for _ in 0..=MOST_REDIRECTS {
            let place = failure::place(&hop.method, &hop.url);
            let slot = self.pool.place(&hop.url).await?;
            let response = self.send(&hop, idle, &place).await?;
            if let Some(mut next) = hop.next(&response, redirects, &place)? {
                if next.url.origin() != hop.url.origin() {
                    let peer = self.pool.space(&hop.url, &response);
                    next.reach = hop.reach.led_by(peer);
                }
                drop(Answer::beginning(response, UNWANTED).await);
                hop = next;
                continue;
            }
            let status = response.status();
            if status.is_success() || request.also.contains(&status) {
                return Ok(Reached {
                    response,
                    place,
                    _slot: slot,
                });
            }
            let headers = response.headers().clone();
            let body = Answer::beginning(response, UNWANTED).await;
            let now = self.clock.now();
            return Err(failure::refused(status, &headers, &place, &body, now));
        }
        let place = failure::place(&request.method, &request.url);
        Err(Error::data(format!(
            "{place}: it leads on more than {MOST_REDIRECTS} times: is it a loop?"
        )))
    }

    async fn send(&self, hop: &Request, idle: Duration, place: &str) -> Result<Response> {
        let deepest = hop.reach.deepest(&hop.url);
        admit_text(&hop.url, deepest).map_err(|why| failure::refuses(&why, place))?;
        let mut request = reqwest::Request::new(hop.method.clone(), hop.url.clone());
        *request.headers_mut() = hop.headers.clone();
        *request.body_mut() = hop.body.clone().map(Into::into);
        let answer = self.pool.client(&hop.url, deepest).execute(request);
        match tokio::time::timeout(idle, answer).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failure::transport(&error, place, self.pool.limits.connect)),
            Err(_) => Err(failure::silent(place, idle)),
        }
    }
}

/// A peer that answers with success.
struct Reached {
    response: Response,
    place: String,
    /// Kept until the answer is read.
    _slot: OwnedSemaphorePermit,
}

impl Request {
    /// Where an answer leads on to, and what may be carried there.
    fn next(&self, response: &Response, redirects: Redirects, place: &str) -> Result<Option<Self>> {
        let status = response.status();
        let Some(location) = response.headers().get(LOCATION) else {
            return Ok(None);
        };
        let becomes_get = match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            StatusCode::SEE_OTHER => !matches!(self.method, Method::GET | Method::HEAD),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
            _ => return Ok(None),
        };
        let wrong = |why: &str| Error::data(format!("{place}: it leads on ({status}) {why}"));
        let target = std::str::from_utf8(location.as_bytes())
            .ok()
            .and_then(|location| self.url.join(location).ok())
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(mut url) = target else {
            return Err(wrong("to no address that can be asked"));
        };
        // A login in such an address is the peer's wish, not the user's.
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(wrong("to no address that can be asked"));
        }
        url.set_fragment(None);
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return Err(wrong(&format!(
                "from https to {}: that is not followed",
                failure::address(&url)
            )));
        }
        if becomes_get && redirects == Redirects::KeepBody {
            return Err(wrong(&format!(
                "to {}, and not as {}: name that address if it is the right one",
                failure::address(&url),
                self.method
            )));
        }
        let mut headers = self.headers.clone();
        if url.origin() != self.url.origin() {
            headers = for_strangers(headers);
        }
        let (method, body) = if becomes_get {
            headers.remove(CONTENT_TYPE);
            (Method::GET, None)
        } else {
            (self.method.clone(), self.body.clone())
        };
        Ok(Some(Self {
            method,
            url,
            headers,
            body,
            reach: self.reach.clone(),
            also: self.also,
        }))
    }
}

/// Takes the secret headers out of a text: a peer may repeat what it was sent.
fn hide(text: &str, headers: &HeaderMap) -> String {
    let mut text = text.to_owned();
    for value in headers.values().filter(|value| value.is_sensitive()) {
        let value = value.to_str().unwrap_or_default();
        let bare = value.rsplit(' ').next().unwrap_or_default();
        for secret in [value, bare] {
            if secret.len() >= 4 {
                text = text.replace(secret, "***");
            }
        }
    }
    text
}
