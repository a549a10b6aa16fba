//! The `webhook` source against real connections.

mod flows;
mod limits;
mod refusals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wiredflow_core::delivery::{Delivery, Outcome, Payload, Settled, Tally};
use wiredflow_core::stage::Source;
use wiredflow_engine::payload::Format;
use wiredflow_engine::resources::Resources;
use wiredflow_engine::webhook::{Limits, Rules, Webhook};

use crate::harness::resources;

const SOON: Duration = Duration::from_secs(10);

/// What most tests begin with: no login, any free port.
fn rules() -> Rules {
    Rules {
        listen: "127.0.0.1:0".parse().unwrap(),
        path: "/readings".to_owned(),
        method: "POST".parse().unwrap(),
        auth: None,
        tls: None,
        max_bytes: 1024,
        format: Format::Json,
        reply_within: SOON,
    }
}

/// A webhook whose engine is the test.
struct Hook {
    source: Arc<Webhook>,
    resources: Resources,
    _folder: TempDir,
}

impl Hook {
    async fn open() -> Self {
        Self::with(rules(), Limits::default()).await
    }

    async fn with(rules: Rules, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let resources = resources(folder.path());
        let source = Webhook::open(rules, limits, &resources).await.unwrap();
        Self {
            source: Arc::new(source),
            resources,
            _folder: folder,
        }
    }

    fn address(&self) -> SocketAddr {
        self.source.address()
    }

    /// The next delivery.
    async fn next(&self) -> Delivery {
        let next = tokio::time::timeout(SOON, self.source.next(1)).await;
        next.expect("a delivery arrives").unwrap().remove(0)
    }

    async fn settle(&self, delivery: &Delivery, outcome: Outcome) {
        let settled = Settled {
            token: delivery.token,
            outcome,
            proof: Arc::new([]),
            reason: Some("an inner reason".into()),
            tally: Tally::default(),
        };
        self.source.settle(vec![settled]).await.unwrap();
    }

    /// Commits all that arrives, until the test ends.
    fn commit_all(&self) {
        let source = Arc::clone(&self.source);
        tokio::spawn(async move {
            while let Ok(deliveries) = source.next(256).await {
                let settled = deliveries.iter().map(|delivery| Settled {
                    token: delivery.token,
                    outcome: match delivery.payload {
                        Payload::Json(_) | Payload::Unreadable { .. } => Outcome::DeadLettered,
                        Payload::Empty | Payload::Values(_) | Payload::Handed(..) => {
                            Outcome::Committed
                        }
                    },
                    proof: Arc::new([]),
                    reason: None,
                    tally: Tally::default(),
                });
                source.settle(settled.collect()).await.unwrap();
            }
        });
    }

    /// Sends a request in a task of its own.
    fn send(&self, request: String) -> tokio::task::JoinHandle<Reply> {
        tokio::spawn(ask(self.address(), request))
    }
}

/// What a sender is told.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn has(&self, header: &str) -> bool {
        self.head.to_ascii_lowercase().contains(header)
    }
}

/// A request with a body.
fn post(body: &str) -> String {
    with_head("", body)
}

/// A request with more lines in its head.
fn with_head(lines: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /readings HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{lines}\r\n{body}"
    )
}

/// Sends these very bytes, and reads until the end of the connection.
async fn ask(address: SocketAddr, request: String) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server may answer, and cut, before it has read all.
    drop(stream.write_all(request.as_bytes()).await);
    reply(&mut stream).await
}

async fn reply(stream: &mut TcpStream) -> Reply {
    let mut text = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut text)).await;
    drop(read.expect("the connection ends"));
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Reply {
        status: status.unwrap_or_default(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

#[tokio::test]
async fn a_request_is_answered_when_it_is_committed_and_not_before() {
    let hook = Hook::open().await;
    for (body, values) in [
        (r#"{"n": 1}"#, vec![serde_json::json!({"n": 1})]),
        ("[1, 2]", vec![1.into(), 2.into()]),
        ("[]", vec![]),
    ] {
        let asked = hook.send(post(body));
        let delivery = hook.next().await;
        let Payload::Values(found) = &delivery.payload else {
            panic!("{delivery:?}");
        };
        assert_eq!(*found, values);
        assert!(!asked.is_finished());
        hook.settle(&delivery, Outcome::Committed).await;
        let reply = asked.await.unwrap();
        assert_eq!(
            (reply.status, reply.json()["status"].as_str()),
            (200, Some("committed"))
        );
        assert!(reply.has("content-type: application/json"));
    }
}

#[tokio::test]
async fn each_end_of_a_delivery_has_its_answer() {
    let hook = Hook::open().await;
    for (outcome, status) in [
        (Outcome::Committed, 200),
        (Outcome::Skipped, 200),
        (Outcome::DeadLettered, 200),
        (Outcome::Failed, 500),
        (Outcome::Lost, 503),
    ] {
        let asked = hook.send(post("{}"));
        let delivery = hook.next().await;
        hook.settle(&delivery, outcome).await;
        let reply = asked.await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(reply.has("retry-after: "), status == 503);
        assert!(!reply.body.contains("inner reason"));
    }
}

#[tokio::test]
async fn what_cannot_be_read_goes_to_the_engine_as_it_is_and_its_sender_is_told_why() {
    let hook = Hook::open().await;
    let deep = "[".repeat(500);
    for body in [
        "",
        "{",
        "NaN",
        "[1] 2",
        &deep,
        "__import__('os').system('touch /tmp/pwn')",
    ] {
        let asked = hook.send(post(body));
        let delivery = hook.next().await;
        let Payload::Unreadable { bytes, .. } = &delivery.payload else {
            panic!("{delivery:?}");
        };
        assert_eq!(bytes, body);
        assert!(delivery.origin.as_deref().unwrap().ends_with("/readings"));
        // The engine makes a dead letter of it.
        hook.settle(&delivery, Outcome::DeadLettered).await;
        let reply = asked.await.unwrap();
        assert_eq!(reply.status, 400);
        assert!(reply.body.contains("cannot be read"), "{reply:?}");
    }
}

#[tokio::test]
async fn text_is_one_record_whatever_it_looks_like() {
    let mut rules = rules();
    rules.format = Format::Text;
    let hook = Hook::with(rules, Limits::default()).await;
    let asked = hook.send(post("[1] grüße"));
    let delivery = hook.next().await;
    let Payload::Values(values) = &delivery.payload else {
        panic!("{delivery:?}");
    };
    assert_eq!(*values, [json!({"value": "[1] grüße"})]);
    hook.settle(&delivery, Outcome::Committed).await;
    assert_eq!(asked.await.unwrap().status, 200);
}

#[tokio::test]
async fn many_senders_on_kept_connections_get_the_answers_to_their_own_requests() {
    let hook = Hook::open().await;
    let source = Arc::clone(&hook.source);
    // Even numbers are committed, odd ones fail; ends come in the reverse order.
    tokio::spawn(async move {
        while let Ok(deliveries) = source.next(256).await {
            let settled = deliveries.into_iter().rev().map(|delivery| Settled {
                token: delivery.token,
                outcome: match &delivery.payload {
                    Payload::Values(values) if values[0].as_u64().unwrap() % 2 == 0 => {
                        Outcome::Committed
                    }
                    _ => Outcome::Failed,
                },
                proof: Arc::new([]),
                reason: None,
                tally: Tally::default(),
            });
            source.settle(settled.collect()).await.unwrap();
        }
    });
    let senders = (0..20_usize).map(|sender| {
        let address = hook.address();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            for number in (0..20).map(|number| sender + number) {
                let body = number.to_string();
                let length = body.len();
                let request = format!(
                    "POST /readings HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut heard = Vec::new();
                while !heard.ends_with(b"}") {
                    let byte = stream.read_u8().await.unwrap();
                    heard.push(byte);
                }
                let expected = if number % 2 == 0 {
                    "HTTP/1.1 200"
                } else {
                    "HTTP/1.1 500"
                };
                assert!(String::from_utf8(heard).unwrap().starts_with(expected));
            }
        })
    });
    for sender in senders {
        sender.await.unwrap();
    }
}
