//! What a source does when the broker, the network or a payload is not as it should be.

use std::time::{Duration, Instant};

use wiredflow_core::ErrorKind;
use wiredflow_core::json::MAX_PAYLOAD;
use wiredflow_testkit::{Mosquitto, wait_until};

use super::bench::{Bench, SOON, texts};
use super::scripted::{self, Scripted};

const VERSIONS: [&str; 2] = ["5", "3.1.1"];

fn config(mosquitto: &Mosquitto, version: &str) -> String {
    let broker = mosquitto.address();
    format!("{{broker: \"{broker}\", topic: t, version: {version}}}")
}

/// How often a client of a source has connected.
fn connections(mosquitto: &Mosquitto) -> usize {
    let log = mosquitto.log();
    log.lines()
        .filter(|line| line.contains("New client connected") && line.contains("flow-numbers"))
        .count()
}

/// How many messages a source has acknowledged.
fn acknowledged(mosquitto: &Mosquitto) -> usize {
    mosquitto
        .log()
        .matches("Received PUBACK from flow-numbers")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_broker_that_restarts_with_its_state_costs_nothing() {
    for version in VERSIONS {
        let mut mosquitto = Mosquitto::with().persistent().start();
        let bench = Bench::new();
        let flow = bench.source(&config(&mosquitto, version)).await;
        for number in 0..10 {
            mosquitto.publish("t", number.to_string(), 1);
        }
        let got = flow.take(10).await;
        flow.commit(&got[..3]).await;
        wait_until(SOON, || acknowledged(&mosquitto) == 3);
        mosquitto.restart();
        let begun = Instant::now();
        mosquitto.publish("t", "after", 1);
        let after = flow.take(1).await;
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "{:?}",
            begun.elapsed()
        );
        // What the flow still had did not come again, and is acknowledged under the new connection.
        assert_eq!(texts(&after), ["after"], "version {version}");
        flow.commit(&got[3..]).await;
        flow.commit(&after).await;
        flow.end().await;
        let flow = bench.source(&config(&mosquitto, version)).await;
        mosquitto.publish("t", "last", 1);
        assert_eq!(texts(&flow.take(1).await), ["last"], "version {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_a_lost_session_is_subscribed_again() {
    for version in VERSIONS {
        let mut mosquitto = Mosquitto::start();
        let flow = Bench::new().source(&config(&mosquitto, version)).await;
        mosquitto.publish("t", "taken", 1);
        mosquitto.publish("t", "waits", 1);
        let taken = flow.take(1).await;
        mosquitto.kill9();
        mosquitto.forget_log();
        mosquitto.start_again();
        mosquitto.wait_for_log("flow-numbers", SOON);
        mosquitto.wait_for_log("Sending SUBACK to flow-numbers", SOON);
        mosquitto.publish("t", "after", 1);
        // What had arrived was the only one there was.
        let got = flow.take(2).await;
        assert_eq!(texts(&got), ["waits", "after"], "version {version}");
        flow.commit(&taken).await;
        flow.commit(&got).await;
        flow.end().await;
        assert!(
            !mosquitto.log().contains("rotocol error"),
            "{}",
            mosquitto.log()
        );
        assert_eq!(
            acknowledged(&mosquitto),
            1,
            "only the message of this session"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_an_acknowledgement_never_goes_to_another_message_under_the_same_id() {
    let broker = Scripted::start(|connection| {
        connection.read();
        if connection.number == 0 {
            connection.write(scripted::WELCOME_311);
            let subscribe = connection.read_kind(8);
            connection.write(&scripted::suback_311(&subscribe, &[1]));
            connection.write(&scripted::publish_311("t", 1, false, b"first"));
            connection.write(&scripted::publish_311("t", 2, false, b"second"));
            connection.write(&scripted::publish_311("t", 3, false, b"third"));
            // Hung up when the first acknowledgement is there.
            assert_eq!(connection.read_kind(4).id(), 1);
            return;
        }
        connection.write(scripted::RESUMED_311);
        // Another message under an id of before, one that comes again under its own, one that
        // claims to come again and has other content, and one whose acknowledgement was in vain.
        connection.write(&scripted::publish_311("t", 2, false, b"new, not second"));
        connection.write(&scripted::publish_311("t", 3, true, b"third"));
        connection.write(&scripted::publish_311("t", 1, true, b"first"));
        let acknowledged: Vec<u16> = connection
            .read_to_end()
            .iter()
            .filter(|sent| sent.first >> 4 == 4)
            .map(scripted::Sent::id)
            .collect();
        assert_eq!(acknowledged, [2, 3]);
    });
    let config = format!(
        "{{broker: \"{}\", topic: t, version: 3.1.1}}",
        broker.address()
    );
    let flow = Bench::new().source(&config).await;
    let before = flow.take(3).await;
    flow.commit(&before[..1]).await;
    let after = flow.take(2).await;
    assert_eq!(texts(&after), ["new, not second", "first"]);
    flow.commit(&before[1..2]).await; // stale: says nothing
    flow.commit(&after[..1]).await;
    flow.commit(&before[2..]).await; // came again: acknowledged in its new place
    flow.end().await;
    broker.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_broker_that_is_killed_under_load_costs_no_message_and_no_further_connection() {
    for version in VERSIONS {
        let mut mosquitto = Mosquitto::with()
            .persistent()
            .max_queued_messages(0)
            .start();
        let flow = Bench::new().source(&config(&mosquitto, version)).await;
        let sent: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        mosquitto
            .client()
            .publish_all("t", &sent[..100], 1)
            .unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let first = flow.take(20).await;
        flow.commit(&first[..10]).await;
        // Saved once a second: what is older survives.
        std::thread::sleep(Duration::from_millis(1500));
        mosquitto.kill9();
        mosquitto.start_again();
        mosquitto
            .client()
            .publish_all("t", &sent[100..], 1)
            .unwrap();
        flow.commit(&first[10..]).await;
        seen.extend(texts(&first).iter().map(|text| (*text).to_owned()));
        while seen.len() < 200 {
            let got = flow.take(1).await;
            flow.commit(&got).await;
            seen.insert(got[0].text().to_owned());
        }
        flow.end().await;
        assert_eq!(
            connections(&mosquitto),
            2,
            "version {version}: {}",
            mosquitto.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_payload_of_any_size_costs_no_connection() {
    for version in VERSIONS {
        let mosquitto = Mosquitto::start();
        let flow = Bench::new().source(&config(&mosquitto, version)).await;
        let mut client = mosquitto.client();
        let mut publish = |size: usize| client.publish("t", vec![b'x'; size], 1).unwrap();
        let most = [11 << 10, 300 << 10, MAX_PAYLOAD];
        for size in most.into_iter().chain([MAX_PAYLOAD + 1, 2 << 20, 20 << 20]) {
            publish(size);
        }
        mosquitto.publish("t", "behind", 1);
        let whole = flow.take(most.len()).await;
        let sizes: Vec<usize> = whole.iter().map(|got| got.payload.len()).collect();
        assert_eq!(sizes, most, "version {version}");
        let mut got = whole;
        let too_large = [MAX_PAYLOAD + 1, 2 << 20, 20 << 20];
        let cut = flow.take(too_large.len()).await;
        for (size, got) in too_large.iter().zip(&cut) {
            let reason = got.unreadable.as_deref().unwrap();
            assert!(reason.starts_with(&format!("{size} bytes")), "{reason}");
            assert_eq!((got.payload.len(), got.topic.as_str()), (0, "t"));
        }
        got.extend(cut);
        got.extend(flow.take(1).await);
        assert_eq!(got.last().unwrap().text(), "behind", "version {version}");
        flow.commit(&got).await;
        flow.end().await;
        assert_eq!(connections(&mosquitto), 1, "version {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_an_oversized_message_with_properties_is_cut_as_well() {
    let broker = Scripted::start(|connection| {
        connection.read();
        connection.write(scripted::WELCOME_5);
        let subscribe = connection.read_kind(8);
        connection.write(&scripted::suback_5(&subscribe, &[1]));
        let payload = vec![b'y'; 3 << 20];
        // Properties of five bytes: message expiry.
        let rest = 2 + 1 + 2 + 1 + 5 + payload.len();
        let mut bytes = vec![0x32, (rest & 0x7F) as u8 | 0x80];
        bytes.push((rest >> 7 & 0x7F) as u8 | 0x80);
        bytes.push((rest >> 14 & 0x7F) as u8 | 0x80);
        bytes.push((rest >> 21) as u8);
        bytes.extend([0, 1, b't', 0, 9, 5, 2, 0, 0, 0, 60]);
        bytes.extend(&payload);
        bytes.extend([0x30, 5, 0, 1, b't', 0, b'z']);
        connection.write(&bytes);
        assert_eq!(connection.read_kind(4).id(), 9);
        connection.read_to_end();
    });
    let flow = Bench::new()
        .source(&format!("{{broker: \"{}\", topic: t}}", broker.address()))
        .await;
    let got = flow.take(2).await;
    let reason = got[0].unreadable.as_deref().unwrap();
    assert!(reason.starts_with("3145728 bytes"), "{reason}");
    assert_eq!(got[0].payload.len(), 0);
    assert_eq!(got[1].text(), "z");
    flow.commit(&got).await;
    flow.end().await;
    broker.end();
}

/// CONNACK with a keep-alive of one second.
const HURRIED: &[u8] = &[0x20, 6, 0, 0, 3, 0x13, 0, 1];

#[tokio::test(flavor = "multi_thread")]
async fn c12_a_flow_that_is_behind_holds_the_broker_back_and_still_answers() {
    let broker = Scripted::start(|connection| {
        connection.read();
        connection.write(HURRIED);
        let subscribe = connection.read_kind(8);
        connection.write(&scripted::suback_5(&subscribe, &[0]));
        // More than anybody keeps: writing stops when the client reads no more.
        let mut writer = connection.stream().try_clone().unwrap();
        let flood = std::thread::spawn(move || {
            writer
                .set_write_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            let message = [&[0x30, 0xE8, 0x07, 0, 1, b't', 0][..], &[b'x'; 996]].concat();
            let mut written = 0_u64;
            while std::io::Write::write_all(&mut writer, &message).is_ok() {
                written += 1;
                assert!(written < 1_000_000, "nothing holds the broker back");
            }
        });
        let mut pings = 0;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(connection.read().first, 0xC0);
            pings += 1;
        }
        flood.join().unwrap();
        assert!(pings >= 6, "{pings} pings in 4 s at a keep-alive of 1 s");
    });
    let config = format!(
        "{{broker: \"{}\", topic: t, qos: 0, version: 5}}",
        broker.address()
    );
    let flow = Bench::new().source(&config).await;
    // It takes one message and then is busy until the broker has seen enough.
    flow.take(1).await;
    broker.end();
    drop(flow);
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_a_connection_on_which_nothing_is_heard_is_made_anew() {
    let broker = Scripted::start(|connection| {
        connection.read();
        connection.write(HURRIED);
        let subscribe = connection.read_kind(8);
        connection.write(&scripted::suback_5(&subscribe, &[1]));
        if connection.number == 0 {
            // Half open: reads, and never answers.
            let begun = Instant::now();
            while connection.try_read().is_some() {}
            assert!(
                begun.elapsed() < Duration::from_millis(1500),
                "{:?}",
                begun.elapsed()
            );
            return;
        }
        connection.write(&[0x30, 5, 0, 1, b't', 0, b'z']);
        connection.read_to_end();
    });
    let flow = Bench::new()
        .source(&format!("{{broker: \"{}\", topic: t}}", broker.address()))
        .await;
    assert_eq!(texts(&flow.take(1).await), ["z"]);
    flow.end().await;
    broker.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_credentials_that_are_withdrawn_end_the_source() {
    let broker = Scripted::start(|connection| {
        connection.read();
        if connection.number == 0 {
            connection.write(scripted::WELCOME_5);
            let subscribe = connection.read_kind(8);
            connection.write(&scripted::suback_5(&subscribe, &[1]));
            return;
        }
        connection.write(&[0x20, 3, 0, 0x86, 0]);
    });
    let flow = Bench::new()
        .source(&format!("{{broker: \"{}\", topic: t}}", broker.address()))
        .await;
    let error = flow.error().await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(
        error
            .message()
            .contains("it wants `username` and `password`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_two_clients_of_one_id_do_not_fight_for_ever() {
    let mosquitto = Mosquitto::start();
    let rest = "topic: t, version: 5, client_id: same";
    let config = format!("{{broker: \"{}\", {rest}}}", mosquitto.address());
    let (one, other) = (Bench::new(), Bench::new());
    let (one, other) = (one.source(&config).await, other.source(&config).await);
    let error = tokio::select! {
        error = one.error() => error,
        error = other.error() => error,
    };
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(
        error
            .message()
            .contains("another client use the same `client_id` (`same`)"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_breaks_the_rules_again_and_again_ends_the_source() {
    let broker = Scripted::start(|connection| {
        connection.read();
        connection.write(scripted::RESUMED_5);
        if connection.number == 0 {
            let subscribe = connection.read_kind(8);
            connection.write(&scripted::suback_5(&subscribe, &[1]));
        }
        connection.write(&[0x36, 6, 0, 1, b't', 0, 1, 0]); // QoS 3
        connection.read_to_end();
    });
    let flow = Bench::new()
        .source(&format!("{{broker: \"{}\", topic: t}}", broker.address()))
        .await;
    let error = flow.error().await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.message().contains("broke the rules"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_ends_at_once_while_its_broker_is_away() {
    let mut mosquitto = Mosquitto::start();
    let flow = Bench::new().source(&config(&mosquitto, "5")).await;
    mosquitto.kill9();
    let begun = Instant::now();
    flow.end().await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_ends_in_time_while_its_broker_is_frozen() {
    let mosquitto = Mosquitto::start();
    let flow = Bench::new().source(&config(&mosquitto, "5")).await;
    mosquitto.freeze();
    let begun = Instant::now();
    flow.end().await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    mosquitto.thaw();
}
