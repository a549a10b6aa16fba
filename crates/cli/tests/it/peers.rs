//! `demo`, `mock` and `init`.

use std::time::Duration;

use crate::{SOON, tool};

#[test]
fn a_demo_collects_computes_stores_and_sends() {
    let test = tool();
    let temporary = test.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let test = test.env("TMPDIR", temporary.to_str().unwrap());
    let ran = test.run(["demo", "--for", "6s", "--json"]);
    let document = ran.assert_code(0).json();
    assert_eq!(document["ok"], true, "{document}");
    for pipeline in ["numbers", "letters", "stream", "results"] {
        let deliveries = &document["pipelines"][pipeline]["deliveries"];
        assert!(
            deliveries["committed"].as_u64() >= Some(1),
            "{pipeline}: {document}\n{}",
            ran.stderr
        );
        assert_eq!(
            (&deliveries["failed"], &deliveries["dead_lettered"]),
            (&0.into(), &0.into())
        );
    }
}

#[test]
fn a_demo_says_at_once_what_there_is_and_at_the_end_what_was_stored_and_sent() {
    for python in ["python3", "/no/such/python"] {
        let test = tool();
        let temporary = test.path("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let test = test
            .env("TMPDIR", temporary.to_str().unwrap())
            .env("WIREDFLOW_PYTHON", python);
        let running = test.spawn(["demo", "--for", "5s"]);
        running.stdout_contains("all of it runs in this process", SOON);
        running.stdout_contains("is the flow;", SOON);
        let ended = running.wait(SOON);
        ended.assert_code(0);
        for part in [
            "asked a server, stored its number in data/json_in_numbers.json",
            "The newest of what is stored",
            "\"Generated random number\":",
            "The last of what was sent",
            "PUT /result",
            "MQTT demo/sorted",
            "demo ran for ",
            "wiredflow init my_service",
        ] {
            assert!(
                ended.stdout.contains(part),
                "{part}\n{}\n{}",
                ended.stdout,
                ended.stderr
            );
        }
        let is_rust = ended.stdout.contains("its core logic is in Rust");
        assert_eq!(is_rust, python != "python3", "{}", ended.stdout);
    }
}

#[test]
fn a_demo_that_nobody_watches_ends() {
    let test = wiredflow_testkit::FlowTest::new("bash");
    let temporary = test.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let test = test.env("TMPDIR", temporary.to_str().unwrap());
    let script = format!("{} demo 2>err | head -n 1", env!("CARGO_BIN_EXE_wiredflow"));
    let ended = test.spawn(["-c", &script]).wait(SOON);
    assert!(
        ended
            .assert_code(0)
            .stdout
            .starts_with("A service that collects")
    );
    assert!(!test.read("err").contains("panic"), "{}", test.read("err"));
}

#[test]
fn the_flow_that_init_writes_has_no_problems_and_nothing_is_ever_overwritten() {
    let test = tool();
    let written = test.run(["init", "my_service"]);
    written.assert_code(0);
    assert!(
        written
            .stdout
            .contains("wiredflow run my_service/flow.yaml"),
        "{}",
        written.stdout
    );
    let checked = test.run(["check", "my_service/flow.yaml"]);
    checked.assert_code(0);
    assert_eq!(
        checked.stdout,
        "my_service/flow.yaml is fine: 2 pipelines, 4 stages\n"
    );
    assert!(
        test.read("my_service/flow.yaml")
            .contains("\nname: my_service\n")
    );

    test.file("my_service/flow.yaml", "mine");
    let refused = test.run(["init", "my_service"]);
    refused.assert_code(2);
    assert!(
        refused
            .stderr
            .contains("`my_service/flow.yaml` is there already"),
        "{}",
        refused.stderr
    );
    assert_eq!(test.read("my_service/flow.yaml"), "mine");

    test.file("other/logic.py", "mine");
    test.run(["init", "other"]).assert_code(2);
    assert!(!test.path("other/flow.yaml").exists(), "all or nothing");
    test.file("file", "");
    test.run(["init", "file"]).assert_code(2);
    test.run(["init", "with space"]).assert_code(0);
    assert!(
        test.read("with space/flow.yaml")
            .contains("\nname: my_service\n")
    );
}

#[test]
fn what_init_writes_runs_against_mock_or_mock_says_which_port_is_taken() {
    let test = tool();
    test.run(["init", "."]).assert_code(0);
    let mut mock = test.spawn(["mock"]);
    mock.wait_until(SOON, || true);
    wiredflow_testkit::wait_until(SOON, || {
        mock.has_ended() || mock.stdout().contains("^C stops them")
    });
    if mock.has_ended() {
        // Another program has one of upstream's ports: the refusal is what can be tested.
        let refused = mock.wait(SOON);
        refused.assert_code(1);
        assert!(
            refused.stderr.contains("which another program has"),
            "{}",
            refused.stderr
        );
        return;
    }
    let flow = test
        .read("flow.yaml")
        .replace("every: 15s", "every: 1s")
        .replace("every: 5s", "every: 500ms");
    test.file("flow.yaml", &flow);
    let mut running = test.spawn(["run", "flow.yaml"]);
    running.wait_until(SOON, || {
        wiredflow_testkit::written_lines(&test.path("data/csv_in_statistics.csv")).len() >= 2
    });
    running.signal(wiredflow_testkit::Signal::Int);
    running.wait(SOON).assert_code(0);
    mock.signal(wiredflow_testkit::Signal::Int);
    mock.wait(SOON).assert_code(0);
}

#[test]
fn a_demo_removes_what_earlier_ones_have_left_and_nothing_that_is_in_use() {
    let test = tool();
    let temporary = test.path("tmp");
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    for (name, age) in [("old", Some(old)), ("held", Some(old)), ("new", None)] {
        let lock = test.file(&format!("tmp/wiredflow-demo-{name}/.wiredflow/lock"), "{}");
        let lock = std::fs::File::options().write(true).open(lock).unwrap();
        if let Some(age) = age {
            lock.set_modified(age).unwrap();
        }
    }
    test.file("tmp/wiredflow-demo-starting/flow.yaml", "");
    let held = temporary.join("wiredflow-demo-held/.wiredflow/lock");
    let held = std::fs::File::options().write(true).open(held).unwrap();
    held.lock().unwrap();
    let test = test.env("TMPDIR", temporary.to_str().unwrap());
    test.run(["demo", "--for", "100ms", "--json"])
        .assert_code(0);
    for (name, stays) in [
        ("old", false),
        ("held", true),
        ("new", true),
        ("starting", true),
    ] {
        let folder = temporary.join(format!("wiredflow-demo-{name}"));
        assert_eq!(folder.exists(), stays, "{name}");
    }
}
