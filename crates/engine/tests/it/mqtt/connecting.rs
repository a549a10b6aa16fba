//! Who is let in, who is refused, and how it is said.

use std::time::Instant;

use wiredflow_core::{Error, ErrorKind};
use wiredflow_testkit::{Mosquitto, free_port};

use super::bench::{Bench, SOON, texts};
use super::scripted::{self, Scripted};

const PASSWORD: &str = "correct horse battery";

#[track_caller]
pub(crate) fn check_error(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(
            error.message().contains(part),
            "`{part}` is not in: {error}"
        );
    }
    assert!(
        !error.message().contains("horse"),
        "a credential is in: {error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_credentials_are_sent_and_wrong_ones_are_a_final_error() {
    let mosquitto = Mosquitto::with().user("worker", PASSWORD).start();
    let bench = Bench::new();
    for version in ["5", "3.1.1"] {
        let with = |credentials: &str| {
            let broker = mosquitto.address();
            format!("{{broker: \"{broker}\", topic: t, version: {version}{credentials}}}")
        };
        let flow = bench
            .source(&with(&format!(", username: worker, password: {PASSWORD}")))
            .await;
        mosquitto.publish("t", "hello", 1);
        let got = flow.take(1).await;
        flow.commit(&got).await;
        flow.end().await;

        let wrong = bench
            .try_source(&with(", username: worker, password: wrong horse"))
            .await;
        let parts = [mosquitto.address(), "refuses the connection".to_owned()];
        let parts = [&*parts[0], &*parts[1], "is `username` or `password` wrong?"];
        check_error(&wrong.err().unwrap(), ErrorKind::Config, &parts);
        let none = bench.try_source(&with("")).await.err().unwrap();
        check_error(
            &none,
            ErrorKind::Config,
            &["it wants `username` and `password`"],
        );
        let sender = with(", username: worker, password: wrong horse");
        let sender = bench.try_sender(&sender).await.err().unwrap();
        check_error(
            &sender,
            ErrorKind::Config,
            &["is `username` or `password` wrong?"],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_told_at_once_and_may_be_tried_again() {
    let bench = Bench::new();
    let port = free_port();
    let config = format!("{{broker: \"127.0.0.1:{port}\", topic: t}}");
    let begun = Instant::now();
    let error = bench.try_source(&config).await.err().unwrap();
    check_error(
        &error,
        ErrorKind::Remote,
        &[&format!("127.0.0.1:{port}"), "cannot be reached"],
    );
    let error = bench.try_sender(&config).await.err().unwrap();
    check_error(&error, ErrorKind::Remote, &["cannot be reached"]);
    let unknown = "{broker: no-such-host.invalid, topic: t}";
    let error = bench.try_source(unknown).await.err().unwrap();
    check_error(
        &error,
        ErrorKind::Remote,
        &["no-such-host.invalid:1883", "cannot be reached"],
    );
    assert!(begun.elapsed() < SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_given_up_leaves_nothing_behind() {
    // Listens and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("{{broker: \"{}\", topic: t}}", silent.local_addr().unwrap());
    let bench = Bench::new();
    let begun = Instant::now();
    let open = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        bench.try_source(&config),
    );
    assert!(open.await.is_err());
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    let (mut stream, _) = silent.accept().unwrap();
    // The connection has been given up: after what was said comes the end.
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut said).unwrap();
    assert!(said.len() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_speaks_no_5_is_spoken_to_in_3_1_1() {
    for refusal in [&[0x20, 2, 0, 1][..], &[0x20, 3, 0, 0x84, 0], &[]] {
        let broker = Scripted::start(move |connection| {
            let hello = connection.read();
            if hello.protocol_level() == 5 {
                connection.write(refusal);
                return;
            }
            assert_eq!(hello.protocol_level(), 4);
            connection.write(scripted::WELCOME_311);
            let subscribe = connection.read_kind(8);
            connection.write(&scripted::suback_311(&subscribe, &[1]));
            connection.write(&scripted::publish_311("t", 7, false, b"old but fine"));
            connection.read_kind(4);
            connection.read_to_end();
        });
        let bench = Bench::new();
        let flow = bench
            .source(&format!("{{broker: \"{}\", topic: t}}", broker.address()))
            .await;
        let got = flow.take(1).await;
        assert_eq!(texts(&got), ["old but fine"]);
        flow.commit(&got).await;
        flow.end().await;
        broker.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_fixed_is_not_exchanged_for_another() {
    let broker = Scripted::start(|connection| {
        connection.read();
        connection.write(&[0x20, 2, 0, 1]);
    });
    let config = format!("{{broker: \"{}\", topic: t, version: 5}}", broker.address());
    let error = Bench::new().try_source(&config).await.err().unwrap();
    check_error(&error, ErrorKind::Config, &["does not speak MQTT 5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c11_a_subscription_that_is_refused_or_granted_less_is_a_final_error() {
    for (version, code, words) in [
        ("3.1.1", 0x80, "refuses the subscription to `b`"),
        ("5", 0x87, "refuses the subscription to `b`: not authorized"),
        ("3.1.1", 0, "grants QoS 0 for `b`, and 1 is asked for"),
        ("5", 0, "grants QoS 0 for `b`, and 1 is asked for"),
    ] {
        let broker = Scripted::start(move |connection| {
            let hello = connection.read();
            if hello.protocol_level() == 5 {
                connection.write(scripted::WELCOME_5);
                let subscribe = connection.read_kind(8);
                connection.write(&scripted::suback_5(&subscribe, &[1, code]));
            } else {
                connection.write(scripted::WELCOME_311);
                let subscribe = connection.read_kind(8);
                connection.write(&scripted::suback_311(&subscribe, &[1, code]));
            }
            connection.read_to_end();
        });
        let address = broker.address();
        let config = format!("{{broker: \"{address}\", topics: [a, b], version: {version}}}");
        let error = Bench::new().try_source(&config).await.err().unwrap();
        check_error(&error, ErrorKind::Config, &[words]);
    }
}

#[test]
fn what_cannot_be_is_told_by_check() {
    let bench = Bench::new();
    std::fs::write(bench.folder().join("empty.pem"), "nothing").unwrap();
    for (config, words) in [
        ("{topic: t}", "`broker` is missing"),
        ("{broker: localhost}", "`topic` is missing"),
        (
            "{broker: \"mqtt://localhost\", topic: t}",
            "write `HOST:PORT` alone",
        ),
        (
            "{broker: localhost, topic: t, qos: 3}",
            "`3` is not possible",
        ),
        (
            "{broker: localhost, topic: t, version: 4}",
            "possible: `5`, `3.1.1`",
        ),
        (
            "{broker: localhost, topic: t, topic_field: \"\"}",
            "`topic_field` is empty",
        ),
        (
            "{broker: localhost, topic: t, topic_field: value}",
            "such as `topic`",
        ),
        (
            "{broker: localhost, topic: t, format: jsno}",
            "did you mean `json`?",
        ),
        ("{broker: localhost, topic: a#}", "comes last"),
        (
            "{broker: localhost, topic: t, password: x}",
            "`password` goes with `username`",
        ),
        (
            "{broker: localhost, topic: t, client_id: \"\"}",
            "`client_id` is empty",
        ),
        (
            "{broker: localhost, topic: t, session_expiry: 0s}",
            "at least 1s",
        ),
        (
            "{broker: localhost, topic: t, tls: {ca: none.pem}}",
            "none.pem",
        ),
        (
            "{broker: localhost, topic: t, tls: {ca: empty.pem}}",
            "holds no certificate",
        ),
        (
            "{broker: localhost, topic: t, tls: {cert: empty.pem}}",
            "go together",
        ),
        (
            "{broker: localhost, topic: t, tls: {certs: x}}",
            "did you mean `cert`?",
        ),
        (
            "{broker: localhost, topic: t, tls: yes please}",
            "expected `true`",
        ),
    ] {
        let problems = bench.source_problems(config);
        assert!(problems.contains(words), "{config}: {problems}");
    }
    for (config, words) in [
        ("{broker: localhost}", "`topic` is missing"),
        ("{broker: localhost, topic: \"a/#\"}", "has a wildcard"),
        ("{broker: localhost, topic: \"a\\0b\"}", "NUL"),
        (
            "{broker: localhost, topic: $SYS/broker}",
            "belongs to the broker",
        ),
        ("{broker: localhost, topics: [a]}", "unknown key `topics`"),
    ] {
        let problems = bench.sender_problems(config);
        assert!(problems.contains(words), "{config}: {problems}");
    }
    for config in [
        "{broker: localhost, topic: t}",
        "{broker: \"[::1]:1884\", topics: [a, \"b/#\"], qos: 0, version: 3.1.1, format: json}",
        "{broker: localhost, topic: t, tls: false, session_expiry: 7d, version: 5}",
        "{broker: localhost, topic: t, qos: 2, format: binary, topic_field: topic}",
    ] {
        assert_eq!(bench.source_problems(config), "", "{config}");
    }
    let config = "{broker: localhost, topic: t, qos: 2, format: text}";
    assert_eq!(bench.sender_problems(config), "");
}

#[test]
fn c10_qos_0_cannot_be_at_least_once() {
    let bench = Bench::new();
    let warned = |qos: u8| bench.source_warnings(&format!("{{broker: b, topic: t, qos: {qos}}}"));
    let text = warned(0);
    assert!(text.contains("QoS 0 cannot be at-least-once"), "{text}");
    assert!(text.contains("write `qos: 1`"), "{text}");
    assert_eq!((warned(1), warned(2)), (String::new(), String::new()));
}
