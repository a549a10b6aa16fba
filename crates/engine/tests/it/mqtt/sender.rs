//! What a sender promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wiredflow_core::ErrorKind;
use wiredflow_testkit::Mosquitto;

use super::bench::{Bench, SOON};
use super::scripted::{self, Scripted};

const VERSIONS: [&str; 2] = ["5", "3.1.1"];

fn config(mosquitto: &Mosquitto, rest: &str) -> String {
    format!(
        "{{broker: \"{}\", topic: out, {rest}}}",
        mosquitto.address()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_arrives_in_order_at_each_qos_in_both_versions() {
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    for version in VERSIONS {
        for qos in [0, 1, 2] {
            let collector = mosquitto.subscribe(&["out"]);
            let rest = format!("qos: {qos}, version: {version}");
            let sender = Bench::new().sender(&config(&mosquitto, &rest)).await;
            let bodies: Vec<String> = (0..3000).map(|number| number.to_string()).collect();
            for group in bodies.chunks(1500) {
                let receipt = sender.send(group).await.unwrap();
                assert_eq!((receipt.rows(), receipt.sink()), (1500, "send"));
            }
            assert_eq!(sender.send(&[""; 0]).await.unwrap().rows(), 0);
            drop(sender);
            let got = collector.wait_for(3000, SOON);
            let got: Vec<&str> = got.iter().map(wiredflow_testkit::Message::text).collect();
            assert_eq!(got, bodies, "QoS {qos}, version {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_side_by_side_share_the_connection() {
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    let collector = mosquitto.subscribe(&["out"]);
    let sender = Arc::new(Bench::new().sender(&config(&mosquitto, "version: 5")).await);
    let calls: Vec<_> = (0..16)
        .map(|call| {
            let sender = Arc::clone(&sender);
            tokio::spawn(async move {
                for number in 0..20 {
                    drop(sender.send(&[format!("{call}/{number}")]).await.unwrap());
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(collector.wait_for(320, SOON).len(), 320);
    let log = mosquitto.log();
    let connections = log
        .lines()
        .filter(|line| line.contains(" as flow-numbers-send-"))
        .count();
    assert_eq!(connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_an_error_until_it_is_back() {
    for version in VERSIONS {
        let mut mosquitto = Mosquitto::start();
        let rest = format!("version: {version}");
        let sender = Bench::new().sender(&config(&mosquitto, &rest)).await;
        drop(sender.send(&["before"]).await.unwrap());
        mosquitto.stop();
        let error = sender.send(&["while away"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
        mosquitto.start_again();
        let collector = mosquitto.subscribe(&["out"]);
        // As the engine does.
        while let Err(error) = sender.send(&["while away", "and after"]).await {
            assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let got = collector.wait_for(2, SOON);
        assert_eq!([got[0].text(), got[1].text()], ["while away", "and after"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_nothing_counts_as_sent_before_the_broker_has_confirmed_it() {
    let published = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&published);
    let broker = Scripted::start(move |connection| {
        connection.read();
        connection.write(scripted::WELCOME_311);
        if connection.number == 0 {
            // Takes two, confirms one, hangs up.
            let first = connection.read_kind(3);
            connection.read_kind(3);
            seen.fetch_add(2, Ordering::Relaxed);
            connection.write(&[0x40, 2, first.body[5], first.body[6]]);
            return;
        }
        for _ in 0..2 {
            let sent = connection.read_kind(3);
            seen.fetch_add(1, Ordering::Relaxed);
            connection.write(&[0x40, 2, sent.body[5], sent.body[6]]);
        }
        connection.read_to_end();
    });
    let config = format!(
        "{{broker: \"{}\", topic: out, version: 3.1.1}}",
        broker.address()
    );
    let sender = Bench::new().sender(&config).await;
    let error = sender.send(&["one", "two"]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.record()),
        (ErrorKind::Remote, None),
        "{error}"
    );
    assert_eq!(published.load(Ordering::Relaxed), 2);
    drop(sender.send(&["one", "two"]).await.unwrap());
    assert_eq!(published.load(Ordering::Relaxed), 4);
    drop(sender);
    broker.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_does_not_disturb_the_next() {
    let mosquitto = Mosquitto::start();
    let collector = mosquitto.subscribe(&["out"]);
    let sender = Bench::new().sender(&config(&mosquitto, "qos: 1")).await;
    mosquitto.freeze();
    let call = tokio::time::timeout(Duration::from_millis(100), sender.send(&["given up"]));
    assert!(call.await.is_err());
    mosquitto.thaw();
    drop(sender.send(&["next"]).await.unwrap());
    let next = |message: &wiredflow_testkit::Message| message.text() == "next";
    collector.wait_for_matching(1, SOON, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_message_that_the_broker_never_takes_is_named_and_nothing_is_sent() {
    let mosquitto = Mosquitto::with().line("max_packet_size 1000").start();
    let collector = mosquitto.subscribe(&["out"]);
    let sender = Bench::new().sender(&config(&mosquitto, "version: 5")).await;
    let large = "x".repeat(2000);
    let error = sender.send(&["small", &large, "other"]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.record()),
        (ErrorKind::Data, Some(11)),
        "{error}"
    );
    drop(sender.send(&["small", "other"]).await.unwrap());
    let got = collector.settled();
    let got: Vec<&str> = got.iter().map(wiredflow_testkit::Message::text).collect();
    assert_eq!(got, ["small", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_does_not_allow_is_a_final_error() {
    let acl = "user worker\ntopic write elsewhere";
    let mosquitto = Mosquitto::with().user("worker", "secret").acl(acl).start();
    let rest = "version: 5, username: worker, password: secret";
    let sender = Bench::new().sender(&config(&mosquitto, rest)).await;
    let error = sender.send(&["forbidden"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(
        error
            .message()
            .contains("refuses a message to `out`: not authorized"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_small_window_is_not_overrun() {
    let broker = Scripted::start(|connection| {
        connection.read();
        // Receive Maximum 3.
        connection.write(&[0x20, 6, 0, 0, 3, 0x21, 0, 3]);
        let mut waiting = Vec::new();
        for _ in 0..10 {
            for _ in 0..3 {
                waiting.push(connection.read_kind(3).body[5..7].to_vec());
            }
            let stream = connection.stream();
            stream
                .set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            assert!(
                stream.peek(&mut [0]).is_err(),
                "a fourth message is on its way"
            );
            stream.set_read_timeout(Some(SOON)).unwrap();
            for id in waiting.drain(..) {
                connection.write(&[0x40, 2, id[0], id[1]]);
            }
        }
        connection.read_to_end();
    });
    let config = format!(
        "{{broker: \"{}\", topic: out, version: 5}}",
        broker.address()
    );
    let sender = Bench::new().sender(&config).await;
    let bodies: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    drop(sender.send(&bodies).await.unwrap());
    drop(sender);
    broker.end();
}
