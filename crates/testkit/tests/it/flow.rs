//! Tests of `FlowTest`, with the shell in the place of the binary.

use std::time::{Duration, Instant};

use serde_json::json;
use wiredflow_testkit::{FlowTest, Signal};

use crate::{BRIEFLY, SOON, panic_of};

fn shell() -> FlowTest {
    FlowTest::new("/bin/sh")
}

fn runs(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

#[test]
fn a_run_gives_code_output_and_the_files_it_wrote() {
    let test = shell().env("GREETING", "hello");
    test.file("deep/in.txt", "input");
    let finished = test.run([
        "-c",
        "cat deep/in.txt > out; echo $GREETING; echo bad >&2; exit 3",
    ]);
    finished.assert_code(3);
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("hello\n", "bad\n")
    );
    assert_eq!(test.read("out"), "input");
    let text = panic_of(|| drop(finished.assert_code(0).clone()));
    assert!(
        text.contains("exit code 3, not 0") && text.contains("bad"),
        "{text}"
    );
}

#[test]
fn standard_output_must_be_one_json_document() {
    let test = shell();
    assert_eq!(
        test.run(["-c", r#"echo '{"a": 1}'"#]).json(),
        json!({"a": 1})
    );
    for output in ["", "log line\n{}", "{}{}", "{"] {
        let finished = test.run(["-c", "printf '%s' \"$0\"", output]);
        panic_of(|| drop(finished.json()));
    }
}

#[test]
fn a_run_that_does_not_end_is_a_panic_and_is_killed_with_all_it_started() {
    let test = shell();
    let running = test.spawn(["-c", "sleep 600 & echo $! > child; echo started >&2; wait"]);
    running.stderr_contains("started", SOON);
    let (leader, child) = (
        running.id().to_string(),
        test.read("child").trim().to_owned(),
    );
    assert!(runs(&leader) && runs(&child));
    let text = panic_of(|| drop(running.wait(BRIEFLY)));
    assert!(
        text.contains("still running") && text.contains("started"),
        "{text}"
    );
    wiredflow_testkit::wait_until(SOON, || !runs(&leader) && !runs(&child));
}

#[test]
fn text_that_does_not_come_is_a_panic_at_the_deadline() {
    let running = shell().spawn(["-c", "echo something else >&2; sleep 600"]);
    running.stderr_contains("something", SOON);
    let text = panic_of(|| running.stderr_contains("the text", BRIEFLY));
    assert!(text.contains("something else"), "{text}");
    panic_of(|| running.stdout_contains("something", BRIEFLY)); // it went to stderr
}

#[test]
fn a_condition_that_the_end_of_the_run_makes_impossible_is_not_waited_for() {
    let begun = Instant::now();
    let mut running = shell().spawn(["-c", "exit 0"]);
    let text = panic_of(|| running.wait_until(Duration::from_secs(60), || false));
    assert!(text.contains("before it ended"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    let test = shell();
    let mut running = test.spawn(["-c", "echo done > file"]);
    running.wait_until(SOON, || test.path("file").exists());
}

#[test]
fn signals_reach_the_run_and_show_in_its_code() {
    for (signal, code) in [(Signal::Term, 143), (Signal::Int, 130), (Signal::Kill, 137)] {
        let running = shell().spawn(["-c", "echo up >&2; exec sleep 600"]);
        running.stderr_contains("up", SOON);
        running.signal(signal);
        running.wait(SOON).assert_code(code);
    }
    let running = shell().spawn([
        "-c",
        "trap 'echo in order; exit 0' TERM; echo up >&2; while :; do sleep 0.01; done",
    ]);
    running.stderr_contains("up", SOON);
    running.signal(Signal::Term);
    let finished = running.wait(SOON);
    assert_eq!((finished.code, finished.stdout.as_str()), (0, "in order\n"));
}

#[test]
fn output_held_open_by_something_left_behind_is_found() {
    let running = shell().spawn(["-c", "sleep 600 & exit 0"]);
    let text = panic_of(|| drop(running.wait(SOON)));
    assert!(text.contains("still holds its output"), "{text}");
}

#[test]
fn what_a_killed_test_has_started_is_killed_too() {
    // A second copy of this test program stands for the test that is killed.
    if std::env::var_os("TESTKIT_VICTIM").is_some() {
        let running = shell().spawn(["-c", "echo $$ > \"$PID_FILE\"; sleep 60 & wait"]);
        drop(running.wait(Duration::from_secs(60)));
        return;
    }
    let test = FlowTest::new(std::env::current_exe().unwrap());
    let file = test.path("pid");
    let test = test
        .env("TESTKIT_VICTIM", "1")
        .env("PID_FILE", file.to_str().unwrap());
    let mut running = test.spawn([
        "--exact",
        "flow::what_a_killed_test_has_started_is_killed_too",
    ]);
    running.wait_until(SOON, || {
        std::fs::read_to_string(&file).is_ok_and(|id| id.ends_with('\n'))
    });
    let id = test.read("pid").trim().to_owned();
    assert!(runs(&id));
    running.signal(Signal::Kill); // to the program alone: what it has started is in a group of its own
    wiredflow_testkit::wait_until(SOON, || !runs(&id));
}
