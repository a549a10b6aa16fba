//! A webhook in the real binary: kills, ports, and what is logged.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_testkit::{Authority, HttpPeer, Reply, Signal, free_port, wait_until, written_rows};

use crate::{SOON, tool};

/// Sends a record; whether it was confirmed. `sent`: some of it was on its way, and may be stored.
fn send(port: u16, number: u64, sent: &mut bool) -> bool {
    let body = json!({"n": number}).to_string();
    let length = body.len();
    let head = format!(
        "POST /in HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    *sent = true;
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut reply = String::new();
    stream.write_all((head + &body).as_bytes()).is_ok()
        && stream.read_to_string(&mut reply).is_ok()
        && reply.starts_with("HTTP/1.1 200")
}

#[test]
fn a1_what_was_confirmed_survives_kills_and_only_what_was_sent_again_is_there_twice() {
    let (test, port) = (tool(), free_port());
    test.file(
        "flow.yaml",
        &format!(
            "pipelines:\n  p:\n    source: {{webhook: {{listen: '127.0.0.1:{port}', path: /in}}}}\n    stages: [{{store: jsonl}}]\n"
        ),
    );
    let over = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            // How often each record was sent before it was confirmed.
            let mut sent_times = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let mut times = 0;
                loop {
                    let mut sent = false;
                    let confirmed = send(port, sent_times.len() as u64, &mut sent);
                    times += usize::from(sent);
                    if confirmed {
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                sent_times.push(times);
            }
            sent_times
        }
    });
    let rows = || {
        let rows = written_rows(&test.path("data/jsonl_in_p.jsonl"));
        let number = |row: &Value| row["n"].as_u64().unwrap();
        rows.iter().map(number).collect::<Vec<_>>()
    };
    let mut running = test.spawn(["run", "flow.yaml"]);
    for kill in 1..=3 {
        wait_until(SOON, || rows().len() >= 30 * kill);
        running.signal(Signal::Kill);
        running.wait(SOON).assert_code(137);
        running = test.spawn(["run", "flow.yaml"]);
    }
    wait_until(SOON, || rows().len() >= 120);
    over.store(true, Ordering::SeqCst);
    let sent_times = sender.join().unwrap();
    running.signal(Signal::Term);
    running.wait(SOON).assert_code(0);
    let mut counts = BTreeMap::new();
    for number in rows() {
        *counts.entry(number as usize).or_insert(0) += 1;
    }
    assert_eq!(
        counts.len(),
        sent_times.len(),
        "each confirmed record is there, and no other"
    );
    for (number, count) in counts {
        assert!(
            count <= sent_times[number],
            "{number}: {count} times of {}",
            sent_times[number]
        );
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let test = tool();
    let address = taken.local_addr().unwrap();
    let webhook = format!("{{webhook: {{listen: '{address}'}}}}");
    test.file(
        "flow.yaml",
        &format!("pipelines: {{p: {{source: {webhook}, stages: [{{store: jsonl}}]}}}}\n"),
    );
    let ran = test.run(["run", "flow.yaml"]);
    ran.assert_code(1);
    assert!(
        ran.stderr.contains("another program has the port"),
        "{}",
        ran.stderr
    );
}

#[test]
fn d10_insecure_is_said_by_check_and_at_each_start() {
    let (test, authority) = (tool(), Authority::new());
    let peer = HttpPeer::start_tls(&authority.wrong_host());
    peer.on("/x", Reply::json(json!([1])));
    let stage = format!(
        "{{http: {{url: '{}', tls: {{insecure: true}}}}}}",
        peer.url("/x")
    );
    test.file(
        "flow.yaml",
        &format!("pipelines: {{p: {{once: true, stages: [{stage}, {{store: jsonl}}]}}}}\n"),
    );
    let checked = test.run(["check", "flow.yaml", "--json"]);
    let document = checked.assert_code(0).json();
    assert_eq!(document["problems"][0]["severity"], "warning", "{document}");
    for _ in 0..2 {
        let ran = test.run(["run", "flow.yaml", "--once"]);
        ran.assert_code(0);
        assert!(
            ran.stderr.contains("INSECURE: any certificate is taken"),
            "{}",
            ran.stderr
        );
    }
}
