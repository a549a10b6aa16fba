//! A user's own program: a flow in Rust that ends in `wiredflow::main(flow)`.
//!
//! This test is such a program: with `AS_PROGRAM` set it is the tool; else it starts itself in that way and looks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::needless_pass_by_value,
    reason = "tests"
)]

use std::process::ExitCode;

use serde_json::json;
use wiredflow::{Call, Flow, Result, Value, json as json_file};
use wiredflow_testkit::FlowTest;

const NAME: &str = "a_program_that_ends_in_main_is_the_tool_with_a_flow_of_its_own";

fn count(_: Call) -> Result<Value> {
    Ok(json!([{"number": 1}, {"number": 2}]))
}

fn own_flow() -> Flow {
    Flow::new("own")
        .function("count", count)
        .pipeline("numbers", |pipeline| {
            pipeline.once().core_logic(count).store(json_file("data"))
        })
}

fn main() -> ExitCode {
    if std::env::var_os("AS_PROGRAM").is_some() {
        return wiredflow::main(own_flow());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--list") {
        if !has("--ignored") {
            println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    looks();
    println!("test {NAME} ... ok");
    ExitCode::SUCCESS
}

fn looks() {
    let test = FlowTest::new(std::env::current_exe().unwrap()).env("AS_PROGRAM", "1");
    let checked = test.run(["check"]);
    checked.assert_code(0);
    assert_eq!(
        checked.stdout,
        "the flow of this program is fine: 1 pipeline, 2 stages\n"
    );

    let document = test.run(["run", "--once", "--json"]).assert_code(0).json();
    assert_eq!(
        document["pipelines"]["numbers"]["deliveries"]["committed"], 1,
        "{document}"
    );
    assert_eq!(
        test.read_json("data/json_in_numbers.json"),
        json!([{"number": 1}, {"number": 2}])
    );
    let runs = test.run(["runs", "--json"]).assert_code(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1);
    test.run(["dead-letters", "list"]).assert_code(0);
    let unknown = test.run(["dead-letters", "show", "01abc"]);
    unknown.assert_code(1);
    assert!(unknown.stderr.contains("`01abc`"), "{}", unknown.stderr);

    // A file may name the functions that are linked in.
    test.file(
        "flow.yaml",
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: count}}, {store: {jsonl: {folder: data}}}]}}",
    );
    test.run(["run", "flow.yaml", "--once", "--state", "other"])
        .assert_code(0);
    assert_eq!(test.read("data/jsonl_in_p.jsonl").lines().count(), 2);

    // Its own tests run its own functions.
    test.file(
        "flow.test.yaml",
        "cases: {all: {expect: {storages: {numbers: [{number: 1}, {number: 3}]}}}}",
    );
    let tested = test.run(["test"]);
    tested.assert_code(1);
    let difference = "storages.numbers[1].number: expected 3, got 2";
    assert!(tested.stdout.contains(difference), "{}", tested.stdout);

    let help = test.run(["check", "--help"]);
    let name = std::env::current_exe().unwrap();
    let name = name.file_name().unwrap().to_str().unwrap();
    for part in ["[FILE]".to_owned(), format!("\n  {name} check\n")] {
        assert!(help.stdout.contains(&part), "{part}\n{}", help.stdout);
    }
}
