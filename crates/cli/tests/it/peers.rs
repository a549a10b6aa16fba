//! `mock` and `init`.

use crate::{SOON, tool};

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
        std::fs::read_to_string(test.path("data/csv_in_statistics.csv"))
            .is_ok_and(|text| text.lines().count() >= 2)
    });
    running.signal(wiredflow_testkit::Signal::Int);
    running.wait(SOON).assert_code(0);
    mock.signal(wiredflow_testkit::Signal::Int);
    mock.wait(SOON).assert_code(0);
}
