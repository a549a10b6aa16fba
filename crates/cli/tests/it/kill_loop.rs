//! A service that is killed again and again while messages come, and its broker is restarted in between: what the
//! broker has taken is stored, and a ledger says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wiredflow_testkit::{
    Chance, FlowTest, HttpPeer, Ledger, Mosquitto, Publisher, Reply, Signal, check_database, rows,
    soaking, tell, wait_until,
};

use crate::{SOON, tool};

/// A life of the service takes at most so long, in milliseconds: often it ends before Python or anything else has
/// begun to work, and each fourth may be longer.
const LIFE: usize = 500;
const LONG_LIFE: usize = 2_000;

/// On a machine that has much else to do it is killed less often: so long it takes at most.
const LONGEST: Duration = Duration::from_secs(50);

/// One kill of so many is followed by a restart of the broker.
const RESTART_EACH: usize = 8;

fn service(broker: &Mosquitto, peer: &HttpPeer) -> FlowTest {
    let test = tool();
    test.file(
        "logic.py",
        "def same(relevant_info=None, **params):\n    return relevant_info\n",
    );
    let source = |name: &str| {
        let address = broker.address();
        format!("{{mqtt: {{broker: \"{address}\", topic: numbers, client_id: {name}}}}}")
    };
    let text = format!(
        "name: flow
pipelines:
  to_jsonl:
    source: {}
    stages: [{{store: jsonl}}]
  to_sqlite:
    source: {}
    stages: [{{store: {{sqlite: {{path: data/numbers.db, table: rows}}}}}}]
  by_python:
    source: {}
    stages:
      - core_logic: {{python: \"logic.py:same\"}}
      - store: jsonl
  inbox_jsonl:
    source: {}
    ack: inbox
    stages: [{{store: jsonl}}]
  inbox_sqlite:
    source: {}
    ack: inbox
    stages: [{{store: {{sqlite: {{path: data/inbox.db, table: rows}}}}}}]
  poll:
    every: 100ms
    stages:
      - http: \"{}\"
      - store: json
",
        source("to_jsonl"),
        source("to_sqlite"),
        source("by_python"),
        source("inbox_jsonl"),
        source("inbox_sqlite"),
        peer.url("/"),
    );
    test.file("flow.yaml", &text);
    test
}

fn sinks(test: &FlowTest) -> [(&'static str, &'static str, PathBuf); 5] {
    [
        (
            "to_jsonl",
            "jsonl",
            test.path("data/jsonl_in_to_jsonl.jsonl"),
        ),
        ("to_sqlite", "sqlite", test.path("data/numbers.db")),
        (
            "by_python",
            "jsonl",
            test.path("data/jsonl_in_by_python.jsonl"),
        ),
        (
            "inbox_jsonl",
            "jsonl",
            test.path("data/jsonl_in_inbox_jsonl.jsonl"),
        ),
        ("inbox_sqlite", "sqlite", test.path("data/inbox.db")),
    ]
}

fn numbers(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
}

/// Kills it so often; gives how often it was, the ledger and the stored numbers of each sink.
fn kill(kills: usize, chance: &mut Chance) -> (usize, Ledger, Vec<(&'static str, Vec<u64>)>) {
    let mut broker = Mosquitto::with()
        .persistent()
        .line("autosave_on_changes false") // it is stopped in good order, and saves then
        .max_queued_messages(0)
        .start();
    let (peer, asked) = (HttpPeer::start(), Arc::new(AtomicU64::new(0)));
    peer.on_request("/", {
        let asked = Arc::clone(&asked);
        move |_| Reply::json(json!([{"n": asked.fetch_add(1, Ordering::SeqCst)}]))
    });
    let test = service(&broker, &peer);
    for (client, ..) in sinks(&test) {
        broker.hold_session(client, "numbers");
    }
    let publisher = Publisher::start(broker.port(), "numbers", chance.clone());
    let begun = Instant::now();
    let mut done = 0;
    // The first life ends when it is known of all sessions that their packet ids tell one message from another.
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(6 * SOON, || {
        sinks(&test).iter().all(|(client, ..)| {
            let kept = test.path(format!(".wiredflow/client_ids/{client}.json"));
            std::fs::read_to_string(kept).is_ok_and(|kept| kept.contains("counted"))
        })
    });
    running.signal(Signal::Kill);
    running.wait(SOON).assert_code(137);
    for kill in 1..=kills {
        if !soaking() && begun.elapsed() > LONGEST {
            break;
        }
        done = kill;
        let running = test.spawn(["run", "flow.yaml"]);
        let most = if kill % 4 == 0 { LONG_LIFE } else { LIFE };
        thread::sleep(Duration::from_millis(chance.below(most) as u64));
        if kill % RESTART_EACH == 0 {
            broker.restart();
            thread::sleep(Duration::from_millis(chance.below(LIFE) as u64));
        }
        running.signal(Signal::Kill);
        let life = running.wait(SOON);
        assert!(
            life.code == 137 && !life.stderr.contains("panicked"),
            "{life:?}"
        );
    }
    let ledger = publisher.end();
    // What the broker has taken last is stored last.
    let last = *ledger.acked.last().unwrap();
    let mut running = test.spawn(["run", "flow.yaml"]);
    for (_, kind, file) in sinks(&test) {
        running.wait_until(6 * SOON, || {
            let stored = rows(kind, &file);
            stored.is_ok_and(|rows| rows.iter().rev().any(|row| row["n"] == last))
        });
    }
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    check_database(&test.path(".wiredflow/state.db"));
    check_database(&test.path("data/numbers.db"));
    check_database(&test.path("data/inbox.db"));
    let polled = numbers(&rows("json", &test.path("data/json_in_poll.json")).unwrap());
    assert!(
        polled.is_sorted_by(|one, next| one < next),
        "an answer is stored once: {polled:?}"
    );
    assert!(
        polled.len() > done / 8,
        "the poll goes on beside it: {polled:?}"
    );
    let stored =
        sinks(&test).map(|(name, kind, file)| (name, numbers(&rows(kind, &file).unwrap())));
    (done, ledger, stored.into())
}

#[test]
fn a1_a2_a3_c1_kills_at_any_moment_lose_nothing_that_the_broker_has_taken() {
    let asked = if soaking() { 1_000 } else { 40 };
    let mut chance = Chance::new();
    let (kills, ledger, stored) = kill(asked, &mut chance);
    let messages = ledger.acked.len();
    assert!(messages > kills, "only {messages} messages");
    let mut doubled = Vec::new();
    for (sink, numbers) in stored {
        let duplicates = ledger.duplicates_in(sink, numbers);
        tell(&format!(
            "{sink}: {kills} kills, {messages} messages, 0 lost, {duplicates} stored twice"
        ));
        doubled.extend((duplicates > 0).then_some(sink));
    }
    assert!(doubled.is_empty(), "{doubled:?} of {messages} messages");
}
