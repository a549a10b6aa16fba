//! The record steps: `filter`, `set`, `rename`, `drop`.

use serde_json::{Value, json};
use wiredflow_core::{Batch, ErrorKind, Result};

use crate::flows::bench::Bench;
use crate::harness::{Collected, cx, open_stage, problems, resources, run};

async fn step(text: &str, values: Vec<Value>) -> (Result<()>, Collected) {
    let folder = tempfile::tempdir().unwrap();
    let stage = open_stage(text, &resources(folder.path())).await.unwrap();
    let (cx, _) = cx(Value::Null);
    run(stage.as_ref(), &Batch::of_values(values), &cx).await
}

async fn check(text: &str, values: Vec<Value>, expected: Vec<Value>) {
    let (result, collected) = step(text, values).await;
    result.unwrap();
    assert_eq!(collected.values(), expected, "{text}");
    let (as_text, expected): (String, String) = (
        collected.values().iter().map(Value::to_string).collect(),
        expected.iter().map(Value::to_string).collect(),
    );
    assert_eq!(as_text, expected, "the fields keep their order");
}

#[tokio::test]
async fn filter_hands_on_what_matches_and_nothing_where_nothing_does() {
    let values = vec![json!({"t": 19}), json!({"t": 21}), json!({"u": 22})];
    check(
        "filter: {field: t, above: 20}",
        values.clone(),
        vec![json!({"t": 21})],
    )
    .await;
    let (result, collected) = step("filter: {field: t, above: 30}", values).await;
    result.unwrap();
    assert!(collected.batches.is_empty());
    let (_, of_nothing) = step("filter: {field: t, above: 30}", Vec::new()).await;
    assert_eq!(of_nothing.batches.len(), 1, "nothing stays nothing");
}

#[tokio::test]
async fn set_rename_and_drop_change_each_record() {
    check(
        "set: {unit: C, place.site: 5, t: [1]}",
        vec![json!({"t": 1, "place": {"a": 2}}), json!({})],
        vec![
            json!({"t": [1], "place": {"a": 2, "site": 5}, "unit": "C"}),
            json!({"unit": "C", "place": {"site": 5}, "t": [1]}),
        ],
    )
    .await;
    check(
        "rename: {a: b, b: a, main.temp: celsius, absent: x}",
        vec![json!({"a": 1, "z": 0, "b": 2, "main": {"temp": 3, "h": 4}})],
        vec![json!({"b": 1, "z": 0, "a": 2, "main": {"h": 4}, "celsius": 3})],
    )
    .await;
    check(
        "rename: {temp: celsius, x: deep.x}",
        vec![json!({"celsius": 0, "temp": 21, "x": 1})],
        vec![json!({"celsius": 21, "deep": {"x": 1}})],
    )
    .await;
    check(
        "drop: [a, main.debug, absent]",
        vec![json!({"a": 1, "b": 2, "main": {"debug": 1, "c": 3}, "d": 4})],
        vec![json!({"b": 2, "main": {"c": 3}, "d": 4})],
    )
    .await;
    check("drop: a", vec![json!({"a": 1})], vec![json!({})]).await;
}

#[tokio::test]
async fn a_record_that_cannot_be_changed_is_named_and_nothing_is_handed_on() {
    for (text, part) in [
        ("set: {a.b: 1}", "`a` is there and no object"),
        ("rename: {b: a.b}", "`a` is there and no object"),
        ("drop: a", ""),
    ] {
        let values = vec![json!({"c": 0}), json!({"a": 5, "b": 6}), json!(7)];
        let (result, collected) = step(text, values).await;
        let error = result.unwrap_err();
        let place = if part.is_empty() { 2 } else { 1 };
        assert_eq!(
            (error.kind(), error.record()),
            (ErrorKind::Data, Some(place))
        );
        assert!(error.message().contains(part), "{error}");
        assert!(collected.batches.is_empty());
    }
}

#[test]
fn check_tells_what_no_step_can_do() {
    let folder = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("filter: {field: t, abov: 20}", "unknown key `abov`"),
        ("filter: t", "expected a condition"),
        ("set: [a]", "expected a map"),
        ("set: {a..b: 1}", "`a..b` is no field"),
        ("set: {a: 1, a: 2}", "duplicate key `a`"),
        ("rename: {a: c, b: c}", "two fields cannot both become `c`"),
        ("rename: {a: 5..}", "`5..` is no field"),
        ("drop: {a: b}", "unknown key `a`"),
        ("drop: [.]", "`drop` wants fields"),
    ] {
        let told = problems(text, folder.path());
        assert!(told.join("\n").contains(part), "{text}: {told:?}");
    }
}

#[test]
fn steps_of_a_flow_keep_each_record_with_its_delivery_and_load_reads_what_matches() {
    let bench = Bench::new().with("make", |_| {
        Ok(json!([{"temp": 19, "x": 1}, {"temp": 21, "x": 2}, {"temp": 25, "x": 3}]))
    });
    let report = bench.run(
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {rust: make}\n      - filter: {field: temp, above: 20}\n      \
         - rename: {temp: celsius}\n      - set: {unit: C}\n      - drop: x\n      - store: sqlite\n",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(report.pipelines["p"].deliveries.committed, 1);
    let report = bench.run(
        "storages: {s: {sqlite: {path: data/test.db, table: p}}}\npipelines:\n  q:\n    once: true\n    stages:\n      \
         - load: {storage: s, where: {field: celsius, below: 25}}\n      - core_logic: {rust: see}\n      \
         - load: {storage: s, where: [{field: unit, is: C}], limit: 1}\n      - core_logic: {rust: see}\n      \
         - load: {storage: s, where: {field: unit, is: F}}\n      - core_logic: {rust: see}\n",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(
        bench.seen(),
        [
            json!({"celsius": 21, "unit": "C"}),
            json!({"celsius": 25, "unit": "C"}),
            Value::Null
        ]
    );
}
