//! The storages against real files, links, full disks and kills.

mod again;
mod calls;
mod conditions;
mod csv;
mod damage;
mod faults;
mod files;
mod keys;
pub(crate) mod noise;
mod postgres;
mod sqlite;
mod upstream;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wiredflow_core::config::FlowConfig;
use wiredflow_core::fields::Reading;
use wiredflow_core::problem::Problem;
use wiredflow_core::storage::{Epoch, Fence, Loaded, Mapping, Query, Storage};
use wiredflow_core::{Batch, ErrorKind, Result, yaml};
use wiredflow_engine::catalogue::{CheckCx, OpenStorage};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::storages::{
    Entrusted, Left, Ownership, RowsOf, STORAGES, StoragePlace, Writers,
};

/// All kinds that are built in.
const KINDS: [&str; 4] = ["csv", "json", "jsonl", "sqlite"];

/// Those that keep their rows in a text file of their own.
const FILES: [&str; 3] = ["csv", "json", "jsonl"];

/// A storage `numbers` of the flow `sensors`, as a flow file would have it.
#[derive(Clone, Debug)]
struct Place {
    folder: PathBuf,
    kind: &'static str,
    config: &'static str,
    mapping: Mapping,
    key: Option<&'static str>,
}

impl Place {
    fn new(folder: &Path, kind: &'static str) -> Self {
        Self {
            folder: folder.to_owned(),
            kind,
            config: "{}",
            mapping: Mapping::Extend,
            key: None,
        }
    }

    fn mapping(self, mapping: Mapping) -> Self {
        Self { mapping, ..self }
    }

    /// The file that holds the rows.
    fn file(&self) -> PathBuf {
        let name = match self.kind {
            "sqlite" => "sensors.db".to_owned(),
            kind => format!("{kind}_in_numbers.{kind}"),
        };
        self.folder.join("data").join(name)
    }

    fn check(&self) -> Result<OpenStorage, Vec<Problem>> {
        let entry = STORAGES.iter().find(|entry| entry.card.name == self.kind);
        let node = yaml::parse(self.config).unwrap();
        let mut reading = Reading::default();
        let flow = FlowConfig {
            name: "sensors".to_owned(),
            state: ".wiredflow".to_owned(),
            listen: None,
            on_failure: wiredflow_core::config::OnFailure::Stop,
            storages: Vec::new(),
            remotes: Vec::new(),
            pipelines: Vec::new(),
        };
        let mut cx = CheckCx {
            reading: &mut reading,
            flow: &flow,
            pipeline: "numbers",
            folder: &self.folder,
            functions: &Functions::default(),
            storage_names: &[],
        };
        let place = StoragePlace {
            name: "numbers".into(),
            flow: "sensors".into(),
            folder: self.folder.clone(),
            mapping: self.mapping,
            key: self.key.map(str::to_owned),
            left: Left::Unknown,
            state: None,
        };
        let open = (entry.unwrap().prepare)(&node, place, &mut cx);
        match reading.into_problems() {
            problems if problems.is_empty() => Ok(open.unwrap()),
            problems => Err(problems),
        }
    }

    fn try_open(&self) -> Result<Box<dyn Storage>> {
        self.try_open_after(Left::Unknown)
    }

    fn try_open_after(&self, left: Left) -> Result<Box<dyn Storage>> {
        (self.check().unwrap().opener(left, None))()
    }

    #[track_caller]
    fn open(&self) -> Box<dyn Storage> {
        self.try_open().unwrap()
    }

    /// Opens, loads and closes.
    #[track_caller]
    fn load(&self) -> Value {
        load(self.open().as_mut())
    }
}

fn try_commit(storage: &mut dyn Storage, rows: &[Value]) -> Result<()> {
    let rows: Vec<&Value> = rows.iter().collect();
    let receipt = storage.commit(&rows, &[], &Fence::default())?;
    assert_eq!((receipt.rows(), receipt.sink()), (rows.len(), "numbers"));
    Ok(())
}

fn fence(owner: &str, epoch: u64) -> Fence {
    Fence {
        epoch: Epoch(epoch),
        of: vec![owner.into()],
    }
}

#[track_caller]
fn commit(storage: &mut dyn Storage, rows: &[Value]) {
    try_commit(storage, rows).unwrap();
}

#[track_caller]
fn load(storage: &mut dyn Storage) -> Value {
    storage.load(&Query::default()).unwrap().into_document()
}

#[track_caller]
fn check_refused<T>(result: Result<T>, kind: ErrorKind, words: &[&str]) {
    let error = result.err().expect("it was not refused");
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.message().contains(word), "no `{word}` in: {error}");
    }
}

/// Records of one shape, with everything that a value can be.
fn record(number: u64) -> Value {
    json!({
        "number": number,
        "text": format!("a, \"b\"\n'c' ; [{number}] \u{0} é \u{feff}"),
        "real": number as f64 + 0.5,
        "big": u64::MAX - number,
        "truth": number.is_multiple_of(2),
        "nothing": null,
        "nested": {"list": [number, "x", null], "empty": {}},
    })
}

fn records(numbers: impl IntoIterator<Item = u64>) -> Vec<Value> {
    numbers.into_iter().map(record).collect()
}

/// What a kind gives back for a record: csv keeps texts only.
fn loaded(kind: &str, record: &Value) -> Value {
    let mut record = record.clone();
    let Some(fields) = record.as_object_mut() else {
        return record;
    };
    for value in fields.values_mut() {
        match (kind, &*value) {
            ("csv", Value::Null) => *value = json!(""),
            ("csv", Value::String(_)) => {}
            ("csv", other) => *value = json!(other.to_string()),
            ("sqlite", Value::Bool(truth)) => *value = json!(u8::from(*truth)),
            ("sqlite", Value::Number(number)) if number.as_i64().is_none() && number.is_u64() => {
                *value = json!(number.to_string());
            }
            _ => {}
        }
    }
    record
}

fn all_loaded(kind: &str, records: &[Value]) -> Value {
    records.iter().map(|record| loaded(kind, record)).collect()
}

#[test]
fn every_kind_is_in_the_catalogue_with_an_example_that_opens() {
    let names: Vec<&str> = STORAGES.iter().map(|entry| entry.card.name).collect();
    let away = ["postgres"];
    let (here, there): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| !away.contains(name));
    assert_eq!((here.as_slice(), there.as_slice()), (&KINDS[..], &away[..]));
    for entry in STORAGES {
        let folder = tempfile::tempdir().unwrap();
        let config = entry.card.example.split_once(": ").unwrap().1;
        let mut place = Place::new(folder.path(), entry.card.name);
        place.config = config;
        if away.contains(&entry.card.name) {
            assert!(place.check().unwrap().is_apart());
            continue;
        }
        commit(place.open().as_mut(), &records(1..3));
        assert_eq!(place.load().as_array().unwrap().len(), 2);
    }
}

#[test]
fn extend_keeps_all_rows_in_order_through_restarts() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let mut storage = place.open();
        assert_eq!(load(storage.as_mut()), Value::Null, "{kind}");
        assert!(!place.file().exists() || kind == "sqlite");
        let mut expected = Vec::new();
        for round in 0..4 {
            for size in [1, 0, 3, 300] {
                let begin = expected.len() as u64;
                let rows = records(begin..begin + size);
                commit(storage.as_mut(), &rows);
                expected.extend(rows);
            }
            let all = all_loaded(kind, &expected);
            assert_eq!(load(storage.as_mut()), all, "{kind} round {round}");
            drop(storage);
            storage = place.open();
            assert_eq!(load(storage.as_mut()), all, "{kind} round {round} reopened");
        }
        for limit in [0, 1, 7, expected.len(), expected.len() + 5] {
            let newest = &expected[expected.len().saturating_sub(limit)..];
            let rows = storage.load(&Query::newest(limit)).unwrap();
            assert_eq!(rows.into_document(), all_loaded(kind, newest), "{kind}");
        }
    }
}

#[test]
fn overwrite_keeps_the_rows_of_the_last_commit() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind).mapping(Mapping::Overwrite);
        let mut storage = place.open();
        for rows in [records(0..3), records(5..6), records(7..9)] {
            commit(storage.as_mut(), &rows);
            let expected = all_loaded(kind, &rows);
            assert_eq!(load(storage.as_mut()), expected, "{kind}");
            drop(storage);
            storage = place.open();
            assert_eq!(load(storage.as_mut()), expected, "{kind} reopened");
        }
        commit(storage.as_mut(), &[]);
        assert_eq!(load(storage.as_mut()), Value::Null, "{kind}");
        drop(storage);
        assert_eq!(place.load(), Value::Null, "{kind}");
        commit(place.open().as_mut(), &records(1..2));
        assert_eq!(place.load(), all_loaded(kind, &records(1..2)), "{kind}");
    }
}

#[tokio::test]
async fn overwrites_that_wait_together_stay_apart() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind).mapping(Mapping::Overwrite);
        let opener = place.check().unwrap().opener(Left::Unknown, None);
        let entrusted = Entrusted {
            name: "numbers",
            opener,
            apart: false,
        };
        let (writers, mut handles) = Writers::start([entrusted], &Ownership::default()).unwrap();
        let handle = handles.remove(0);
        let commit = |number| {
            let batch = Batch::of_values(records(number..number + 2));
            handle.commit(batch, RowsOf::default())
        };
        let receipts = futures_util::future::join_all((0..30).map(commit)).await;
        assert!(
            receipts
                .iter()
                .all(|receipt| receipt.as_ref().unwrap().rows() == 2)
        );
        let loaded = handle.load(Query::default()).await.unwrap();
        assert_eq!(
            loaded.into_document(),
            all_loaded(kind, &records(29..31)),
            "{kind}"
        );
        drop(handle);
        writers.close(&Clock::real()).await;
    }
}

#[test]
fn update_keeps_one_object_with_the_newest_of_each_field() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind).mapping(Mapping::Update);
        let mut storage = place.open();
        assert_eq!(load(storage.as_mut()), Value::Null);
        commit(
            storage.as_mut(),
            &[json!({"a": 1, "b": {"x": 1}}), json!({"a": 2})],
        );
        let expected = loaded(kind, &json!({"a": 2, "b": {"x": 1}}));
        assert_eq!(load(storage.as_mut()), expected, "{kind}");
        drop(storage);
        storage = place.open();
        commit(storage.as_mut(), &[json!({"c": "new", "b": {"y": 2}})]);
        commit(storage.as_mut(), &[]);
        commit(storage.as_mut(), &[json!({})]);
        let expected = loaded(kind, &json!({"a": 2, "b": {"y": 2}, "c": "new"}));
        assert_eq!(load(storage.as_mut()), expected, "{kind}");
        drop(storage);
        let all = place.open().load(&Query::newest(1)).unwrap();
        assert!(matches!(all, Loaded::Object(_)), "{kind}: {all:?}");
        assert_eq!(all.into_document(), expected, "{kind}");

        let mut storage = place.open();
        let refused = try_commit(storage.as_mut(), &[json!({"a": 9}), json!(5)]);
        assert_eq!(refused.as_ref().unwrap_err().record(), Some(1), "{kind}");
        check_refused(refused, ErrorKind::Data, &["no object"]);
        assert_eq!(load(storage.as_mut()), expected, "{kind}: nothing of it");
    }
}

#[test]
fn update_over_many_rows_is_refused_and_the_rows_stay() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        commit(place.open().as_mut(), &records(0..3));
        let update = place.clone().mapping(Mapping::Update);
        let refused = update.try_open();
        check_refused(refused, ErrorKind::Config, &["more than one", "update"]);
        assert_eq!(place.load(), all_loaded(kind, &records(0..3)));
    }
}

#[test]
fn e1_a_value_that_is_too_deep_to_be_read_again_is_refused_alone() {
    let nested = |depth: usize| (0..depth).fold(json!(1), |value, _| Value::Array(vec![value]));
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let mut storage = place.open();
        let fits = json!({"a": nested(126)});
        commit(storage.as_mut(), std::slice::from_ref(&fits));
        let refused = try_commit(storage.as_mut(), &[record(1), json!({"a": nested(128)})]);
        assert_eq!(refused.as_ref().unwrap_err().record(), Some(1), "{kind}");
        check_refused(refused, ErrorKind::Data, &["nested"]);
        assert_eq!(load(storage.as_mut()), all_loaded(kind, &[fits]), "{kind}");
    }
}

#[test]
fn e3_numbers_at_their_edges_are_kept_or_become_text_but_never_others() {
    let numbers: Value = serde_json::from_str(
        "{\"min\": -9223372036854775808, \"over\": 9223372036854775808, \"most\": 18446744073709551615,
          \"minus\": -0.0, \"tenth\": 0.1, \"large\": 1.7976931348623157e308, \"small\": 5e-324,
          \"whole\": 1.0, \"digits\": 0.1000000000000000055511151231257827}",
    )
    .unwrap();
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        commit(place.open().as_mut(), std::slice::from_ref(&numbers));
        let stored = &place.load()[0];
        let expected = loaded(kind, &numbers);
        assert_eq!(stored.to_string(), expected.to_string(), "{kind}");
    }
}

#[test]
fn e7_a_schema_that_drifts_loses_no_record_and_changes_no_value() {
    let rows = [
        json!({"id": 1, "value": 5, "note": "a"}),
        json!({"id": 2, "value": "five"}),
        json!({"id": 3, "value": 5.5, "note": null, "new": true}),
        json!({"id": "4", "value": {"deep": [1]}, "note": "b"}),
        json!({"id": 5}),
    ];
    let with_all_columns = json!([
        {"id": 1, "value": 5, "note": "a", "new": null},
        {"id": 2, "value": "five", "note": null, "new": null},
        {"id": 3, "value": 5.5, "note": null, "new": 1},
        {"id": "4", "value": "{\"deep\":[1]}", "note": "b", "new": null},
        {"id": 5, "value": null, "note": null, "new": null},
    ]);
    let as_text = json!([
        {"id": "1", "value": "5", "note": "a", "new": ""},
        {"id": "2", "value": "five", "note": "", "new": ""},
        {"id": "3", "value": "5.5", "note": "", "new": "true"},
        {"id": "4", "value": "{\"deep\":[1]}", "note": "b", "new": ""},
        {"id": "5", "value": "", "note": "", "new": ""},
    ]);
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        for row in &rows {
            commit(place.open().as_mut(), std::slice::from_ref(row));
        }
        let expected = match kind {
            "csv" => as_text.clone(),
            "sqlite" => with_all_columns.clone(),
            _ => Value::Array(rows.to_vec()),
        };
        assert_eq!(place.load(), expected, "{kind}");
    }
}
