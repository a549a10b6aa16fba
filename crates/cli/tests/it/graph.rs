//! `graph`: the flow as text and as a picture.

use crate::tool;

const FLOW: &str = r#"
name: plant
storages:
  numbers: {sqlite: {path: data/numbers.db, table: numbers}, key: id}
pipelines:
  polled:
    every: 10s
    stages:
      - http: {url: "http://me:word-in-the-file@localhost:8027/a?b=1&c=2", headers: {apikey: "${env:GRAPH_KEY}"}}
        name: fetch
      - store: numbers
  heard:
    source: {mqtt: {broker: "localhost:1883", topic: "/demo/${env:GRAPH_KEY}"}}
    stages:
      - store: {json: {folder: data}}
  worked:
    cron: "0 6 * * *"
    stages:
      - core_logic: {python: "logic.py:order_and_calculate"}
      - send: {mqtt: {broker: "localhost:1883", topic: demo/sorted/by/size/and/then/by/name}, field: sorted list}
      - send: {http_post: {url: "http://localhost:8027"}, field: calculated value}
  copied:
    once: true
    stages:
      - load: numbers
      - store: {csv: {folder: copies}}
"#;

const LOGIC: &str = "def order_and_calculate(relevant_info=None, db_connectors=None, **params):\n    rows = \
                     db_connectors['numbers'].load(), db_connectors[\"heard\"].load()\n    return {'sorted list': \
                     sorted(rows)}\n";

fn plant() -> wiredflow_testkit::FlowTest {
    let test = tool().env("GRAPH_KEY", "canary-77");
    test.file("flow.yaml", FLOW);
    test.file("logic.py", LOGIC);
    test
}

/// Compares with a file beside the tests; `GOLDEN=write` writes it anew.
#[track_caller]
fn golden(name: &str, found: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN").is_some_and(|word| word == "write") {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        expected, found,
        "{name}: with GOLDEN=write the test keeps what it got"
    );
}

#[test]
fn a_flow_is_drawn_as_lines() {
    let test = plant();
    let drawn = test.run(["graph", "flow.yaml"]);
    drawn.assert_code(0);
    golden("graph.txt", &drawn.stdout);
    assert!(!test.path(".wiredflow").exists() && !test.path("data").exists());
}

#[test]
fn a_flow_is_drawn_as_a_picture_that_needs_nothing_else() {
    let test = plant();
    let drawn = test.run(["graph", "flow.yaml", "--svg", "flow.svg"]);
    assert_eq!(drawn.assert_code(0).stdout, "wrote flow.svg\n");
    let svg = test.read("flow.svg");
    golden("graph.svg", &svg);
    assert_eq!(
        test.run(["graph", "flow.yaml", "--svg", "-"])
            .assert_code(0)
            .stdout,
        svg
    );
    let outside = svg.replace("http://www.w3.org/2000/svg", "");
    for part in ["href", "src=", "@import", "<script", "url(http"] {
        assert!(!outside.contains(part), "{part}");
    }
    assert!(svg.contains("prefers-color-scheme: dark"));
    let parse = "import sys, xml.etree.ElementTree as tree; tree.parse(sys.argv[1])";
    let file = test.path("flow.svg");
    let python = wiredflow_testkit::FlowTest::new("python3");
    python
        .run(["-c", parse, file.to_str().unwrap()])
        .assert_code(0);
}

#[test]
fn a_picture_shows_no_secret_and_no_login_and_what_comes_from_the_file_stays_text() {
    let test = plant();
    test.file(
        "hostile.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - http: \"http://h/?a=<script>alert(1)</script>&b=\\\"\"\n",
    );
    for arguments in [
        &["graph", "flow.yaml"][..],
        &["graph", "flow.yaml", "--svg", "-"],
    ] {
        let drawn = test.run(arguments);
        for hidden in ["canary-77", "word-in-the-file"] {
            assert!(
                !drawn.assert_code(0).stdout.contains(hidden),
                "{}",
                drawn.stdout
            );
        }
    }
    let drawn = test.run(["graph", "hostile.yaml", "--svg", "-"]);
    assert!(
        !drawn.assert_code(0).stdout.contains("<script"),
        "{}",
        drawn.stdout
    );
}

#[test]
fn a_flow_with_problems_is_not_drawn() {
    let test = tool();
    test.file("flow.yaml", "pipelines: {p: {once: true}}");
    let refused = test.run(["graph", "flow.yaml"]);
    refused.assert_code(2);
    assert_eq!(refused.stdout, "");
    assert!(
        refused.stderr.contains("flow.yaml has 1 error"),
        "{}",
        refused.stderr
    );
}
