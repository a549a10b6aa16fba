//! Where a peer leads on to, and what is carried there.

use wiredflow_core::ErrorKind;
use wiredflow_testkit::{Authority, HttpPeer, Reply};

use super::{Flow, contains};

#[tokio::test]
async fn d2_three_redirects_are_followed_and_a_loop_is_an_error() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/0", Reply::redirect("/1"));
    peer.on("/1", Reply::redirect("2"));
    peer.on("/2", Reply::redirect(&peer.url("/3")).status(308));
    peer.on("/3", Reply::bytes("application/json", "[1]"));
    assert_eq!(flow.values(&format!("http: {}", peer.url("/0"))).await, [1]);
    assert_eq!(peer.connections(), 1);

    peer.on("/loop", Reply::redirect("/loop").status(301));
    let error = flow.error(&format!("http: {}", peer.url("/loop"))).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    contains(&error, &["/loop: ", "more than 3 times", "loop"]);
    assert_eq!(peer.requests_to("/loop").len(), 4);
}

#[tokio::test]
async fn d2_a_redirect_to_nowhere_is_an_error() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    for location in [
        "file:///etc/passwd",
        "ftp://localhost/",
        "http://",
        "http://[::1",
    ] {
        peer.on("/x", Reply::redirect(location));
        let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{location}: {error:?}");
        contains(&error, &["no address that can be asked"]);
    }
    peer.on("/x", Reply::code(302));
    let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
    assert_eq!(error.kind(), ErrorKind::Data);
}

#[tokio::test]
async fn a_post_becomes_a_get_where_browsers_do_so() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/end", Reply::bytes("application/json", "[1]"));
    for (status, method, body) in [
        (301, "GET", ""),
        (302, "GET", ""),
        (303, "GET", ""),
        (307, "POST", "[2]"),
        (308, "POST", "[2]"),
    ] {
        peer.on("/x", Reply::redirect("/end").status(status));
        let url = peer.url("/x");
        flow.values(&format!("http: {{url: '{url}', method: POST, json: [2]}}"))
            .await;
        let last = peer.requests_to("/end").pop().unwrap();
        assert_eq!(
            (last.method.as_str(), last.text()),
            (method, body),
            "{status}"
        );
        assert_eq!(
            last.header("content-type").is_some(),
            method == "POST",
            "{status}"
        );
    }
}

#[tokio::test]
async fn d7_secrets_are_not_carried_to_another_origin() {
    let (flow, peer, other) = (Flow::new(), HttpPeer::start(), HttpPeer::start());
    for peer in [&peer, &other] {
        peer.on("/end", Reply::bytes("application/json", "[1]"));
        peer.on("/back", Reply::redirect(&peer.url("/end")));
    }
    let stage = format!(
        "http: {{url: '{}', headers: {{cookie: c, apikey: k, accept: a/b, user-agent: me}}, auth: {{bearer: t}}}}",
        peer.url("/x")
    );
    let names = ["authorization", "cookie", "apikey", "accept", "user-agent"];
    let sent = |peer: &HttpPeer| {
        let last = peer.requests_to("/end").pop().unwrap();
        names.map(|name| last.header(name).map(str::to_owned))
    };
    let text = |text: &str| Some(text.to_owned());

    peer.on("/x", Reply::redirect("/end"));
    flow.values(&stage).await;
    let all = [
        text("Bearer t"),
        text("c"),
        text("k"),
        text("a/b"),
        text("me"),
    ];
    assert_eq!(sent(&peer), all);

    // Another port is another origin, and so is another name of the same host.
    let few = [None, None, None, text("a/b"), text("me")];
    let by_name = peer.url("/end").replace("127.0.0.1", "localhost");
    peer.on("/x", Reply::redirect(&by_name));
    flow.values(&stage).await;
    assert_eq!(sent(&peer), few);
    peer.on("/x", Reply::redirect(&other.url("/end")));
    flow.values(&stage).await;
    assert_eq!(sent(&other), few);

    // What was dropped stays dropped on the way back.
    peer.on("/x", Reply::redirect(&other.url("/home")));
    other.on("/home", Reply::redirect(&peer.url("/end")));
    flow.values(&stage).await;
    assert_eq!(sent(&peer), few);

    // A login that the peer puts into the address is not used.
    let with_login = other.url("/end").replace("http://", "http://u:p@");
    peer.on("/x", Reply::redirect(&with_login));
    flow.values(&stage).await;
    assert_eq!(sent(&other), few);
}

#[tokio::test]
async fn a_redirect_from_https_to_http_is_refused_and_the_other_way_drops_secrets() {
    let authority = Authority::new();
    let (flow, plain) = (Flow::new(), HttpPeer::start());
    let safe = HttpPeer::start_tls(&authority.server());
    plain.on("/end", Reply::bytes("application/json", "[1]"));
    safe.on("/end", Reply::bytes("application/json", "[2]"));
    let stage = |peer: &HttpPeer| {
        let (url, ca) = (peer.url("/x"), authority.path());
        format!(
            "http: {{url: '{url}', auth: {{bearer: t}}, tls: {{ca: '{}'}}}}",
            ca.display()
        )
    };
    safe.on("/x", Reply::redirect(&plain.url("/end")));
    let error = flow.error(&stage(&safe)).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    contains(&error, &["from https to http://127.0.0.1"]);
    assert!(plain.requests().is_empty());

    plain.on("/x", Reply::redirect(&safe.url("/end")));
    assert_eq!(flow.values(&stage(&plain)).await, [2]);
    let last = safe.requests_to("/end").pop().unwrap();
    assert_eq!(last.header("authorization"), None);
}
