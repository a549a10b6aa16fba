//! Owners that follow each other: what one that was replaced may still do.

use serde_json::{Value, json};
use wiredflow_core::delivery::Outcome;
use wiredflow_core::storage::Epoch;
use wiredflow_engine::run::RunOptions;
use wiredflow_testkit::{Fault, FaultProxy, Postgres, wait_until};

use super::bench::{Bench, Feed, PATIENCE, Started, millis};

/// A flow with a pipeline of each name, which store into one table of a server.
fn text(url: &str, pipelines: &[&str]) -> String {
    let pipeline = |name: &&str| {
        format!(
            "{name}: {{every: 1h, stages: [{{store: rows, retry: {{backoff: 50ms, max: 100ms}}}}]}}"
        )
    };
    let pipelines: Vec<String> = pipelines.iter().map(pipeline).collect();
    format!(
        "storages: {{rows: {{postgres: {{url: \"{url}\"}}}}}}\npipelines: {{{}}}",
        pipelines.join(", ")
    )
}

/// A run of one pipeline of a flow, as an owner, on a node of its own.
struct Owner {
    bench: Bench,
    feed: std::sync::Arc<Feed>,
    run: Started,
}

impl Owner {
    fn start(text: &str, (index, pipeline): (usize, &str), epoch: u64) -> Self {
        let (bench, feed) = (Bench::new(), Feed::new());
        let mut plan = bench.plan(text);
        feed.feeds(&mut plan, index);
        let options = RunOptions {
            pipelines: vec![pipeline.to_owned()],
            epoch: Epoch(epoch),
            ..RunOptions::default()
        };
        let run = Started::new(&plan, &options);
        Self { bench, feed, run }
    }

    fn give(&self, who: &str, numbers: std::ops::Range<u64>) {
        self.feed.give(numbers.map(|n| json!({"who": who, "n": n})));
    }
}

fn count(server: &Postgres, who: &str) -> u64 {
    let there = "SELECT to_regclass('rows') IS NOT NULL";
    if server.ask(there) != "t" {
        return 0;
    }
    let count = format!("SELECT count(*) FROM rows WHERE who = '{who}'");
    server.ask(&count).parse().unwrap()
}

/// An owner is frozen, another begins, and the first wakes: nothing of its rows comes after the first of the other's.
fn frozen(in_commit: bool) {
    let server = Postgres::start();
    let address = server.url();
    let port = address.rsplit_once(':').unwrap().1;
    let port = port.split_once('/').unwrap().0.parse().unwrap();
    let proxy = FaultProxy::before(port);
    let through = address.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    let first = Owner::start(&text(&through, &["p"]), (0, "p"), 5);
    first.give("first", 0..20);
    wait_until(PATIENCE, || count(&server, "first") == 20);
    if in_commit {
        // It hangs in the insert, with the fence in its hands.
        server.ask(
            "CREATE FUNCTION dawdle() RETURNS trigger AS $$ BEGIN \
             IF NEW.who = 'first' THEN PERFORM pg_sleep(1); END IF; RETURN NEW; END $$ LANGUAGE plpgsql; \
             CREATE TRIGGER dawdle BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION dawdle()",
        );
        first.give("first", 20..21);
        let inside = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        wait_until(PATIENCE, || server.ask(inside) == "1");
    }
    proxy.both(Fault::Silence);
    first.give("first", 21..60);
    let second = Owner::start(&text(&address, &["p"]), (0, "p"), 6);
    second.give("second", 0..20);
    wait_until(PATIENCE, || count(&server, "second") > 0);
    let of_first = count(&server, "first");
    proxy.both(Fault::None);
    let ended = first.run.end();
    assert_eq!((ended.fenced_by, ended.at_once), (Some(Epoch(6)), true));
    let why = ended.report.error.unwrap();
    assert!(
        why.contains("taken over") && why.contains("epoch 6"),
        "{why}"
    );
    assert_eq!(count(&server, "first"), of_first);
    assert!(
        first
            .feed
            .settled()
            .iter()
            .filter(|(id, _)| *id >= 20)
            .all(|(_, outcome)| !outcome.is_acknowledged())
    );
    assert_eq!(first.bench.dead_letters().len(), 0);
    wait_until(PATIENCE, || {
        second.feed.ended_as(Outcome::Committed).len() == 20
    });
    second.run.stop();
    let ended = second.run.end();
    assert!(
        ended.report.ok && ended.fenced_by.is_none(),
        "{:?}",
        ended.report
    );
    assert_eq!(count(&server, "second"), 20);
}

#[test]
fn g14_an_owner_that_was_replaced_while_it_was_frozen_stores_nothing_more() {
    frozen(false);
}

#[test]
fn g14_an_owner_that_is_frozen_in_the_middle_of_a_commit_holds_up_nobody_for_long() {
    frozen(true);
}

#[test]
fn g14_owners_of_different_pipelines_share_a_table_and_do_not_disturb_each_other() {
    let server = Postgres::start();
    let text = text(&server.url(), &["p", "q"]);
    let late = Owner::start(&text, (0, "p"), 9);
    late.give("late", 0..10);
    wait_until(PATIENCE, || count(&server, "late") == 10);
    let early = Owner::start(&text, (1, "q"), 3);
    for round in 1..6 {
        early.give("early", 10 * round..10 * round + 10);
        late.give("late", 10 * round..10 * round + 10);
        wait_until(PATIENCE, || {
            (count(&server, "early"), count(&server, "late")) == (10 * round, 10 * round + 10)
        });
    }
    for owner in [late, early] {
        owner.run.stop();
        let ended = owner.run.end();
        assert!(
            ended.report.ok && ended.fenced_by.is_none(),
            "{:?}",
            ended.report
        );
    }
}

#[test]
fn a_flow_that_runs_on_a_cluster_is_not_run_beside_it_by_hand() {
    let server = Postgres::start();
    let text = text(&server.url(), &["p"]);
    let deployed = Owner::start(&text, (0, "p"), 4);
    deployed.give("deployed", 0..1);
    wait_until(PATIENCE, || count(&server, "deployed") == 1);
    let by_hand = Owner::start(&text, (0, "p"), 0).run.end();
    let why = by_hand.report.error.unwrap();
    assert!(
        why.contains("belongs to a cluster") && why.contains("source = '@test/p'"),
        "{why}"
    );
    deployed.run.stop();
    assert!(deployed.run.end().report.ok);
    server.ask("DELETE FROM _wiredflow_cursors WHERE source = '@test/p'");
    let by_hand = Owner::start(&text, (0, "p"), 0);
    by_hand.give("hand", 0..3);
    wait_until(PATIENCE, || count(&server, "hand") == 3);
    by_hand.run.stop();
    assert!(by_hand.run.end().report.ok);
}

#[test]
fn one_refusal_ends_all_pipelines_of_the_run_at_once_whatever_their_policies_say() {
    let (bench, free) = Bench::new().hanging();
    let mut plan = bench.plan(
        "storages: {rows: {sqlite: {}}}\non_failure: restart\n\
         pipelines: {p: {every: 1h, stages: [{store: rows, on_error: skip, retry: {attempts: 100}}]}, \
         other: {every: 1h, stages: [{core_logic: {rust: hang}}, {store: {jsonl: {}}}]}}",
    );
    let (feed, slow) = (Feed::new(), Feed::new());
    feed.feeds(&mut plan, 0);
    slow.feeds(&mut plan, 1);
    let options = RunOptions {
        epoch: Epoch(2),
        ..RunOptions::default()
    };
    let run = Started::new(&plan, &options);
    feed.give([json!({"n": 1})]);
    slow.give([json!({"n": 1})]);
    run.until(|report| report.pipelines["p"].deliveries.committed == 1);
    let file = bench.folder().join("data/test.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    let raise = "UPDATE _wiredflow_cursors SET epoch = 3 WHERE source = '@test/p'";
    assert_eq!(database.execute(raise, ()).unwrap(), 1);
    feed.give([json!({"n": 2})]);
    // The other one's call would take as long as it is not let go.
    std::thread::spawn(move || {
        std::thread::sleep(millis(500));
        free.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let ended = run.end();
    assert_eq!((ended.fenced_by, ended.at_once), (Some(Epoch(3)), true));
    assert_eq!(feed.ended_as(Outcome::Committed), [0]);
    assert!(slow.ended_as(Outcome::Committed).is_empty());
    assert!(bench.dead_letters().is_empty());
    let rows: Vec<Value> = database
        .prepare("SELECT n FROM rows")
        .unwrap()
        .query_map((), |row| Ok(json!(row.get::<_, i64>(0)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(rows, [json!(1)]);
}
