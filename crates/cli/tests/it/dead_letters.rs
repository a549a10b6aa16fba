//! `dead-letters`, while nothing runs.

use serde_json::Value;
use wiredflow_testkit::FlowTest;

use crate::tool;

/// A flow whose only record cannot be handled.
fn failing() -> FlowTest {
    let test = tool().env("TOKEN", "canary-77aa");
    test.file(
        "logic.py",
        "def give(relevant_info=None, **params):\n    return {'text': 'a\\x1b[31m\\nb', 'number': 7}\n\ndef \
         fail(relevant_info=None, token=None, **params):\n    raise ValueError('refused ' + token + '\\x1b[2J')\n",
    );
    test.file(
        "flow.yaml",
        "name: failing\npipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {python: \
         \"logic.py:give\"}\n      - core_logic: {python: \"logic.py:fail\", params: {token: \"${env:TOKEN}\"}}\n        \
         name: work\n        on_error: dead_letter\n      - store: {json: {folder: data}}\n",
    );
    test.run(["run", "flow.yaml", "--once", "-q"])
        .assert_code(0);
    test
}

#[test]
fn a_dead_letter_is_listed_and_shown_without_secrets_and_safe_to_look_at() {
    let test = failing();
    let listed = test
        .run(["dead-letters", "list", "flow.yaml", "--json"])
        .assert_code(0)
        .json();
    let letter = &listed["dead_letters"][0];
    let keys: Vec<&str> = letter
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, ["id", "pipeline", "stage", "reason", "time", "bytes"]);
    assert_eq!(
        (&letter["pipeline"], &letter["stage"]),
        (&"p".into(), &"work".into())
    );
    let id = letter["id"].as_str().unwrap();

    let shown = test.run(["dead-letters", "show", "flow.yaml", id]);
    shown.assert_code(0);
    for part in [
        id,
        "p/work",
        "ValueError: refused ***\\u{1b}[2J",
        "line 5, in fail",
        "\"number\": 7",
    ] {
        assert!(shown.stdout.contains(part), "{part}\n{}", shown.stdout);
    }
    let document = test
        .run(["dead-letters", "show", "flow.yaml", &id[..12], "--json"])
        .assert_code(0)
        .json();
    assert_eq!(document["id"], id);
    let body = match &document["body"] {
        Value::Array(records) => &records[0],
        body => body,
    };
    assert_eq!(body["text"], "a\x1b[31m\nb");
    for output in [&shown.stdout, &document.to_string(), &listed.to_string()] {
        assert!(!output.contains("canary"), "{output}");
        assert!(!output.contains('\x1b'), "{output}");
    }
}

#[test]
fn the_newest_is_shown_when_none_is_named_and_an_unknown_one_is_not_found() {
    let test = failing();
    let newest = test.run(["dead-letters", "show", "flow.yaml"]);
    assert!(newest.assert_code(0).stdout.contains("p/work"));
    let unknown = test.run(["dead-letters", "show", "flow.yaml", "zzz"]);
    unknown.assert_code(1);
    assert!(
        unknown.stderr.contains("there is no dead letter `zzz`"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn the_list_is_read_though_the_file_has_problems_now() {
    let test = failing();
    test.file(
        "flow.yaml",
        &test
            .read("flow.yaml")
            .replace("on_error: dead_letter", "on_eror: x"),
    );
    test.run(["check", "flow.yaml"]).assert_code(2);
    let list = test.run(["dead-letters", "list", "flow.yaml"]);
    assert_eq!(
        list.assert_code(0).stdout.lines().count(),
        2,
        "{}",
        list.stdout
    );
    let other = test.run(["dead-letters", "list", "flow.yaml", "--pipeline", "other"]);
    let told = &other.assert_code(2).stderr;
    assert!(
        told.contains("the flow has no pipeline `other`: "),
        "{told}"
    );
}
