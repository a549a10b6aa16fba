//! The senders `http_post` and `http_put`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Error, ErrorKind, Result};
use wiredflow_engine::senders::Message;
use wiredflow_testkit::{HttpPeer, Reply};

use super::{Flow, contains};
use crate::harness::{cx, open_sender};

fn json_message(record: usize, value: &Value) -> Message {
    let body = value.to_string().into();
    Message {
        record,
        body,
        json: true,
    }
}

async fn send(flow: &Flow, sender: &str, messages: &[Message]) -> Result<CommitReceipt> {
    let sender = open_sender(sender, &flow.resources).await.unwrap();
    sender.send_boxed(messages, &cx(Value::Null).0).await
}

async fn refused(flow: &Flow, peer: &HttpPeer, messages: &[Message]) -> Error {
    let sender = format!("http_post: {}", peer.url("/x"));
    send(flow, &sender, messages).await.unwrap_err()
}

#[tokio::test]
async fn each_message_is_one_request_in_order_by_one_connection() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/x", Reply::json(json!({"correct": true})));
    let mut messages: Vec<Message> = (0..50).map(|n| json_message(n, &json!({"n": n}))).collect();
    let text = Message {
        record: 50,
        body: "bare text".into(),
        json: false,
    };
    messages.push(text);
    for (kind, method) in [("http_post", "POST"), ("http_put", "PUT")] {
        let keys = "headers: {apikey: k}, query: {q: 1}, auth: {bearer: t}";
        let sender = format!("{kind}: {{url: '{}', {keys}}}", peer.url("/x"));
        let receipt = send(&flow, &sender, &messages).await.unwrap();
        assert_eq!((receipt.rows(), receipt.sink()), (51, "stage"));
        let requests = peer.requests();
        let requests = &requests[requests.len() - 51..];
        for (n, request) in requests[..50].iter().enumerate() {
            assert_eq!(
                (request.method.as_str(), request.json()),
                (method, json!({"n": n}))
            );
            assert_eq!(request.header("content-type"), Some("application/json"));
            assert_eq!(
                (request.query.as_str(), request.header("apikey")),
                ("q=1", Some("k"))
            );
            assert_eq!(request.header("authorization"), Some("Bearer t"));
        }
        assert_eq!(requests[50].text(), "bare text");
        assert_eq!(
            requests[50].header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    let own = format!(
        "http_post: {{url: '{}', headers: {{content-type: a/b}}}}",
        peer.url("/x")
    );
    assert!(send(&flow, &own, &messages[..1]).await.is_ok());
    assert_eq!(
        peer.requests().pop().unwrap().header("content-type"),
        Some("a/b")
    );
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn a_refused_message_is_named_and_none_is_sent_after_it() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on_each(
        "/x",
        [
            Reply::code(201),
            Reply::text("no such field").status(422),
            Reply::code(200),
        ],
    );
    let messages = [3, 7, 9].map(|n| json_message(n, &json!(n)));
    let error = refused(&flow, &peer, &messages).await;
    assert_eq!((error.kind(), error.record()), (ErrorKind::Data, Some(7)));
    contains(&error, &["POST ", "no such field", "422"]);
    assert_eq!(peer.requests().len(), 2);
}

#[tokio::test]
async fn d2_what_is_no_fault_of_the_message_names_none() {
    let (flow, peer) = (Flow::brief(), HttpPeer::start());
    let messages = [json_message(0, &json!(1))];
    for (reply, kind) in [
        (Reply::code(401), ErrorKind::Config),
        (Reply::code(403), ErrorKind::Config),
        (Reply::code(503), ErrorKind::Remote),
        (Reply::never(), ErrorKind::Remote),
        (Reply::hang_up(), ErrorKind::Remote),
    ] {
        peer.on("/x", reply);
        let error = refused(&flow, &peer, &messages).await;
        assert_eq!((error.kind(), error.record()), (kind, None), "{error:?}");
    }
    peer.on("/x", Reply::code(429).header("retry-after", "3"));
    let error = refused(&flow, &peer, &messages).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn what_the_peer_says_after_its_confirmation_does_not_matter() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let messages = [json_message(0, &json!(1)), json_message(1, &json!(2))];
    for reply in [
        Reply::bytes("text/html", "<html>"),
        Reply::code(204),
        Reply::gzip_bomb(10 * 1024),
        Reply::endless(),
        Reply::truncated("[1, 2, 3]", 4),
        Reply::drip("[1, 2, 3]", Duration::from_secs(60)),
    ] {
        let shown = format!("{reply:.0?}").chars().take(60).collect::<String>();
        peer.on("/x", reply);
        let begun = Instant::now();
        let sender = format!("http_post: {}", peer.url("/x"));
        let receipt = send(&flow, &sender, &messages).await.unwrap();
        assert_eq!(receipt.rows(), 2, "{shown}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{shown}");
    }
}

#[tokio::test]
async fn a_redirect_that_would_lose_the_message_is_refused_and_others_are_followed() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/end", Reply::code(200));
    let messages = [json_message(4, &json!({"a": 1}))];
    for status in [301, 302, 303] {
        peer.on("/x", Reply::redirect("/end").status(status));
        let error = refused(&flow, &peer, &messages).await;
        assert_eq!(
            (error.kind(), error.record()),
            (ErrorKind::Data, Some(4)),
            "{status}"
        );
        contains(&error, &["not as POST", &peer.url("/end")]);
    }
    assert!(peer.requests_to("/end").is_empty());
    for status in [307, 308] {
        peer.on("/x", Reply::redirect("/end").status(status));
        let sender = format!("http_post: {}", peer.url("/x"));
        assert!(send(&flow, &sender, &messages).await.is_ok());
        let last = peer.requests_to("/end").pop().unwrap();
        assert_eq!(
            (last.method.as_str(), last.json()),
            ("POST", json!({"a": 1})),
            "{status}"
        );
    }
}
