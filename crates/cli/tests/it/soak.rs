//! What only long runs show: how memory grows, and how long a start and the way back to a broker take. `cargo xtask
//! soak` runs it and shows the table.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use wiredflow_testkit::{
    Chance, FlowTest, Mosquitto, Publisher, Running, Signal, rows, tell, wait_until,
};

use crate::{SOON, tool};

/// How often a start is timed; the way back to a broker half as often.
const TIMES: usize = 100;

fn service(broker: &Mosquitto) -> FlowTest {
    let test = tool();
    let address = broker.address();
    test.file(
        "flow.yaml",
        &format!(
            "name: flow\npipelines:\n  numbers:\n    \
             source: {{mqtt: {{broker: \"{address}\", topic: in, client_id: soak}}}}\n    \
             stages: [{{store: {{sqlite: {{path: data/numbers.db, table: rows}}}}}}]\n"
        ),
    );
    broker.hold_session("soak", "in");
    test
}

/// What a process holds in memory, in KiB.
fn resident(running: &Running) -> u64 {
    let status = Path::new("/proc")
        .join(running.id().to_string())
        .join("status");
    let status = fs::read_to_string(status).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Takes the time of each, and gives the median and what 99 of a hundred are below.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |share: usize| times[(times.len() * share).div_ceil(100) - 1];
    (at(50), at(99))
}

fn first_message() -> Vec<Duration> {
    let broker = Mosquitto::start();
    let test = service(&broker);
    let once = || {
        broker.publish("in", r#"{"n": 1}"#, 1);
        broker.forget_log();
        let begun = Instant::now();
        let running = test.spawn(["run", "flow.yaml"]);
        broker.wait_for_log("Received PUBACK from soak", SOON);
        let took = begun.elapsed();
        running.signal(Signal::Kill);
        running.wait(SOON);
        took
    };
    (0..TIMES).map(|_| once()).collect()
}

/// A source whose connections last seconds, six in a minute, takes that for a rival client and ends: no service
/// meets more than five restarts here.
fn back_to_the_broker(chance: &mut Chance) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < TIMES / 2 {
        let mut broker = Mosquitto::with().persistent().start();
        let test = service(&broker);
        let running = test.spawn(["run", "flow.yaml"]);
        broker.wait_for_log("Sending SUBACK to soak", SOON);
        for _ in 0..5 {
            broker.stop();
            thread::sleep(Duration::from_millis(chance.below(2_000) as u64));
            broker.forget_log();
            broker.start_again();
            let begun = Instant::now();
            // It still knows what the session has subscribed to.
            broker.wait_for_log("Sending CONNACK to soak", SOON);
            times.push(begun.elapsed());
        }
        running.signal(Signal::Term);
        running.wait(SOON).assert_code(0);
    }
    times
}

/// The memory after a tenth of the time and at its end, in KiB.
fn memory(chance: Chance, lasts: Duration) -> (u64, u64) {
    let broker = Mosquitto::with().max_queued_messages(0).start();
    let test = service(&broker);
    let running = test.spawn(["run", "flow.yaml"]);
    let publisher = Publisher::start(broker.port(), "in", chance);
    let begun = Instant::now();
    thread::sleep(lasts / 10);
    let early = resident(&running);
    thread::sleep(lasts.saturating_sub(begun.elapsed()));
    let late = resident(&running);
    drop(publisher.end());
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    (early, late)
}

/// How many messages wait for a service whose throughput is measured, and how often it is measured.
const WAITING: u64 = 30_000;
const PAIRS: usize = 5;

/// How long a service takes for the messages that wait for it: alone, or beside a pipeline whose process dies at
/// each of its runs, and which is opened again.
fn work_off(waiting: u64, beside: &str) -> Duration {
    let broker = Mosquitto::with().max_queued_messages(0).start();
    let test = service(&broker);
    let flow = test.read("flow.yaml");
    test.file("logic.py", "import os\n\n\ndef die(**_):\n    os.abort()\n");
    test.file("flow.yaml", &format!("{flow}{beside}"));
    let mut client = broker.client();
    let payloads = (0..waiting).map(|n| format!("{{\"n\": {n}}}"));
    client.publish_all("in", payloads, 1).unwrap();
    let stored = || {
        let rows = rows("sqlite", &test.path("data/numbers.db"));
        rows.map_or(0, |rows| rows.len() as u64)
    };
    let begun = Instant::now();
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(12 * SOON, || stored() == waiting);
    let took = begun.elapsed();
    if !beside.is_empty() {
        running.stderr_contains("killed by signal 6", SOON);
    }
    running.signal(Signal::Term);
    running.wait(SOON);
    took
}

const DYING: &str = "  dying:
    every: 100ms
    on_failure: restart
    stages: [{core_logic: {python: \"logic.py:die\"}}]
";

/// The throughput beside a pipeline that dies again and again, as a part of that without one.
fn beside_a_dying_pipeline() -> f64 {
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|_| {
            let alone = work_off(WAITING, "");
            alone.as_secs_f64() / work_off(WAITING, DYING).as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[PAIRS / 2]
}

#[test]
#[ignore = "takes minutes: `cargo xtask soak`"]
fn memory_stays_flat_and_a_service_is_back_soon() {
    let minutes = std::env::var("SOAK_MINUTES").map_or(10, |text| text.parse().unwrap());
    let mut chance = Chance::new();
    let (early, late) = memory(chance.clone(), Duration::from_secs(60 * minutes));
    let growth = (late as f64 / early as f64 - 1.0) * 100.0;
    let (start_50, start_99) = percentiles(first_message());
    let (back_50, back_99) = percentiles(back_to_the_broker(&mut chance));
    let beside = beside_a_dying_pipeline() * 100.0;
    tell(&format!(
        "| what | p50 | p99 | goal |\n|---|---|---|---|\n\
         | start to first message stored | {start_50:.1?} | {start_99:.1?} | ≤ 2 s |\n\
         | broker back to subscribed | {back_50:.1?} | {back_99:.1?} | ≤ 5 s |\n\
         | memory over {minutes} min | {early} KiB | {late} KiB | < 5 %: {growth:.1} % |\n\
         | throughput beside a pipeline that dies | {beside:.0} % | | ≥ 95 % |"
    ));
    assert!(start_99 <= Duration::from_secs(2) && back_99 <= Duration::from_secs(5));
    assert!(growth < 5.0, "memory has grown by {growth:.1} %");
    assert!(beside >= 95.0, "{beside:.1} % of the throughput is left");
}

#[test]
fn what_the_soak_measures_can_be_measured() {
    let broker = Mosquitto::start();
    let test = service(&broker);
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(SOON, || resident(&running) > 1_000);
    assert_eq!(
        percentiles((1..=100).map(Duration::from_secs).collect()),
        (Duration::from_secs(50), Duration::from_secs(99))
    );
    for beside in ["", DYING] {
        work_off(10, beside);
    }
}
