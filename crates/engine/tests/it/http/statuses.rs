//! What each status means, and what is shown of it.

use std::time::Duration;

use serde_json::json;
use wiredflow_core::ErrorKind;
use wiredflow_testkit::{HttpPeer, Reply, free_port};

use super::{Flow, contains};

#[tokio::test]
async fn d2_each_status_has_its_kind() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let kinds = [
        (ErrorKind::Config, &[401, 403, 407][..]),
        (ErrorKind::Remote, &[408, 425, 429, 500, 502, 503, 504, 599]),
        (
            ErrorKind::Data,
            &[300, 301, 304, 400, 404, 405, 409, 410, 422],
        ),
    ];
    for (kind, statuses) in kinds {
        for &status in statuses {
            peer.on("/x", Reply::text("because").status(status));
            let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
            assert_eq!(error.kind(), kind, "{status}: {error:?}");
            let place = format!("GET {}: ", peer.url("/x"));
            contains(&error, &[&place, &format!("({status}")]);
            // Only this one has no body.
            assert_eq!(status == 304, !error.message().contains("because"));
        }
    }
    for status in [200, 201, 202, 203, 206] {
        peer.on("/x", Reply::json(json!([{"a": 1}])).status(status));
        let values = flow.values(&format!("http: {}", peer.url("/x"))).await;
        assert_eq!(values, [json!({"a": 1})], "{status}");
    }
}

#[tokio::test]
async fn d2_an_overloaded_peer_says_when_to_come_again() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let ask = async |status: u16, headers: &[(&str, &str)]| {
        let with = |reply: Reply, (name, value): &(&str, &str)| reply.header(name, value);
        let reply = headers.iter().fold(Reply::code(status), with);
        peer.on("/x", reply);
        let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
        error.retry_after()
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let date = ("date", "Sun, 06 Nov 1994 08:49:30 GMT");
    assert_eq!(ask(429, &[]).await, None);
    assert_eq!(ask(429, &[("retry-after", "7")]).await, seconds(7));
    assert_eq!(ask(503, &[("retry-after", " 120 ")]).await, seconds(120));
    for form in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ] {
        assert_eq!(
            ask(429, &[("retry-after", form), date]).await,
            seconds(7),
            "{form}"
        );
        assert_eq!(
            ask(429, &[("retry-after", form)]).await,
            seconds(0),
            "{form} is long ago"
        );
    }
    assert_eq!(ask(429, &[("retry-after", "soon")]).await, None);
    assert_eq!(ask(429, &[("retry-after", "-5")]).await, None);
    assert_eq!(ask(429, &[("retry-after", "1e9")]).await, None);
    let day = seconds(24 * 60 * 60);
    assert_eq!(
        ask(429, &[("retry-after", "18446744073709551615")]).await,
        day
    );
    assert_eq!(ask(404, &[("retry-after", "7")]).await, None);
}

#[tokio::test]
async fn the_beginning_of_a_refusal_is_shown_and_can_do_no_harm() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let said = format!("no such thing\x1b[2J\r\n\u{202e}{}", "x".repeat(1000));
    peer.on("/x", Reply::text(&said).status(404));
    let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
    contains(&error, &["no such thing\\u{1b}[2J\\r\\n\\u{202e}xxx"]);
    assert!(error.message().chars().count() < 400, "{error:?}");
    assert!(
        error
            .message()
            .chars()
            .all(|character| !character.is_control())
    );
}

#[tokio::test]
async fn no_message_shows_a_login_or_a_query() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on_request("/x", |request| {
        let login = request.header("authorization").unwrap_or("none");
        let key = request.header("x-api-key").unwrap_or("none");
        Reply::text(&format!("you sent {login} and {key}")).status(400)
    });
    let url = peer.url("/x?token=canary1");
    let stage = format!(
        "http: {{url: '{url}', query: {{key: canary2}}, headers: {{X-Api-Key: canary3}}, auth: {{bearer: canary4}}}}"
    );
    let error = flow.error(&stage).await;
    contains(&error, &["/x?…: ", "you sent *** and ***"]);
    assert!(!error.message().contains("canary"), "{error:?}");

    let url = url.replace("http://", "http://canary5:canary6@");
    let error = flow.error(&format!("http: '{url}'")).await;
    let asked = peer.requests_to("/x");
    let login = asked[1].header("authorization").unwrap();
    assert_eq!(login, "Basic Y2FuYXJ5NTpjYW5hcnk2");
    assert!(!error.message().contains("canary"), "{error:?}");
    assert!(!error.message().contains("Y2FuYXJ5"), "{error:?}");
}

#[tokio::test]
async fn d5_a_peer_that_is_away_is_no_mistake_of_the_file() {
    let flow = Flow::brief();
    let error = flow
        .error(&format!("http: http://127.0.0.1:{}/", free_port()))
        .await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(&error, &["no connection", "refused"]);

    let error = flow.error("http: http://no-such-host.invalid/").await;
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");

    let peer = HttpPeer::start();
    peer.on("/hangs-up", Reply::hang_up());
    let error = flow
        .error(&format!("http: {}", peer.url("/hangs-up")))
        .await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    peer.on("/babbles", Reply::raw("SSH-2.0-OpenSSH_9.2\r\n"));
    let error = flow.error(&format!("http: {}", peer.url("/babbles"))).await;
    assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
}
