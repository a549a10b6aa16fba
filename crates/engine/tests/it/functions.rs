//! The user's Python at every place where a function can stand, through whole flows.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::run::{RunOptions, start};
use wiredflow_engine::state::{Selection, StateReader, StoredDeadLetter};
use wiredflow_testkit::written_rows;

/// Runs a flow of `once` pipelines over a `logic.py`; `{stages}` pipelines are named `p`.
struct Flow {
    folder: tempfile::TempDir,
}

impl Flow {
    fn new(logic: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("logic.py"), logic).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, text: &str) -> RunReport {
        let lookup = SystemLookup::new(self.path());
        let checked = check_text(text, "test", self.path(), &Functions::default(), &lookup);
        assert!(checked.plan.is_some(), "{:#?}", checked.problems);
        let options = RunOptions {
            limit: Some(Duration::from_secs(30)),
            ..RunOptions::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            start(&checked.plan.unwrap(), &options)
                .unwrap()
                .finished()
                .await
                .report
        })
    }

    /// Runs the stages in a pipeline `p` that stores what comes out, and gives the stored rows.
    fn stages(&self, stages: &str) -> (RunReport, Vec<Value>) {
        let text = format!(
            "pipelines:\n  p:\n    once: true\n    stages:\n{stages}      - store: jsonl\n"
        );
        let report = self.run(&text);
        (report, self.rows("data/jsonl_in_p.jsonl"))
    }

    fn rows(&self, file: &str) -> Vec<Value> {
        written_rows(&self.path().join(file))
    }

    fn dead_letters(&self) -> Vec<StoredDeadLetter> {
        let reader = StateReader::open(&self.path().join(".wiredflow"), "test").unwrap();
        let listed = reader.dead_letters(Selection::default()).unwrap();
        let one = |id: &Value| reader.dead_letter(id.as_str().unwrap()).unwrap().unwrap();
        listed
            .iter()
            .map(|letter| one(&serde_json::to_value(letter).unwrap()["id"]))
            .collect()
    }
}

#[test]
fn core_logic_gets_none_one_dict_or_a_list_and_its_params() {
    let flow = Flow::new(
        "def make(relevant_info=None, db_connectors=None, **params):\n    assert relevant_info is None\n    return [{'n': n} for n in range(params['count'])]\n\
         def look(relevant_info=None, pipeline_name=None, **params):\n    return {'type': type(relevant_info).__name__, 'pipeline': pipeline_name}\n",
    );
    for (count, kind) in [(0, "NoneType"), (1, "dict"), (3, "list")] {
        std::fs::remove_dir_all(flow.path().join("data")).ok();
        let (report, rows) = flow.stages(&format!(
            "      - core_logic: {{python: \"logic.py:make\", params: {{count: {count}}}}}\n      - core_logic: {{python: \"logic.py:look\"}}\n"
        ));
        assert!(report.ok, "{report:#?}");
        assert_eq!(rows, [json!({"type": kind, "pipeline": "p"})], "{count}");
    }
}

#[test]
fn what_is_none_is_neither_stored_nor_sent() {
    let flow = Flow::new(
        "def nothing(**params):\n    return None\ndef deliver(data, **params):\n    open('sent', 'w').close()\n",
    );
    let (report, rows) = flow.stages(
        "      - core_logic: {python: \"logic.py:nothing\"}\n      - send: {python: \"logic.py:deliver\"}\n",
    );
    assert!(report.ok, "{report:#?}");
    assert!(rows.is_empty());
    assert!(!flow.path().join("sent").exists());
    assert_eq!(report.pipelines["p"].deliveries.committed, 1);
}

#[test]
fn a_configuration_generator_runs_the_rest_once_for_each_params() {
    let flow = Flow::new(
        "def configure(pipeline_name=None, **params):\n    for limit in (1, 2):\n        yield {'limit': limit}\n\
         def work(relevant_info=None, limit=None, base=None, **params):\n    return {'sum': base + limit}\n",
    );
    let (report, rows) = flow.stages(
        "      - configuration: {python: \"logic.py:configure\"}\n      - core_logic: {python: \"logic.py:work\", params: {base: 10}}\n",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(rows, [json!({"sum": 11}), json!({"sum": 12})]);
}

#[test]
fn functions_store_send_and_preprocess() {
    let flow = Flow::new(
        "import json\n\
         def make(**params):\n    return [{'n': 1}, {'n': 2}]\n\
         def label(data, **params):\n    return dict(data, label='x')\n\
         def write(data, file, **params):\n    with open(file, 'a') as f:\n        f.write(json.dumps(data) + '\\n')\n",
    );
    let (report, rows) = flow.stages(
        "      - core_logic: {python: \"logic.py:make\"}\n      \
         - store: {jsonl: {folder: labelled}, preprocess: [{python: \"logic.py:label\"}]}\n      \
         - store: {python: \"logic.py:write\", params: {file: stored}}\n      \
         - send: {python: \"logic.py:write\", params: {file: sent}, field: n}\n",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(
        flow.rows("labelled/jsonl_in_p.jsonl"),
        [json!({"n": 1, "label": "x"}), json!({"n": 2, "label": "x"})]
    );
    assert_eq!(flow.rows("stored"), [json!([{"n": 1}, {"n": 2}])]);
    assert_eq!(flow.rows("sent"), [json!([1, 2])]);
    assert_eq!(
        rows,
        [] as [Value; 0],
        "the second inline storage has a file of its own"
    );
    assert_eq!(flow.rows("data/jsonl_in_p_2.jsonl").len(), 2);
}

#[test]
fn db_connectors_load_and_save_through_the_storages_owner() {
    let flow = Flow::new(
        "def fill(db_connectors=None, **params):\n    assert db_connectors['p'].load() is None\n    db_connectors['p'].save([{'n': 1}, {'n': 2}])\n    return {'loaded': db_connectors['p'].load()}\n",
    );
    let (report, rows) = flow.stages("      - core_logic: {python: \"logic.py:fill\"}\n");
    assert!(report.ok, "{report:#?}");
    assert_eq!(rows[2], json!({"loaded": [{"n": 1}, {"n": 2}]}));
}

#[test]
fn db_connectors_give_each_storage_kind_with_each_mapping_as_upstream_did() {
    let flow = Flow::new(
        "def fill(db_connectors=None, **params):\n    given = {}\n    for name, storage in db_connectors.items():\n\
         \x20       assert storage.load() is None\n        storage.save({'a': 1, 'b': 'x'})\n\
         \x20       storage.save([{'a': 2, 'b': 'y'}, {'a': 3, 'b': 'z'}])\n        given[name] = storage.load()\n    return given\n\
         def keep(data):\n    import json\n    json.dump(data, open('given', 'w'))\n",
    );
    let mut storages = String::new();
    for kind in ["json", "jsonl", "csv", "sqlite"] {
        for mapping in ["extend", "update", "overwrite"] {
            storages += &format!("  in_{kind}_{mapping}: {{{kind}: {{}}, mapping: {mapping}}}\n");
        }
    }
    let report = flow.run(&format!(
        "storages:\n{storages}pipelines:\n  p:\n    once: true\n    stages:\n      - core_logic: {{python: \"logic.py:fill\"}}\n      \
         - send: {{python: \"logic.py:keep\"}}\n"
    ));
    assert!(report.ok, "{report:#?}");
    let given: Value =
        serde_json::from_str(&std::fs::read_to_string(flow.path().join("given")).unwrap()).unwrap();
    for kind in ["json", "jsonl", "csv", "sqlite"] {
        let number = |n: i64| {
            if kind == "csv" {
                json!(n.to_string())
            } else {
                json!(n)
            }
        };
        let row = |n: i64, b: &str| json!({"a": number(n), "b": b});
        let of = |mapping: &str| &given[format!("in_{kind}_{mapping}")];
        assert_eq!(
            of("extend"),
            &json!([row(1, "x"), row(2, "y"), row(3, "z")]),
            "{kind}"
        );
        assert_eq!(of("update"), &row(3, "z"), "{kind}");
        assert_eq!(
            of("overwrite"),
            &json!([row(2, "y"), row(3, "z")]),
            "{kind}"
        );
    }
}

#[test]
fn a5_exceptions_and_crashes_are_failures_of_their_call_with_trace_in_the_dead_letter() {
    let flow = Flow::new(
        "import os\n\
         def make(**params):\n    return [{'how': h} for h in ('fine', 'raise', 'exit', 'die', 'fine')]\n\
         def work(relevant_info=None, **params):\n    how = relevant_info[0]['how']\n    if how == 'raise':\n        raise ValueError('bad ' + how)\n    if how == 'exit':\n        import sys; sys.exit(3)\n    if how == 'die':\n        os._exit(7)\n    return relevant_info[0]\n",
    );
    let (report, rows) = flow.stages(
        "      - core_logic: {python: \"logic.py:make\"}\n      - core_logic: {python: \"logic.py:work\"}\n        batch: {max: 1}\n        on_error: dead_letter\n",
    );
    assert!(report.ok, "{report:#?}");
    assert_eq!(rows, [json!({"how": "fine"}), json!({"how": "fine"})]);
    let letters = flow.dead_letters();
    assert_eq!(letters.len(), 3);
    let texts: Vec<String> = letters.iter().map(|letter| format!("{letter:?}")).collect();
    for part in ["ValueError: bad raise", "logic.py", "in work"] {
        assert!(
            texts.iter().any(|text| text.contains(part)),
            "{part} not in {texts:#?}"
        );
    }
    assert_eq!(report.pipelines["p"].deliveries.dead_lettered, 1);
}
