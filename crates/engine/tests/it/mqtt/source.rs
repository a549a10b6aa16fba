//! What a source promises while all is well.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use wiredflow_core::delivery::Outcome;
use wiredflow_testkit::{Mosquitto, seed};

use super::bench::{Bench, SOON, texts};

const VERSIONS: [&str; 2] = ["5", "3.1.1"];

fn config(mosquitto: &Mosquitto, rest: &str) -> String {
    format!("{{broker: \"{}\", {rest}}}", mosquitto.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_in_order_at_each_qos_in_both_versions() {
    let mosquitto = Mosquitto::start();
    for version in VERSIONS {
        for qos in [0, 1, 2] {
            let bench = Bench::new();
            let topic = format!("t/{version}/{qos}");
            let rest = format!("topic: {topic}, qos: {qos}, version: {version}");
            let flow = bench.source(&config(&mosquitto, &rest)).await;
            let sent: Vec<String> = (0..300).map(|number| number.to_string()).collect();
            mosquitto.client().publish_all(&topic, &sent, qos).unwrap();
            let got = flow.take_and_commit(300).await;
            assert_eq!(texts(&got), sent, "QoS {qos}, version {version}");
            assert!(got.iter().all(|got| got.topic == topic));
            flow.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_at_qos_0_arrives_whole_and_in_order() {
    const MESSAGES: usize = 20_000;
    // Each message is a segment of its own, as from a broker that does not wait for the next one.
    let broker = Mosquitto::with()
        .max_queued_messages(0)
        .line("set_tcp_nodelay true");
    let mosquitto = broker.start();
    let bench = Bench::new();
    let rest = "topic: t, qos: 0";
    let flow = bench.source(&config(&mosquitto, rest)).await;
    let sent: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    let mut client = mosquitto.client();
    let publish = {
        let sent = sent.clone();
        std::thread::spawn(move || client.publish_all("t", &sent, 0).unwrap())
    };
    let got = flow.take(MESSAGES).await;
    publish.join().unwrap();
    assert!(texts(&got) == sent, "not whole or not in order");
    flow.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_topics_and_wildcards_are_subscribed() {
    let mosquitto = Mosquitto::start();
    let bench = Bench::new();
    let rest = "topic: one, topics: [plant/+/temperature, \"deep/#\"]";
    let flow = bench.source(&config(&mosquitto, rest)).await;
    let topics = [
        "one",
        "plant/a/temperature",
        "plant/b/temperature",
        "deep/er/still",
        "one",
    ];
    for topic in topics {
        mosquitto.publish("plant/a/humidity", "not asked for", 1);
        mosquitto.publish(topic, topic, 1);
    }
    let got = flow.take(topics.len()).await;
    assert_eq!(texts(&got), topics);
    assert!(got.iter().all(|got| got.topic == got.text()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_takes_what_is_there_and_no_more_than_asked_for() {
    let mosquitto = Mosquitto::start();
    let flow = Bench::new()
        .source(&config(&mosquitto, "topic: t, qos: 0"))
        .await;
    let sent: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    mosquitto.client().publish_all("t", &sent, 0).unwrap();
    let first = flow.0.next_boxed(4).await.unwrap().len();
    assert!((1..=4).contains(&first));
    assert_eq!(flow.take(10 - first).await.last().unwrap().text(), "9");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_comes_again_after_a_restart_and_the_rest_does_not() {
    let mosquitto = Mosquitto::start();
    for version in VERSIONS {
        let bench = Bench::new();
        let config = config(&mosquitto, &format!("topic: t, version: {version}"));
        let flow = bench.source(&config).await;
        let outcomes = [
            Outcome::Committed,
            Outcome::Failed,
            Outcome::Skipped,
            Outcome::Lost,
            Outcome::DeadLettered,
        ];
        for outcome in outcomes {
            mosquitto.publish("t", outcome.word(), 1);
        }
        mosquitto.publish("t", "never settled", 1);
        let got = flow.take(6).await;
        for (got, outcome) in got.iter().zip(outcomes) {
            flow.settle(std::slice::from_ref(got), outcome).await;
        }
        flow.end().await;
        mosquitto.publish("t", "meanwhile", 1);

        let flow = bench.source(&config).await;
        let got = flow.take(4).await;
        assert_eq!(
            texts(&got),
            ["failed", "lost", "never settled", "meanwhile"]
        );
        flow.commit(&got).await;
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a8_the_last_acknowledgements_are_with_the_broker_when_the_source_has_ended() {
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    let mut random = StdRng::seed_from_u64(seed());
    let bench = Bench::new();
    for round in 0..10 {
        let version = VERSIONS[round % 2];
        let config = config(&mosquitto, &format!("topic: t, version: {version}"));
        let flow = bench.source(&config).await;
        let count = random.random_range(1..2000);
        let sent: Vec<String> = (0..count)
            .map(|number| format!("{round}/{number}"))
            .collect();
        let client = mosquitto.client();
        let publish = std::thread::spawn({
            let (mut client, sent) = (client, sent.clone());
            move || client.publish_all("t", &sent, 1).unwrap()
        });
        let all = flow.take_and_commit(count).await;
        // Nothing of an earlier round came again, and nothing twice.
        assert_eq!(texts(&all), sent, "version {version}");
        publish.join().unwrap();
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_what_came_while_the_flow_was_down_is_all_there() {
    let mosquitto = Mosquitto::with().max_queued_messages(0).start();
    for version in VERSIONS {
        let bench = Bench::new();
        let topic = format!("t/{version}");
        let config = config(&mosquitto, &format!("topic: {topic}, version: {version}"));
        bench.source(&config).await.end().await;
        let sent: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
        mosquitto.client().publish_all(&topic, &sent, 1).unwrap();
        let flow = bench.source(&config).await;
        let got = flow.take_and_commit(sent.len()).await;
        assert!(texts(&got) == sent, "version {version}");
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_acknowledgements_go_out_in_the_order_of_arrival() {
    let mosquitto = Mosquitto::start();
    let mut random = StdRng::seed_from_u64(seed());
    let flow = Bench::new()
        .source(&config(&mosquitto, "topic: t, version: 3.1.1"))
        .await;
    for number in 0..20 {
        mosquitto.publish("t", number.to_string(), 1);
    }
    let mut got = flow.take(20).await;
    got.shuffle(&mut random);
    for got in &got {
        flow.commit(std::slice::from_ref(got)).await;
    }
    flow.end().await;
    let log = mosquitto.log();
    let acknowledged: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("Received PUBACK from flow-numbers"))
        .filter_map(|line| line.split("Mid: ").nth(1)?.split([',', ')']).next())
        .collect();
    let expected: Vec<String> = (1..=20).map(|id: u16| id.to_string()).collect();
    assert_eq!(acknowledged, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_source_takes_no_more_and_still_acknowledges() {
    let mosquitto = Mosquitto::start();
    let bench = Bench::new();
    let config = config(&mosquitto, "topic: t");
    let flow = bench.source(&config).await;
    mosquitto.publish("t", "under way", 1);
    let got = flow.take(1).await;
    flow.0.close_boxed().await;
    mosquitto.publish("t", "too late", 1);
    flow.commit(&got).await;
    mosquitto.wait_for_log("Received PUBACK from flow-numbers", SOON);
    flow.end().await;
    let flow = bench.source(&config).await;
    assert_eq!(texts(&flow.take(1).await), ["too late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_loses_nothing() {
    let mosquitto = Mosquitto::start();
    let flow = Bench::new()
        .source(&config(&mosquitto, "topic: t, qos: 0"))
        .await;
    let mut client = mosquitto.client();
    let publish = std::thread::spawn(move || {
        for number in 0..500 {
            client.publish("t", number.to_string(), 0).unwrap();
        }
    });
    let mut got = Vec::new();
    while got.len() < 500 {
        let hasty = tokio::time::timeout(Duration::from_micros(50), flow.0.next_boxed(3)).await;
        if let Ok(next) = hasty {
            got.extend(next.unwrap());
        }
        assert!(!publish.is_finished() || !got.is_empty());
    }
    publish.join().unwrap();
    assert_eq!(got.len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_id_is_made_once_and_differs_from_that_of_another_machine() {
    let mosquitto = Mosquitto::start();
    let config = config(&mosquitto, "topic: t");
    let ids = || {
        let log = mosquitto.log();
        let ids: Vec<String> = log
            .lines()
            .filter_map(|line| Some(line.split(" as flow-numbers-").nth(1)?[..8].to_owned()))
            .collect();
        ids
    };
    let (here, there) = (Bench::new(), Bench::new());
    here.source(&config).await.end().await;
    let other = there.source(&config).await;
    here.source(&config).await.end().await;
    other.end().await;
    let ids = ids();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(ids[0] == ids[2] && ids[0] != ids[1], "{ids:?}");

    let named = format!(
        "{{broker: \"{}\", topic: t, client_id: mine}}",
        mosquitto.address()
    );
    here.source(&named).await.end().await;
    assert!(mosquitto.log().contains(" as mine "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_taken_out_of_the_file_brings_nothing_more() {
    let mosquitto = Mosquitto::start();
    for version in VERSIONS {
        let bench = Bench::new();
        let with = |topics| {
            config(
                &mosquitto,
                &format!("topics: [{topics}], version: {version}"),
            )
        };
        bench.source(&with("old, kept")).await.end().await;
        let flow = bench.source(&with("kept, new")).await;
        for topic in ["old", "kept", "new"] {
            mosquitto.publish(topic, topic, 1);
        }
        let got = flow.take(2).await;
        assert_eq!(texts(&got), ["kept", "new"]);
        flow.commit(&got).await;
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c9_a_retained_message_comes_once_although_the_source_restarts() {
    let mosquitto = Mosquitto::start();
    mosquitto.client().retain("t", "kept").unwrap();
    let bench = Bench::new();
    let config = config(&mosquitto, "topic: t, version: 5");
    let flow = bench.source(&config).await;
    let got = flow.take(1).await;
    flow.commit(&got).await;
    flow.end().await;
    let flow = bench.source(&config).await;
    mosquitto.publish("t", "new", 1);
    assert_eq!(texts(&flow.take(1).await), ["new"]);
}
