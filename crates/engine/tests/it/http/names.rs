//! D5: hosts that cannot be found, are found slowly, or are found where nobody answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpSocket;
use wiredflow_core::ErrorKind;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::http::HttpClients;
use wiredflow_engine::run::{RunOptions, start};
use wiredflow_testkit::{HttpPeer, Reply, wait_until};

use super::{BRIEF, Flow, contains};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn d5_a_host_that_is_not_found_is_a_peer_that_is_away() {
    let flow = Flow::finding(|_| Err(io::Error::other("no such host is known")));
    let error = flow.error("http: http://gone.test/").await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(
        &error,
        &["the host cannot be found", "no such host is known"],
    );
    let flow = Flow::finding(|_| Ok(Vec::new()));
    let error = flow.error("http: http://empty.test/").await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(&error, &["the host cannot be found", "no address"]);
}

#[tokio::test]
async fn d5_a_blackhole_in_ipv6_costs_a_moment_and_not_the_answer() {
    let peer = HttpPeer::start();
    peer.on("/x", Reply::json(json!([1])));
    let port: u16 = peer.url("").rsplit_once(':').unwrap().1.parse().unwrap();
    // The same port over IPv6: a listener whose queue is full answers no greeting.
    let socket = TcpSocket::new_v6().unwrap();
    socket
        .bind(format!("[::1]:{port}").parse().unwrap())
        .unwrap();
    let listener = socket.listen(1).unwrap();
    let _queue = super::fill_the_queue(listener.local_addr().unwrap()).await;
    let both = ["[::1]:0", "127.0.0.1:0"].map(|text| text.parse().unwrap());
    let http = HttpClients::default().with_lookup(Arc::new(move |_| Ok(both.to_vec())));
    let begun = Instant::now();
    let values = Flow::of(http)
        .values(&format!("http: http://two.test:{port}/x"))
        .await;
    assert_eq!(values, [1]);
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_slow_names_are_tried_again_and_hold_no_other_pipeline() {
    let peer = HttpPeer::start();
    peer.on("/well", Reply::json(json!([1])));
    let looked = Arc::new(AtomicUsize::new(0));
    let looks = Arc::clone(&looked);
    let http = HttpClients::with_limits(BRIEF).with_lookup(Arc::new(move |host: &str| {
        if host == "localhost" {
            return Ok(vec!["127.0.0.1:0".parse().unwrap()]);
        }
        looks.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(900));
        Err(io::Error::other("no answer from the name server"))
    }));
    // Many pipelines that ask for hosts which are not found in time, and one that is well.
    let mut text = "pipelines:\n".to_owned();
    for number in 0..40 {
        let stages = format!("[{{http: 'http://slow{}.test/'}}]", number % 4);
        text += &format!("  slow{number}: {{once: true, stages: {stages}}}\n");
    }
    let well = peer.url("/well").replace("127.0.0.1", "localhost");
    text += &format!("  well: {{every: 50ms, stages: [{{http: '{well}'}}]}}\n");
    let folder = tempfile::tempdir().unwrap();
    let lookup = SystemLookup::new(folder.path());
    let checked = check_text(&text, "test", folder.path(), &Functions::default(), &lookup);
    let plan = checked
        .plan
        .unwrap_or_else(|| panic!("{:#?}", checked.problems));
    let options = RunOptions {
        http,
        ..RunOptions::default()
    };
    let running = start(&plan, &options).unwrap();
    tokio::task::spawn_blocking(move || {
        wait_until(SOON, || peer.requests().len() >= 20);
        // Each of the four is asked for again, and never twice at once.
        wait_until(SOON, || looked.load(Ordering::SeqCst) >= 8);
    })
    .await
    .unwrap();
    drop(running);
}
