//! The API of a flow that runs in the real binary, over real sockets.

mod attacks;
mod control;
mod gate;
mod routes;
mod scraped;
mod secrets;
mod verbs;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use wiredflow_testkit::{FlowTest, Running, wait_until};

use crate::{SOON, tool};

/// Where the tests' flows listen: any free port.
const LISTEN: &str = "listen: 127.0.0.1:0\n";

/// A flow with a pipeline that an HTTP caller feeds, and one that is run when it is asked for.
const QUIET: &str = "name: quiet\nlisten: 127.0.0.1:0\npipelines:\n  \
    hook: {source: {webhook: {listen: '127.0.0.1:0'}}, stages: [{store: jsonl}]}\n  \
    hourly: {every: 1h, delay: 1h, stages: [{core_logic: {program: [echo, '{\"n\": 1}']}}, {store: jsonl}]}\n";

/// A flow that runs, and where it listens.
struct Api {
    test: FlowTest,
    running: Running,
    address: SocketAddr,
}

/// What a caller hears.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Api {
    /// Runs a flow file until the test ends.
    fn run(flow: &str) -> Self {
        let test = tool();
        test.file("flow.yaml", flow);
        Self::start(test, &[])
    }

    /// Runs `flow.yaml` of a folder, with more arguments.
    fn start(test: FlowTest, more: &[&str]) -> Self {
        let running = test.spawn([&["run", "flow.yaml"], more].concat());
        let address = address(&test, &running);
        Self {
            test,
            running,
            address,
        }
    }

    fn token(&self, role: &str) -> String {
        token(&self.test, role)
    }

    /// Asks with the token of a role.
    fn ask(&self, role: &str, method: &str, path: &str) -> Reply {
        let login = format!("authorization: Bearer {}\r\n", self.token(role));
        self.send(method, path, &login)
    }

    /// Asks with these headers, each with its line end.
    fn send(&self, method: &str, path: &str, headers: &str) -> Reply {
        self.say(&format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n"
        ))
    }

    /// Says these very bytes, and hears what is said until the end.
    fn say(&self, request: &str) -> Reply {
        let mut stream = self.connect();
        // A refusal may come before all is said.
        drop(stream.write_all(request.as_bytes()));
        read_reply(&mut stream)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    /// A document below `/api/v1`, as an admin reads it.
    #[track_caller]
    fn get(&self, path: &str) -> Value {
        self.ask("admin", "GET", &format!("/api/v1/{path}"))
            .is(200)
            .json()
    }

    /// A pipeline's document.
    #[track_caller]
    fn pipeline(&self, name: &str) -> Value {
        self.get(&format!("pipelines/{name}"))
    }

    #[track_caller]
    fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        wait_until(SOON, || condition(self));
    }

    /// Waits until a pipeline is open.
    #[track_caller]
    fn wait_open(&self, pipeline: &str) {
        self.wait_for(|api| api.pipeline(pipeline)["state"] == "open");
    }
}

/// The token of a role; it is there when the flow listens.
fn token(test: &FlowTest, role: &str) -> String {
    let name = match role {
        "admin" => "token".to_owned(),
        role => format!("token.{role}"),
    };
    test.read(&format!(".wiredflow/{name}")).trim().to_owned()
}

/// Where a flow that was just started listens.
fn address(test: &FlowTest, running: &Running) -> SocketAddr {
    // The line comes after the port is open; the flow is shown a moment later.
    running.stderr_contains("running; ^C", SOON);
    let note = test.read_json(".wiredflow/listen");
    let url = note["url"].as_str().unwrap();
    let address = url.split("://").nth(1).unwrap();
    address.replace("0.0.0.0", "127.0.0.1").parse().unwrap()
}

/// Reads to the end of a head, and of the body where there is one; what never ends is read until it rests.
fn read_reply(stream: &mut impl Read) -> Reply {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(number) => bytes.extend_from_slice(&piece[..number]),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) =>
            {
                break;
            }
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
        }
        let text = String::from_utf8_lossy(&bytes);
        // Events have no end.
        if text.contains("\r\n\r\n") && text.contains("text/event-stream") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Reply {
        status: status.unwrap_or_default(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}
