//! An HTTP server that does what it is told, also what no server should do.

mod reply;
mod server;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use reply::Reply;
use server::Server;

use crate::Identity;

/// A server on a free port of 127.0.0.1, scripted path by path; it records what it is asked. Dropping it ends it.
///
/// It speaks HTTP/1.1, keeps connections open, and answers 404 where no script was given.
#[derive(Debug)]
pub struct HttpPeer {
    shared: Arc<Shared>,
    server: Option<Server>,
    port: u16,
    identity: Option<Identity>,
}

/// A request as the server got it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST` …
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// What stands behind the `?`, as it was sent; empty when there is none.
    pub query: String,
    /// The headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When the request was complete.
    pub at: Instant,
    /// Which connection it came by, counted from 1.
    pub connection: usize,
}

/// What the scripts and the server share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    scripts: HashMap<String, Script>,
    requests: Vec<Request>,
    connections: usize,
    answering: usize,
    most_at_once: usize,
}

enum Script {
    /// One reply after the other; the last is repeated.
    Sequence(VecDeque<Reply>),
    Function(Box<dyn FnMut(&Request) -> Reply + Send>),
}

impl HttpPeer {
    /// Starts a server.
    #[track_caller]
    pub fn start() -> Self {
        Self::begin(None)
    }

    /// Starts a server that speaks TLS with this certificate.
    #[track_caller]
    pub fn start_tls(identity: &Identity) -> Self {
        Self::begin(Some(identity.clone()))
    }

    /// Answers each request to the path, of any method, so. `*` is every path that has no script of its own.
    pub fn on(&self, path: &str, reply: Reply) {
        self.on_each(path, [reply]);
    }

    /// Answers the requests to the path by one reply after the other; the last is repeated.
    pub fn on_each(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies: VecDeque<Reply> = replies.into_iter().collect();
        assert!(!replies.is_empty(), "a script needs a reply");
        self.shared
            .lock()
            .scripts
            .insert(path.to_owned(), Script::Sequence(replies));
    }

    /// Answers the requests to the path by what the function makes of them.
    pub fn on_request(&self, path: &str, function: impl FnMut(&Request) -> Reply + Send + 'static) {
        let script = Script::Function(Box::new(function));
        self.shared.lock().scripts.insert(path.to_owned(), script);
    }

    /// The address of a path: `http://127.0.0.1:PORT/path`, or `https://localhost:PORT/path`.
    pub fn url(&self, path: &str) -> String {
        let base = if self.identity.is_some() {
            "https://localhost"
        } else {
            "http://127.0.0.1"
        };
        format!("{base}:{}{path}", self.port)
    }

    /// The port; the same after `come_back`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All requests until now, in the order of their completion.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// The requests to one path until now.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| request.path == path)
            .collect()
    }

    /// Waits until the path has had at least `count` requests and returns all of them; panics, naming what came, when
    /// there are fewer at the deadline.
    #[track_caller]
    pub fn wait_for(&self, path: &str, count: usize, deadline: Duration) -> Vec<Request> {
        let enough = |state: &State| {
            state
                .requests
                .iter()
                .filter(|request| request.path == path)
                .count()
                >= count
        };
        let state = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), deadline, |state| !enough(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let all: Vec<String> = state
            .requests
            .iter()
            .map(|request| format!("{} {}", request.method, request.path))
            .collect();
        drop(state);
        let found = self.requests_to(path);
        assert!(
            found.len() >= count,
            "{} of {count} requests to {path} within {deadline:?}; all that came: {all:?}",
            found.len()
        );
        found
    }

    /// How many connections were made until now.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// How many requests were being answered at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.lock().most_at_once
    }

    /// Closes the port and all connections; who connects now is refused. Scripts and records stay.
    pub fn go_away(&mut self) {
        self.server = None;
    }

    /// Listens again on the same port, after `go_away`.
    #[track_caller]
    pub fn come_back(&mut self) {
        assert!(self.server.is_none(), "the server is not away");
        let (server, _) =
            Server::start(self.port, self.identity.as_ref(), Arc::clone(&self.shared));
        self.server = Some(server);
    }

    #[track_caller]
    fn begin(identity: Option<Identity>) -> Self {
        let shared = Arc::new(Shared::default());
        let (server, port) = Server::start(0, identity.as_ref(), Arc::clone(&shared));
        Self {
            shared,
            server: Some(server),
            port,
            identity,
        }
    }
}

impl Request {
    /// The value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |(found, _): &&(String, String)| found.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .find(named)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text; panics when it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON; panics when it is not.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON: {:?}: {error}", self.text()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection and gives its number.
    pub(crate) fn connected(&self) -> usize {
        let mut state = self.lock();
        state.connections += 1;
        state.connections
    }

    /// Records a request and says what to answer.
    pub(crate) fn asked(&self, request: Request) -> Reply {
        let mut state = self.lock();
        state.answering += 1;
        state.most_at_once = state.most_at_once.max(state.answering);
        let path = if state.scripts.contains_key(&request.path) {
            &request.path
        } else {
            "*"
        };
        let reply = match state.scripts.get_mut(path) {
            Some(Script::Sequence(replies)) if replies.len() > 1 => replies.pop_front(),
            Some(Script::Sequence(replies)) => replies.front().cloned(),
            Some(Script::Function(function)) => Some(function(&request)),
            None => None,
        };
        state.requests.push(request);
        drop(state);
        self.changed.notify_all();
        reply.unwrap_or_else(|| Reply::text("no script for this path").status(404))
    }

    /// Counts the end of an answer.
    pub(crate) fn answered(&self) {
        self.lock().answering -= 1;
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}
