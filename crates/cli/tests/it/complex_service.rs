//! The main job on real input: the complex service against mosquitto and HTTP servers, from the file and
//! from the Rust program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use wiredflow_testkit::{FlowTest, HttpPeer, Mosquitto, Reply, Signal, Sshd};

const SOON: Duration = Duration::from_secs(30);

/// What a run of the service is expected to give.
struct Expected {
    letter: &'static str,
    topic: &'static str,
    value: i64,
}

const UPPER: Expected = Expected {
    letter: "A",
    topic: "demo/uppercase",
    value: 12,
};
const LOWER: Expected = Expected {
    letter: "a",
    topic: "demo/lowercase",
    value: 2,
};

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/complex_service")
        .join(file)
}

fn check(binary: impl AsRef<Path>, args: &[&str], expected: &Expected) {
    check_at(binary, args, expected, |flow| flow);
}

/// The same with another flow file.
fn check_at(
    binary: impl AsRef<Path>,
    args: &[&str],
    expected: &Expected,
    change: impl FnOnce(String) -> String,
) {
    let broker = Mosquitto::start();
    broker
        .client()
        .retain("/demo/integers", r#"{"Generated number": "5"}"#)
        .unwrap();
    let sent = broker.subscribe(&["demo/#"]);
    let numbers = HttpPeer::start();
    numbers.on("/", Reply::json(json!([{"Generated random number": 7}])));
    let letters = HttpPeer::start();
    letters.on(
        "/",
        Reply::json(json!([{"Generated random letter": expected.letter}])),
    );
    let test = FlowTest::new(binary)
        .env("NUMBERS_URL", &numbers.url("/"))
        .env("LETTERS_URL", &letters.url("/"))
        .env("BROKER", &broker.address())
        .env("EXAMPLE", "complex_service");
    let text = |file: &str| std::fs::read_to_string(example(file)).unwrap();
    test.file("flow.yaml", &change(text("flow.yaml")));
    test.file("logic.py", &text("logic.py"));

    let running = test.spawn(args);
    let message = &sent.wait_for(1, SOON)[0];
    assert_eq!(
        (message.topic.as_str(), message.text()),
        (
            expected.topic,
            &*format!("Calculated value is {}", expected.value)
        )
    );
    let is_put = |request: &wiredflow_testkit::Request| request.method == "PUT";
    wiredflow_testkit::wait_until(SOON, || numbers.requests().iter().any(is_put));
    wiredflow_testkit::wait_until(SOON, || test.path("data/report.txt").exists());
    running.signal(Signal::Term);
    let finished = running.wait(SOON);
    let report = finished.assert_code(0).json();

    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(
        report["pipelines"]["logic"]["deliveries"]["committed"], 1,
        "{report:#}"
    );
    let put = numbers.requests().into_iter().find(is_put).unwrap();
    assert_eq!(put.text(), expected.value.to_string());
    assert_eq!(
        test.read("data/report.txt"),
        format!("2 numbers, calculated value {}\n", expected.value)
    );
    let stored = test.read_json("data/json_in_http_numbers.json");
    assert_eq!(stored[0]["Generated random number"], 7);
    assert!(stored[0]["datetime_label"].is_string());
    assert_eq!(numbers.requests()[0].header("apikey"), Some("demo"));
}

#[test]
fn the_complex_service_adds_for_an_uppercase_letter() {
    check(
        env!("CARGO_BIN_EXE_wiredflow"),
        &["run", "flow.yaml", "--json"],
        &UPPER,
    );
}

#[test]
fn the_complex_service_subtracts_for_a_lowercase_letter() {
    check(
        env!("CARGO_BIN_EXE_wiredflow"),
        &["run", "flow.yaml", "--json"],
        &LOWER,
    );
}

#[test]
fn the_complex_service_with_its_logic_on_another_machine_does_the_same() {
    // In another network, where there can be one.
    let sshd = Sshd::in_a_network_of_its_own().unwrap_or_else(|why| {
        let case = "the other machine is in another network";
        wiredflow_testkit::skipped(case, &why);
        Sshd::start()
    });
    let logic = "order_and_calculate\"}\n";
    let change = |flow: String| {
        assert_eq!(flow.matches(logic).count(), 1);
        // One line more, and what it names.
        let flow = flow.replace(logic, &format!("{logic}        remote: big\n"));
        format!("{flow}remotes:\n  big: {{ssh: {{{}}}}}\n", sshd.route())
    };
    let args = ["run", "flow.yaml", "--json"];
    check_at(env!("CARGO_BIN_EXE_wiredflow"), &args, &UPPER, change);
    wiredflow_testkit::wait_until(SOON, || sshd.processes("worker").is_empty());
    assert!(
        sshd.cache()
            .join("wiredflow/code")
            .read_dir()
            .unwrap()
            .next()
            .is_some()
    );
}

#[test]
fn the_complex_service_as_a_rust_program_does_the_same() {
    check(crate::examples::rust_program(), &["run", "--json"], &UPPER);
}
