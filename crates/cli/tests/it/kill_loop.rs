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
    soaking, tell,
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

/// Where the messages of one pipeline go.
#[derive(Clone, Copy)]
struct Sink {
    pipeline: &'static str,
    kind: &'static str,
    file: &'static str,
    /// How it stands in the flow's file, behind its source.
    rest: &'static str,
}

impl Sink {
    fn file(&self, test: &FlowTest) -> PathBuf {
        test.path(self.file)
    }
}

const AT_ONCE: &[Sink] = &[
    Sink {
        pipeline: "to_jsonl",
        kind: "jsonl",
        file: "data/jsonl_in_to_jsonl.jsonl",
        rest: "stages: [{store: jsonl}]",
    },
    Sink {
        pipeline: "to_sqlite",
        kind: "sqlite",
        file: "data/numbers.db",
        rest: "stages: [{store: {sqlite: {path: data/numbers.db, table: rows}}}]",
    },
    Sink {
        pipeline: "by_python",
        kind: "jsonl",
        file: "data/jsonl_in_by_python.jsonl",
        rest: "stages: [{core_logic: {python: \"logic.py:same\"}}, {store: jsonl}]",
    },
];

const BY_INBOX: &[Sink] = &[
    Sink {
        pipeline: "inbox_jsonl",
        kind: "jsonl",
        file: "data/jsonl_in_inbox_jsonl.jsonl",
        rest: "ack: inbox\n    stages: [{store: jsonl}]",
    },
    Sink {
        pipeline: "inbox_sqlite",
        kind: "sqlite",
        file: "data/numbers.db",
        rest: "ack: inbox\n    stages: [{store: {sqlite: {path: data/numbers.db, table: rows}}}]",
    },
    Sink {
        pipeline: "not_required",
        kind: "jsonl",
        file: "data/jsonl_in_not_required.jsonl",
        rest: "stages: [{store: {jsonl: {folder: data}, required: false}}]",
    },
];

const BY_LINK: &[Sink] = &[
    Sink {
        pipeline: "link_sqlite",
        kind: "sqlite",
        file: "data/numbers.db",
        rest: "stages: [{link: kept}]
  kept:
    source: {link: kept}
    stages: [{store: {sqlite: {path: data/numbers.db, table: rows}}}]",
    },
    Sink {
        pipeline: "link_parts",
        kind: "jsonl",
        file: "data/jsonl_in_second.jsonl",
        rest: "stages: [{core_logic: {python: \"logic.py:parts\"}}, {link: first}]
  first:
    source: {link: first}
    stages: [{filter: {field: n, exists: true}}, {link: second}]
  second:
    source: {link: second}
    stages: [{store: jsonl}]",
    },
];

fn service(broker: &Mosquitto, peer: &HttpPeer, sinks: &[Sink]) -> FlowTest {
    let test = tool();
    test.file(
        "logic.py",
        "def same(relevant_info=None, **params):\n    return relevant_info\n\n\n\
         def parts(relevant_info=None, **params):\n    yield {\"other\": 1}\n    yield relevant_info\n",
    );
    let mut text = "name: flow\npipelines:\n".to_owned();
    for Sink { pipeline, rest, .. } in sinks {
        let address = broker.address();
        text.push_str(&format!(
            "  {pipeline}:\n    source: {{mqtt: {{broker: \"{address}\", topic: numbers, client_id: {pipeline}}}}}\n    {rest}\n"
        ));
    }
    let url = peer.url("/");
    text.push_str(&format!(
        "  poll:\n    every: 100ms\n    stages: [{{http: \"{url}\"}}, {{store: json}}]\n"
    ));
    test.file("flow.yaml", &text);
    test
}

fn numbers(rows: &[Value]) -> Vec<u64> {
    rows.iter().map(|row| row["n"].as_u64().unwrap()).collect()
}

/// What a kill loop leaves.
struct Killed {
    kills: usize,
    ledger: Ledger,
    /// The first number that was published when all sessions were known.
    known: u64,
    /// The stored numbers of each sink.
    stored: Vec<(&'static str, Vec<u64>)>,
}

/// Kills it so often.
fn kill(kills: usize, chance: &mut Chance, sinks: &[Sink]) -> Killed {
    let mut broker = Mosquitto::with()
        .persistent()
        .line("autosave_on_changes false") // it is stopped in good order, and saves then
        .max_queued_messages(0)
        .start();
    for sink in sinks {
        broker.hold_session(sink.pipeline, "numbers");
    }
    let (peer, asked) = (HttpPeer::start(), Arc::new(AtomicU64::new(0)));
    peer.on_request("/", {
        let asked = Arc::clone(&asked);
        move |_| Reply::json(json!([{"n": asked.fetch_add(1, Ordering::SeqCst)}]))
    });
    let test = service(&broker, &peer, sinks);
    let publisher = Publisher::start(broker.port(), "numbers", chance.clone());
    let begun = Instant::now();
    let mut done = 0;
    // The first life ends when it is known of all sessions that their packet ids tell one message from another.
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(6 * SOON, || {
        sinks.iter().all(|sink| {
            let kept = test.path(format!(".wiredflow/client_ids/{}.json", sink.pipeline));
            std::fs::read_to_string(kept).is_ok_and(|kept| kept.contains("counted"))
        })
    });
    // What came before that may come again as something new.
    let known = publisher.next();
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
    for sink in sinks {
        running.wait_until(6 * SOON, || {
            let stored = rows(sink.kind, &sink.file(&test));
            stored.is_ok_and(|rows| rows.iter().rev().any(|row| row["n"] == last))
        });
    }
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    check_database(&test.path(".wiredflow/state.db"));
    check_database(&test.path("data/numbers.db"));
    let polled = numbers(&rows("json", &test.path("data/json_in_poll.json")).unwrap());
    assert!(
        polled.is_sorted_by(|one, next| one < next),
        "an answer is stored once: {polled:?}"
    );
    assert!(
        polled.len() > done / 8,
        "the poll goes on beside it: {polled:?}"
    );
    let stored = sinks.iter().map(|sink| {
        let rows = rows(sink.kind, &sink.file(&test));
        (sink.pipeline, numbers(&rows.unwrap()))
    });
    Killed {
        kills: done,
        ledger,
        known,
        stored: stored.collect(),
    }
}

fn nothing_is_lost_or_doubled(sinks: &[Sink]) {
    let asked = if soaking() { 1_000 } else { 40 };
    let mut chance = Chance::new();
    let Killed {
        kills,
        ledger,
        known,
        stored,
    } = kill(asked, &mut chance, sinks);
    let messages = ledger.acked.len();
    assert!(messages > kills, "only {messages} messages");
    let mut doubled = Vec::new();
    for (sink, numbers) in stored {
        let duplicates = ledger.duplicates_in(sink, numbers, known);
        tell(&format!(
            "{sink}: {kills} kills, {messages} messages, 0 lost, {duplicates} stored twice"
        ));
        doubled.extend((duplicates > 0).then_some(sink));
    }
    assert!(doubled.is_empty(), "{doubled:?} of {messages} messages");
}

#[test]
fn a1_a2_a3_c1_kills_at_any_moment_lose_nothing_that_the_broker_has_taken() {
    nothing_is_lost_or_doubled(AT_ONCE);
}

#[test]
fn a1_a2_a3_kills_at_any_moment_lose_and_double_nothing_that_is_in_an_inbox() {
    nothing_is_lost_or_doubled(BY_INBOX);
}

#[test]
fn a1_a2_a3_kills_at_any_moment_lose_and_double_nothing_that_is_handed_over() {
    nothing_is_lost_or_doubled(BY_LINK);
}
