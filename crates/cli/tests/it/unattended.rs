//! What happens to a service that nobody looks after: memory runs out, the machine sleeps, a pipeline fails again and
//! again, an answer is lost on its way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wiredflow_testkit::{
    FlowTest, HttpPeer, Mosquitto, Reply, Signal, Strace, rows, skipped, wait_until,
};

use crate::numbers::{acknowledged, begin, end, payloads};
use crate::{SOON, tool};

/// A flow whose one pipeline takes what comes to `in`, at QoS 1.
fn stream(broker: &Mosquitto, stages: &str) -> FlowTest {
    let test = tool();
    let address = broker.address();
    test.file(
        "flow.yaml",
        &format!(
            "name: flow\npipelines:\n  numbers:\n    \
             source: {{mqtt: {{broker: \"{address}\", topic: in}}}}\n    stages:\n{stages}"
        ),
    );
    test
}

/// How often each number is stored.
fn stored(test: &FlowTest) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    let rows = rows("jsonl", &test.path("data/jsonl_in_numbers.jsonl"));
    for row in rows.unwrap_or_default() {
        *counts.entry(row["n"].as_u64().unwrap()).or_default() += 1;
    }
    counts
}

fn once_each(numbers: std::ops::Range<u64>) -> BTreeMap<u64, usize> {
    numbers.map(|n| (n, 1)).collect()
}

/// A group of processes that may have so much memory together.
struct MemoryLimit(PathBuf);

impl MemoryLimit {
    fn of(bytes: u64) -> Result<Self, String> {
        let name = format!("wiredflow-test-{}", std::process::id());
        for (parent, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = Path::new(parent).join(&name);
            if fs::create_dir(&group).is_ok() {
                let group = Self(group);
                if fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                    return Ok(group);
                }
            }
        }
        Err("no group of processes can be made whose memory is limited".to_owned())
    }

    fn add(&self, process: u32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).unwrap();
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // The system takes its time to see that the last process has gone.
        wait_until(SOON, || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a12_a_process_that_is_killed_because_memory_is_short_loses_nothing() {
    let limit = match MemoryLimit::of(6 << 20) {
        Ok(limit) => limit,
        Err(reason) => return skipped("a12", &reason),
    };
    let broker = Mosquitto::with().max_queued_messages(0).start();
    let peer = HttpPeer::start();
    peer.on("/", Reply::never());
    let send = format!(
        "      - send: {{http_post: {{url: \"{}\"}}, field: n}}\n",
        peer.url("/")
    );
    let test = stream(&broker, &(send + "      - store: jsonl\n"));
    let running = begin(&test, &broker);
    limit.add(running.id());
    // What is in flight is more than there may be.
    let text = "x".repeat(900_000);
    for n in 0..10 {
        broker.publish("in", json!({"n": n, "text": text}).to_string(), 1);
    }
    running.wait(2 * SOON).assert_code(137);
    assert_eq!(stored(&test), BTreeMap::new());
    peer.on("/", Reply::code(200));
    let mut running = begin(&test, &broker);
    running.wait_until(2 * SOON, || acknowledged(&broker) >= 10);
    end(running);
    assert_eq!(stored(&test), once_each(0..10));
}

#[test]
fn a13_a_process_that_was_frozen_goes_on_where_it_was() {
    let mut broker = Mosquitto::with().persistent().start();
    let test = stream(&broker, "      - store: jsonl\n");
    let running = begin(&test, &broker);
    broker
        .client()
        .publish_all("in", payloads(0..20), 1)
        .unwrap();
    wait_until(SOON, || acknowledged(&broker) == 20);
    running.signal(Signal::Stop);
    // While it sleeps its connection goes, and messages come.
    broker.restart();
    broker
        .client()
        .publish_all("in", payloads(20..40), 1)
        .unwrap();
    running.signal(Signal::Continue);
    wait_until(SOON, || stored(&test).len() == 40);
    end(running);
    assert_eq!(stored(&test), once_each(0..40));
}

#[test]
fn a14_what_fails_again_and_again_floods_no_log_and_holds_up_nobody() {
    let peer = HttpPeer::start();
    peer.on("/", Reply::json(json!([{"n": 1}])));
    let test = tool();
    test.file(
        "logic.py",
        "def fail(**params):\n    raise ValueError('again')\n",
    );
    test.file(
        "flow.yaml",
        &format!(
            "on_failure: restart\npipelines:\n  bad:\n    every: 10ms\n    stages: [{{core_logic: {{python: \"logic.py:fail\"}}}}]\n  \
             good:\n    every: 20ms\n    stages: [{{http: \"{}\"}}, {{store: jsonl}}]\n",
            peer.url("/")
        ),
    );
    let running = test.spawn(["run", "flow.yaml", "--json"]);
    wait_until(3 * SOON, || peer.requests().len() > 120);
    running.signal(Signal::Term);
    let ended = running.wait(SOON);
    let report = ended.json();
    let restarts = report["pipelines"]["bad"]["restarts"].as_u64().unwrap();
    // It waits 1 s, 2 s, 4 s … of which chance takes up to a half.
    let seconds = report["seconds"].as_f64().unwrap();
    let most = (2.0 * seconds + 1.0).log2().ceil();
    assert!(
        restarts >= 1 && restarts as f64 <= most,
        "{restarts} in {seconds} s: {}",
        ended.stderr
    );
    let lines = ended.stderr.matches("again").count() as u64;
    assert!(
        lines <= 4 * (restarts + 1),
        "{lines} lines: {}",
        ended.stderr
    );
    assert!(
        report["pipelines"]["good"]["deliveries"]["committed"].as_u64() >= Some(120),
        "{report}"
    );
}

#[test]
fn a14_a_mistake_in_the_file_is_told_at_each_start_and_leaves_nothing_behind() {
    let test = tool();
    test.file(
        "flow.yaml",
        "pipelines: {p: {every: never, stages: [{store: jsonl}]}}\n",
    );
    for _ in 0..10 {
        let ended = test.run(["run", "flow.yaml"]);
        ended.assert_code(2);
        assert!(ended.stderr.lines().count() < 20, "{}", ended.stderr);
    }
    let left: Vec<_> = fs::read_dir(test.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["flow.yaml"]);
}

#[test]
fn b5_nothing_is_acknowledged_before_it_is_synced() {
    const MESSAGES: u64 = 12;
    if let Some(reason) = Strace::refusal() {
        return skipped("b5", &reason);
    }
    for (stages, file) in [
        ("      - store: jsonl\n", "data/jsonl_in_numbers.jsonl"),
        (
            "      - store: {sqlite: {path: data/numbers.db, table: rows}}\n",
            "data/numbers.db",
        ),
    ] {
        let broker = Mosquitto::start();
        let (test, logs) = (stream(&broker, stages), tool());
        let log = logs.path("strace.log");
        let words = "strace -D -f -y -s 200 -e trace=fsync,fdatasync,sendto,write,writev -o";
        let mut prefix: Vec<String> = words.split(' ').map(str::to_owned).collect();
        prefix.push(log.display().to_string());
        let running = test.spawn_under(&prefix, ["run", "flow.yaml"]);
        broker.wait_for_log("Sending SUBACK to flow-numbers-", SOON);
        for n in 0..MESSAGES {
            broker.publish("in", json!({ "n": n }).to_string(), 1);
            wait_until(SOON, || acknowledged(&broker) as u64 == n + 1);
        }
        end(running);
        let (mut synced, mut acks, mut syncing) = (0, 0, BTreeMap::new());
        for line in fs::read_to_string(log).unwrap().lines() {
            let (thread, call) = line.split_once(' ').unwrap();
            let begins = call.contains("sync(") && call.contains(file);
            if begins && call.contains("<unfinished") {
                syncing.insert(thread.to_owned(), ());
            } else if begins || (call.contains("sync resumed") && syncing.remove(thread).is_some())
            {
                assert!(call.ends_with("= 0"), "{line}");
                synced += 1;
            } else if call.contains("<socket:") && call.contains(r#""@\2"#) {
                assert!(
                    synced > 0,
                    "acknowledgement {acks} is sent before anything is synced: {line}"
                );
                (synced, acks) = (0, acks + 1);
            }
        }
        assert_eq!(acks, MESSAGES, "{file}");
    }
}

#[test]
fn c14_acknowledgements_keep_the_order_of_arrival_though_work_ends_out_of_order() {
    const MESSAGES: u64 = 40;
    let broker = Mosquitto::start();
    let peer = HttpPeer::start();
    peer.on_request("/", |request| {
        let n = request.json()["n"].as_u64().unwrap();
        Reply::code(200).after(Duration::from_millis(7 * n % 10 * 8))
    });
    let send = format!("{{http_post: {{url: \"{}\"}}}}", peer.url("/"));
    let stages = format!(
        "      - send: {send}\n        parallel: 8\n        batch: {{max: 1, within: 1ms}}\n"
    );
    let test = stream(&broker, &stages);
    let running = begin(&test, &broker);
    broker
        .client()
        .publish_all("in", payloads(0..MESSAGES), 1)
        .unwrap();
    wait_until(SOON, || acknowledged(&broker) as u64 == MESSAGES);
    end(running);
    assert!(peer.most_at_once() > 1, "nothing ran side by side");
    let log = broker.log();
    let ids: Vec<u64> = log
        .lines()
        .filter(|line| line.contains("Received PUBACK from flow-numbers-"))
        .map(|line| {
            let id = line
                .split("Mid: ")
                .nth(1)
                .unwrap()
                .split([',', ')'])
                .next()
                .unwrap();
            id.parse().unwrap()
        })
        .collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}

#[test]
fn d8_a_post_whose_answer_is_lost_is_sent_again_unless_the_file_says_otherwise() {
    for (retry, requests) in [("{backoff: 10ms}", 2), ("{attempts: 1}", 1)] {
        let broker = Mosquitto::start();
        let peer = HttpPeer::start();
        // It has done what it was asked to, and nobody hears of it.
        peer.on_each("/", [Reply::hang_up(), Reply::code(200)]);
        let send = format!(
            "      - send: {{http_post: {{url: \"{}\"}}}}\n",
            peer.url("/")
        );
        let test = stream(
            &broker,
            &format!("{send}        retry: {retry}\n        on_error: dead_letter\n"),
        );
        let running = begin(&test, &broker);
        broker.publish("in", r#"{"n": 1}"#, 1);
        wait_until(SOON, || acknowledged(&broker) == 1);
        end(running);
        let bodies: Vec<Value> = peer
            .requests()
            .iter()
            .map(|request| request.json())
            .collect();
        assert_eq!(bodies, vec![json!({"n": 1}); requests], "{retry}");
        let listed = test
            .run(["dead-letters", "list", "flow.yaml", "--json"])
            .json();
        let letters = listed["dead_letters"].as_array().unwrap().len();
        assert_eq!(letters, 2 - requests, "{retry}: {listed}");
    }
}

#[test]
fn f6_a_machine_that_slept_makes_up_for_one_tick_and_not_for_all() {
    const PERIOD: Duration = Duration::from_millis(50);
    let peer = HttpPeer::start();
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    peer.on_request("/", {
        let asked = std::sync::Arc::clone(&asked);
        move |_| Reply::json(json!([{"n": asked.fetch_add(1, Ordering::SeqCst)}]))
    });
    let test = tool();
    let url = peer.url("/");
    test.file(
        "flow.yaml",
        &format!(
            "pipelines: {{p: {{every: 50ms, stages: [{{http: \"{url}\"}}, {{store: jsonl}}]}}}}\n"
        ),
    );
    let running = test.spawn(["run", "flow.yaml"]);
    let count = || asked.load(Ordering::SeqCst);
    wait_until(SOON, || count() > 5);
    running.signal(Signal::Stop);
    let asleep = Instant::now();
    wait_until(SOON, || asleep.elapsed() > 60 * PERIOD);
    let before = count();
    let awake = Instant::now();
    running.signal(Signal::Continue);
    wait_until(SOON, || count() >= before + 20);
    // Sixty ticks were missed. Of twenty requests all but a few belong to ticks that came since.
    assert!(
        awake.elapsed() > 15 * PERIOD,
        "20 requests in {:?}",
        awake.elapsed()
    );
    end(running);
}

#[test]
fn what_was_away_for_seconds_is_said_to_work_again() {
    let (broker, peer) = (Mosquitto::start(), HttpPeer::start());
    let away = || Reply::code(503);
    // Half of each wait is left to chance: the four take 6 s at least.
    peer.on_each("/", [away(), away(), away(), away(), Reply::code(204)]);
    let url = peer.url("/");
    let send = format!(
        "      - send: {{http_post: \"{url}\"}}\n        retry: {{backoff: 3s, max: 3s}}\n"
    );
    let test = stream(&broker, &send);
    let running = begin(&test, &broker);
    broker.publish("in", "{\"n\": 1}", 1);
    running.stderr_contains("works again after ", 2 * SOON);
    assert_eq!(running.stderr().matches("works again").count(), 1);
    end(running);
}

/// Of a session that goes on mosquitto sends all that is not acknowledged before it answers our subscription, be it more
/// than a client said that it takes.
#[test]
fn c3_more_than_there_is_room_for_comes_before_the_answer_to_the_subscription() {
    let broker = Mosquitto::with().max_queued_messages(0).start();
    broker.hold_session("again", "in");
    let test = tool();
    let slow = "import time\n\ndef slow(relevant_info=None, **_):\n    time.sleep(0.005)\n    return relevant_info\n";
    test.file("logic.py", slow);
    let address = broker.address();
    test.file(
        "flow.yaml",
        &format!(
            "name: flow\npipelines:\n  numbers:\n    \
             source: {{mqtt: {{broker: \"{address}\", topic: in, client_id: again}}}}\n    \
             stages: [{{core_logic: {{python: \"logic.py:slow\"}}}}, {{store: jsonl}}]\n"
        ),
    );
    let mut client = broker.client();
    client.publish_all("in", payloads(0..20_000), 1).unwrap();
    let mut before = 0;
    for _ in 0..3 {
        let mut running = test.spawn(["run", "flow.yaml"]);
        running.wait_until(SOON, || stored(&test).len() > before + 100);
        running.signal(Signal::Kill);
        running.wait(SOON).assert_code(137);
        before = stored(&test).len();
    }
}
