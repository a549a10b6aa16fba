//! `program` at every place where a function can stand: real processes, and what they may do wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_core::{Batch, ErrorKind};
use wiredflow_testkit::wait_until;

use crate::flows::bench::{Bench, PATIENCE};
use crate::harness::{cx, open_stage, problems, resources, run};

fn script(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the stage gives for these records, or the error.
async fn called(
    folder: &Path,
    stage: &str,
    values: Vec<Value>,
) -> wiredflow_core::Result<Vec<Value>> {
    let stage = open_stage(stage, &resources(folder)).await.unwrap();
    let (cx, _) = cx(json!({"from_configuration": 1}));
    let (result, collected) = run(stage.as_ref(), &Batch::of_values(values), &cx).await;
    result.map(|()| collected.values())
}

#[tokio::test]
async fn records_go_through_a_program_as_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let values = vec![
        json!({"x": 1, "y": "a b"}),
        json!({"x": [2, 3]}),
        json!({"x": null}),
    ];
    let found = called(path, "core_logic: {program: [jq, -c, .x]}", values.clone()).await;
    // An array stands for many records and null for none, as everywhere.
    assert_eq!(found.unwrap(), [json!(1), json!(2), json!(3)]);
    let found = called(path, "core_logic: {program: [cat]}", values.clone()).await;
    assert_eq!(found.unwrap(), values);
    let found = called(
        path,
        "core_logic: {program: [awk, \"END {print NR}\"]}",
        values.clone(),
    )
    .await;
    assert_eq!(found.unwrap(), [json!(3)]);
    let found = called(path, "core_logic: {program: [cat]}", Vec::new()).await;
    assert_eq!(found.unwrap(), [] as [Value; 0]);
    // One that does not read all is fine.
    let many: Vec<Value> = (0..50_000).map(|n| json!({"n": n})).collect();
    let found = called(
        path,
        "core_logic: {program: [head, -n, \"1\"]}",
        many.clone(),
    )
    .await;
    assert_eq!(found.unwrap(), [json!({"n": 0})]);
    // Neither side waits for the other where both are full.
    let found = called(path, "core_logic: {program: [cat]}", many.clone()).await;
    assert_eq!(found.unwrap(), many);
}

#[tokio::test]
async fn a_program_gets_its_params_its_folder_and_no_shell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    script(
        path,
        "tell.sh",
        "printf '{\"params\": %s, \"arg\": \"%s\", \"here\": \"%s\", \"who\": \"%s\"}\\n' \"$WIREDFLOW_PARAMS\" \"$1\" \"$(pwd -P)\" \"$WIREDFLOW_PIPELINE\"",
    );
    let stage = "core_logic: {program: [./tell.sh, \"$(touch evil); *\"], params: {limit: 5}}";
    let found = called(path, stage, Vec::new()).await.unwrap();
    let here = path.canonicalize().unwrap();
    assert_eq!(
        found,
        [json!({
            "params": {"limit": 5, "from_configuration": 1}, "arg": "$(touch evil); *",
            "here": here.to_str().unwrap(), "who": "pipeline",
        })]
    );
    assert!(!path.join("evil").exists());
}

#[tokio::test]
async fn a5_what_a_program_does_wrong_is_a_failure_of_its_call_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    script(
        path,
        "fail.sh",
        "echo '{\"a\": 1}'; echo first >&2; echo no such sensor >&2; exit 3",
    );
    script(path, "die.sh", "kill -9 $$");
    script(
        path,
        "words.sh",
        "echo '{\"a\": 1}'; echo; echo 'temperature 21'",
    );
    script(path, "long.sh", "head -c 1100000 /dev/zero | tr '\\0' x");
    script(path, "much.sh", "yes '{\"a\": 1}'");
    script(path, "nan.sh", "echo NaN");
    for (stage, part) in [
        (
            "fail.sh",
            "`./fail.sh` ended with exit status 3: no such sensor",
        ),
        ("die.sh", "`./die.sh` was killed by signal 9"),
        (
            "words.sh",
            "line 3 of what `./words.sh` wrote is not JSON: expected",
        ),
        ("words.sh", ": `temperature 21`"),
        (
            "long.sh",
            "`./long.sh` wrote a line of more than 1 MiB and was stopped",
        ),
        (
            "much.sh",
            "`./much.sh` wrote more than 16 MiB and was stopped",
        ),
        ("nan.sh", "line 1 of what `./nan.sh` wrote is not JSON"),
    ] {
        let text = format!("core_logic: {{program: [./{stage}]}}");
        let error = called(path, &text, vec![json!({"n": 1})])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(error.message().contains(part), "{stage}: {error}");
    }
    let error = called(path, "core_logic: {program: [./fail.sh]}", Vec::new()).await;
    assert_eq!(error.unwrap_err().trace(), Some("first\nno such sensor"));
    std::fs::remove_file(path.join("die.sh")).unwrap();
    script(path, "gone.sh", "true");
    let stage = open_stage("core_logic: {program: [./gone.sh]}", &resources(path))
        .await
        .unwrap();
    std::fs::remove_file(path.join("gone.sh")).unwrap();
    let (result, _) = run(stage.as_ref(), &Batch::default(), &cx(Value::Null).0).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Config);
    let large = format!(
        "core_logic: {{program: [cat], params: {{x: {}}}}}",
        "x".repeat(140_000)
    );
    let error = called(path, &large, Vec::new()).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("at most 128 KiB in `WIREDFLOW_PARAMS`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_is_killed_with_all_that_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    script(
        path,
        "hang.sh",
        "sleep 1000 & echo $! > other.new; mv other.new other; wait",
    );
    let stage = open_stage("core_logic: {program: [./hang.sh]}", &resources(path))
        .await
        .unwrap();
    let ((cx, _), nothing) = (cx(Value::Null), Batch::default());
    let started = async {
        while !path.join("other").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = run(stage.as_ref(), &nothing, &cx) => panic!("it ended"),
        () = started => {}
    }
    let other = std::fs::read_to_string(path.join("other")).unwrap();
    wait_until(PATIENCE, || !alive(other.trim()));
}

#[tokio::test]
async fn what_a_program_leaves_running_is_ended_and_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    script(
        path,
        "leave.sh",
        "sleep 1000 & echo $! > other; echo '{\"a\": 1}'",
    );
    let found = called(path, "core_logic: {program: [./leave.sh]}", Vec::new()).await;
    assert_eq!(found.unwrap(), [json!({"a": 1})]);
    let other = std::fs::read_to_string(path.join("other")).unwrap();
    wait_until(PATIENCE, || !alive(other.trim()));
}

fn alive(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

#[test]
fn programs_configure_store_send_and_preprocess() {
    let bench = Bench::new().with("make", |_| Ok(json!([{"n": 1}, {"n": 2}])));
    script(
        bench.folder(),
        "keep.sh",
        "echo this is no JSON; cat >> \"$1\"",
    );
    let report = bench.run(
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {rust: make}\n      \
         - configuration: {program: [jq, -c, \"{limit: .n}\"]}\n      \
         - store: {jsonl: {}, preprocess: [{program: [jq, -c, \".m = .n + 1\"]}]}\n      \
         - store: {program: [./keep.sh, stored]}\n      - send: {program: [./keep.sh, sent], field: n}\n      \
         - core_logic: {program: [sh, -c, \"echo $WIREDFLOW_PARAMS\"]}\n      - core_logic: {rust: see}\n",
    );
    assert!(report.ok, "{report:#?}");
    let read = |file: &str| std::fs::read_to_string(bench.folder().join(file)).unwrap();
    assert_eq!(read("stored"), "{\"n\":1}\n{\"n\":2}\n".repeat(2));
    assert_eq!(read("sent"), "1\n2\n".repeat(2));
    assert_eq!(
        read("data/jsonl_in_p.jsonl").lines().next(),
        Some("{\"n\":1,\"m\":2}")
    );
    assert_eq!(bench.seen(), [json!({"limit": 1}), json!({"limit": 2})]);
}

#[test]
fn check_tells_of_a_program_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plain.sh"), "#!/bin/sh\n").unwrap();
    for (program, part) in [
        (
            "[no-such-program-here]",
            "`no-such-program-here` is not on the PATH",
        ),
        ("[./absent.sh]", "there is no program `./absent.sh`"),
        (
            "[./plain.sh]",
            "`./plain.sh` may not be run (`chmod +x ./plain.sh`)",
        ),
        (
            "[plain.sh]",
            "for the file in the flow's folder write `./plain.sh`",
        ),
        ("jq -c .x", "no shell takes it apart: write `[jq, -c, .x]`"),
        ("[]", "`program` needs a command"),
        (
            "[cat], processes: 3",
            "`processes` goes with `python`, not with `program`",
        ),
    ] {
        let told = problems(
            &format!("core_logic: {{program: {program}}}"),
            folder.path(),
        );
        assert!(told.join("\n").contains(part), "{program}: {told:?}");
    }
    assert_eq!(
        problems("core_logic: {program: cat}", folder.path()),
        [""; 0]
    );
}
