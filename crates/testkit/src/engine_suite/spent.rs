//! Messages that were given as often as allowed.

use std::time::Duration;

use wiredflow_core::engine::{QueueRules, Settlement};

use super::{
    EngineSuite, SOON,
    queues::{RULES, empty, one, open, publish},
    until,
};

const SHORT: Duration = Duration::from_millis(500);

pub(super) async fn check(suite: &EngineSuite) {
    tokio::join!(
        what_was_given_too_often_is_given_no_more_and_found(suite),
        it_is_found_where_nobody_takes(suite),
        what_is_worked_on_is_not_spent(suite),
        a_look_is_no_attempt(suite),
        what_was_to_come_again_too_often_is_spent(suite),
        each_of_many_is_found_once(suite),
    );
}

fn rules(attempts: u32, sign_within: Duration) -> QueueRules {
    QueueRules {
        attempts,
        sign_within,
        ..RULES
    }
}

async fn what_was_given_too_often_is_given_no_more_and_found(
    EngineSuite { one: engine, two }: &EngineSuite,
) {
    let queue = open(engine, "bound", rules(2, SHORT)).await;
    publish(engine, &queue, "poison").await;
    for attempt in [1, 2] {
        assert_eq!(one(engine, &queue).await.attempt, attempt);
    }
    assert_eq!(engine.pull(&queue, 1, SHORT * 3).await.unwrap().len(), 0);
    let spent = until("the message is spent", async || {
        two.spent(&queue, 10).await.unwrap().pop()
    })
    .await;
    assert_eq!((&*spent.id, spent.attempt), ("poison", 2));
    assert_eq!(spent.body, "body of poison");
    assert_eq!(engine.spent(&queue, 10).await.unwrap().len(), 0);
    empty(engine, &queue).await;
    // It is out of its queue already.
    two.settle(&spent.token, Settlement::Done).await.unwrap();
}

async fn it_is_found_where_nobody_takes(EngineSuite { one: engine, two }: &EngineSuite) {
    for attempts in [1, 2] {
        let queue = open(engine, "alone", rules(attempts, SHORT)).await;
        publish(engine, &queue, "poison").await;
        for _ in 0..attempts {
            one(engine, &queue).await;
        }
        let spent = until("the message is spent", async || {
            two.spent(&queue, 10).await.unwrap().pop()
        })
        .await;
        assert_eq!((&*spent.id, spent.attempt), ("poison", attempts));
        empty(engine, &queue).await;
    }
}

async fn what_is_worked_on_is_not_spent(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "worked", rules(1, SOON)).await;
    publish(engine, &queue, "1").await;
    publish(engine, &queue, "2").await;
    let taken = one(engine, &queue).await;
    for _ in 0..5 {
        assert_eq!(two.spent(&queue, 10).await.unwrap().len(), 0);
        engine.extend(&taken.token).await.unwrap();
    }
    engine.settle(&taken.token, Settlement::Done).await.unwrap();
    let second = one(engine, &queue).await;
    assert_eq!((&*second.id, second.attempt), ("2", 1));
}

async fn a_look_is_no_attempt(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "look", rules(3, SHORT)).await;
    publish(engine, &queue, "1").await;
    for attempt in [1, 2] {
        assert_eq!(one(engine, &queue).await.attempt, attempt);
    }
    // Its time runs out meanwhile, so that a look comes upon it.
    let begun = std::time::Instant::now();
    while begun.elapsed() < SHORT * 3 {
        assert_eq!(two.spent(&queue, 10).await.unwrap().len(), 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let third = one(engine, &queue).await;
    assert_eq!((&*third.id, third.attempt), ("1", 3));
    assert_eq!(third.body, "body of 1");
    engine.settle(&third.token, Settlement::Done).await.unwrap();
    empty(engine, &queue).await;
}

async fn what_was_to_come_again_too_often_is_spent(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "returned", rules(2, SOON)).await;
    publish(engine, &queue, "1").await;
    for _ in 0..2 {
        let taken = one(engine, &queue).await;
        let again = Settlement::Again(Duration::ZERO);
        engine.settle(&taken.token, again).await.unwrap();
    }
    assert_eq!(engine.pull(&queue, 1, SHORT).await.unwrap().len(), 0);
    let spent = until("the message is spent", async || {
        two.spent(&queue, 1).await.unwrap().pop()
    })
    .await;
    assert_eq!(spent.attempt, 2);
}

async fn each_of_many_is_found_once(EngineSuite { one: engine, two }: &EngineSuite) {
    let queue = open(engine, "several", rules(1, SHORT)).await;
    for id in ["1", "2", "3", "4", "5"] {
        publish(engine, &queue, id).await;
    }
    let mut taken = 0;
    while taken < 5 {
        taken += engine.pull(&queue, 5, SOON).await.unwrap().len();
    }
    let mut found = Vec::new();
    until("all are spent", async || {
        let (first, second) = tokio::join!(engine.spent(&queue, 2), two.spent(&queue, 2));
        let all = first.unwrap().into_iter().chain(second.unwrap());
        found.extend(all.map(|one| one.id.to_string()));
        (found.len() >= 5).then_some(())
    })
    .await;
    found.sort();
    assert_eq!(found, ["1", "2", "3", "4", "5"]);
}
