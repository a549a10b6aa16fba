//! Senders that are slow, large or many, and the end of a webhook.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wiredflow_core::delivery::{Outcome, Payload};
use wiredflow_core::stage::Source;
use wiredflow_engine::webhook::{Limits, Webhook};

use super::{Hook, SOON, ask, post, reply, rules, with_head};

const BRIEF: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_is_too_large_is_refused_at_the_limit() {
    let hook = Hook::open().await;
    hook.commit_all();
    let fits = format!("\"{}\"", "x".repeat(1022));
    assert_eq!(hook.send(post(&fits)).await.unwrap().status, 200);
    let large = "1".repeat(1025);
    let chunked = |body: &str| {
        let length = body.len();
        format!(
            "POST /readings HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        )
    };
    assert_eq!(hook.send(chunked(&fits)).await.unwrap().status, 200);
    let huge = "1".repeat(3 << 20);
    for request in [post(&large), chunked(&large), post(&huge), chunked(&huge)] {
        let reply = hook.send(request).await.unwrap();
        assert_eq!(reply.status, 413, "{reply:?}");
        assert!(reply.body.contains("longer than 1KiB"), "{reply:?}");
    }
    let long = format!("x: {}\r\n", "y".repeat(20_000));
    let many: String = (0..100).map(|number| format!("x{number}: y\r\n")).collect();
    for lines in [long, many] {
        let reply = hook.send(with_head(&lines, "{}")).await.unwrap();
        assert_eq!(reply.status, 431, "{reply:?}");
    }
}

#[tokio::test]
async fn slow_heads_and_bodies_are_cut_and_hold_nobody_else() {
    let limits = Limits {
        head: BRIEF,
        body: BRIEF,
        ..Limits::default()
    };
    let hook = Hook::with(rules(), limits).await;
    hook.commit_all();
    let begun = Instant::now();
    let mut silent = TcpStream::connect(hook.address()).await.unwrap();
    let mut dripping = TcpStream::connect(hook.address()).await.unwrap();
    let mut no_body = TcpStream::connect(hook.address()).await.unwrap();
    let head = post("{}").replace("{}", "");
    no_body.write_all(head.as_bytes()).await.unwrap();
    let drip = async {
        for byte in head.bytes().cycle() {
            if dripping.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let others = async {
        assert_eq!(hook.send(post("{}")).await.unwrap().status, 200);
        assert_eq!(reply(&mut no_body).await.status, 408);
        let mut nothing = Vec::new();
        silent.read_to_end(&mut nothing).await.unwrap();
    };
    let both = async { tokio::join!(drip, others) };
    tokio::time::timeout(SOON, both).await.expect("all are cut");
    assert!(begun.elapsed() >= BRIEF);
}

#[tokio::test]
async fn more_than_there_is_room_for_is_told_to_come_again() {
    let limits = Limits {
        queue: 1,
        ..Limits::default()
    };
    let hook = Hook::with(rules(), limits).await;
    // Nobody takes from the queue: one waits in it.
    let first = hook.send(post("1"));
    let full = async {
        loop {
            let asked =
                tokio::time::timeout(Duration::from_millis(200), ask(hook.address(), post("2")));
            if let Ok(reply) = asked.await {
                return reply;
            }
        }
    };
    let refused = tokio::time::timeout(SOON, full)
        .await
        .expect("the queue is full");
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.has("retry-after: 1"));
    // Who gave up has left the queue, or waits in it: his request is not delivered.
    hook.commit_all();
    if let Ok(reply) = tokio::time::timeout(SOON, first).await.unwrap() {
        assert!([200, 429].contains(&reply.status), "{reply:?}");
    }
    assert_eq!(hook.send(post("3")).await.unwrap().status, 200);

    // The same for memory: two KiB at a time, and a body of one is being read.
    let limits = Limits {
        kibibytes: 2,
        ..Limits::default()
    };
    let hook = Hook::with(rules(), limits).await;
    let held = [hook.send(post("1")), hook.send(post("2"))];
    let (one, two) = (hook.next().await, hook.next().await);
    assert_eq!(hook.send(post("3")).await.unwrap().status, 429);
    hook.settle(&one, Outcome::Committed).await;
    hook.settle(&two, Outcome::Committed).await;
    for asked in held {
        assert_eq!(asked.await.unwrap().status, 200);
    }
    hook.commit_all();
    assert_eq!(hook.send(post("4")).await.unwrap().status, 200);
}

#[tokio::test]
async fn connections_over_the_limit_are_turned_away_until_one_ends() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let hook = Hook::with(rules(), limits).await;
    hook.commit_all();
    let idle = [
        TcpStream::connect(hook.address()).await.unwrap(),
        TcpStream::connect(hook.address()).await.unwrap(),
    ];
    let mut over = TcpStream::connect(hook.address()).await.unwrap();
    assert_eq!(reply(&mut over).await.status, 503);
    drop(idle);
    let again = async {
        while ask(hook.address(), post("{}")).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, again)
        .await
        .expect("there is room again");
}

#[tokio::test]
async fn a_sender_that_went_away_before_its_turn_is_passed_over() {
    let hook = Hook::open().await;
    let gone = hook.send(post("\"gone\""));
    tokio::time::sleep(Duration::from_millis(50)).await;
    gone.abort();
    assert!(gone.await.is_err());
    let stays = hook.send(post("\"stays\""));
    loop {
        let delivery = hook.next().await;
        hook.settle(&delivery, Outcome::Committed).await;
        let Payload::Values(values) = &delivery.payload else {
            panic!("{delivery:?}");
        };
        // Taken before its end was seen, it is delivered: that is no loss.
        if values[0] == "stays" {
            break;
        }
    }
    assert_eq!(stays.await.unwrap().status, 200);
}

#[tokio::test]
async fn who_waits_too_long_is_told_so_and_the_work_goes_on() {
    let mut rules = rules();
    rules.reply_within = BRIEF;
    let hook = Hook::with(rules, Limits::default()).await;
    let asked = hook.send(post("{}"));
    let delivery = hook.next().await;
    let reply = asked.await.unwrap();
    assert_eq!(reply.status, 503);
    assert!(reply.has("retry-after: "), "{reply:?}");
    assert!(
        reply.body.contains("not committed within 300ms"),
        "{reply:?}"
    );
    hook.settle(&delivery, Outcome::Committed).await;
}

#[tokio::test]
async fn the_end_tells_all_who_wait_to_come_again_and_frees_the_port() {
    let hook = Hook::open().await;
    let address = hook.address();
    let (taken, queued) = (hook.send(post("1")), hook.send(post("2")));
    let delivery = hook.next().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    hook.source.close().await;
    let late = hook.send(post("3")).await.unwrap();
    let queued = queued.await.unwrap();
    for reply in [&late, &queued] {
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.has("retry-after: 5"));
    }
    // What the engine has is settled, and answered, after the close.
    hook.settle(&delivery, Outcome::Committed).await;
    assert_eq!(taken.await.unwrap().status, 200);

    let resources = hook.resources.clone();
    drop(hook);
    let ended = tokio::time::timeout(SOON, resources.tasks.finished());
    ended.await.expect("all connections end");
    let mut nothing = Vec::new();
    drop(idle.read_to_end(&mut nothing).await);
    let mut rules = rules();
    rules.listen = address;
    Webhook::open(rules, Limits::default(), &resources)
        .await
        .unwrap();
}
