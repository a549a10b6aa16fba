//! A flow whose line to the broker is cut in the middle of packets, again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use wiredflow_testkit::{Fault, FaultProxy, Mosquitto, seed, wait_until};

use super::bench::SOON;
use super::whole::{begin, end, stored};

#[tokio::test(flavor = "multi_thread")]
async fn c4_c15_cuts_in_the_middle_of_packets_lose_nothing_on_either_way() {
    let broker = Mosquitto::with().max_queued_messages(0).start();
    let proxy = FaultProxy::before(broker.port());
    let mut random = StdRng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let results = broker.subscribe(&["out"]);
    let text = format!(
        "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{0}\", topic: in}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
      - send: {{mqtt: {{broker: \"{0}\", topic: out}}, field: n}}
",
        proxy.address()
    );
    let running = begin(folder.path(), &text);
    broker.wait_for_log("Sending SUBACK to flow-numbers", SOON);

    // Messages flow, past the proxy, for as long as lines are cut.
    let (done, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let publish = std::thread::spawn({
        let (mut client, done, sent) = (broker.client(), Arc::clone(&done), Arc::clone(&sent));
        move || {
            while !done.load(Ordering::SeqCst) {
                let begin = sent.load(Ordering::SeqCst);
                let filler = "x".repeat(300);
                let payloads =
                    (begin..begin + 10).map(|n| json!({"n": n, "x": filler}).to_string());
                client.publish_all("in", payloads, 1).unwrap();
                sent.store(begin + 10, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    for round in 0..6 {
        // Far enough that messages are on their way again, and hardly ever between two packets.
        let cut = Fault::CutAfter(random.random_range(400..4000));
        if round % 2 == 0 {
            proxy.to_client(cut);
        } else {
            proxy.to_peer(cut);
        }
        proxy.wait_until_spent(SOON);
    }
    done.store(true, Ordering::SeqCst);
    publish.join().unwrap();
    let all = 0..sent.load(Ordering::SeqCst);
    wait_until(SOON, || stored(folder.path()).len() as u64 == all.end);
    let arrived = || -> BTreeSet<u64> {
        let messages = results.messages();
        messages
            .iter()
            .map(|message| message.text().parse().unwrap())
            .collect()
    };
    wait_until(SOON, || arrived().len() as u64 == all.end);
    assert!(arrived().into_iter().eq(all));
    // The last cut may have come when all had arrived.
    wait_until(SOON, || proxy.connections() >= 8);
    let report = end(running).await;
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.pipelines["numbers"].deliveries.dead_lettered, 0);
}
