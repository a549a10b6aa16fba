//! The engine in memory: what its faults do. That it keeps the contract without them is the suite's to say.

use std::time::Duration;

use bytes::Bytes;
use wiredflow_core::ErrorKind;
use wiredflow_core::engine::{
    ANSWER_WITHIN, If, LEASE, Name, Published, QueueRules, Seen, Settlement, Shelf,
};
use wiredflow_testkit::{EngineSuite, Mishaps, Model};

const RULES: QueueRules = QueueRules {
    sign_within: LEASE,
    attempts: 3,
    holds: 4,
    taken: 2,
};
const SOON: Duration = Duration::from_secs(1);

fn name(text: &str) -> Name {
    Name::new(text.split('.')).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_message_is_its_takers_until_he_is_silent() {
    let model = Model::new(1);
    let (engine, queue) = (model.client("a"), name("pool.any"));
    engine.open_queue(&queue, RULES).await.unwrap();
    let body = Bytes::from_static(b"work");
    let published = engine.publish(&queue, "t#1", body.clone()).await.unwrap();
    assert_eq!(published, Published::New);
    let again = engine.publish(&queue, "t#1", body.clone()).await.unwrap();
    assert_eq!(again, Published::Again);
    let taken = engine.pull(&queue, 5, SOON).await.unwrap();
    assert_eq!((taken.len(), taken[0].attempt), (1, 1));
    tokio::time::sleep(LEASE - SOON / 2).await;
    engine.extend(&taken[0].token).await.unwrap();
    assert!(
        engine
            .pull(&queue, 5, LEASE - SOON)
            .await
            .unwrap()
            .is_empty()
    );
    let again = engine.pull(&queue, 5, 2 * SOON).await.unwrap();
    assert_eq!(again[0].attempt, 2);
    engine
        .settle(&again[0].token, Settlement::Done)
        .await
        .unwrap();
    assert_eq!(engine.waiting(&queue).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_too_often_is_spent() {
    let model = Model::new(1);
    let (engine, queue) = (model.client("a"), name("q"));
    engine.open_queue(&queue, RULES).await.unwrap();
    engine.publish(&queue, "t", Bytes::new()).await.unwrap();
    for attempt in 1..=3 {
        let taken = engine.pull(&queue, 1, SOON).await.unwrap();
        assert_eq!(taken[0].attempt, attempt);
        let again = Settlement::Again(Duration::ZERO);
        engine.settle(&taken[0].token, again).await.unwrap();
    }
    assert!(engine.pull(&queue, 1, SOON).await.unwrap().is_empty());
    assert_eq!(engine.spent(&queue, 9).await.unwrap()[0].attempt, 3);
    assert_eq!(engine.waiting(&queue).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_off_waits_in_vain_and_another_does_not() {
    let model = Model::new(1);
    let (one, other, queue) = (model.client("one"), model.client("other"), name("q"));
    one.open_queue(&queue, RULES).await.unwrap();
    let mut questions = one.listen(&name("one")).await.unwrap();
    let mut watch = one.watch(Shelf::Kept, None).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Seen::UpToDate);
    model.cut("one");
    let begun = tokio::time::Instant::now();
    let error = one.publish(&queue, "t", Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert_eq!(begun.elapsed(), ANSWER_WITHIN);
    assert!(questions.next().await.is_err() && watch.next().await.is_err());
    other.publish(&queue, "t", Bytes::new()).await.unwrap();
    let asked = other.ask(&name("one"), Bytes::new(), SOON).await;
    assert!(asked.unwrap_err().is_unsent());
    model.mend("one");
    assert_eq!(one.waiting(&queue).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_was_done_all_the_same() {
    let model = Model::new(1);
    let (engine, queue) = (model.client("a"), name("q"));
    engine.open_queue(&queue, RULES).await.unwrap();
    let mishaps = Mishaps {
        lost_answers: 100,
        ..Mishaps::default()
    };
    model.mishaps("a", mishaps);
    engine.publish(&queue, "t", Bytes::new()).await.unwrap_err();
    assert_eq!(model.messages(), 1);
    model.mishaps("a", Mishaps::default());
    let again = engine.publish(&queue, "t", Bytes::new()).await.unwrap();
    assert_eq!(again, Published::Again);
    model.wipe();
    assert_eq!(engine.waiting(&queue).await.unwrap(), 0);
    let anew = engine.publish(&queue, "t", Bytes::new()).await.unwrap();
    assert_eq!(anew, Published::New);
}

#[tokio::test(start_paused = true)]
async fn presence_passes_and_what_is_kept_does_not() {
    let model = Model::new(1);
    let (engine, here) = (model.client("a"), name("nodes.a"));
    for shelf in [Shelf::Kept, Shelf::Presence] {
        let put = engine.put(shelf, &here, Bytes::from_static(b"x"), If::Absent);
        assert!(put.await.unwrap().is_some());
    }
    tokio::time::sleep(LEASE).await;
    assert!(engine.get(Shelf::Presence, &here).await.unwrap().is_none());
    assert!(engine.get(Shelf::Kept, &here).await.unwrap().is_some());
}

/// Each promise of an engine, as the suite has them: it looks at the machine's clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_keeps_the_promises_of_an_engine() {
    let model = Model::new(1);
    let count = std::cell::Cell::new(0);
    let connect = async || {
        count.set(count.get() + 1);
        model.client(&format!("c{}", count.get()))
    };
    let suite = EngineSuite::new(connect).await;
    tokio::join!(
        suite.check_queues(),
        suite.check_spent(),
        suite.check_shelves(),
        suite.check_leases(),
        suite.check_blobs(),
        suite.check_questions(),
    );
}
