//! Slow peers, endless and packed answers, connections.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use wiredflow_core::charge::Activity;
use wiredflow_core::{Batch, ErrorKind};
use wiredflow_engine::http::Limits;
use wiredflow_testkit::{HttpPeer, Reply};

use super::{Flow, contains};
use crate::harness::{cx, open_stage, run};

/// Far more than a healthy machine needs, far less than waiting for nothing would take.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn d1_the_limits_are_5_seconds_to_connect_and_10_of_silence() {
    let limits = Limits::default();
    assert_eq!(limits.connect, Duration::from_secs(5));
    assert_eq!(limits.idle, Duration::from_secs(10));
}

#[tokio::test]
async fn d1_a_peer_that_never_answers_is_given_up_and_holds_nobody_else() {
    let (flow, peer) = (Flow::brief(), HttpPeer::start());
    peer.on("/never", Reply::never());
    peer.on("/well", Reply::json(json!({"a": 1})));
    let begun = Instant::now();
    let error = flow.error(&format!("http: {}", peer.url("/never"))).await;
    assert!(begun.elapsed() < SOON);
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(&error, &["/never: ", "nothing for 500ms"]);
    let values = flow.values(&format!("http: {}", peer.url("/well"))).await;
    assert_eq!(values, [json!({"a": 1})]);
}

#[tokio::test]
async fn d1_a_peer_that_falls_silent_within_its_answer_is_given_up() {
    let (flow, peer) = (Flow::brief(), HttpPeer::start());
    peer.on("/drips", Reply::drip("[1, 2, 3]", Duration::from_secs(60)));
    let error = flow.error(&format!("http: {}", peer.url("/drips"))).await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(&error, &["nothing for 500ms"]);
}

#[tokio::test]
async fn d1_byte_by_byte_is_slow_but_an_answer_and_a_call_that_is_dropped_leaves_nothing() {
    let (flow, peer) = (Flow::brief(), HttpPeer::start());
    peer.on("/drips", Reply::drip("[1, 2]", Duration::from_millis(20)));
    assert_eq!(
        flow.values(&format!("http: {}", peer.url("/drips"))).await,
        [1, 2]
    );

    // The whole is limited by the engine, which drops the call.
    let endless = "1".repeat(100_000);
    peer.on("/drips", Reply::drip(&endless, Duration::from_millis(20)));
    let stage = open_stage(&format!("http: {}", peer.url("/drips")), &flow.resources).await;
    let (stage, cx) = (stage.unwrap(), cx(Value::Null).0);
    let nothing = Batch::default();
    let call = run(&*stage, &nothing, &cx);
    assert!(
        tokio::time::timeout(Duration::from_millis(700), call)
            .await
            .is_err()
    );
    peer.on("/well", Reply::json(json!([])));
    assert!(
        flow.values(&format!("http: {}", peer.url("/well")))
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn d1_a_connection_that_does_not_come_about_is_given_up() {
    let flow = Flow::brief();
    // A listener that accepts nobody: when its queue is full, further greetings are not answered.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let _queue = super::fill_the_queue(address).await;
    let error = flow.error(&format!("http: http://{address}/")).await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    contains(&error, &["no connection within 500ms"]);
}

#[tokio::test]
async fn d1_who_gives_more_time_than_usual_may_wait_longer_for_the_first_byte() {
    let (flow, peer) = (Flow::brief(), HttpPeer::start());
    peer.on(
        "/slow",
        Reply::json(json!([1])).after(Duration::from_millis(1200)),
    );
    let stage = open_stage(&format!("http: {}", peer.url("/slow")), &flow.resources).await;
    let (stage, mut cx) = (stage.unwrap(), cx(Value::Null).0);
    cx.deadline = Some(Duration::from_secs(30));
    let error = run(&*stage, &Batch::default(), &cx).await.0.unwrap_err();
    contains(&error, &["nothing for 500ms"]);
    cx.deadline = Some(Duration::from_secs(60));
    run(&*stage, &Batch::default(), &cx).await.0.unwrap();
}

#[tokio::test]
async fn d3_a_bomb_never_inflates_beyond_the_limit() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/bomb", Reply::gzip_bomb(10 * 1024));
    let begun = Instant::now();
    let error = flow.error(&format!("http: {}", peer.url("/bomb"))).await;
    // Ten gibibytes of zeros could not be unpacked in this time.
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Data);
    contains(&error, &["/bomb: ", "longer than 16MiB", "`max_bytes`"]);
}

#[tokio::test]
async fn d3_the_limit_counts_unpacked_bytes() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let text = format!("[\"{}\"]", "x".repeat(1020)); // 1024 bytes
    for reply in [
        Reply::gzip(&text),
        Reply::bytes("application/json", text.clone()),
    ] {
        peer.on("/x", reply);
        let stage =
            |most: usize| format!("http: {{url: '{}', max_bytes: {most}B}}", peer.url("/x"));
        assert_eq!(flow.values(&stage(1024)).await, ["x".repeat(1020)]);
        let error = flow.error(&stage(1023)).await;
        assert_eq!(error.kind(), ErrorKind::Data);
        contains(&error, &["longer than 1023"]);
    }
}

#[tokio::test]
async fn d4_an_answer_without_end_is_given_up_at_the_limit() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/endless", Reply::endless());
    let error = flow.error(&format!("http: {}", peer.url("/endless"))).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    contains(&error, &["longer than 16MiB"]);
    for flood in [Some(100_000), None] {
        peer.on("/flood", Reply::header_flood(flood));
        let error = flow.error(&format!("http: {}", peer.url("/flood"))).await;
        assert_eq!(error.kind(), ErrorKind::Remote, "{error:?}");
    }
}

#[tokio::test]
async fn e5_an_answer_has_at_most_100_000_records() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let list = |count: usize| format!("[0{}]", ",0".repeat(count - 1));
    peer.on("/x", Reply::bytes("application/json", list(100_000)));
    let stage = format!("http: {}", peer.url("/x"));
    assert_eq!(flow.values(&stage).await.len(), 100_000);
    peer.on("/x", Reply::bytes("application/json", list(100_001)));
    let error = flow.error(&stage).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    contains(&error, &["more than 100000 records"]);
}

#[tokio::test]
async fn a_hundred_polls_use_one_connection_also_after_failures() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    let mut count = 0;
    peer.on_request("/x", move |_| {
        count += 1;
        match count % 3 {
            0 => Reply::text("not now").status(503),
            1 => Reply::json(json!([count])),
            _ => Reply::text("not JSON"),
        }
    });
    let stage = open_stage(&format!("http: {}", peer.url("/x")), &flow.resources).await;
    let (stage, cx) = (stage.unwrap(), cx(Value::Null).0);
    let mut good = 0;
    for _ in 0..100 {
        good += usize::from(run(&*stage, &Batch::default(), &cx).await.0.is_ok());
    }
    assert_eq!(
        (good, peer.requests().len(), peer.connections()),
        (34, 100, 1)
    );
}

#[tokio::test]
async fn stages_of_a_flow_share_connections_and_one_origin_gets_no_more_than_512_at_once() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on(
        "/x",
        Reply::json(json!([1])).after(Duration::from_millis(50)),
    );
    let stage = format!("http: {}", peer.url("/x"));
    let mut stages = Vec::new();
    for _ in 0..1500 {
        stages.push(open_stage(&stage, &flow.resources).await.unwrap());
    }
    let (cx, batch) = (cx(Value::Null).0, Batch::default());
    let calls = stages.iter().map(|stage| run(&**stage, &batch, &cx));
    for (result, _) in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(peer.requests().len(), 1500);
    assert!(peer.most_at_once() <= 512, "{}", peer.most_at_once());
    // A few more are made than used: one may become free while another is being made.
    assert!(peer.connections() <= 1024, "{}", peer.connections());
}

#[tokio::test]
async fn waiting_is_charged_as_external_and_reading_as_compute() {
    let (flow, peer) = (Flow::new(), HttpPeer::start());
    peer.on("/x", Reply::json(json!([1])));
    let stage = open_stage(&format!("http: {}", peer.url("/x")), &flow.resources).await;
    let (cx, book) = cx(Value::Null);
    run(&*stage.unwrap(), &Batch::default(), &cx)
        .await
        .0
        .unwrap();
    let expected = [
        Activity::External,
        Activity::Overhead,
        Activity::Compute,
        Activity::Overhead,
    ];
    assert_eq!(book.entries(), expected);
}
