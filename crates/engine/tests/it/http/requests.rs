//! From the flow file and a configuration's params to what is asked.

use serde_json::{Value, json};
use wiredflow_core::ErrorKind;
use wiredflow_testkit::{HttpPeer, Reply, Request};

use super::{Flow, contains};
use crate::harness::problems;

/// Asks with a stage of these keys, beside the address, and these params; returns what the peer got.
async fn asked(keys: &str, params: Value) -> Request {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("*", Reply::bytes("application/json", "[1]"));
    let stage = format!("http: {{url: '{}'{keys}}}", peer.url("/x?fixed=1"));
    let params = match params {
        Value::Object(mut map) => {
            // `PEER` stands for the address that is not known before.
            if let Some(Value::String(url)) = map.get_mut("url") {
                *url = url.replace("PEER", &peer.url(""));
            }
            Value::Object(map)
        }
        other => other,
    };
    assert_eq!(flow.values_with(&stage, params).await, [1]);
    peer.requests().pop().unwrap()
}

#[tokio::test]
async fn a_bare_address_is_a_get() {
    let request = asked("", Value::Null).await;
    assert_eq!(
        (request.method.as_str(), request.query.as_str()),
        ("GET", "fixed=1")
    );
    assert!(request.body.is_empty() && request.header("content-type").is_none());
    assert_eq!(request.header("authorization"), None);
    let agent = format!("wiredflow/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(request.header("user-agent"), Some(agent.as_str()));
    assert_eq!(request.header("accept-encoding"), Some("gzip"));
}

#[tokio::test]
async fn methods_bodies_queries_and_logins_are_sent() {
    let request = asked(", method: put, body: 'grüße'", Value::Null).await;
    assert_eq!((request.method.as_str(), request.text()), ("PUT", "grüße"));
    assert_eq!(
        request.header("content-type"),
        Some("text/plain; charset=utf-8")
    );

    let request = asked(", method: POST, json: {b: [1, null], a: x}", Value::Null).await;
    assert_eq!(
        (request.method.as_str(), request.text()),
        ("POST", r#"{"b":[1,null],"a":"x"}"#)
    );
    assert_eq!(request.header("content-type"), Some("application/json"));

    let keys = ", method: REPORT, body: <a/>, headers: {content-type: text/xml, X-N: 1}";
    let request = asked(keys, Value::Null).await;
    assert_eq!(
        (request.method.as_str(), request.text()),
        ("REPORT", "<a/>")
    );
    assert_eq!(request.header("content-type"), Some("text/xml"));
    assert_eq!(request.header("x-n"), Some("1"));

    let request = asked(", query: {q: 'a b&c', n: 5, tag: [x, y]}", Value::Null).await;
    assert_eq!(request.query, "fixed=1&q=a+b%26c&n=5&tag=x&tag=y");

    let request = asked(
        ", auth: {basic: {username: 'Aladdin', password: 'open sesame'}}",
        Value::Null,
    );
    assert_eq!(
        request.await.header("authorization"),
        Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    );
    let request = asked(", auth: {bearer: abc}", Value::Null).await;
    assert_eq!(request.header("authorization"), Some("Bearer abc"));
}

#[tokio::test]
async fn a_head_has_no_answer_to_read() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/x", Reply::bytes("application/json", "[1]"));
    let stage = format!("http: {{url: '{}', method: HEAD}}", peer.url("/x"));
    assert!(flow.values(&stage).await.is_empty());
}

const ALL: &str = ", method: POST, headers: {apikey: own, X-Own: 1}, query: {own: 1}, json: {own: 1}, auth: {bearer: own}";

#[tokio::test]
async fn a_configuration_replaces_parts_and_leaves_the_others() {
    let own = asked(ALL, json!({})).await;
    assert_eq!(
        (own.query.as_str(), own.text()),
        ("fixed=1&own=1", r#"{"own":1}"#)
    );
    let null = json!({"url": null, "headers": null, "data": null, "json": null, "params": null});
    let request = asked(ALL, null).await;
    assert_eq!(
        (request.query.as_str(), request.text()),
        (own.query.as_str(), own.text())
    );
    assert_eq!(request.header("apikey"), Some("own"));

    let request = asked(ALL, json!({"url": "PEER/other?a=b"})).await;
    assert_eq!(
        (request.path.as_str(), request.query.as_str()),
        ("/other", "a=b&own=1")
    );
    assert_eq!(
        (request.header("authorization"), request.text()),
        (Some("Bearer own"), own.text())
    );

    for name in ["params", "query"] {
        let request = asked(ALL, json!({name: {"a": [1, "x y"], "b": true, "c": null}})).await;
        assert_eq!(request.query, "fixed=1&a=1&a=x+y&b=true");
        let request = asked(ALL, json!({name: "?a=1&b=x%20y"})).await;
        assert_eq!(request.query, "fixed=1&a=1&b=x+y");
        let request = asked(ALL, json!({name: {}})).await;
        assert_eq!(request.query, "fixed=1");
    }

    let request = asked(ALL, json!({"headers": {"apikey": "new", "x-n": 5}})).await;
    assert_eq!(
        (request.header("apikey"), request.header("x-n")),
        (Some("new"), Some("5"))
    );
    assert_eq!(request.header("x-own"), None);
    assert_eq!(request.header("authorization"), Some("Bearer own"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let request = asked(ALL, json!({"headers": {"Authorization": "Digest x"}})).await;
    assert_eq!(request.header("authorization"), Some("Digest x"));
}

#[tokio::test]
async fn a_configuration_replaces_the_body_by_text_form_or_json() {
    for name in ["data", "body"] {
        let request = asked(ALL, json!({name: "select 1"})).await;
        assert_eq!(request.text(), "select 1");
        assert_eq!(
            request.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        let request = asked(ALL, json!({name: {"a": "x y", "b": [1, 2]}})).await;
        assert_eq!(request.text(), "a=x+y&b=1&b=2");
        assert_eq!(
            request.header("content-type"),
            Some("application/x-www-form-urlencoded")
        );
    }
    let request = asked(", method: POST, body: own", json!({"json": [1]})).await;
    assert_eq!(request.text(), "[1]");
    assert_eq!(request.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn params_that_http_cannot_use_are_errors_of_the_data() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let stage = format!("http: {}", peer.url("/x"));
    for (params, parts) in [
        (json!({"timeout": 5}), &["`timeout`", "possible: `url`"][..]),
        (
            json!({"header": {}}),
            &["`header`", "did you mean `headers`?"],
        ),
        (json!({"url": 5}), &["`url` must be a text"]),
        (json!({"url": "ftp://x/"}), &["http://"]),
        (json!({"url": "/relative"}), &["`url`"]),
        (json!({"params": [1]}), &["`params` must be"]),
        (json!({"params": {"a": {"b": 1}}}), &["`params.a` must be"]),
        (
            json!({"params": {}, "query": {}}),
            &["both `params` and `query`"],
        ),
        (json!({"headers": "a: b"}), &["`headers` must be"]),
        (json!({"data": [1]}), &["`data` must be"]),
        (
            json!({"data": "x", "json": 1}),
            &["`json` beside another body"],
        ),
        (
            json!({"data": "x", "body": "x"}),
            &["both `data` and `body`"],
        ),
    ] {
        let error = flow.error_with(&stage, params.clone()).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{params}: {error:?}");
        contains(&error, parts);
    }
    assert!(peer.requests().is_empty());
}

#[tokio::test]
async fn d11_line_ends_in_headers_are_refused() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let stage = format!("http: {}", peer.url("/x"));
    for headers in [
        json!({"x": "a\r\nHost: evil"}),
        json!({"x": "a\n"}),
        json!({"x\r\ny": "a"}),
        json!({"x": "\u{0}"}),
        json!({"": "a"}),
        json!({"content-length": 5}),
        json!({"Transfer-Encoding": "chunked"}),
    ] {
        let error = flow.error_with(&stage, json!({"headers": headers})).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{headers}: {error:?}");
    }
    for url in ["/x\r\nHost: evil", "/x y"] {
        let request = asked("", json!({"url": format!("PEER{url}")})).await;
        assert!(
            !request
                .headers
                .iter()
                .any(|(_, value)| value.contains("evil"))
        );
    }
    assert!(peer.requests().is_empty());
}

#[test]
fn check_tells_all_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("no.pem"), "no pem").unwrap();
    let text = "\
http:
  url: localhost:8027
  method: G ET
  headers: {'a b': c, Authorization: x, content-length: 5}
  body: x
  json: {}
  auth: {basic: {username: a, password: b}, bearer: c}
  tls: {ca: no.pem, cert: missing.pem, insecure: true}
  max_bytes: 0B
";
    let problems = problems(text, folder.path()).join("\n");
    for part in [
        "2:8 : `url` is no address that can be asked: it must begin with `http://` or `https://`",
        "3:11 : `G ET` is no method",
        "4:13 : `a b` cannot be the name of a header",
        "4:41 : the header `content-length` is set by the client itself",
        "4:23 : an `Authorization` header beside another login",
        "6:9 : `body` beside `json`",
        "7:9 : `auth` has exactly one of `basic` and `bearer`",
        "8:8 tls: `cert` and `key` go together",
        "8:13 tls: `no.pem` holds no certificate",
        "8:27 tls: cannot read `missing.pem`",
        "8:40 tls: `insecure: true` beside `ca`",
        "9:14 : `max_bytes` must be from 1 to 1GiB",
    ] {
        assert!(problems.contains(part), "{part} not in:\n{problems}");
    }
}

#[test]
fn check_says_what_is_missing_or_unknown_and_takes_what_is_right() {
    let folder = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("http:", "`url` is missing"),
        ("http: ''", "`url` is no address"),
        ("http: ftp://x/", "must begin with"),
        (
            "http: {url: 'http://x', hedaers: {}}",
            "did you mean `headers`?",
        ),
        ("http: {url: 'http://x', method: CONNECT}", "no method"),
        ("http: {url: 'http://x', auth: {}}", "exactly one"),
        (
            "http: {url: 'http://u:p@x', headers: {authorization: x}}",
            "beside another login",
        ),
        (
            "http: {url: 'http://x', auth: {basic: {username: 'a:b', password: c}}}",
            "a colon",
        ),
        (
            "http: {url: 'http://x', query: {a: {b: 1}}}",
            "expected text",
        ),
    ] {
        let found = problems(text, folder.path()).join("\n");
        assert!(found.contains(part), "{text}: {part} not in:\n{found}");
    }
    for text in [
        "http: http://localhost:8027",
        "http: {url: 'https://u:p@[::1]:8443/a?b=c#d', json: null, max_bytes: 1GiB}",
        "http: {url: 'http://x', method: patch, json: [1, {a: b}], headers: {X-A: 'ü'}}",
    ] {
        assert_eq!(
            problems(text, folder.path()),
            Vec::<String>::new(),
            "{text}"
        );
    }
}
