//! Servers that are killed, frozen and emptied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wiredflow_core::engine::{ANSWER_WITHIN, Engine, If, Name, Published, Seen, Settlement, Shelf};
use wiredflow_core::{Error, ErrorKind};
use wiredflow_testkit::{Nats, NatsVersion};

use crate::servers::{RULES, access, done, engine, name, program, refused};

const ALL: usize = 400;

/// Publishes until all is published.
async fn publish_all(engine: Arc<dyn Engine>, queue: Name) {
    for number in 0..ALL {
        let id = number.to_string();
        done(async || engine.publish(&queue, &id, id.clone().into()).await).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Takes and settles until each was there.
async fn take_all(engine: Arc<dyn Engine>, queue: Name) {
    let mut seen = BTreeSet::new();
    while seen.len() < ALL {
        let wait = Duration::from_secs(3);
        for taken in done(async || engine.pull(&queue, 20, wait).await).await {
            seen.insert(taken.id.to_string());
            done(async || engine.settle(&taken.token, Settlement::Done).await).await;
        }
    }
}

/// Has work go through a queue while something happens.
pub(crate) async fn check_nothing_is_lost(
    publisher: Arc<dyn Engine>,
    taker: Arc<dyn Engine>,
    happens: impl AsyncFnOnce(),
) {
    let queue = name("work");
    publisher.open_queue(&queue, RULES).await.unwrap();
    let (here, work) = (tokio::runtime::Handle::current(), queue.clone());
    let publishing =
        tokio::task::spawn_blocking(move || here.block_on(publish_all(publisher, work)));
    let here = tokio::runtime::Handle::current();
    let taking = tokio::task::spawn_blocking(move || here.block_on(take_all(taker, queue)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    happens().await;
    publishing.await.unwrap();
    taking.await.unwrap();
}

async fn check_killed(version: NatsVersion) {
    let mut server = Nats::start(&program(version));
    let (publisher, taker) = (engine(server.url()).await, engine(server.url()).await);
    check_nothing_is_lost(publisher, taker, async || {
        for _ in 0..2 {
            server.kill9();
            server.start_again();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_when_the_oldest_server_is_killed_and_started_again() {
    check_killed(NatsVersion::Debian).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_when_a_new_server_is_killed_and_started_again() {
    check_killed(NatsVersion::Newest).await;
}

async fn check_away<T: std::fmt::Debug>(what: impl Future<Output = Result<T, Error>>) -> Error {
    let begun = Instant::now();
    let error = what.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
    let took = begun.elapsed();
    assert!(took < ANSWER_WITHIN + Duration::from_secs(2), "{took:?}");
    error
}

#[tokio::test]
async fn a_frozen_server_is_one_that_is_away_until_it_is_not() {
    let server = Nats::start(&program(NatsVersion::Newest));
    let engine = engine(server.url()).await;
    let (queue, shelf) = (name("work"), Shelf::Kept);
    engine.open_queue(&queue, RULES).await.unwrap();
    let lease = engine.acquire(&queue, "me").await.unwrap().unwrap();
    let mut watch = engine.watch(shelf, None).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Seen::UpToDate);
    let all = access([server.url()]);
    server.freeze();
    tokio::join!(
        async { drop(check_away(engine.publish(&queue, "1", "x".into())).await) },
        async { drop(check_away(engine.pull(&queue, 1, Duration::from_secs(60))).await) },
        async { drop(check_away(engine.get(shelf, &queue)).await) },
        async { drop(check_away(engine.renew(&lease)).await) },
        async { drop(check_away(engine.ask(&queue, "q".into(), ANSWER_WITHIN)).await) },
        async { drop(check_away(engine.open_queue(&queue, RULES)).await) },
        async { drop(check_away(watch.next()).await) },
        async { assert_eq!(refused(&all).await.kind(), ErrorKind::Remote) },
    );
    server.thaw();
    // What was asked for may have been done late.
    done(async || engine.publish(&queue, "1", "x".into()).await).await;
    let taken = done(async || engine.pull(&queue, 1, ANSWER_WITHIN).await).await;
    assert_eq!(&*taken[0].id, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_an_error_in_time() {
    let mut server = Nats::start(&program(NatsVersion::Newest));
    let engine = engine(server.url()).await;
    let queue = name("work");
    engine.open_queue(&queue, RULES).await.unwrap();
    let waiting = {
        let (engine, queue) = (Arc::clone(&engine), queue.clone());
        tokio::spawn(async move { engine.pull(&queue, 1, Duration::from_secs(60)).await })
    };
    let is_waiting = || {
        server
            .monitor("/jsz?consumers=1")
            .contains("\"num_waiting\": 1")
    };
    wiredflow_testkit::wait_until(Duration::from_secs(10), is_waiting);
    server.kill9();
    check_away(async { waiting.await.unwrap() }).await;
    let error = check_away(engine.publish(&queue, "1", "x".into())).await;
    assert!(error.is_unsent(), "{error}");
    let error = refused(&access([server.url()])).await;
    assert_eq!(error.kind(), ErrorKind::Remote);
    server.start_again();
    let published = done(async || engine.publish(&queue, "1", "x".into()).await).await;
    assert_eq!(published, Published::New);
}

async fn check_wiped(version: NatsVersion) {
    let mut server = Nats::start(&program(version));
    let (one, two) = (engine(server.url()).await, engine(server.url()).await);
    let (queue, entry, shelf) = (name("work"), name("entry"), Shelf::Kept);
    one.open_queue(&queue, RULES).await.unwrap();
    for id in ["1", "2"] {
        one.publish(&queue, id, "x".into()).await.unwrap();
    }
    let before = two.pull(&queue, 1, ANSWER_WITHIN).await.unwrap();
    let revision = one
        .put(shelf, &entry, "x".into(), If::Any)
        .await
        .unwrap()
        .unwrap();
    let lease = one.acquire(&entry, "me").await.unwrap().unwrap();
    one.put_blob(&entry, vec![1; 1_000_000].into())
        .await
        .unwrap();
    let mut watch = two.watch(shelf, None).await.unwrap();
    let mut listener = two.listen(&entry).await.unwrap();
    server.kill9();
    server.wipe();
    server.start_again();

    // Nothing is there any more, and nothing of it is made good by what is left of before.
    let stale = If::Revision(revision);
    assert_eq!(done(async || one.get(shelf, &entry).await).await, None);
    assert_eq!(
        done(async || two.put(shelf, &entry, "y".into(), stale).await).await,
        None
    );
    assert_eq!(done(async || one.renew(&lease).await).await, None);
    assert_eq!(done(async || one.get_blob(&entry).await).await, None);
    assert_eq!(done(async || one.waiting(&queue).await).await, 0);
    let over = async {
        while let Ok(seen) = watch.next().await {
            assert!(matches!(seen, Seen::Put(..) | Seen::UpToDate), "{seen:?}");
        }
    };
    tokio::time::timeout(Duration::from_secs(15), over)
        .await
        .expect("the watch is over");

    // All is made again, by who comes first.
    let published = done(async || two.publish(&queue, "1", "x".into()).await).await;
    assert_eq!(published, Published::New);
    let taken = done(async || one.pull(&queue, 1, ANSWER_WITHIN).await).await;
    assert_eq!((&*taken[0].id, taken[0].attempt), ("1", 1));
    // The numbers are those of before.
    two.settle(&before[0].token, Settlement::Done)
        .await
        .unwrap();
    assert_eq!(one.waiting(&queue).await.unwrap(), 1);
    one.settle(&taken[0].token, Settlement::Done).await.unwrap();
    assert_eq!(one.waiting(&queue).await.unwrap(), 0);
    let put = one
        .put(shelf, &entry, "z".into(), If::Absent)
        .await
        .unwrap();
    assert!(put.unwrap() > revision);
    assert!(two.acquire(&entry, "you").await.unwrap().unwrap().fence > lease.fence);
    one.release(&lease).await.unwrap();
    assert_eq!(two.holder(&entry).await.unwrap().as_deref(), Some("you"));
    one.put_blob(&entry, "blob".into()).await.unwrap();
    assert_eq!(two.get_blob(&entry).await.unwrap().unwrap(), "blob");
    let mut watch = one.watch(shelf, None).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Seen::Put(..)));
    // Who listened before does so still.
    let asked = one.ask(&entry, "q".into(), ANSWER_WITHIN);
    let (answer, ()) = tokio::join!(asked, async {
        let asked = listener.next().await.unwrap();
        asked.reply.send("a".into()).await.unwrap();
    });
    assert_eq!(answer.unwrap(), "a");
}

#[tokio::test]
async fn the_loss_of_all_that_the_oldest_server_keeps_is_survived() {
    check_wiped(NatsVersion::Debian).await;
}

#[tokio::test]
async fn the_loss_of_all_that_a_new_server_keeps_is_survived() {
    check_wiped(NatsVersion::Newest).await;
}

async fn check_removed_by_others(version: NatsVersion) {
    let server = Nats::start(&program(version));
    let engine = engine(server.url()).await;
    let other = async_nats::connect(server.url()).await.unwrap();
    let (queue, entry) = (name("work"), name("entry"));
    engine.open_queue(&queue, RULES).await.unwrap();
    engine
        .put(Shelf::Kept, &entry, "x".into(), If::Any)
        .await
        .unwrap();
    engine.put_blob(&entry, "x".into()).await.unwrap();
    engine.publish(&queue, "1", "x".into()).await.unwrap();
    let api = async |verb: &str| {
        let answer = other
            .request(format!("$JS.API.{verb}"), "".into())
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        assert!(text.contains("\"success\":true"), "{text}");
    };
    api("CONSUMER.DELETE.wf_test=q=work.wf").await;
    let taken = done(async || engine.pull(&queue, 1, Duration::ZERO).await).await;
    assert_eq!(&*taken[0].id, "1");
    for stream in ["wf_test=q=work", "KV_wf_test_kept", "wf_test=blobs"] {
        api(&format!("STREAM.DELETE.{stream}")).await;
    }
    let published = done(async || engine.publish(&queue, "1", "x".into()).await).await;
    assert_eq!(published, Published::New);
    assert_eq!(
        done(async || engine.pull(&queue, 1, Duration::ZERO).await)
            .await
            .len(),
        1
    );
    assert!(
        done(async || engine
            .put(Shelf::Kept, &entry, "x".into(), If::Absent)
            .await)
        .await
        .is_some()
    );
    assert_eq!(done(async || engine.get_blob(&entry).await).await, None);
    done(async || engine.put_blob(&entry, "x".into()).await).await;
}

#[tokio::test]
async fn what_an_operator_removes_is_made_again() {
    check_removed_by_others(NatsVersion::Debian).await;
    check_removed_by_others(NatsVersion::Newest).await;
}

#[tokio::test]
async fn a_server_of_short_messages_takes_long_blobs() {
    let server = Nats::with()
        .max_payload(64 * 1024)
        .start(&program(NatsVersion::Newest));
    let engine = engine(server.url()).await;
    let longest = engine.about().longest;
    assert!((60 * 1024..64 * 1024).contains(&longest), "{longest}");
    let (queue, body) = (name("work"), vec![7; 64 * 1024]);
    engine.open_queue(&queue, RULES).await.unwrap();
    let error = engine.publish(&queue, "1", body.into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains(&longest.to_string()), "{error}");
    let blob = vec![7; 1_000_000];
    engine.put_blob(&queue, blob.clone().into()).await.unwrap();
    assert_eq!(engine.get_blob(&queue).await.unwrap().unwrap(), blob);
}
