//! Tests of `Mosquitto`, `Client`, `Collector` and `Authority`.

use std::{
    net::TcpStream,
    process::{Command, Output},
    time::Duration,
};

use wiredflow_testkit::{Authority, Client, Login, Mosquitto};

use crate::{BRIEFLY, SOON, panic_of};

fn login(username: &str, password: &str) -> Login {
    Login {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

/// Debian's own client, by TLS.
fn mosquitto_pub(mosquitto: &Mosquitto, args: &[&str]) -> Output {
    let port = mosquitto
        .tls_address()
        .split_once(':')
        .unwrap()
        .1
        .to_owned();
    Command::new("mosquitto_pub")
        .args([
            "-h",
            "localhost",
            "-p",
            &port,
            "-t",
            "a",
            "-m",
            "by tls",
            "-q",
            "1",
        ])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn what_is_published_arrives_whole_in_order_and_at_its_qos() {
    let mosquitto = Mosquitto::start();
    let collector = mosquitto.subscribe(&["a/#", "b"]);
    for (qos, topic) in [(0, "a/0"), (1, "a/1"), (2, "b"), (1, "not/asked/for")] {
        mosquitto.publish(topic, [0, 255, qos], qos);
    }
    let messages = collector.settled();
    let seen: Vec<_> = messages
        .iter()
        .map(|message| (message.topic.as_str(), message.payload.clone(), message.qos))
        .collect();
    assert_eq!(
        seen,
        [
            ("a/0", vec![0, 255, 0], 0),
            ("a/1", vec![0, 255, 1], 1),
            ("b", vec![0, 255, 2], 2)
        ]
    );
}

#[test]
fn a_collector_that_misses_a_message_says_so_and_shows_what_came() {
    let mosquitto = Mosquitto::start();
    let collector = mosquitto.subscribe(&["a"]);
    mosquitto.publish("a", "the only one", 1);
    let text = panic_of(|| drop(collector.wait_for(2, BRIEFLY)));
    assert!(
        text.contains("1 of 2 messages") && text.contains("the only one"),
        "{text}"
    );
    let none = |message: &wiredflow_testkit::Message| message.topic == "b";
    panic_of(|| drop(collector.wait_for_matching(1, BRIEFLY, none)));
    assert_eq!(collector.wait_for(1, SOON)[0].text(), "the only one");
}

#[test]
fn many_messages_are_counted_to_the_last_at_each_qos() {
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    for (qos, count) in [(0, 5_000), (1, 5_000), (2, 300)] {
        let topic = format!("many/{qos}");
        let collector = mosquitto.subscribe(&[&topic]);
        let payloads = (0..count).map(|number| number.to_string());
        mosquitto
            .client()
            .publish_all(&topic, payloads, qos)
            .unwrap();
        let messages = collector.settled();
        let numbers: Vec<usize> = messages
            .iter()
            .map(|message| message.text().parse().unwrap())
            .collect();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "at QoS {qos}");
    }
}

#[test]
fn a_persistent_broker_keeps_messages_through_an_orderly_restart() {
    let mut mosquitto = Mosquitto::with().persistent().start();
    let collector = mosquitto.subscribe(&["a"]);
    mosquitto.publish("a", "before", 1);
    mosquitto.client().retain("kept", "still here").unwrap();
    collector.wait_for(1, SOON);
    let port = mosquitto.port();
    mosquitto.restart();
    assert_eq!(mosquitto.port(), port);
    mosquitto.publish("a", "after", 1);
    let texts: Vec<String> = collector
        .wait_for(2, SOON)
        .iter()
        .map(|message| message.text().to_owned())
        .collect();
    assert_eq!(texts, ["before", "after"]);
    assert_eq!(
        mosquitto.subscribe(&["kept"]).wait_for(1, SOON)[0].text(),
        "still here"
    );
}

#[test]
fn a_broker_without_persistence_forgets_when_it_is_killed() {
    let mut mosquitto = Mosquitto::start();
    mosquitto.client().retain("kept", "gone").unwrap();
    mosquitto.kill9();
    assert!(TcpStream::connect(("127.0.0.1", mosquitto.port())).is_err());
    mosquitto.start_again();
    assert!(mosquitto.subscribe(&["kept"]).settled().is_empty());
}

#[test]
fn a_frozen_broker_takes_nothing_until_it_is_thawed() {
    let mosquitto = Mosquitto::start();
    let collector = mosquitto.subscribe(&["a"]);
    let mut client = mosquitto.client();
    mosquitto.freeze();
    let publisher = std::thread::spawn(move || client.publish("a", "late", 1));
    panic_of(|| drop(collector.wait_for(1, BRIEFLY)));
    mosquitto.thaw();
    publisher.join().unwrap().unwrap();
    assert_eq!(collector.wait_for(1, SOON).len(), 1);
}

#[test]
fn users_and_rights_are_kept() {
    let acl = "user reader\ntopic read a\n\nuser writer\ntopic write a";
    let mosquitto = Mosquitto::with()
        .user("reader", "r")
        .user("writer", "w")
        .acl(acl)
        .start();
    let connect = |login: Option<&Login>| Client::connect(mosquitto.port(), "someone", true, login);
    assert_eq!(
        connect(None).unwrap_err().kind(),
        std::io::ErrorKind::PermissionDenied
    );
    assert!(connect(Some(&login("writer", "wrong"))).is_err());
    let collector = mosquitto.subscribe(&["#"]);
    let mut writer = connect(Some(&login("writer", "w"))).unwrap();
    writer.publish("a", "allowed", 1).unwrap();
    writer.publish("b", "denied", 1).unwrap(); // v3.1.1 has no word for "denied"
    let seen: Vec<String> = collector
        .settled()
        .iter()
        .map(|message| message.text().to_owned())
        .collect();
    assert_eq!(seen, ["allowed"]);
}

#[test]
fn tls_is_taken_by_those_who_trust_the_authority_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = authority.path();
    let ca = ca.to_str().unwrap();
    let mosquitto = Mosquitto::with().tls(&authority.server()).start();
    let collector = mosquitto.subscribe(&["a"]);
    assert!(
        mosquitto_pub(&mosquitto, &["--cafile", ca])
            .status
            .success()
    );
    let other = other.path();
    assert!(
        !mosquitto_pub(&mosquitto, &["--cafile", other.to_str().unwrap()])
            .status
            .success()
    );
    assert_eq!(collector.settled().len(), 1);

    let expired = Mosquitto::with().tls(&authority.expired()).start();
    assert!(!mosquitto_pub(&expired, &["--cafile", ca]).status.success());
    let wrong = Mosquitto::with().tls(&authority.wrong_host()).start();
    assert!(!mosquitto_pub(&wrong, &["--cafile", ca]).status.success());
    assert!(
        mosquitto_pub(&wrong, &["--cafile", ca, "--insecure"])
            .status
            .success()
    );
}

#[test]
fn client_certificates_are_asked_for_when_told_to() {
    let authority = Authority::new();
    let mosquitto = Mosquitto::with()
        .tls(&authority.server())
        .client_certificates()
        .start();
    let [ca, client] = [authority.path(), authority.client("me").certificate];
    let key = client.with_extension("key");
    let ca = ["--cafile", ca.to_str().unwrap()];
    assert!(!mosquitto_pub(&mosquitto, &ca).status.success());
    let own = [
        "--cert",
        client.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    assert!(
        mosquitto_pub(&mosquitto, &[&ca[..], &own].concat())
            .status
            .success()
    );
}

#[test]
fn a_dropped_broker_is_gone() {
    let mosquitto = Mosquitto::start();
    let port = mosquitto.port();
    drop(mosquitto);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    let broken = panic_of(|| drop(Mosquitto::with().line("no_such_option 1").start()));
    assert!(broken.contains("no_such_option"), "{broken}");
}

#[test]
fn the_log_is_waited_for_and_shown_when_it_lacks_the_text() {
    let mosquitto = Mosquitto::start();
    drop(Client::connect(mosquitto.port(), "chatty", true, None).unwrap());
    mosquitto.wait_for_log("chatty", SOON);
    let text = panic_of(|| mosquitto.wait_for_log("never said", Duration::from_millis(50)));
    assert!(text.contains("chatty"), "{text}");
    mosquitto.forget_log();
    drop(Client::connect(mosquitto.port(), "another", true, None).unwrap());
    mosquitto.wait_for_log("another", SOON);
    assert!(!mosquitto.log().contains("chatty"));
}
