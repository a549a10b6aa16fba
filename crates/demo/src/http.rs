//! Three small HTTP servers: a greeting, random letters, random integers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use rand::Rng;

use crate::{
    Error, Result,
    background::{Background, Stop},
    kept::Kept,
};

/// How many items one query for integers may give.
const MOST_ITEMS: usize = 6;

/// The three servers, running. Dropping them stops them.
#[derive(Debug)]
pub struct HttpPeers {
    addresses: [SocketAddr; 3],
    received: Log,
    _running: Background,
}

/// Which of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Answers `[{"Message": "Hello world!"}]`.
    Hello,
    /// Answers `[{"Generated random letter": "x"}]`, a letter of either case.
    Letters,
    /// Answers `[{"Generated random number": 17}]`, 0 to 100. A POST of the text `select * from demo_table limit N`
    /// gets N such items, 6 at most; any other POST, and a PUT, gets `{"correct": true}`.
    Integers,
}

/// A body that was sent to one of the servers by PUT or POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The server it was sent to.
    pub server: Server,
    /// `PUT` or `POST`.
    pub method: String,
    /// The path and query of the request.
    pub path: String,
    /// The body; what is not UTF-8 in it is replaced.
    pub body: String,
}

type Log = Kept<Received>;

impl HttpPeers {
    /// Starts the servers on the given ports of 127.0.0.1; 0 is any free port.
    pub fn start(hello: u16, letters: u16, integers: u16) -> Result<Self> {
        let received = Log::default();
        let mut addresses = Vec::new();
        let mut servers = Vec::new();
        for (server, port) in Server::ALL.into_iter().zip([hello, letters, integers]) {
            let (listener, address) =
                listen(port).map_err(|error| Error::bind(server.title(), port, &error))?;
            addresses.push(address);
            servers.push((server, listener));
        }
        let log = received.clone();
        let (running, ()) = Background::start("HTTP peers", |stop| serve(servers, log, stop))?;
        let addresses = [addresses[0], addresses[1], addresses[2]];
        Ok(Self {
            addresses,
            received,
            _running: running,
        })
    }

    /// Where a server listens.
    pub fn address(&self, server: Server) -> SocketAddr {
        self.addresses[server as usize]
    }

    /// The address of a server as a flow names it: `http://127.0.0.1:PORT`.
    pub fn url(&self, server: Server) -> String {
        format!("http://{}", self.address(server))
    }

    /// What was PUT and POSTed, oldest first: the last thousand bodies.
    pub fn received(&self) -> Vec<Received> {
        self.received.since(0).0
    }

    /// As `received`, without the first `seen`; and how many there were in all.
    pub fn received_since(&self, seen: u64) -> (Vec<Received>, u64) {
        self.received.since(seen)
    }

    /// Ends what is being answered, for half a second at most, and frees the ports.
    pub fn stop(self) {}
}

impl Server {
    const ALL: [Self; 3] = [Self::Hello, Self::Letters, Self::Integers];

    fn title(self) -> &'static str {
        match self {
            Self::Hello => "HTTP server of greetings",
            Self::Letters => "HTTP server of letters",
            Self::Integers => "HTTP server of integers",
        }
    }

    fn answer(self, method: &Method, body: &str) -> Response {
        let text = match (self, method) {
            (Self::Hello, &Method::GET) => r#"[{"Message": "Hello world!"}]"#.to_owned(),
            (Self::Letters, &Method::GET) => {
                format!(r#"[{{"Generated random letter": "{}"}}]"#, random_letter())
            }
            (Self::Integers, &Method::GET) => random_integers(1),
            (Self::Integers, &Method::POST) => match limit_of_query(body) {
                Some(limit) => random_integers(limit.min(MOST_ITEMS)),
                None => r#"{"correct": true}"#.to_owned(),
            },
            (_, &Method::PUT | &Method::POST) => r#"{"correct": true}"#.to_owned(),
            _ => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
        };
        ([(CONTENT_TYPE, "application/json")], text).into_response()
    }
}

/// A random letter of either case.
pub(crate) fn random_letter() -> char {
    let letter = char::from(rand::rng().random_range(b'a'..=b'z'));
    if rand::rng().random() {
        letter.to_ascii_uppercase()
    } else {
        letter
    }
}

fn random_integers(count: usize) -> String {
    let items: Vec<String> = (0..count)
        .map(|_| {
            format!(
                r#"{{"Generated random number": {}}}"#,
                rand::rng().random_range(0..=100)
            )
        })
        .collect();
    format!("[{}]", items.join(", "))
}

/// The N of `select * from demo_table limit N`.
fn limit_of_query(body: &str) -> Option<usize> {
    let words: Vec<String> = body.split_whitespace().map(str::to_lowercase).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["select", "*", "from", "demo_table", "limit", limit] => {
            limit.trim_end_matches(';').parse().ok()
        }
        _ => None,
    }
}

fn listen(port: u16) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn serve(
    servers: Vec<(Server, TcpListener)>,
    log: Log,
    stop: Stop,
) -> Result<((), crate::background::Serve)> {
    let mut running = tokio::task::JoinSet::new();
    for (server, listener) in servers {
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(|error| Error::NotStarted {
                peer: server.title(),
                reason: error.to_string(),
            })?;
        let router = Router::new()
            .fallback(answer)
            .with_state((server, log.clone()));
        let stop = stop.clone();
        running.spawn(async move {
            let served = axum::serve(listener, router)
                .with_graceful_shutdown(stop.heard())
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "the {} ended", server.title());
            }
        });
    }
    Ok((
        (),
        Box::pin(async move { while running.join_next().await.is_some() {} }),
    ))
}

async fn answer(
    State((server, log)): State<(Server, Log)>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let response = server.answer(&method, &body);
    if method == Method::PUT || method == Method::POST {
        let path = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        log.push(Received {
            server,
            method: method.to_string(),
            path,
            body,
        });
    }
    response
}
