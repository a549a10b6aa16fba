//! What `check` says of the users' Python files, without running them.

use wiredflow_core::problem::Problem;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;

fn check(logic: &str, function: &str) -> Vec<Problem> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("logic.py"), logic).unwrap();
    let text = format!(
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {{python: \"logic.py:{function}\", params: {{python: \"no.py:no\"}}}}\n      \
         - send: {{python: \"logic.py:{function}\"}}\n      - store: {{json: {{}}, preprocess: [{{python: \"logic.py:{function}\"}}]}}\n"
    );
    let lookup = SystemLookup::new(folder.path());
    check_text(&text, "test", folder.path(), &Functions::default(), &lookup).problems
}

#[test]
fn a_syntax_error_is_told_once_with_its_file_line_and_column() {
    let problems = check(
        "def work(data):\n    return data\n\ndef other(:\n    pass\n",
        "work",
    );
    let [problem] = &problems[..] else {
        panic!("{problems:#?}")
    };
    assert!(
        problem
            .message
            .ends_with("logic.py` is no Python: invalid syntax"),
        "{problem:?}"
    );
    assert_eq!((problem.span.line, problem.span.column), (4, 11));
    assert_eq!(problem.path, "pipelines.p.stages.0.core_logic.python");
    let elsewhere = problem.elsewhere.as_ref().unwrap();
    assert!(elsewhere.file.ends_with("logic.py"));
    assert!(elsewhere.text.contains("def other(:"));
}

#[test]
fn nothing_of_a_file_is_run() {
    let marker = tempfile::tempdir().unwrap();
    let file = marker.path().join("ran");
    let logic = format!("open({file:?}, 'w')\ndef work(data):\n    return data\n");
    assert_eq!(check(&logic, "work"), []);
    assert!(!file.exists());
}

#[test]
fn a_function_that_is_mentioned_but_not_there_is_told_with_those_that_are() {
    let problems = check(
        "class Worker:\n    def work(self): pass\ndef wrk(): pass\n",
        "work",
    );
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(
        problems[0]
            .message
            .contains("has no function `work` at its top level")
    );
    assert!(
        problems[0]
            .help
            .as_ref()
            .unwrap()
            .starts_with("did you mean `wrk`?")
    );
}

/// One file for each way, and one flow that names them all.
#[test]
fn names_come_in_many_ways() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = "pipelines:\n  p:\n    once: true\n    stages:\n".to_owned();
    let ways = [
        ("def work(): pass", "work"),
        ("async def work(): pass", "work"),
        ("class work: pass", "work"),
        ("work = print", "work"),
        ("(a, [work, b]) = 1, [2, 3]", "work"),
        ("work: object = print", "work"),
        ("from os import path as work", "work"),
        ("import work.inner", "work"),
        ("from os import *  # work", "work"),
        (
            "if True:\n    try:\n        pass\n    except ValueError:\n        def work(): pass",
            "work",
        ),
        ("with open('x') as work: pass", "work"),
        ("globals()['work'] = print", "work"),
        ("def __getattr__(name): return print  # work", "work"),
        (
            "class work:\n    @staticmethod\n    def inner(): pass\n",
            "work.inner",
        ),
    ];
    for (number, (logic, function)) in ways.iter().enumerate() {
        std::fs::write(folder.path().join(format!("way_{number}.py")), logic).unwrap();
        text += &format!("      - core_logic: {{python: \"way_{number}.py:{function}\"}}\n");
    }
    let lookup = SystemLookup::new(folder.path());
    let checked = check_text(&text, "test", folder.path(), &Functions::default(), &lookup);
    assert_eq!(checked.problems, []);
}
