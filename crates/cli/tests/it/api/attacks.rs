//! Slow, many and large: the API lives, and so does the flow.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;
use wiredflow_testkit::wait_until;

use super::{Api, LISTEN, QUIET};
use crate::SOON;

fn busy() -> String {
    format!(
        "{LISTEN}pipelines: {{p: {{every: 100ms, stages: [{{core_logic: {{program: [echo, '{{}}']}}}}, {{store: jsonl}}]}}}}\n"
    )
}

/// Waits until the flow has done more than it had.
fn goes_on(api: &Api) {
    let committed = |api: &Api| {
        api.pipeline("p")["deliveries"]["committed"]
            .as_u64()
            .unwrap()
    };
    let before = committed(api);
    api.wait_for(|api| committed(api) > before);
}

/// Reads until the other side has ended; what it said.
fn end_of(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it is still open: {error}"),
    }
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn h9_who_never_ends_its_head_is_let_go() {
    let api = Api::run(&busy());
    let mut silent = api.connect();
    let mut slow = api.connect();
    let writing = std::thread::spawn(move || {
        slow.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
            .unwrap();
        // A header each moment, without an end.
        let end = std::time::Instant::now() + SOON * 2;
        while slow.write_all(b"x-slow: 1\r\n").is_ok() {
            assert!(std::time::Instant::now() < end, "it was never let go");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(!end_of(&mut silent).contains(" 200 "));
    writing.join().unwrap();
    goes_on(&api);
}

#[test]
fn h9_connections_beyond_their_number_are_turned_away_and_those_that_rest_are_let_go() {
    let api = Api::run(&busy());
    goes_on(&api);
    let mut idle = Vec::new();
    // There is room for 256: those beyond hear so. A machine that stands still for seconds lets the first ones go
    // before the last are taken; then it is tried again.
    wait_until(SOON * 2, || {
        idle = (0..400).map(|_| api.connect()).collect();
        let last = idle.last_mut().unwrap();
        end_of(last).starts_with("HTTP/1.1 503")
    });
    // The others have five seconds, and then there is room again.
    let is_let_in = || {
        let Ok(mut stream) = TcpStream::connect(api.address) else {
            return false;
        };
        stream.set_read_timeout(Some(SOON)).unwrap();
        drop(
            stream
                .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
        );
        let mut heard = String::new();
        stream.read_to_string(&mut heard).is_ok() && heard.starts_with("HTTP/1.1 200")
    };
    wait_until(SOON, is_let_in);
    // That was the first place; the others are free a moment later.
    drop(idle);
    wait_until(SOON, || (0..20).all(|_| is_let_in()));
    goes_on(&api);
}

#[test]
fn h9_large_heads_and_bodies_are_refused_before_they_are_read() {
    let api = Api::run(&busy());
    let login = format!("authorization: Bearer {}\r\n", api.token("admin"));
    let bomb = format!("x-bomb: {}\r\n", "x".repeat(32 * 1024));
    let many: String = (0..200)
        .map(|number| format!("x-{number}: 1\r\n"))
        .collect();
    for headers in [&bomb, &many] {
        let reply = api.send("GET", "/health", headers);
        assert!(matches!(reply.status, 400 | 431 | 0), "{reply:?}");
    }
    let place = "/api/v1/pipelines/p/pause";
    api.send(
        "POST",
        place,
        &format!("{login}content-length: 1073741824\r\n"),
    )
    .is(413);
    let mut request = format!(
        "POST {place} HTTP/1.1\r\nhost: localhost\r\n{login}transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    for _ in 0..24 {
        request.push_str(&format!("10000\r\n{}\r\n", " ".repeat(0x10000)));
    }
    let reply = api.say(&request);
    assert!(matches!(reply.status, 413 | 0), "{reply:?}");
    // Nobody without a token has anything read.
    api.send("POST", place, "content-length: 1073741824\r\n")
        .is(401);
    // HTTP/2 is not spoken, so its resets are not heard.
    let http2 = api.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_ne!(http2.status, 200);
    assert_eq!(api.pipeline("p")["paused"], false);
    goes_on(&api);
}

#[test]
fn h14_what_a_body_says_is_never_taken_for_something_else() {
    let api = Api::run(QUIET);
    api.wait_open("hourly");
    api.test.file("secret.txt", "PRIVATE");
    let path = api.test.path("secret.txt");
    let json = json!({"path": path, "pipeline": "../../etc", "files": {"x": {"filepath": path}}})
        .to_string();
    let form = format!(
        "--x\r\ncontent-disposition: form-data; name=\"f\"; filename=\"{}\"\r\n\r\nx\r\n--x--\r\n",
        path.display()
    );
    for (kind, body) in [
        ("application/json", &json),
        ("multipart/form-data; boundary=x", &form),
        (
            "application/x-www-form-urlencoded",
            &"pipeline=hook".to_owned(),
        ),
        ("text/plain", &json),
        (
            "application/xml",
            &"<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>".to_owned(),
        ),
    ] {
        let headers = format!(
            "authorization: Bearer {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n",
            api.token("admin"),
            body.len()
        );
        let reply = api.say(&format!(
            "POST /api/v1/pipelines/hourly/pause HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n{body}"
        ));
        assert!(!reply.is(400).body.contains("PRIVATE"), "{kind}: {reply:?}");
    }
    assert_eq!(api.pipeline("hourly")["paused"], false);
    assert_eq!(api.pipeline("hook")["paused"], false);
}
