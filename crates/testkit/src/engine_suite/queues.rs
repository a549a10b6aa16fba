//! Queues.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use wiredflow_core::{
    ErrorKind,
    engine::{Engine, Name, Published, QueueRules, Settlement, Taken},
};

use super::{EngineSuite, SOON, check_kind, fresh, until};

pub(super) const RULES: QueueRules = QueueRules {
    sign_within: Duration::from_secs(20),
    attempts: 5,
    holds: 1000,
    taken: 1000,
};

const NOW: Duration = Duration::ZERO;

pub(super) async fn check(suite: &EngineSuite) {
    tokio::join!(
        an_id_is_kept_once(suite),
        a_full_queue_refuses_and_leaves_the_id_free(suite),
        a_pull_gives_no_more_than_asked_for_and_ends_in_time(suite),
        a_pull_that_waits_gets_what_comes(suite),
        a_message_without_a_sign_of_life_comes_again(suite),
        a_sign_of_life_keeps_a_message(suite),
        what_is_settled_is_gone_and_settling_again_does_nothing(suite),
        what_is_to_come_again_comes_after_its_time(suite),
        no_more_are_taken_at_a_time_than_allowed(suite),
        rules_are_changed_by_who_opens_later(suite),
        queues_are_apart_and_can_be_removed(suite),
        what_cannot_be_published_is_an_error_of_its_data(suite),
        many_takers_get_each_message_once(suite),
    );
}

pub(super) async fn open(engine: &Arc<dyn Engine>, word: &str, rules: QueueRules) -> Name {
    let queue = fresh(word);
    engine.open_queue(&queue, rules).await.unwrap();
    queue
}

pub(super) async fn publish(engine: &Arc<dyn Engine>, queue: &Name, id: &str) -> Published {
    let body = format!("body of {id}");
    engine.publish(queue, id, body.into()).await.unwrap()
}

/// Waits until nothing is in a queue: what is settled may still be counted for a moment.
pub(super) async fn empty(engine: &Arc<dyn Engine>, queue: &Name) {
    until("the queue is empty", async || {
        (engine.waiting(queue).await.unwrap() == 0).then_some(())
    })
    .await;
}

/// The one message that comes.
pub(super) async fn one(engine: &Arc<dyn Engine>, queue: &Name) -> Taken {
    let taken = engine.pull(queue, 1, SOON).await.unwrap();
    taken.into_iter().next().expect("a message comes")
}

async fn an_id_is_kept_once(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "once", RULES).await;
    assert_eq!(publish(engine, &queue, "1").await, Published::New);
    assert_eq!(publish(engine, &queue, "1").await, Published::Again);
    assert_eq!(publish(two, &queue, "1").await, Published::Again);
    assert_eq!(publish(two, &queue, "2").await, Published::New);
    assert_eq!(engine.waiting(&queue).await.unwrap(), 2);
    let taken = engine.pull(&queue, 10, SOON).await.unwrap();
    let found: Vec<_> = taken.iter().map(|one| (&*one.id, one.attempt)).collect();
    assert_eq!(found, [("1", 1), ("2", 1)]);
    assert_eq!(taken[0].body, "body of 1");
    engine
        .settle(&taken[0].token, Settlement::Done)
        .await
        .unwrap();
    // Also what is done with is known again.
    assert_eq!(publish(two, &queue, "1").await, Published::Again);
}

async fn a_full_queue_refuses_and_leaves_the_id_free(
    EngineSuite { one: engine, two }: &EngineSuite,
) {
    let queue = open(engine, "full", QueueRules { holds: 2, ..RULES }).await;
    publish(engine, &queue, "1").await;
    publish(engine, &queue, "2").await;
    assert_eq!(publish(two, &queue, "3").await, Published::Full);
    let first = one(engine, &queue).await;
    // What is taken is still there.
    assert_eq!(publish(two, &queue, "3").await, Published::Full);
    engine.settle(&first.token, Settlement::Done).await.unwrap();
    assert_eq!(publish(two, &queue, "3").await, Published::New);
}

async fn a_pull_gives_no_more_than_asked_for_and_ends_in_time(
    EngineSuite { one: engine, .. }: &EngineSuite,
) {
    let queue = open(engine, "most", RULES).await;
    for id in 0..5 {
        publish(engine, &queue, &id.to_string()).await;
    }
    assert_eq!(engine.pull(&queue, 3, NOW).await.unwrap().len(), 3);
    assert_eq!(engine.pull(&queue, 3, NOW).await.unwrap().len(), 2);
    for (wait, least) in [(NOW, 0), (Duration::from_millis(400), 350)] {
        let begun = Instant::now();
        assert_eq!(engine.pull(&queue, 3, wait).await.unwrap().len(), 0);
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(least), "{took:?}");
        assert!(took < SOON, "{took:?}");
    }
}

async fn a_pull_that_waits_gets_what_comes(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "waits", RULES).await;
    for id in ["1", "2", "3"] {
        let (taken, _) = tokio::join!(one(engine, &queue), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            publish(two, &queue, id).await
        });
        assert_eq!(&*taken.id, id);
    }
}

async fn a_message_without_a_sign_of_life_comes_again(
    EngineSuite { one: engine, two }: &EngineSuite,
) {
    let sign_within = Duration::from_millis(700);
    let queue = open(
        engine,
        "again",
        QueueRules {
            sign_within,
            ..RULES
        },
    )
    .await;
    publish(engine, &queue, "1").await;
    let begun = Instant::now();
    assert_eq!(one(engine, &queue).await.attempt, 1);
    let second = one(two, &queue).await;
    assert!(begun.elapsed() >= sign_within - Duration::from_millis(50));
    assert_eq!((&*second.id, second.attempt), ("1", 2));
    assert_eq!(one(engine, &queue).await.attempt, 3);
}

async fn a_sign_of_life_keeps_a_message(EngineSuite { one: engine, two }: &EngineSuite) {
    let sign_within = Duration::from_secs(2);
    let queue = open(
        engine,
        "kept",
        QueueRules {
            sign_within,
            ..RULES
        },
    )
    .await;
    publish(engine, &queue, "1").await;
    let first = one(engine, &queue).await;
    let begun = Instant::now();
    while begun.elapsed() < sign_within * 2 {
        engine.extend(&first.token).await.unwrap();
        let wait = Duration::from_millis(300);
        assert_eq!(two.pull(&queue, 1, wait).await.unwrap().len(), 0);
    }
    assert_eq!(one(two, &queue).await.attempt, 2);
}

async fn what_is_settled_is_gone_and_settling_again_does_nothing(
    EngineSuite { one: engine, two }: &EngineSuite,
) {
    let queue = open(engine, "gone", RULES).await;
    for how in [Settlement::Done, Settlement::Never] {
        publish(engine, &queue, &format!("{how:?}")).await;
        let taken = one(engine, &queue).await;
        for settler in [engine, two, engine] {
            settler.settle(&taken.token, how).await.unwrap();
            empty(engine, &queue).await;
        }
        engine.extend(&taken.token).await.unwrap();
        assert_eq!(engine.spent(&queue, 10).await.unwrap().len(), 0);
        assert_eq!(engine.pull(&queue, 10, NOW).await.unwrap().len(), 0);
    }
}

async fn what_is_to_come_again_comes_after_its_time(
    EngineSuite { one: engine, two }: &EngineSuite,
) {
    let queue = open(engine, "later", RULES).await;
    publish(engine, &queue, "1").await;
    let first = one(engine, &queue).await;
    let begun = Instant::now();
    let after = Duration::from_millis(800);
    engine
        .settle(&first.token, Settlement::Again(after))
        .await
        .unwrap();
    let second = one(two, &queue).await;
    let took = begun.elapsed();
    assert!(took >= after - Duration::from_millis(50), "{took:?}");
    assert_eq!(second.attempt, 2);
    engine
        .settle(&second.token, Settlement::Again(Duration::ZERO))
        .await
        .unwrap();
    assert_eq!(one(engine, &queue).await.attempt, 3);
}

async fn no_more_are_taken_at_a_time_than_allowed(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "credit", QueueRules { taken: 2, ..RULES }).await;
    for id in ["1", "2", "3", "4"] {
        publish(engine, &queue, id).await;
    }
    let taken = engine.pull(&queue, 10, SOON).await.unwrap();
    assert_eq!(taken.len(), 2);
    let wait = Duration::from_millis(300);
    assert_eq!(two.pull(&queue, 10, wait).await.unwrap().len(), 0);
    engine
        .settle(&taken[0].token, Settlement::Done)
        .await
        .unwrap();
    assert_eq!(&*one(two, &queue).await.id, "3");
    assert_eq!(two.pull(&queue, 10, wait).await.unwrap().len(), 0);
}

async fn rules_are_changed_by_who_opens_later(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "rules", QueueRules { holds: 1, ..RULES }).await;
    publish(engine, &queue, "1").await;
    assert_eq!(publish(engine, &queue, "2").await, Published::Full);
    let sign_within = Duration::from_millis(500);
    let other = QueueRules {
        holds: 2,
        sign_within,
        ..RULES
    };
    two.open_queue(&queue, other).await.unwrap();
    assert_eq!(publish(engine, &queue, "2").await, Published::New);
    assert_eq!(engine.pull(&queue, 2, SOON).await.unwrap().len(), 2);
    assert_eq!(one(engine, &queue).await.attempt, 2);
    let none = QueueRules {
        attempts: 0,
        ..RULES
    };
    check_kind(engine.open_queue(&queue, none).await, ErrorKind::Config);
}

async fn queues_are_apart_and_can_be_removed(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = fresh("apart");
    let names = [
        queue.clone(),
        queue.and("a").unwrap(),
        queue.and("a").unwrap().and("b").unwrap(),
        queue.and("a_b").unwrap(),
        queue.and("a-b").unwrap(),
    ];
    for name in &names {
        // Nobody has opened it, so nothing can be kept.
        let error = check_kind(
            engine.publish(name, "1", "x".into()).await,
            ErrorKind::Remote,
        );
        assert!(error.is_unsent());
        engine.open_queue(name, RULES).await.unwrap();
        publish(two, name, name.as_str()).await;
    }
    for name in &names {
        let taken = two.pull(name, 10, SOON).await.unwrap();
        let found: Vec<_> = taken.iter().map(|one| &*one.id).collect();
        assert_eq!(found, [name.as_str()]);
        two.remove_queue(name).await.unwrap();
        two.remove_queue(name).await.unwrap();
        // A message of a queue that is not there any more is settled.
        two.settle(&taken[0].token, Settlement::Done).await.unwrap();
    }
    two.open_queue(&queue, RULES).await.unwrap();
    assert_eq!(two.waiting(&queue).await.unwrap(), 0);
}

async fn what_cannot_be_published_is_an_error_of_its_data(
    EngineSuite { one: engine, .. }: &EngineSuite,
) {
    let queue = open(engine, "data", RULES).await;
    let longest = engine.about().longest;
    let long = vec![b'x'; longest + 1].into();
    check_kind(engine.publish(&queue, "1", long).await, ErrorKind::Data);
    for id in ["", "a\nb", "a\r\nNats-Rollup: all", &"x".repeat(1000)] {
        check_kind(
            engine.publish(&queue, id, "x".into()).await,
            ErrorKind::Data,
        );
    }
    let id = "ünïcode id: \"{}\" 1/2";
    let fits = vec![b'x'; longest].into();
    engine.publish(&queue, id, fits).await.unwrap();
    let taken = one(engine, &queue).await;
    assert_eq!((&*taken.id, taken.body.len()), (id, longest));
    engine.settle(&taken.token, Settlement::Done).await.unwrap();
    engine.publish(&queue, "empty", "".into()).await.unwrap();
    assert_eq!(one(engine, &queue).await.body, "");
}

async fn many_takers_get_each_message_once(suite: &EngineSuite) {
    const ALL: usize = 300;

    let queue = open(&suite.one, "many", RULES).await;
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for taker in 0..6 {
        let (suite, queue, seen) = (suite.clone(), queue.clone(), Arc::clone(&seen));
        let engine = if taker % 2 == 0 { suite.one } else { suite.two };
        tasks.spawn(async move {
            while seen.lock().unwrap().len() < ALL {
                let most = 1 + taker * 7;
                let wait = Duration::from_millis(200);
                for taken in engine.pull(&queue, most, wait).await.unwrap() {
                    engine.settle(&taken.token, Settlement::Done).await.unwrap();
                    let is_new = seen.lock().unwrap().insert(taken.id.to_string());
                    assert!(is_new, "`{}` was given twice", taken.id);
                }
            }
        });
    }
    for publisher in 0..3 {
        let (suite, queue) = (suite.clone(), queue.clone());
        tasks.spawn(async move {
            for number in 0..ALL / 3 {
                publish(&suite.two, &queue, &format!("{publisher}-{number}")).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    empty(&suite.one, &queue).await;
}
