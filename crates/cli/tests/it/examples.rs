//! Every example, as a file and as Rust, against the demo's peers: it gives what its first lines say, in no more
//! lines than upstream needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use wiredflow_demo::{Peers, Ports, Server};
use wiredflow_testkit::{FlowTest, HttpPeer, Reply, Running, Signal};

use crate::tool;

const LONG: Duration = Duration::from_secs(40);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// The program of all examples in Rust, beside the tool in the target folder.
pub(crate) fn rust_program() -> PathBuf {
    let tool = Path::new(env!("CARGO_BIN_EXE_wiredflow"));
    let program = tool.with_file_name("examples").join("rust");
    assert!(
        program.exists(),
        "{} is built with the tests",
        program.display()
    );
    program
}

fn source(example: &str, file: &str) -> Option<String> {
    std::fs::read_to_string(folder().join(example).join(file)).ok()
}

/// What the first lines of a flow file say that it gives.
#[derive(Debug)]
enum Promise {
    /// `# PATH holds JSON`: an array whose records look like the first one there.
    Holds(String, Value),
    /// `# PATH begins TEXT`.
    Begins(String, String),
    /// `# The topic TOPIC gets JSON`.
    Gets(String, Value),
}

fn promises(flow: &str) -> Vec<Promise> {
    let read = |line: &str| {
        let line = line.strip_prefix("# ")?;
        if let Some((topic, body)) = line
            .strip_prefix("The topic ")
            .and_then(|rest| rest.split_once(" gets "))
        {
            return Some(Promise::Gets(
                topic.to_owned(),
                serde_json::from_str(body).unwrap(),
            ));
        }
        if let Some((path, text)) = line.split_once(" begins ") {
            return Some(Promise::Begins(path.to_owned(), text.to_owned()));
        }
        let (path, document) = line.split_once(" holds ")?;
        let mut documents = serde_json::Deserializer::from_str(document).into_iter();
        let first: Value = documents.next()?.unwrap();
        Some(Promise::Holds(path.to_owned(), first[0].clone()))
    };
    flow.lines()
        .take_while(|line| line.starts_with('#'))
        .filter_map(read)
        .collect()
}

impl Promise {
    fn is_kept(&self, test: &FlowTest, peers: &Peers) -> bool {
        let read = |path: &str| std::fs::read_to_string(test.path(path)).unwrap_or_default();
        match self {
            Self::Holds(path, record) => {
                let rows: Value = serde_json::from_str(&read(path)).unwrap_or_default();
                let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
                !rows.is_empty() && rows.iter().all(|row| looks_like(row, record))
            }
            Self::Begins(path, text) => read(path).lines().next() == Some(text),
            Self::Gets(topic, value) => {
                let (heard, _) = peers.heard_since(0);
                heard.iter().any(|heard| {
                    let body = serde_json::from_str(&heard.body).unwrap_or_default();
                    heard.topic == *topic && looks_like(&body, value)
                })
            }
        }
    }
}

/// Whether two documents have the same fields and kinds of values; times and numbers may differ.
fn looks_like(found: &Value, shown: &Value) -> bool {
    match (found, shown) {
        (Value::Object(found), Value::Object(shown)) => {
            found.keys().eq(shown.keys())
                && found
                    .values()
                    .zip(shown.values())
                    .all(|(found, shown)| looks_like(found, shown))
        }
        (Value::Array(found), Value::Array(shown)) => {
            !found.is_empty() && found.iter().all(|item| looks_like(item, &shown[0]))
        }
        (Value::Number(found), Value::Number(shown)) => found.is_f64() == shown.is_f64(),
        (Value::String(found), Value::String(shown)) => {
            let time = |text: &str| text.parse::<jiff::Timestamp>().is_ok();
            let number = |text: &str| text.parse::<i64>().is_ok();
            (time(found) && time(shown)) || (number(found) && number(shown)) || found == shown
        }
        _ => false,
    }
}

#[derive(Clone, Copy, Debug)]
enum As {
    File,
    Rust,
}

/// Runs an example with other words in it, until `done`, and ends it in good order; gives its report.
fn run(
    example: &str,
    kind: As,
    words: &Map<String, Value>,
    done: impl Fn(&FlowTest) -> bool,
) -> (FlowTest, Value) {
    let (test, mut running): (FlowTest, Running) = match kind {
        As::File => {
            let test = tool();
            let mut flow = source(example, "flow.yaml").unwrap();
            for (usual, other) in words {
                flow = flow.replace(usual, other.as_str().unwrap());
            }
            test.file("flow.yaml", &flow);
            if let Some(logic) = source(example, "logic.py") {
                test.file("logic.py", &logic);
            }
            let running = test.spawn(["run", "flow.yaml", "--json"]);
            (test, running)
        }
        As::Rust => {
            let instead = serde_json::to_string(words).unwrap();
            let test = FlowTest::new(rust_program())
                .env("EXAMPLE", example)
                .env("INSTEAD", &instead);
            let running = test.spawn(["run", "--json"]);
            (test, running)
        }
    };
    running.wait_until(LONG, || done(&test));
    running.signal(Signal::Term);
    let report = running.wait(LONG).assert_code(0).json();
    assert_eq!(report["ok"], true, "{report:#}");
    (test, report)
}

/// Other addresses, and short periods.
fn words(peers: &Peers) -> Map<String, Value> {
    let address = |server| peers.url(server).replace("http://", "");
    let words = json!({
        "localhost:8025": address(Server::Hello),
        "localhost:8026": address(Server::Letters),
        "localhost:8027": address(Server::Integers),
        "localhost:1883": peers.broker().to_string(),
        "10s": "700ms",
        "15s": "1s",
    });
    words.as_object().unwrap().clone()
}

/// Runs an example both ways until it has given what it promises and `also` holds.
fn check(example: &str, also: impl Fn(&FlowTest, &Peers) -> bool) {
    let promises = promises(&source(example, "flow.yaml").unwrap());
    assert!(!promises.is_empty(), "`{example}` says what it gives");
    for kind in [As::File, As::Rust] {
        let peers = Peers::start_publishing_every(Duration::from_millis(200), Ports::FREE).unwrap();
        let kept = |test: &FlowTest| {
            promises.iter().all(|promise| promise.is_kept(test, &peers)) && also(test, &peers)
        };
        run(example, kind, &words(&peers), kept);
    }
}

/// The bodies that were POSTed to the demo's servers.
fn posted(peers: &Peers) -> Vec<String> {
    peers
        .received()
        .into_iter()
        .map(|received| received.body)
        .collect()
}

fn rows(test: &FlowTest, path: &str) -> usize {
    test.read_json(path).as_array().unwrap().len()
}

#[test]
fn hello_world_is_polled_each_minute_and_labelled() {
    check("hello_world", |test, _| {
        rows(test, "data/json_in_hello_world.json") == 1
    });
}

#[test]
fn integers_are_polled_with_headers() {
    check("integers", |test, _| {
        rows(test, "data/json_in_numbers.json") >= 2
    });
    for kind in [As::File, As::Rust] {
        let integers = HttpPeer::start();
        integers.on("/", Reply::json(json!([{"Generated random number": 7}])));
        let address = integers.url("").replace("http://", "");
        let words = json!({"localhost:8027": address.trim_end_matches('/')});
        run("integers", kind, words.as_object().unwrap(), |_| {
            !integers.requests().is_empty()
        });
        let request = &integers.requests()[0];
        assert_eq!(
            (request.header("accept"), request.header("apikey")),
            (Some("application/json"), Some("custom_key_1234"))
        );
    }
}

#[test]
fn a_configuration_makes_the_query_from_what_is_stored() {
    check("post_with_configuration", |test, peers| {
        let queries = posted(peers);
        let first = queries
            .first()
            .is_none_or(|query| query == "select * from demo_table limit 5");
        let later = queries
            .iter()
            .skip(1)
            .all(|query| query == "select * from demo_table limit 1");
        assert!(first && later, "{queries:?}");
        queries.len() >= 2 && rows(test, "data/json_in_numbers.json") >= 6
    });
}

#[test]
fn a_configuration_that_yields_asks_once_for_each() {
    check("post_for_each_limit", |test, peers| {
        let queries = posted(peers);
        let wanted = [1, 2, 3]
            .into_iter()
            .cycle()
            .map(|limit| format!("select * from demo_table limit {limit}"));
        assert!(
            wanted.zip(&queries).all(|(wanted, query)| wanted == *query),
            "{queries:?}"
        );
        queries.len() >= 4 && rows(test, "data/json_in_numbers.json") >= 6
    });
}

#[test]
fn integers_from_mqtt_are_stored() {
    check("mqtt_integers", |test, _| {
        rows(test, "data/json_in_integers.json") >= 3
    });
}

#[test]
fn two_sources_are_sorted_together_and_two_fields_sent_to_two_topics() {
    check("two_sources", |_, peers| {
        let (heard, _) = peers.heard_since(0);
        let sorted = heard.iter().filter(|heard| heard.topic == "demo/sorted");
        let lists: Vec<Vec<i64>> = sorted
            .map(|heard| serde_json::from_str(&heard.body).unwrap())
            .collect();
        assert!(lists.iter().all(|list| list.is_sorted()), "{lists:?}");
        lists.iter().any(|list| list.len() >= 4)
    });
}

#[test]
fn json_and_csv_keep_their_rows_by_each_mapping() {
    check("storages", |test, _| {
        let csv = |name: &str| {
            test.read(&format!("data/csv_in_{name}.csv"))
                .lines()
                .count()
                - 1
        };
        for mapping in ["update", "overwrite"] {
            assert_eq!(rows(test, &format!("data/json_in_json_{mapping}.json")), 1);
            assert_eq!(csv(&format!("csv_{mapping}")), 1);
        }
        rows(test, "data/json_in_json_extend.json") >= 2 && csv("csv_extend") >= 2
    });
}

#[test]
fn a_core_logic_that_yields_is_stored_and_sent_batch_by_batch() {
    check("batches", |test, _| {
        let sums = test.read("data/csv_in_sums.csv");
        let whole = |line: &str| line.starts_with("0,2,");
        sums.lines().any(whole) && sums.lines().any(|line| line.starts_with("2,"))
    });
}

#[test]
fn a_function_is_a_source() {
    check("custom_source", |test, _| {
        rows(test, "data/json_in_readings.json") >= 2
    });
}

#[test]
fn functions_are_configuration_source_storage_and_sender() {
    check("custom_functions", |test, _| {
        let stored = test.read_json("stored.json");
        assert_eq!(
            stored,
            json!([{"sensor": 0, "value": 0.5}, {"sensor": 1, "value": 0.5}, {"sensor": 2, "value": 0.5}])
        );
        stored == test.read_json("sent.json")
    });
}

#[test]
fn a_source_of_ones_own_with_no_delay_does_not_wait_for_a_silent_stream() {
    let peers = Peers::start(Ports::FREE).unwrap();
    let test = tool();
    let source = "import time\ndef now(**params):\n    return {'at': time.time()}\n";
    test.file("logic.py", source);
    let broker = peers.broker();
    let pipelines = |delay: &str| {
        format!(
            "pipelines:\n  silent:\n    source: {{mqtt: {{broker: \"{broker}\", topic: silence}}}}\n    stages: [{{store: json}}]\n  \
             own:\n    every: 1h\n{delay}    stages: [{{core_logic: {{python: \"logic.py:now\"}}}}, {{store: json}}]\n"
        )
    };
    test.file("flow.yaml", &pipelines("    delay: 0s\n"));
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.stderr_contains("running", LONG);
    let begun = std::time::Instant::now();
    running.wait_until(Duration::from_secs(8), || {
        test.path("data/json_in_own.json").exists()
    });
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "the others are waited for as long as 10 seconds"
    );
    running.signal(Signal::Term);
    running.wait(LONG).assert_code(0);
}

/// Lines of code: without blank lines, comments and docstrings.
fn lines_of_code(text: &str, comment: &str) -> usize {
    let mut within = false;
    let mut count = 0;
    for line in text.lines().map(str::trim) {
        let marks = line.matches("\"\"\"").count();
        if marks == 0 && !within && !line.is_empty() && !line.starts_with(comment) {
            count += 1;
        }
        within ^= marks == 1;
    }
    count
}

#[test]
fn every_example_takes_no_more_lines_than_upstream_and_as_many_as_the_table_says() {
    let table = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let mut told = Vec::new();
    for row in table.lines().filter_map(|line| line.strip_prefix("| [")) {
        let name = row.split(']').next().unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [upstream, file, rust] =
            [2, 3, 4].map(|cell| cells[cell].trim_end_matches('*').parse::<usize>().unwrap());
        let code = |file: &str, comment: &str| {
            source(name, file).map_or(0, |text| lines_of_code(&text, comment))
        };
        let counted = (
            code("flow.yaml", "#") + code("logic.py", "#"),
            code("flow.rs", "//"),
        );
        assert_eq!((file, rust), counted, "the table's figures for `{name}`");
        assert!(
            file <= upstream,
            "`{name}` takes {file} lines and {upstream} in upstream's Python"
        );
        assert!(
            rust <= upstream || cells[4].ends_with('*'),
            "`{name}` takes {rust} lines in Rust and {upstream} in upstream's Python"
        );
        told.push(name.to_owned());
    }
    let folders = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap());
    // Those without a program beside them have nothing to compare with: upstream has no such thing.
    let folders = folders.filter(|entry| entry.path().join("flow.rs").exists());
    let mut there: Vec<String> = folders
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    told.sort();
    there.sort();
    assert_eq!(told, there);
    let unknown = FlowTest::new(rust_program()).run(["check"]);
    let unknown = unknown.assert_code(2);
    for name in there {
        assert!(
            unknown.stderr.contains(&name),
            "`{name}` is in rust.rs\n{}",
            unknown.stderr
        );
    }
}

#[test]
fn every_example_checks_as_it_stands() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().path().join("flow.yaml");
        if file.exists() {
            let checked = tool().run(["check", file.to_str().unwrap()]);
            checked.assert_code(0);
        }
    }
}

/// The first block of code in a language after a heading.
fn block<'t>(text: &'t str, heading: &str, language: &str) -> &'t str {
    let after = text.split_once(heading).unwrap().1;
    let block = after.split_once(&format!("```{language}\n")).unwrap().1;
    block.split_once("```").unwrap().0
}

#[test]
fn the_worked_move_of_upstreams_complex_example_works_as_it_is_written() {
    let page = std::fs::read_to_string(folder().join("../docs/from-upstream.md")).unwrap();
    let heading = "## A worked move";
    let peers = Peers::start_publishing_every(Duration::from_millis(200), Ports::FREE).unwrap();
    let test = tool();
    let mut flow = block(&page, heading, "yaml").to_owned();
    test.file("flow.yaml", &flow);
    test.file("logic.py", block(&page, heading, "python"));
    // What the Python library has left behind.
    test.file(
        "data/json_in_http_source_int.json",
        "[{\"Generated random number\": 40}, {\"Generated random number\": 2}]",
    );
    test.file(
        "data/json_in_http_source_str.json",
        "{\"Generated random letter\": \"q\"}",
    );
    test.file(
        "data/json_in_mqtt_source_int.json",
        "[\n    {\n        \"Generated number\": \"0\"\n    }\n]",
    );
    let checked = test.run(["check", "flow.yaml"]);
    assert!(
        page.contains(checked.assert_code(0).stdout.trim_end()),
        "{}",
        checked.stdout
    );

    for (usual, other) in words(&peers) {
        flow = flow.replace(&usual, other.as_str().unwrap());
    }
    test.file("flow.yaml", &flow);
    let mut running = test.spawn(["run", "flow.yaml", "--json"]);
    running.wait_until(LONG, || {
        let (heard, _) = peers.heard_since(0);
        let told = heard.iter().any(|heard| {
            ["demo/uppercase", "demo/lowercase"].contains(&&*heard.topic)
                && heard.body.starts_with("Calculated value is ")
        });
        told && posted(&peers).iter().any(|body| body.ends_with(" case"))
    });
    running.signal(Signal::Term);
    assert_eq!(running.wait(LONG).assert_code(0).json()["ok"], true);
    let polled = test.read_json("data/json_in_http_source_int.json");
    assert_eq!(
        (
            &polled[0]["Generated random number"],
            &polled[1]["Generated random number"]
        ),
        (&json!(40), &json!(2))
    );
    assert!(polled.as_array().unwrap().len() >= 3);
    let streamed = test.read_json("data/json_in_mqtt_source_int.json");
    assert!(streamed[0]["Generated number"] == "0" && streamed.as_array().unwrap().len() >= 2);
    assert_eq!(rows(&test, "data/json_in_http_source_str.json"), 1);
}
