//! `check`, as people and scripts read it.

use serde_json::json;

use crate::tool;

const BROKEN: &str = "\
name: sensors
pipelines:
  numbers:
    every: 10s
    dealy: 1s
    stages:
      - stor: {json: {folder: data}}
";

#[test]
fn e12_all_problems_are_shown_in_their_lines_with_what_is_possible() {
    let test = tool();
    test.file("flow.yaml", BROKEN);
    let checked = test.run(["check", "flow.yaml"]);
    checked.assert_code(2);
    let first = "\
error: unknown key `dealy`
 --> flow.yaml:5:5
  |
5 |     dealy: 1s
  |     ^^^^^
  |
  = help: did you mean `delay`? possible: `every`, `cron`,";
    let second = "
error: there is no stage `stor`
 --> flow.yaml:7:9
  |
7 |       - stor: {json: {folder: data}}
  |         ^^^^
  |
  = help: did you mean `store`?";
    for part in [first, second] {
        assert!(
            checked.stdout.contains(part),
            "{part}\nnot in\n{}",
            checked.stdout
        );
    }
    assert!(
        checked.stdout.ends_with("\nflow.yaml has 2 errors\n"),
        "{}",
        checked.stdout
    );
}

#[test]
fn the_document_has_the_promised_keys_and_the_file_as_the_user_named_it() {
    let test = tool();
    test.file("sub/flow.yaml", BROKEN);
    let checked = test.run(["check", "./sub/flow.yaml", "--json"]);
    checked.assert_code(2);
    let document = checked.json();
    assert_eq!(document["ok"], false);
    let problem = &document["problems"][0];
    assert!(
        problem["help"]
            .as_str()
            .unwrap()
            .starts_with("did you mean `delay`?")
    );
    let mut rest = problem.clone();
    rest.as_object_mut().unwrap().remove("help");
    assert_eq!(
        rest,
        json!({
            "severity": "error", "message": "unknown key `dealy`", "file": "./sub/flow.yaml",
            "line": 5, "column": 5, "path": "pipelines.numbers",
        })
    );
}

#[test]
fn a_flow_without_problems_is_fine() {
    let test = tool();
    test.file(
        "flow.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - store: {json: {folder: data}}\n",
    );
    let checked = test.run(["check", "flow.yaml"]);
    checked.assert_code(0);
    assert_eq!(checked.stdout, "flow.yaml is fine: 1 pipeline, 1 stage\n");
    assert_eq!(
        test.run(["check", "flow.yaml", "--quiet"])
            .assert_code(0)
            .stdout,
        ""
    );
    let document = test
        .run(["check", "flow.yaml", "--json"])
        .assert_code(0)
        .json();
    assert_eq!(document, json!({"ok": true, "problems": []}));
    assert!(
        !test.path(".wiredflow").exists() && !test.path("data").exists(),
        "check opens nothing"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_that_says_why() {
    let test = tool();
    std::fs::write(test.path("latin.yaml"), b"name: caf\xe9\n").unwrap();
    std::fs::create_dir(test.path("folder")).unwrap();
    test.file("empty.yaml", "");
    test.file("large.yaml", &"# x\n".repeat(300_000));
    for (file, part) in [
        ("missing.yaml", "cannot read `missing.yaml`: No such file"),
        ("latin.yaml", "`latin.yaml` is not text in UTF-8"),
        ("folder", "`folder` is a folder"),
        ("empty.yaml", "the flow file is empty"),
        ("large.yaml", "the file is larger than 1048576 bytes"),
        ("/dev/zero", "the file is larger than 1048576 bytes"),
    ] {
        let checked = test.run(["check", file]);
        checked.assert_code(2);
        assert!(checked.stdout.contains(part), "{part}\n{}", checked.stdout);
        let document = test.run(["check", file, "--json"]).assert_code(2).json();
        assert_eq!(document["problems"][0]["file"], file);
        assert!(
            document["problems"][0]["message"]
                .as_str()
                .unwrap()
                .contains(part)
        );
    }
}

#[test]
fn a_missing_variable_is_named_at_its_place() {
    let test = tool();
    test.file(
        "flow.yaml",
        "state: ${env:NO_SUCH_NAME}\npipelines: {p: {once: true, stages: [{store: {json: {folder: data}}}]}}\n",
    );
    let checked = test.run(["check", "flow.yaml"]);
    checked.assert_code(2);
    let expected =
        "error: the environment variable `NO_SUCH_NAME` is not set\n --> flow.yaml:1:8\n";
    assert!(checked.stdout.starts_with(expected), "{}", checked.stdout);
}

#[test]
fn a_secret_is_not_shown_though_it_is_the_problem() {
    let secret = "canary-5f1d";
    let test = tool().env("WORD", secret);
    test.file("secret.txt", &format!("{secret}\n"));
    test.file(
        "flow.yaml",
        "on_failure: ${env:WORD}\npipelines:\n  p:\n    every: ${file:secret.txt}\n    stages:\n      - core_logic: \
         {python: \"${env:WORD}.py:work\"}\n      - store: {json: {folder: data}, mapping: \"${env:WORD}\"}\n",
    );
    for arguments in [
        &["check", "flow.yaml"][..],
        &["check", "flow.yaml", "--json"],
        &["run", "flow.yaml"],
    ] {
        let checked = test.run(arguments);
        checked.assert_code(2);
        let all = format!("{}{}", checked.stdout, checked.stderr);
        assert!(all.contains("***"), "{all}");
        assert!(!all.contains(secret), "{all}");
    }
}

#[test]
fn h8_a_name_in_the_file_cannot_colour_the_terminal() {
    let test = tool();
    test.file("flow.yaml", "pipelines:\n  \"p\\e[31m\": {}\n");
    let checked = test.run(["check", "flow.yaml"]);
    checked.assert_code(2);
    assert!(
        checked.stdout.contains("cannot be a name"),
        "{}",
        checked.stdout
    );
    let is_plain = |text: &str| text.chars().all(|one| one == '\n' || !one.is_control());
    assert!(is_plain(&checked.stdout), "{:?}", checked.stdout);
}

#[test]
fn what_is_possible_is_what_is_built() {
    let test = tool();
    test.file("logic.py", "def f(**params):\n    pass\n");
    test.file(
        "flow.yaml",
        "nmae: x\npipelines:\n  p:\n    once: true\n    dealy: 1s\n    stages:\n      - core_logic: {python: \"logic.py:f\", \
         prams: {}}\n        timeuot: 1s\n      - store: {json: {folder: data}, mappnig: update}\n",
    );
    let document = test
        .run(["check", "flow.yaml", "--json"])
        .assert_code(2)
        .json();
    let problems = document["problems"].as_array().unwrap();
    let help: Vec<&str> = problems
        .iter()
        .map(|one| one["help"].as_str().unwrap())
        .collect();
    assert_eq!(help.len(), 5, "{document}");
    for (meant, help) in ["name", "delay", "params", "timeout", "mapping"]
        .iter()
        .zip(&help)
    {
        assert!(help.contains(&format!("did you mean `{meant}`?")), "{help}");
    }
    let stages = test.run(["stages", "--json"]).json();
    let later = stages.to_string();
    assert!(
        later.contains("not built yet"),
        "the catalogue says it where it explains the key"
    );
    for word in ["engine", "pure", "keyed", "pinned"] {
        let word = format!("`{word}`");
        assert!(
            help.iter().all(|help| !help.contains(&word)),
            "{word} in {help:?}"
        );
    }
}

#[test]
fn a_syntax_error_in_a_python_file_is_shown_in_its_own_line() {
    let test = tool();
    test.file("sub/logic.py", "def work(data):\n    return data +\n");
    test.file(
        "sub/flow.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {python: \"logic.py:work\"}\n",
    );
    let checked = test.run(["check", "sub/flow.yaml"]);
    checked.assert_code(2);
    let expected = "\
error: `sub/logic.py` is no Python: invalid syntax
 --> sub/logic.py:2:18
  |
2 |     return data +
  |                  ^

sub/flow.yaml has 1 error
";
    assert_eq!(checked.stdout, expected);
    let document = test.run(["check", "sub/flow.yaml", "--json"]).json();
    let problem = &document["problems"][0];
    assert_eq!(
        (&problem["file"], &problem["line"], &problem["path"]),
        (
            &json!("sub/logic.py"),
            &json!(2),
            &json!("pipelines.p.stages.0.core_logic.python")
        )
    );
}

#[test]
fn short_forms_that_are_none_and_a_file_without_a_function_say_what_to_write() {
    let test = tool();
    test.file("logic.py", "def sort(relevant_info=None):\n    return _own()\n\ndef _own():\n    pass\n\nasync def add():\n    pass\n");
    test.file(
        "flow.yaml",
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {python: logic.py}\n        retry: 3\n        \
         batch: 64\n        rate_limit: 5\n      - store: sqlite\n",
    );
    let checked = test.run(["check", "flow.yaml"]);
    for part in [
        "`logic.py` names no function",
        "possible: `logic.py:sort`, `logic.py:add`\n",
        "write `{attempts: 3}`",
        "write `{max: 64}`",
        "write `{per_second: 5}`",
    ] {
        assert!(
            checked.assert_code(2).stdout.contains(part),
            "{part}\nnot in\n{}",
            checked.stdout
        );
    }
}

#[test]
fn a_bad_key_hides_no_problem_of_the_source_beside_it() {
    let test = tool();
    test.file(
        "flow.yaml",
        "pipelines:
  a:
    source: {mqtt: {brokr: \"localhost:1883\", topic: [a, b]}}
    ack: inbx
    stages:
      - store: {jsonl: {}, foldr: out, required: no}
  b:
    every: 10s
    source: {mqtt: {broker: \"localhost:1883\", topic: a/#/b}}
    stages:
      - http: example.com/x
      - store: jsonl
",
    );
    let checked = test.run(["check", "flow.yaml"]);
    let shown = &checked.assert_code(2).stdout;
    for part in [
        "did you mean `broker`?",
        "several stand under `topics`: `topics: [a, b]`",
        "did you mean `inbox`?",
        "a key of `jsonl` stands inside it (`jsonl: {foldr: …}`)",
        "write `false`",
        "exactly one trigger",
        "`a/#/b` is not a topic",
        "it must begin with `http://` or `https://`",
    ] {
        assert!(shown.contains(part), "{part}\nnot in\n{shown}");
    }
}

#[test]
fn processes_that_nobody_would_call_are_a_warning() {
    let test = tool();
    test.file(
        "logic.py",
        "def work(relevant_info=None, **params):\n    return None\n",
    );
    let warned = |parallel: &str| {
        test.file(
            "flow.yaml",
            &format!(
                "pipelines:\n  a:\n    every: 10s\n    stages:\n      - core_logic: {{python: \"logic.py:work\", \
                 processes: 4}}\n{parallel}      - store: jsonl\n"
            ),
        );
        let checked = test.run(["check", "flow.yaml"]);
        checked
            .assert_code(0)
            .stdout
            .contains("write `parallel: 4` beside `core_logic`")
    };
    assert!(warned(""));
    assert!(warned("        parallel: 2\n"));
    assert!(!warned("        parallel: 4\n"));
}
