//! The connection: requests that are answered within a time, and what is known of it meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Message, Request, RequestErrorKind, ServerError,
    StatusCode, Subscriber,
};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use wiredflow_core::engine::ANSWER_WITHIN;
use wiredflow_core::{Error, ErrorKind, Result};

use crate::access::{Access, Login, told};
use crate::failure;
use crate::tls;

/// How often a silent server is asked whether it is there; after three times without an answer the connection is given up.
const PING_EACH: Duration = Duration::from_secs(2);

/// The longest pause between two attempts to connect again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// After what silence is asked again who only looks.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a cluster may be given to agree before it is asked again.
const MOMENT: Duration = Duration::from_millis(100);

/// How many messages a subscription holds that are not taken; more are dropped by the client.
const HELD: usize = 4096;

/// How many refusals of rights are remembered.
const REMEMBERED: usize = 8;

/// A connection that comes back by itself.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) client: Client,
    said: watch::Receiver<Said>,
    place: Arc<str>,
}

/// What the connection has told of itself.
#[derive(Clone, Debug, Default)]
struct Said {
    /// Why it is away.
    why: Option<Arc<str>>,
    /// What the server does not let us do, newest last.
    denied: VecDeque<Arc<str>>,
}

/// What has become of a request.
pub(crate) enum Answer {
    Given(Message),
    /// Nobody listens there.
    Nobody,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", self.place)
    }
}

impl Link {
    /// Connects, and fails at once where that cannot be done within [`ANSWER_WITHIN`].
    pub(crate) async fn connect(access: &Access, inbox: String) -> Result<Self> {
        let addresses = access.addresses()?;
        let place: Vec<String> = addresses.iter().map(told).collect();
        let place: Arc<str> = place.join(", ").into();
        let at = |error: Error| error.context(format_args!("nats at `{place}`"));
        let (tell, said) = watch::channel(Said::default());
        let tell = Arc::new(tell);
        // Each gets its share of the time, so that one that is frozen does not hide the others.
        let share = ANSWER_WITHIN.as_millis() as u64 / addresses.len() as u64;
        let mut options = with_login(access.login.as_ref())
            .map_err(at)?
            .name("wiredflow")
            .custom_inbox_prefix(inbox)
            // Servers that others name may be elsewhere, where nobody has said that we may go.
            .ignore_discovered_servers()
            .connection_timeout(Duration::from_millis(share.clamp(500, 4500)))
            .ping_interval(PING_EACH)
            .reconnect_delay_callback(pause)
            .request_timeout(None)
            .subscription_capacity(HELD)
            .event_callback(move |event| {
                let tell = Arc::clone(&tell);
                async move { note(&tell, event) }
            });
        let tls = access.wants_tls(&addresses);
        let files = access.tls.clone().unwrap_or_default();
        options = options
            .require_tls(tls)
            .tls_client_config(tls::client_config(&files).map_err(at)?);
        let connected = timeout(ANSWER_WITHIN, options.connect(&addresses[..])).await;
        let client = match connected {
            Ok(connected) => connected.map_err(|error| at(failure::connecting(&error)))?,
            Err(_) => return Err(at(Error::remote("it does not answer"))),
        };
        if access.wants_login(&addresses) && !client.server_info().auth_required {
            return Err(at(Error::config(
                "it takes anybody: give it users, or say that it may be insecure",
            )));
        }
        Ok(Self {
            client,
            said,
            place,
        })
    }

    /// The server, in words that may be shown.
    pub(crate) fn at(&self, error: Error) -> Error {
        error.context(format_args!("nats at `{}`", self.place))
    }

    /// How often a connection was made: what was known of the server's store before another one may not be so any more.
    pub(crate) fn turn(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until there is a connection, so that nothing is sent long after its sender has given up.
    pub(crate) async fn connected(&self) -> Result<()> {
        if self.is_connected() {
            return Ok(());
        }
        let mut said = self.said.clone();
        let came = timeout(ANSWER_WITHIN, async {
            while !self.is_connected() {
                // Looked at from time to time: what is told is dropped where too much is.
                let changed = timeout(Duration::from_millis(200), said.changed()).await;
                if matches!(changed, Ok(Err(_))) {
                    break;
                }
            }
        });
        match came.await {
            Ok(()) if self.is_connected() => Ok(()),
            _ => Err(self.away().as_unsent()),
        }
    }

    fn away(&self) -> Error {
        let why = self.said.borrow().why.clone();
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        Error::remote(format!("there is no connection{why}"))
    }

    /// Asks, and waits for the answer until `within`, or until the connection breaks.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer> {
        let mut sent = false;
        let asked = timeout(within, async {
            self.connected().await?;
            sent = true;
            let mut request = Request::new().payload(body).timeout(None);
            request.headers = headers;
            tokio::select! {
                answer = self.client.send_request(subject.to_owned(), request) => answer.map(Answer::Given).or_else(|error| match error.kind() {
                    RequestErrorKind::NoResponders => Ok(Answer::Nobody),
                    RequestErrorKind::MaxPayloadExceeded => Err(Error::data(format!("the message is too long: {error}"))),
                    RequestErrorKind::InvalidSubject => Err(Error::bug(format!("`{subject}` is no subject"))),
                    RequestErrorKind::TimedOut | RequestErrorKind::Other => Err(Error::remote(error.to_string())),
                }),
                error = self.broken(subject) => Err(error),
            }
        });
        match asked.await {
            Ok(answer) => answer,
            Err(_) if !sent => Err(self.away().as_unsent()),
            Err(_) => Err(self.denial(subject).unwrap_or_else(|| {
                let seconds = within.as_secs_f32();
                Error::remote(format!("no answer from `{subject}` within {seconds} s"))
            })),
        }
    }

    /// As [`Self::ask`], within the usual time.
    pub(crate) async fn request(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        body: Bytes,
    ) -> Result<Answer> {
        self.ask(subject, headers, body, ANSWER_WITHIN).await
    }

    /// As [`Self::request`], asking again and again. It must do nothing but look.
    pub(crate) async fn request_until(&self, subject: &str, body: Bytes) -> Result<Answer> {
        let mut asked = 0;
        loop {
            asked += 1;
            let answer = self.ask(subject, None, body.clone(), AGAIN).await;
            let is_last = asked * AGAIN >= ANSWER_WITHIN;
            match answer {
                Err(error)
                    if error.kind() == ErrorKind::Remote && !is_last && self.is_connected() => {}
                answer => return answer,
            }
        }
    }

    /// Ends when the connection does, or when the server says that we may not do that.
    pub(crate) async fn broken(&self, subject: &str) -> Error {
        let turn = self.turn();
        let mut said = self.said.clone();
        said.mark_unchanged();
        loop {
            if self.turn() != turn || !self.is_connected() {
                return Error::remote(
                    "the connection broke before the answer: it may have been done",
                );
            }
            let gone = said.changed().await.is_err();
            if let Some(error) = self.denial(subject) {
                return error;
            }
            if gone {
                return self.away();
            }
        }
    }

    /// Waits a moment, while a cluster agrees on what it has just been told.
    pub(crate) async fn moment(&self) {
        drop(timeout(MOMENT, self.broken("")).await);
    }

    /// What the server has said against a subject, or against any answer to us.
    fn denial(&self, subject: &str) -> Option<Error> {
        let said = self.said.borrow();
        let quoted = format!("\"{subject}\"");
        let found = said.denied.iter().rev().find(|text| {
            text.contains(&quoted) || (text.contains("Subscription to") && text.contains(".inbox."))
        })?;
        Some(Error::config(format!(
            "it does not let us: {found}; give the user that right"
        )))
    }

    /// Sends without an answer.
    pub(crate) async fn send(&self, subject: &str, reply: Option<&str>, body: Bytes) -> Result<()> {
        self.connected().await?;
        let subject = subject.to_owned();
        let sent = match reply {
            Some(reply) => {
                self.client
                    .publish_with_reply(subject, reply.to_owned(), body)
                    .await
            }
            None => self.client.publish(subject, body).await,
        };
        sent.map_err(|error| match error.kind() {
            async_nats::client::PublishErrorKind::MaxPayloadExceeded => {
                Error::data(format!("the message is too long: {error}"))
            }
            _ => Error::remote(error.to_string()),
        })
    }

    /// Takes what comes at a subject; of several of one group one does.
    pub(crate) async fn subscribe(
        &self,
        subject: String,
        group: Option<&str>,
    ) -> Result<Subscriber> {
        self.connected().await?;
        let subscribed = match group {
            Some(group) => self.client.queue_subscribe(subject, group.to_owned()).await,
            None => self.client.subscribe(subject).await,
        };
        subscribed.map_err(|error| Error::remote(error.to_string()))
    }
}

/// Whether a message is an answer of the server's that there is nobody.
pub(crate) fn is_nobody(message: &Message) -> bool {
    message.status == Some(StatusCode::NO_RESPONDERS)
}

/// How long to wait before the next attempt to connect.
fn pause(attempt: usize) -> Duration {
    let shift = u32::try_from(attempt.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .min(10);
    match attempt {
        0 | 1 => Duration::ZERO,
        _ => LONGEST_PAUSE.min(Duration::from_millis(10 << shift)),
    }
}

fn note(tell: &watch::Sender<Said>, event: Event) {
    tell.send_modify(|said| match event {
        Event::Connected => *said = Said::default(),
        Event::ServerError(ServerError::Other(text)) if text.contains("Permissions Violation") => {
            if said.denied.len() == REMEMBERED {
                said.denied.pop_front();
            }
            said.denied.push_back(text.into());
        }
        Event::ServerError(error) => said.why = Some(error.to_string().into()),
        Event::ClientError(error) => said.why = Some(error.to_string().into()),
        Event::Disconnected
        | Event::LameDuckMode
        | Event::Draining
        | Event::Closed
        | Event::SlowConsumer(_) => {}
    });
}

fn with_login(login: Option<&Login>) -> Result<ConnectOptions> {
    let options = ConnectOptions::new();
    Ok(match login {
        None => options,
        Some(Login::Password { user, password }) => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
        Some(Login::Token(token)) => options.token(token.expose().to_owned()),
        Some(Login::Seed(seed)) => options.nkey(seed.expose().trim().to_owned()),
        Some(Login::Credentials(path)) => {
            let shown = path.display();
            let text = std::fs::read_to_string(path);
            let text =
                text.map_err(|error| Error::config(format!("cannot read `{shown}`: {error}")))?;
            options.credentials(&text).map_err(|_| {
                Error::config(format!(
                    "`{shown}` is no file of credentials as `nsc` writes them"
                ))
            })?
        }
    })
}
