//! The first things, on each version.

use std::time::Duration;

use wiredflow_core::engine::{If, Name, Published, QueueRules, Seen, Settlement, Shelf};
use wiredflow_testkit::{Nats, NatsVersion};

use crate::servers::{engine, program};

fn name(text: &str) -> Name {
    Name::new(text.split('.')).unwrap()
}

async fn check_first_things(version: NatsVersion) {
    let server = Nats::start(&program(version));
    let engine = engine(server.url()).await;
    let queue = name("work.a");
    let rules = QueueRules {
        sign_within: Duration::from_secs(5),
        attempts: 3,
        holds: 2,
        taken: 10,
    };
    engine.open_queue(&queue, rules).await.unwrap();
    for expected in [Published::New, Published::Again] {
        assert_eq!(
            engine.publish(&queue, "1", "one".into()).await.unwrap(),
            expected
        );
    }
    engine.publish(&queue, "2", "two".into()).await.unwrap();
    assert_eq!(
        engine.publish(&queue, "3", "x".into()).await.unwrap(),
        Published::Full
    );
    let taken = engine
        .pull(&queue, 10, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(taken.len(), 2);
    assert_eq!(
        (&*taken[0].id, &*taken[0].body, taken[0].attempt),
        ("1", &b"one"[..], 1)
    );
    for one in &taken {
        engine.extend(&one.token).await.unwrap();
        engine.settle(&one.token, Settlement::Done).await.unwrap();
    }
    assert_eq!(engine.waiting(&queue).await.unwrap(), 0);
    let (shelf, entry) = (Shelf::Kept, name("a.b"));
    let mut watch = engine.watch(shelf, None).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Seen::UpToDate);
    let first = engine
        .put(shelf, &entry, "1".into(), If::Absent)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        engine
            .put(shelf, &entry, "1".into(), If::Absent)
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        engine.get(shelf, &entry).await.unwrap().unwrap().revision,
        first
    );
    assert!(
        engine
            .remove(shelf, &entry, If::Revision(first))
            .await
            .unwrap()
    );
    assert!(matches!(watch.next().await.unwrap(), Seen::Put(found, _) if found == entry));
    assert!(matches!(watch.next().await.unwrap(), Seen::Removed(found, _) if found == entry));
    let lease = engine.acquire(&entry, "me").await.unwrap().unwrap();
    assert!(engine.acquire(&entry, "you").await.unwrap().is_none());
    let renewed = engine.renew(&lease).await.unwrap().unwrap();
    assert!(renewed.fence > lease.fence);
    engine.release(&renewed).await.unwrap();
    assert!(engine.acquire(&entry, "you").await.unwrap().unwrap().fence > renewed.fence);
    let mut listener = engine.listen(&entry).await.unwrap();
    let (answer, ()) = tokio::join!(
        engine.ask(&entry, "hello".into(), Duration::from_secs(2)),
        async {
            let asked = listener.next().await.unwrap();
            asked.reply.send(asked.body).await.unwrap();
        }
    );
    assert_eq!(answer.unwrap(), "hello");
    engine
        .put_blob(&entry, vec![7; 3_000_000].into())
        .await
        .unwrap();
    assert_eq!(
        engine.get_blob(&entry).await.unwrap().unwrap().len(),
        3_000_000
    );
}

#[tokio::test]
async fn the_first_things_work_on_the_oldest_server() {
    check_first_things(NatsVersion::Debian).await;
}

#[tokio::test]
async fn the_first_things_work_on_a_new_server() {
    check_first_things(NatsVersion::Newest).await;
}
