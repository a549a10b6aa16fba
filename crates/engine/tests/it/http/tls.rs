//! Certificates: whom we trust, and as whom we are known.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wiredflow_core::ErrorKind;
use wiredflow_testkit::{Authority, HttpPeer, Identity, Reply};

use super::{Flow, contains};

fn peer(identity: &Identity) -> HttpPeer {
    let peer = HttpPeer::start_tls(identity);
    peer.on("/x", Reply::bytes("application/json", "[1]"));
    peer
}

#[tokio::test]
async fn d10_a_certificate_of_an_unknown_authority_is_refused_for_good() {
    let (flow, peer) = (Flow::new(), peer(&Authority::new().server()));
    let error = flow.error(&format!("http: {}", peer.url("/x"))).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    contains(
        &error,
        &[&peer.url("/x"), "no trusted authority", "`tls: {ca: FILE}`"],
    );
    assert!(peer.requests().is_empty());
}

#[tokio::test]
async fn d10_the_own_authority_is_trusted_when_it_is_named() {
    let (flow, authority) = (Flow::new(), Authority::new());
    // Relative to the flow's folder.
    std::fs::create_dir(flow.folder.path().join("certificates")).unwrap();
    std::fs::copy(
        authority.path(),
        flow.folder.path().join("certificates/ca.pem"),
    )
    .unwrap();
    let peer = peer(&authority.server());
    let stage = format!(
        "http: {{url: '{}', tls: {{ca: certificates/ca.pem}}}}",
        peer.url("/x")
    );
    assert_eq!(flow.values(&stage).await, [1]);

    let other = Authority::new();
    std::fs::copy(other.path(), flow.folder.path().join("certificates/ca.pem")).unwrap();
    let error = flow.error(&stage).await;
    assert_eq!(
        error.kind(),
        ErrorKind::Config,
        "a changed file is read when the stage is opened"
    );
}

#[tokio::test]
async fn d10_expired_certificates_and_those_of_another_host_are_refused_for_good() {
    let (flow, authority) = (Flow::new(), Authority::new());
    let ca = authority.path();
    for (identity, why) in [
        (authority.expired(), "it has expired"),
        (authority.wrong_host(), "it is for another host"),
    ] {
        let peer = peer(&identity);
        let stage = format!(
            "http: {{url: '{}', tls: {{ca: '{}'}}}}",
            peer.url("/x"),
            ca.display()
        );
        let error = flow.error(&stage).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        contains(&error, &["certificate is refused", why]);
    }
}

#[tokio::test]
async fn a_peer_without_tls_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let flow = Flow::new();
    let answer = async {
        let mut stream = listener.accept().await.unwrap().0;
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        // Keeps the connection until the other side has seen enough.
        while stream
            .read(&mut [0; 1024])
            .await
            .is_ok_and(|length| length > 0)
        {}
    };
    let stage = format!("http: https://{address}/");
    let (error, ()) = tokio::join!(flow.error(&stage), answer);
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(&error, &["does not speak TLS", "`http://`"]);
}
