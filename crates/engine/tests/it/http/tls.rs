//! Certificates: whom we trust, and as whom we are known.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wiredflow_core::ErrorKind;
use wiredflow_testkit::{Authority, HttpPeer, Identity, Reply};

use super::{Flow, contains};
use crate::harness::open_stage;

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

/// A peer that knows only the clients of this authority; it answers each connection once, until it is dropped.
fn exclusive(server: &Identity) -> std::net::SocketAddr {
    let provider = Arc::new(ring::default_provider());
    let mut clients = RootCertStore::empty();
    clients
        .add(CertificateDer::from_pem_file(&server.authority).unwrap())
        .unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(clients.into(), Arc::clone(&provider));
    let chain = vec![CertificateDer::from_pem_file(&server.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&server.key).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process: `accept` cannot be told to stop.
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            // A client that is refused, or goes, is what the test looks at from the other side.
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|length| length > 0) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1]";
                drop(stream.write_all(answer));
            }
            stream.conn.send_close_notify();
            drop(stream.flush());
            // Who closes with bytes unread cuts the connection, and what was said last may be lost.
            drop(stream.sock.shutdown(Shutdown::Write));
            while stream.sock.read(&mut head).is_ok_and(|length| length > 0) {}
        }
    });
    address
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_is_refused_for_good_without_one() {
    let (flow, authority) = (Flow::new(), Authority::new());
    let address = exclusive(&authority.server());
    let ca = authority.path();
    let stage = |more: &str| {
        let ca = ca.display();
        format!("http: {{url: 'https://{address}/', tls: {{ca: '{ca}'{more}}}}}")
    };
    let keys = |identity: &Identity| {
        let (cert, key) = (identity.certificate.display(), identity.key.display());
        stage(&format!(", cert: '{cert}', key: '{key}'"))
    };
    assert_eq!(flow.values(&keys(&authority.client("me"))).await, [1]);
    let stranger = Authority::new().client("stranger");
    for refused in [stage(""), keys(&stranger)] {
        let error = flow.error(&refused).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        contains(&error, &["refused our certificate"]);
    }

    // A key of another certificate is found when the stage is opened.
    let mut mixed = authority.client("mixed");
    mixed.key = stranger.key.clone();
    let error = open_stage(&keys(&mixed), &flow.resources)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    contains(&error, &["cannot be used as the certificate of its key"]);
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

/// A real peer that speaks nothing newer than TLS 1.0; ends with the value.
struct OldPeer(std::process::Child, u16);

impl OldPeer {
    fn start(identity: &Identity) -> Self {
        let port = wiredflow_testkit::free_port();
        let child = std::process::Command::new("openssl")
            .args([
                "s_server",
                "-tls1",
                "-cipher",
                "ALL:@SECLEVEL=0",
                "-www",
                "-quiet",
                "-accept",
            ])
            .arg(format!("127.0.0.1:{port}"))
            .arg("-cert")
            .arg(&identity.certificate)
            .arg("-key")
            .arg(&identity.key)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let up = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wiredflow_testkit::wait_until(std::time::Duration::from_secs(10), up);
        Self(child, port)
    }
}

impl Drop for OldPeer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn d10_tls_1_0_is_refused_for_good_even_where_any_certificate_is_taken() {
    let (flow, authority) = (Flow::new(), Authority::new());
    let peer = OldPeer::start(&authority.server());
    for tls in [
        format!("ca: '{}'", authority.path().display()),
        "insecure: true".to_owned(),
    ] {
        let stage = format!(
            "http: {{url: 'https://127.0.0.1:{}/', tls: {{{tls}}}}}",
            peer.1
        );
        let error = flow.error(&stage).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        contains(&error, &["no TLS that is safe enough"]);
    }
}

#[tokio::test]
async fn d10_insecure_takes_any_certificate_for_one_component_only() {
    let (flow, authority) = (Flow::new(), Authority::new());
    for identity in [
        authority.server(),
        authority.expired(),
        authority.wrong_host(),
    ] {
        let peer = peer(&identity);
        let stage = |more: &str| format!("http: {{url: '{}'{more}}}", peer.url("/x"));
        assert_eq!(flow.values(&stage(", tls: {insecure: true}")).await, [1]);
        // Its neighbour has a connection of its own, and verifies.
        let error = flow.error(&stage("")).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        contains(&error, &["certificate is refused"]);
    }
    let found = crate::harness::problems(
        "http: {url: 'https://x/', tls: {insecure: true}}",
        flow.folder.path(),
    );
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("INSECURE: any certificate is taken"),
        "{found:?}"
    );
}
