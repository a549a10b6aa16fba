//! Links that lead to other processes: each pipeline runs as one would run it, over an engine with mishaps.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wiredflow_core::delivery::Outcome;
use wiredflow_core::storage::Epoch;
use wiredflow_engine::run::RunOptions;
use wiredflow_testkit::{Chance, Mishaps, Model, tell, wait_until};

use super::bench::{Bench, Feed, PATIENCE, Started, millis};

/// What may go wrong on the way to an engine that works.
pub(crate) fn mishaps() -> Mishaps {
    Mishaps {
        delay: Duration::from_millis(2),
        lost_answers: 2,
        refused: 2,
        twice: 2,
    }
}

const FLOW: &str = r#"
pipelines:
  collect: {source: {mqtt: {broker: b, topic: t}}, stages: [{set: {way: a}}, {link: rows}]}
  keep: {source: {link: rows}, stages: [{store: {sqlite: {path: rows.db, table: rows}}}]}
"#;

/// The flow above, whose pipelines run apart.
struct Apart {
    bench: Bench,
    feed: std::sync::Arc<Feed>,
    model: Model,
    started: u64,
}

impl Apart {
    fn new(seed: u64) -> Self {
        Self {
            bench: Bench::new(),
            feed: Feed::new(),
            model: Model::new(seed),
            started: 0,
        }
    }

    /// Starts a pipeline as a node would that was assigned it anew.
    fn start(&mut self, pipeline: usize) -> Started {
        let mut plan = self.bench.plan(FLOW);
        self.feed.feeds(&mut plan, 0);
        self.started += 1;
        plan.pipelines = vec![plan.pipelines[pipeline].clone()];
        if pipeline == 0 {
            plan.storages.clear();
        }
        plan.state = self.bench.folder().join(format!("state-{}", self.started));
        let node = format!("node-{}", self.started);
        self.model.mishaps(&node, mishaps());
        let options = RunOptions {
            engine: Some(self.model.client(&node)),
            epoch: Epoch(self.started),
            ..RunOptions::default()
        };
        Started::new(&plan, &options)
    }

    fn stored(&self) -> Vec<i64> {
        let file = self.bench.folder().join("rows.db");
        let Ok(database) = rusqlite::Connection::open(file) else {
            return Vec::new();
        };
        let Ok(mut rows) = database.prepare("SELECT n FROM rows") else {
            return Vec::new();
        };
        let numbers = rows.query_map((), |row| row.get(0)).unwrap();
        numbers.map(Result::unwrap).collect()
    }
}

fn row(number: u64) -> Value {
    json!({"n": number})
}

#[test]
fn a_receiver_that_dies_is_followed_by_another_and_nothing_is_lost_or_stored_twice() {
    let mut chance = Chance::new();
    let mut apart = Apart::new(chance.below(usize::MAX) as u64);
    let sender = apart.start(0);
    let mut receiver = apart.start(1);
    let (mut given, all) = (0, 3000);
    let mut kills = 0;
    while given < all {
        let number = 1 + chance.below(400) as u64;
        apart.feed.give((given..given + number).map(row));
        given += number;
        std::thread::sleep(millis(chance.below(30) as u64));
        if kills < 3 && chance.below(3) == 0 {
            receiver.abandon();
            kills += 1;
            // Its lease runs out.
            apart.model.expire();
            receiver = apart.start(1);
        }
    }
    apart.feed.end();
    assert!(sender.end().report.ok);
    assert!(receiver.end().report.ok);
    let committed = apart.feed.ended_as(Outcome::Committed);
    assert_eq!(committed.len() as u64, given);
    let stored = apart.stored();
    let different: BTreeSet<i64> = stored.iter().copied().collect();
    assert_eq!(different.len() as u64, given, "lost");
    assert_eq!(stored.len() as u64, given, "stored twice");
    tell(&format!(
        "{given} deliveries through {kills} kills of the receiver"
    ));
}

#[test]
fn a_sender_that_was_replaced_is_told_so_and_ends() {
    let mut apart = Apart::new(7);
    let receiver = apart.start(1);
    let old = apart.start(0);
    apart.feed.give((0..10).map(row));
    wait_until(PATIENCE, || apart.feed.settled().len() == 10);
    let new = apart.start(0);
    let ended = old.end();
    assert_eq!(ended.fenced_by, Some(Epoch(3)), "{:?}", ended.report);
    apart.feed.give((10..20).map(row));
    wait_until(PATIENCE, || apart.stored().len() == 20);
    new.stop();
    receiver.stop();
    assert!(new.end().report.ok && receiver.end().report.ok);
}

#[test]
fn a_sender_waits_for_its_receiver_and_holds_what_is_under_way() {
    let mut apart = Apart::new(8);
    let sender = apart.start(0);
    apart.feed.give((0..20_000).map(row));
    std::thread::sleep(millis(700));
    let given = apart.feed.given();
    assert!(given < 10_000, "{given} are on their way to nobody");
    assert!(apart.feed.settled().is_empty());
    let receiver = apart.start(1);
    let begun = Instant::now();
    wait_until(PATIENCE, || apart.feed.settled().len() == 20_000);
    tell(&format!(
        "20,000 deliveries in {:.2} s",
        begun.elapsed().as_secs_f64()
    ));
    sender.stop();
    receiver.stop();
    assert!(sender.end().report.ok && receiver.end().report.ok);
    assert_eq!(apart.stored().len(), 20_000);
}

#[test]
fn g7_an_item_longer_than_a_message_goes_as_a_blob_and_leaves_none_behind() {
    let mut apart = Apart::new(9);
    let (sender, receiver) = (apart.start(0), apart.start(1));
    let longest = apart.model.client("looker").about().longest;
    let text = "x".repeat(2 * longest);
    apart.feed.give([json!({"n": 1, "text": text}), row(2)]);
    wait_until(PATIENCE, || apart.feed.settled().len() == 2);
    wait_until(PATIENCE, || apart.model.blobs().is_empty());
    assert_eq!(apart.stored(), [1, 2]);
    sender.stop();
    receiver.stop();
    assert!(sender.end().report.ok && receiver.end().report.ok);
}

#[test]
fn an_engine_that_is_away_for_a_while_holds_things_up_and_loses_nothing() {
    let mut apart = Apart::new(10);
    let (sender, receiver) = (apart.start(0), apart.start(1));
    for round in 0..5 {
        apart.feed.give((round * 100..round * 100 + 100).map(row));
        let node = format!("node-{}", 1 + round % 2);
        apart.model.cut(&node);
        std::thread::sleep(millis(200));
        apart.model.mend(&node);
    }
    wait_until(PATIENCE, || apart.feed.settled().len() == 500);
    sender.stop();
    receiver.stop();
    assert!(sender.end().report.ok && receiver.end().report.ok);
    assert_eq!(apart.stored().len(), 500);
    assert_eq!(apart.feed.ended_as(Outcome::Committed).len(), 500);
}
