//! From payloads and topics to what is stored, and back to payloads.

use std::path::Path;

use serde_json::{Value, json};
use wiredflow_testkit::{Mosquitto, wait_until, written_lines};

use super::bench::{Bench, SOON};
use super::whole;

/// The lines that a pipeline has stored.
fn lines(folder: &Path, pipeline: &str) -> Vec<String> {
    let file = folder.join(format!("data/jsonl_in_{pipeline}.jsonl"));
    written_lines(&file)
}

fn records(folder: &Path, pipeline: &str) -> Vec<Value> {
    let lines = lines(folder, pipeline);
    let record = |line: &String| serde_json::from_str(line).unwrap();
    lines.iter().map(record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn text_bytes_and_topics_are_stored_and_sent() {
    let mosquitto = Mosquitto::start();
    let folder = tempfile::tempdir().unwrap();
    let pipeline = |name: &str, source: &str, send: &str| {
        let broker = mosquitto.address();
        format!(
            "  {name}:
    source: {{mqtt: {{broker: \"{broker}\", {source}}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
      - send: {{mqtt: {{broker: \"{broker}\", topic: out/{name}, {send}}}, field: value}}
"
        )
    };
    let text = [
        "pipelines:\n".to_owned(),
        pipeline("json", "topic: sensors/+/temp, topic_field: from", "qos: 2"),
        pipeline("text", "topic: text/#, format: text", "format: text"),
        pipeline(
            "bytes",
            "topics: [raw/a, raw/b], format: binary, topic_field: topic",
            "format: binary",
        ),
    ]
    .concat();
    let running = whole::begin(folder.path(), &text);
    for name in ["json", "text", "bytes"] {
        mosquitto.wait_for_log(&format!("Sending SUBACK to flow-{name}-"), SOON);
    }
    let sent = mosquitto.subscribe(&["out/#"]);
    mosquitto.publish("sensors/a/temp", "{\"n\": 1}", 1);
    mosquitto.publish("sensors/b/temp", "21.5", 1);
    mosquitto.publish("sensors/b/temp/deeper", "not asked for", 1);
    mosquitto.publish(
        "sensors/c/temp",
        "[{\"n\": 2}, {\"n\": 3, \"from\": \"else\"}]",
        1,
    );
    mosquitto.publish("text/a", "21.5 °C\n", 1);
    mosquitto.publish("text/b", b"\xff", 1);
    mosquitto.publish("text/b", "", 1);
    mosquitto.publish("raw/b", b"\x00\xff\x10", 1);
    mosquitto.publish("raw/a", b"", 1);
    wait_until(SOON, || {
        let stored = |name| lines(folder.path(), name).len();
        [stored("json"), stored("text"), stored("bytes")] == [4, 2, 2]
    });
    let got = sent.wait_for(5, SOON);
    let report = whole::end(running).await;
    assert!(report.ok, "{report:#?}");
    assert_eq!(
        records(folder.path(), "json"),
        [
            json!({"n": 1, "from": "sensors/a/temp"}),
            json!({"value": 21.5, "from": "sensors/b/temp"}),
            json!({"n": 2, "from": "sensors/c/temp"}),
            json!({"n": 3, "from": "sensors/c/temp"}),
        ]
    );
    assert_eq!(
        records(folder.path(), "text"),
        [json!({"value": "21.5 °C\n"}), json!({"value": ""})]
    );
    assert_eq!(
        records(folder.path(), "bytes"),
        [
            json!({"value": "AP8Q", "topic": "raw/b"}),
            json!({"value": "", "topic": "raw/a"}),
        ]
    );
    assert_eq!(report.pipelines["text"].deliveries.dead_lettered, 1);
    let of = |topic: &str| {
        let mine = got.iter().filter(|message| message.topic == topic);
        mine.map(|message| message.payload.as_slice())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("out/json"), [b"21.5"]);
    assert_eq!(of("out/text"), ["21.5 °C\n".as_bytes(), b""]);
    assert_eq!(of("out/bytes"), [&b"\x00\xff\x10"[..], b""]);
    let qos: Vec<u8> = got.iter().map(|message| message.qos).collect();
    assert!(qos.contains(&2) && qos.contains(&1), "{qos:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn e3_a_number_of_a_message_is_the_one_that_is_stored_or_a_dead_letter() {
    let mosquitto = Mosquitto::start();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{}\", topic: in}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
      - store: {{sqlite: {{path: data/n.db, table: n}}}}
",
        mosquitto.address()
    );
    let running = whole::begin(folder.path(), &text);
    mosquitto.wait_for_log("Sending SUBACK to flow-numbers", SOON);
    let kept = [
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("-0", "-0.0"),
        ("0.1000000000000000000000000000001", "0.1"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("5e-324", "5e-324"),
    ];
    let refused = [
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "NaN",
        "Infinity",
        "-Infinity",
    ];
    for number in kept.iter().map(|(number, _)| *number).chain(refused) {
        mosquitto.publish("in", format!("{{\"n\":{number}}}"), 1);
    }
    // Behind all of them.
    mosquitto.publish("in", "{\"n\":\"last\"}", 1);
    wait_until(SOON, || {
        lines(folder.path(), "numbers").len() == kept.len() + 1
    });
    let report = whole::end(running).await;
    assert!(report.ok, "{report:#?}");
    let deliveries = report.pipelines["numbers"].deliveries;
    assert_eq!(
        (deliveries.committed, deliveries.dead_lettered),
        (kept.len() as u64 + 1, refused.len() as u64)
    );
    let stored = lines(folder.path(), "numbers");
    let expected = kept.iter().map(|(_, number)| format!("{{\"n\":{number}}}"));
    assert_eq!(stored[..kept.len()], expected.collect::<Vec<_>>());
    let database = rusqlite::Connection::open(folder.path().join("data/n.db")).unwrap();
    let mut rows = database
        .prepare("select typeof(n) || ' ' || n from n order by rowid")
        .unwrap();
    let rows: Vec<String> = rows
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    // Beyond 2^63 SQLite has no integers: the digits are kept as text.
    assert_eq!(
        rows[..4],
        [
            "integer -9223372036854775808",
            "integer 9223372036854775807",
            "text 9223372036854775808",
            "text 18446744073709551615",
        ]
    );
    let exact: f64 = database
        .query_row("select n from n where n between 0.2 and 0.4", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(exact.to_bits(), 0.30000000000000004_f64.to_bits());
}

/// All files below a folder, by their paths from there.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let path = path.strip_prefix(folder).unwrap();
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_topic_is_never_a_path() {
    let mosquitto = Mosquitto::start();
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("flow");
    std::fs::create_dir(&folder).unwrap();
    let text = format!(
        "pipelines:
  numbers:
    source: {{mqtt: {{broker: \"{}\", topic: \"#\", topic_field: topic}}}}
    stages:
      - store: {{jsonl: {{folder: data}}}}
",
        mosquitto.address()
    );
    let running = whole::begin(&folder, &text);
    mosquitto.wait_for_log("Sending SUBACK to flow-numbers", SOON);
    mosquitto.publish("plain", "{\"n\": 0}", 1);
    wait_until(SOON, || lines(&folder, "numbers").len() == 1);
    let before = files(outer.path());
    let long = "x".repeat(65_535);
    let topics = [
        "../../etc/passwd",
        "/etc/passwd",
        "data/../../x",
        "C:\\x",
        "a\"b',;{}",
        " ",
        &long,
    ];
    for topic in topics {
        mosquitto.publish(topic, "{\"n\": 1}", 1);
        // What cannot be read names its topic in the dead letter.
        mosquitto.publish(topic, "no json", 1);
    }
    wait_until(SOON, || lines(&folder, "numbers").len() == 1 + topics.len());
    let report = whole::end(running).await;
    assert!(report.ok, "{report:#?}");
    let stored = records(&folder, "numbers");
    for (topic, record) in topics.iter().zip(&stored[1..]) {
        assert_eq!(record["topic"], **topic);
    }
    assert_eq!(
        report.pipelines["numbers"].deliveries.dead_lettered,
        topics.len() as u64
    );
    let beside = |name: &String| name.ends_with("-wal") || name.ends_with("-shm");
    let names = |files: Vec<String>| -> Vec<String> {
        files.into_iter().filter(|name| !beside(name)).collect()
    };
    assert_eq!(names(files(outer.path())), names(before));
}

#[test]
fn c18_what_cannot_be_published_to_is_refused_by_check() {
    let bench = Bench::new();
    let long = "x".repeat(65_536);
    for (topic, words) in [
        ("a/+", "has a wildcard"),
        ("a/#", "has a wildcard"),
        ("a\\0b", "NUL"),
        ("$SYS/broker/uptime", "belongs to the broker"),
        ("", "cannot be empty"),
        (&long, "65535 are the most"),
    ] {
        let config = format!("{{broker: localhost, topic: \"{topic}\"}}");
        let problems = bench.sender_problems(&config);
        assert!(problems.contains(words), "{words}: {}", problems.len());
    }
    // A name, and no path.
    let config = "{broker: localhost, topic: ../../etc/passwd}";
    assert_eq!(bench.sender_problems(config), "");
}
