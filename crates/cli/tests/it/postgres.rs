//! A service whose records go to a PostgreSQL server, through kills of both.

use std::thread;
use std::time::Duration;

use wiredflow_testkit::{
    Chance, FlowTest, Mosquitto, Postgres, Publisher, Signal, tell, wait_until, written_rows,
};

use crate::{SOON, tool};

const FLOW: &str = r#"
name: flow
listen: off
pipelines:
  to_postgres:
    source: {mqtt: {broker: "${env:BROKER}", topic: numbers, client_id: to_postgres}}
    stages: [{store: {postgres: {url: "${env:PG}", table: rows}}}]
  beside:
    every: 50ms
    stages: [{core_logic: {sql: "select 1 as one"}}, {store: {jsonl: {folder: data}}}]
"#;

fn service(broker: &Mosquitto, server: &Postgres) -> FlowTest {
    let test = tool()
        .env("BROKER", &broker.address())
        .env("PG", &server.url());
    test.file("flow.yaml", FLOW);
    test
}

#[test]
fn a1_a3_kills_of_the_service_and_of_the_server_lose_and_double_nothing() {
    let (mut chance, mut server) = (Chance::new(), Postgres::start());
    let broker = Mosquitto::with().max_queued_messages(0).start();
    broker.hold_session("to_postgres", "numbers");
    let test = service(&broker, &server);
    let publisher = Publisher::start(broker.port(), "numbers", chance.clone());
    // The first life ends when it is known of the session that its packet ids tell one message from another.
    let running = test.spawn(["run", "flow.yaml"]);
    wait_until(6 * SOON, || {
        let kept = test.path(".wiredflow/client_ids/to_postgres.json");
        std::fs::read_to_string(kept).is_ok_and(|kept| kept.contains("counted"))
    });
    let known = publisher.next();
    running.signal(Signal::Kill);
    running.wait(SOON).assert_code(137);
    let kills = 16;
    for kill in 1..=kills {
        let running = test.spawn(["run", "flow.yaml"]);
        thread::sleep(Duration::from_millis(chance.below(800) as u64));
        if kill % 3 == 0 {
            server.kill9();
            thread::sleep(Duration::from_millis(chance.below(500) as u64));
            server.start_again();
            thread::sleep(Duration::from_millis(chance.below(800) as u64));
        }
        running.signal(Signal::Kill);
        let life = running.wait(SOON);
        assert!(
            life.code == 137 && !life.stderr.contains("panicked"),
            "{life:?}"
        );
    }
    let ledger = publisher.end();
    let last = ledger.acked.last().unwrap();
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(6 * SOON, || {
        server.ask(&format!("SELECT count(*) FROM rows WHERE n = {last}")) == "1"
    });
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    let stored = server.ask("SELECT n FROM rows ORDER BY _id");
    let stored: Vec<_> = stored
        .lines()
        .map(|line| line.parse::<u64>().unwrap())
        .collect();
    let messages = ledger.acked.len();
    assert!(messages > kills, "only {messages} messages");
    let doubled = ledger.duplicates_in("to_postgres", stored, known);
    tell(&format!(
        "to_postgres: {kills} kills, {messages} messages, 0 lost, {doubled} stored twice"
    ));
    assert_eq!(doubled, 0);
}

#[test]
fn a_server_that_is_frozen_holds_up_nobody_else() {
    let (server, broker) = (Postgres::start(), Mosquitto::start());
    let test = service(&broker, &server);
    let mut running = test.spawn(["run", "flow.yaml"]);
    let first = || {
        broker.publish("numbers", "{\"n\": 1}", 1);
        // Not there yet: there is no table before the first row.
        server.ask("SELECT to_regclass('rows') IS NOT NULL") == "t"
    };
    running.wait_until(SOON, first);
    server.freeze();
    broker.publish("numbers", "{\"n\": 2}", 1);
    let beside = || written_rows(&test.path("data/jsonl_in_beside.jsonl")).len();
    let had = beside();
    wait_until(SOON, || beside() > had + 20);
    running.signal(Signal::Term);
    // Not before its ten seconds are over, and not much later.
    let ended = running.wait(2 * SOON);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    server.thaw();
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(SOON, || {
        server.ask("SELECT count(*) FROM rows WHERE n = 2") == "1"
    });
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
}

#[test]
fn a_flows_own_tests_touch_no_server() {
    let test = tool().env("PG", "postgres://nobody@127.0.0.1:1/none");
    test.file(
        "flow.yaml",
        "name: t\nstorages:\n  shared: {postgres: {url: \"${env:PG}\"}, key: n}\npipelines:\n  p:\n    once: true\n    stages:\n      \
         - core_logic: {sql: \"select 1 as n, 'a' as text\"}\n      - store: shared\n      - store: {postgres: {url: \"${env:PG}\", table: other}}\n",
    );
    test.file(
        "flow.test.yaml",
        "cases:\n  stored:\n    expect:\n      storages: {shared: [{n: 1, text: a}], p: [{n: 1, text: a}]}\n",
    );
    test.run(["test", "flow.yaml"]).assert_code(0);
}
