//! Where a request is looked at: refused, or handed in and answered when its delivery has ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Incoming};
use reqwest::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, HeaderMap, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use wiredflow_core::delivery::{Outcome, Payload, Settled};
use wiredflow_core::units::{format_duration, format_size};

use super::Waiting;
use super::answer::{Answer, done, no_room, refused, unavailable, with};
use super::login::Login;
use crate::payload::Format;

/// How much is read of a body that is too long, so that its sender can hear so, and for how long.
const UNWANTED: (usize, Duration) = (8 << 20, Duration::from_secs(2));

/// What is asked of a request.
pub(super) struct Desk {
    pub(super) path: String,
    pub(super) method: Method,
    pub(super) login: Option<Login>,
    pub(super) max_bytes: usize,
    pub(super) format: Format,
    pub(super) reply_within: Duration,
    pub(super) body_within: Duration,
    pub(super) queue: mpsc::Sender<Waiting>,
    /// A permit for each KiB of body at hand.
    pub(super) memory: Arc<Semaphore>,
}

impl Desk {
    /// Answers a request. Dropping the future forgets it, unless the engine has it already.
    pub(super) async fn receive(&self, request: Request<Incoming>) -> Answer {
        match self.hand_in(request).await {
            Ok(answer) | Err(answer) => answer,
        }
    }

    async fn hand_in(&self, request: Request<Incoming>) -> Result<Answer, Answer> {
        self.admit(&request)?;
        let room = self.room_for(request.body())?;
        let body = tokio::time::timeout(self.body_within, self.whole(request.into_body()));
        let body = body.await.map_err(|_| {
            let why = refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
            with(why, CONNECTION, HeaderValue::from_static("close"))
        })??;
        let (payload, fault) = read(&body, self.format);
        let (tell, told) = oneshot::channel();
        self.queue
            .try_send(Waiting { payload, tell })
            .map_err(|error| match error {
                TrySendError::Full(_) => no_room(),
                TrySendError::Closed(_) => stopping(),
            })?;
        drop(body);
        let ended = tokio::time::timeout(self.reply_within, told).await;
        drop(room);
        Ok(match ended {
            Ok(Ok(settled)) => told_of(&settled, fault),
            Ok(Err(_)) => stopping(),
            Err(_) => unavailable(&format!(
                "not committed within {}; what is sent again may be stored twice",
                format_duration(self.reply_within)
            )),
        })
    }

    /// Refuses what the head alone shows to be wrong.
    fn admit(&self, request: &Request<Incoming>) -> Result<(), Answer> {
        if request.uri().path() != self.path {
            return Err(refused(
                StatusCode::NOT_FOUND,
                "there is nothing at this path",
            ));
        }
        if request.method() != self.method {
            let why = format!("this path takes `{}`", self.method);
            let answer = refused(StatusCode::METHOD_NOT_ALLOWED, &why);
            let allowed = HeaderValue::from_str(self.method.as_str());
            return Err(match allowed {
                Ok(allowed) => with(answer, ALLOW, allowed),
                Err(_) => answer,
            });
        }
        match &self.login {
            Some(login) if !login.is_shown(request.headers()) => {
                let answer = refused(StatusCode::UNAUTHORIZED, "the login is missing or wrong");
                let challenge = HeaderValue::from_static(login.challenge());
                return Err(with(answer, WWW_AUTHENTICATE, challenge));
            }
            None if is_from_a_page(request.headers()) => {
                let why = "pages in a browser may not send here: set `auth` and send a token";
                return Err(refused(StatusCode::FORBIDDEN, why));
            }
            Some(_) | None => {}
        }
        let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !request
            .headers()
            .get_all(CONTENT_ENCODING)
            .iter()
            .all(plain)
        {
            let why = "send it unpacked, without `Content-Encoding`";
            return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        Ok(())
    }

    /// Room for the body: what it says, or the most where it says nothing.
    fn room_for(&self, body: &Incoming) -> Result<OwnedSemaphorePermit, Answer> {
        let said = body.size_hint().exact();
        let most = said.unwrap_or(u64::MAX).min(self.max_bytes as u64);
        let kibibytes = u32::try_from(most.div_ceil(1024).max(1)).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory);
        memory
            .try_acquire_many_owned(kibibytes)
            .map_err(|_| no_room())
    }

    /// Reads the whole body, unless it is too long.
    async fn whole(&self, mut body: Incoming) -> Result<Bytes, Answer> {
        let mut whole = Vec::new();
        let too_long = || body_too_long(self.max_bytes);
        if body.size_hint().lower() > self.max_bytes as u64 {
            pass_over(&mut body).await;
            return Err(too_long());
        }
        while let Some(frame) = body.frame().await {
            let broken = |_| refused(StatusCode::BAD_REQUEST, "the body broke off");
            let Ok(piece) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            if whole.len() + piece.len() > self.max_bytes {
                pass_over(&mut body).await;
                return Err(too_long());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }
}

fn body_too_long(most: usize) -> Answer {
    let why = format!("the body is longer than {}", format_size(most as u64));
    let answer = refused(StatusCode::PAYLOAD_TOO_LARGE, &why);
    with(answer, CONNECTION, HeaderValue::from_static("close"))
}

fn stopping() -> Answer {
    unavailable("the flow stops: it is not committed")
}

/// Reads on for a while: a sender that is cut while it writes does not see why.
async fn pass_over(body: &mut Incoming) {
    let reading = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > UNWANTED.0 {
                break;
            }
        }
    };
    // What did not come in time is not wanted.
    drop(tokio::time::timeout(UNWANTED.1, reading).await);
}

/// The body as the engine takes it, and what is wrong with it: then it goes to the dead letters as it is.
fn read(body: &Bytes, format: Format) -> (Payload, Option<String>) {
    match format.records(body) {
        Ok(records) => (Payload::Values(records), None),
        Err(reason) => {
            let payload = Payload::Unreadable {
                bytes: body.clone(),
                reason: reason.clone(),
            };
            (payload, Some(reason))
        }
    }
}

/// What the sender is told of the end of its delivery.
fn told_of(settled: &Settled, fault: Option<String>) -> Answer {
    match (settled.outcome, fault) {
        (Outcome::Committed | Outcome::Skipped | Outcome::DeadLettered, None) => {
            done(settled.outcome.word())
        }
        (Outcome::Committed | Outcome::Skipped | Outcome::DeadLettered, Some(fault)) => {
            let why = format!("the body cannot be read: {fault}");
            refused(StatusCode::BAD_REQUEST, &why)
        }
        // Why is the flow's own affair; its log and history have it.
        (Outcome::Failed, _) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the flow failed on it: it is not committed",
        ),
        (Outcome::Lost, _) => stopping(),
    }
}

/// Whether a browser sends this for some page: any page may post to this machine.
fn is_from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site")
}
