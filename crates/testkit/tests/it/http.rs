//! Tests of `HttpPeer`, with a socket in the place of a client that could hide something.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use wiredflow_testkit::{Authority, HttpPeer, Reply};

use crate::{BRIEFLY, SOON, panic_of};

/// A connection on which one request was sent.
fn ask(peer: &HttpPeer, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", peer.port())).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn get(peer: &HttpPeer, path: &str) -> TcpStream {
    ask(peer, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
}

/// Reads until the text has come; returns all.
fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(text) {
        let length = stream.read(&mut piece).unwrap();
        assert!(
            length > 0,
            "closed before {text:?}: {:?}",
            String::from_utf8_lossy(&all)
        );
        all.extend(&piece[..length]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn requests_are_recorded_whole_also_in_chunks_and_on_one_connection() {
    let peer = HttpPeer::start();
    peer.on("/a", Reply::json(json!([1])));
    let mut stream = ask(
        &peer,
        "POST /a?b=c&d HTTP/1.1\r\nX-Key: v\r\ncontent-length: 5\r\n\r\nhello",
    );
    let reply = read_until(&mut stream, "[1]");
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.contains("application/json"));
    stream
        .write_all(b"PUT /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        .unwrap();
    read_until(&mut stream, "[1]");
    let requests = peer.wait_for("/a", 2, SOON);
    assert_eq!(
        (requests[0].method.as_str(), requests[0].query.as_str()),
        ("POST", "b=c&d")
    );
    assert_eq!(
        (requests[0].text(), requests[0].header("x-key")),
        ("hello", Some("v"))
    );
    assert_eq!(
        (requests[1].method.as_str(), requests[1].text()),
        ("PUT", "abcde")
    );
    assert_eq!((requests[1].connection, peer.connections()), (1, 1));
    let text = panic_of(|| drop(peer.wait_for("/a", 3, BRIEFLY)));
    assert!(text.contains("2 of 3 requests to /a"), "{text}");
}

#[test]
fn a_sequence_is_kept_and_its_last_reply_repeated() {
    let peer = HttpPeer::start();
    peer.on_each(
        "/",
        [Reply::code(500), Reply::code(503), Reply::text("fine")],
    );
    let mut count = 0;
    peer.on_request("/count", move |request| {
        count += 1;
        Reply::text(&format!("<{} {count}>", request.method))
    });
    for expected in ["500 Internal", "503 Service", "fine", "fine"] {
        read_until(&mut get(&peer, "/"), expected);
    }
    read_until(&mut get(&peer, "/count"), "<GET 1>");
    read_until(&mut get(&peer, "/count"), "<GET 2>");
    read_until(&mut get(&peer, "/other"), "404 Not Found");
    peer.on("*", Reply::redirect("/other"));
    read_until(&mut get(&peer, "/other"), "location: /other");
}

#[test]
fn slow_and_silent_replies_are_slow_and_silent() {
    let peer = HttpPeer::start();
    peer.on(
        "/late",
        Reply::text("here").after(Duration::from_millis(150)),
    );
    peer.on("/drip", Reply::drip("abcd", Duration::from_millis(50)));
    peer.on("/never", Reply::never());
    let begun = Instant::now();
    read_until(&mut get(&peer, "/late"), "here");
    assert!(begun.elapsed() >= Duration::from_millis(150));
    let begun = Instant::now();
    read_until(&mut get(&peer, "/drip"), "abcd");
    assert!(begun.elapsed() >= Duration::from_millis(150));
    let mut silent = get(&peer, "/never");
    silent.set_read_timeout(Some(BRIEFLY)).unwrap();
    let error = silent.read(&mut [0]).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    let _second = get(&peer, "/never");
    peer.wait_for("/never", 2, SOON);
    assert_eq!(peer.most_at_once(), 2);
}

#[test]
fn broken_replies_are_broken() {
    let peer = HttpPeer::start();
    peer.on("/cut", Reply::truncated(r#"[{"a": 1}]"#, 4));
    peer.on("/gone", Reply::hang_up());
    peer.on("/raw", Reply::raw("SSH-2.0-hello"));
    peer.on("/flood", Reply::header_flood(Some(2000)));
    let cut = String::from_utf8(read_all(&mut get(&peer, "/cut"))).unwrap();
    assert!(
        cut.contains("content-length: 10") && cut.ends_with("\r\n\r\n[{\"a\":"),
        "{cut}"
    );
    assert_eq!(read_all(&mut get(&peer, "/gone")), b"");
    assert_eq!(read_all(&mut get(&peer, "/raw")), b"SSH-2.0-hello");
    let flood = read_until(&mut get(&peer, "/flood"), "content-length: 0\r\n\r\n");
    assert_eq!(flood.matches("x-flood-").count(), 2000);
}

#[test]
fn an_endless_body_does_not_end_and_stops_costing_when_the_client_leaves() {
    let peer = HttpPeer::start();
    peer.on("/endless", Reply::endless());
    let mut stream = get(&peer, "/endless");
    let mut read = 0;
    let mut piece = vec![0; 64 * 1024];
    while read < 20 * 1024 * 1024 {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "it ended after {read} bytes");
        read += length;
    }
    drop(stream);
    let begun = Instant::now();
    drop(peer); // would hang if the server still wrote
    assert!(begun.elapsed() < SOON);
}

#[test]
fn a_bomb_is_small_on_the_wire_and_unpacks_to_what_it_says() {
    let peer = HttpPeer::start();
    peer.on("/bomb", Reply::gzip_bomb(64));
    peer.on("/packed", Reply::gzip("[1,2]"));
    // Another program's unpacker says how many zeros there are, and checks the sum.
    let unpacked = |path: &str| {
        let script = "curl -sf --max-time 60 \"$0\" | tee packed | gzip -dc > plain; wc -c < packed; tr -d '\\000' < plain | wc -c; wc -c < plain";
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("bash")
            .args(["-o", "pipefail", "-ec", script, &peer.url(path)])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect::<Vec<u64>>()
    };
    let [packed, not_zero, plain] = unpacked("/bomb")[..] else {
        panic!("three numbers")
    };
    assert_eq!((not_zero, plain), (0, 64 * 1024 * 1024));
    assert!(packed < plain / 500, "{packed} bytes on the wire");
    assert_eq!(unpacked("/packed")[2], 5);
    read_until(&mut get(&peer, "/packed"), "content-encoding: gzip");
}

#[test]
fn a_server_that_went_away_refuses_and_comes_back_with_its_scripts() {
    let mut peer = HttpPeer::start();
    peer.on("/", Reply::text("here"));
    let mut open = get(&peer, "/");
    read_until(&mut open, "here");
    peer.go_away();
    assert!(TcpStream::connect(("127.0.0.1", peer.port())).is_err());
    assert!(
        matches!(open.read(&mut [0]), Ok(0) | Err(_)),
        "the connection is still open"
    );
    peer.come_back();
    read_until(&mut get(&peer, "/"), "here");
    assert_eq!(peer.requests_to("/").len(), 2);
}

#[test]
fn tls_is_taken_by_those_who_trust_the_authority_alone() {
    let authority = Authority::new();
    let curl = |peer: &HttpPeer, args: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--max-time", "20", "--noproxy", "*"])
            .args(args);
        command.arg(peer.url("/")).output().unwrap()
    };
    let ca = authority.path();
    let trust = ["--cacert", ca.to_str().unwrap()];
    let peer = HttpPeer::start_tls(&authority.server());
    peer.on("/", Reply::text("secret"));
    assert_eq!(curl(&peer, &trust).stdout, b"secret");
    assert_eq!(
        curl(&peer, &[]).status.code(),
        Some(60),
        "an unknown authority"
    );
    let expired = HttpPeer::start_tls(&authority.expired());
    let said = String::from_utf8(curl(&expired, &trust).stderr).unwrap();
    assert!(said.contains("expired"), "{said}");
    let wrong = HttpPeer::start_tls(&authority.wrong_host());
    let said = String::from_utf8(curl(&wrong, &trust).stderr).unwrap();
    assert!(said.contains("localhost"), "{said}");
}
