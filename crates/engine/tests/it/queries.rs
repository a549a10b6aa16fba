//! `sql` as core logic and configuration, over real storages.

use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_core::problem::Problem;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;

use crate::flows::bench::{Bench, within};

fn bench() -> Bench {
    Bench::new().with("make", |_| {
        Ok(json!([
            {"id": 1, "temp": 19, "site": "north", "tags": ["a"]},
            {"id": 2, "temp": 21.5, "site": "south", "tags": []},
            {"id": 3, "temp": 25, "site": "north", "tags": ["b", "c"]}
        ]))
    })
}

/// A flow that fills a storage of that kind, and when it has run one that asks it.
fn asked(bench: &Bench, kind: &str, query: &str) -> Vec<Value> {
    let storages = format!("storages: {{numbers: {{{kind}: {{}}}}}}\n");
    let fill =
        "pipelines: {fill: {once: true, stages: [{core_logic: {rust: make}}, {store: numbers}]}}";
    let report = bench.run(&format!("{storages}{fill}"));
    assert!(report.ok, "{kind}: {report:#?}");
    let seen = bench.seen().len();
    let ask = format!(
        "pipelines:\n  ask:\n    once: true\n    stages:\n      - core_logic: {{sql: {query:?}}}\n      - core_logic: {{rust: see}}\n"
    );
    let report = bench.run(&format!("{storages}{ask}"));
    assert!(report.ok, "{kind}: {report:#?}");
    bench.seen().split_off(seen)
}

#[test]
fn every_kind_of_storage_is_a_table() {
    for kind in ["csv", "json", "jsonl", "sqlite"] {
        let query = "select site, count(*) as n, max(temp) as top from numbers where temp > 19 group by site order by site";
        assert_eq!(
            asked(&bench(), kind, query),
            [json!([{"site": "north", "n": 1, "top": 25}, {"site": "south", "n": 1, "top": 21.5}])],
            "{kind}"
        );
    }
    for kind in ["json", "jsonl", "sqlite"] {
        let query = "select tags from numbers where id = 3";
        assert_eq!(
            asked(&bench(), kind, query),
            [json!({"tags": ["b", "c"]})],
            "{kind}"
        );
    }
}

#[test]
fn a_storage_in_which_nothing_is_yet_is_an_empty_table() {
    for kind in ["csv", "json", "jsonl", "sqlite"] {
        let bench = Bench::new();
        let report = bench.run(&format!(
            "storages: {{numbers: {{{kind}: {{}}}}}}\npipelines:\n  ask:\n    once: true\n    stages:\n      \
             - core_logic: {{sql: \"select avg(temp) as mean, max(n.id) as last from numbers n\"}}\n      - core_logic: {{rust: see}}\n"
        ));
        assert!(report.ok, "{kind}: {report:#?}");
        assert_eq!(
            bench.seen(),
            [json!({"mean": null, "last": null})],
            "{kind}"
        );
    }
}

#[test]
fn e9_names_of_storages_and_what_is_stored_are_never_sql() {
    let evil = "'; DROP TABLE \"my-notes\";--";
    let bench = Bench::new().with("make", move |_| {
        Ok(json!([{"note": evil, "x\"y'; DROP TABLE t;--": 1}, {"note": "fine"}]))
    });
    let storages = "storages: {my-notes: {sqlite: {table: \"we\\\"ird'; DROP TABLE t;--\"}}}\n";
    let report = bench.run(&format!(
        "{storages}pipelines: {{fill: {{once: true, stages: [{{core_logic: {{rust: make}}}}, {{store: my-notes}}]}}}}"
    ));
    assert!(report.ok, "{report:#?}");
    let report = bench.run(&format!(
        "{storages}pipelines:\n  ask:\n    once: true\n    stages:\n      \
         - core_logic:\n          sql: select note from \"my-notes\" where note = :note\n          params: {{note: {evil:?}}}\n      \
         - core_logic: {{rust: see}}\n      - core_logic: {{sql: \"select count(*) as n from \\\"my-notes\\\"\"}}\n      - core_logic: {{rust: see}}\n"
    ));
    assert!(report.ok, "{report:#?}");
    assert_eq!(bench.seen(), [json!({"note": evil}), json!({"n": 2})]);
}

#[test]
fn e9_other_tables_of_the_same_file_are_not_for_the_query() {
    let bench = bench();
    // A name that the query gives goes before a table of the file.
    let named =
        "with secrets as (select max(id) as id from numbers) select count(*) as n from secrets";
    assert_eq!(asked(&bench, "sqlite", named), [json!({"n": 1})]);
    let file = bench.folder().join("data/test.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other
        .execute_batch("CREATE TABLE secrets (a); INSERT INTO secrets VALUES (1), (2)")
        .unwrap();
    drop(other);
    assert_eq!(asked(&bench, "sqlite", named), [json!({"n": 1})]);
    let asking = |what: &str, table: &str| {
        format!(
            "storages: {{numbers: {{sqlite: {{}}}}}}\npipelines:\n  ask:\n    once: true\n    stages:\n      \
             - core_logic: {{sql: \"select id from numbers where 1 = (select {what} from {table})\"}}\n"
        )
    };
    for what in ["count(*)", "rowid"] {
        for table in [
            "secrets",
            "wiredflow_0.secrets",
            "wiredflow_0.sqlite_schema",
        ] {
            let (text, folder) = (asking(what, table), bench.folder());
            let lookup = SystemLookup::new(folder);
            let checked = check_text(&text, "test", folder, &Functions::default(), &lookup);
            assert!(checked.plan.is_none(), "{what} from {table}");
        }
        // Behind a column that `check` does not know this is seen when the query runs.
        let report = bench.run(&asking(what, "sqlite_schema"));
        let error = report.error.unwrap();
        assert!(error.contains("the flow's own storages"), "{error}");
    }
}

#[test]
fn the_rows_of_a_configuration_run_the_rest_once_each() {
    let bench = bench().with("params", |call| Ok(Value::Object((*call.params).clone())));
    let report = bench.run(
        "pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {rust: make}\n      \
         - configuration: {sql: \"select site, count(*) as n from input group by site order by site\"}\n      \
         - core_logic: {rust: params}\n      - core_logic: {rust: see}\n",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(
        bench.seen(),
        [
            json!({"site": "north", "n": 2}),
            json!({"site": "south", "n": 1})
        ]
    );
}

#[test]
fn a_query_that_takes_longer_than_its_timeout_is_stopped() {
    let bench = Bench::new();
    let report = bench.run_with(
        "pipelines:\n  p:\n    once: true\n    on_failure: isolate\n    stages:\n      - core_logic: {sql: \"with recursive n(i) as \
         (select 1 union all select i + 1 from n) select max(i) as most from n\"}\n        timeout: 100ms\n        on_error: skip\n",
        &within(Duration::from_secs(20)),
    );
    assert_eq!(report.pipelines["p"].deliveries.skipped, 1, "{report:#?}");
}

#[test]
fn check_tells_where_sql_is_wrong_or_out_of_place() {
    let folder = tempfile::tempdir().unwrap();
    let problems = |stages: &str| -> Vec<Problem> {
        let text = format!("pipelines: {{p: {{once: true, stages: [{stages}, {{store: json}}]}}}}");
        let lookup = SystemLookup::new(folder.path());
        check_text(&text, "test", folder.path(), &Functions::default(), &lookup).problems
    };
    for (stages, part) in [
        (
            "{core_logic: {sql: selct 1}}",
            "`sql`: near \"selct\": syntax error",
        ),
        (
            "{core_logic: {sql: select * from q}}",
            "there is no table `q`: did you mean `p`?",
        ),
        ("{store: {sql: select 1}}", "`sql` is not possible here"),
        (
            "{core_logic: {sql: select 1, processes: 2}}",
            "`processes` goes with `python`",
        ),
    ] {
        let told = problems(stages);
        assert!(
            told.iter().any(|problem| problem.message.contains(part)),
            "{stages}: {told:#?}"
        );
    }
}
