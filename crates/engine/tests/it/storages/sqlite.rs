//! Tables of a database: columns that come by themselves, and other users of the file.

use std::fs;

use rusqlite::Connection;
use serde_json::{Map, Value, json};
use wiredflow_core::ErrorKind;

use super::{Place, all_loaded, check_refused, commit, load, record, records, try_commit};

pub(super) fn place(folder: &std::path::Path, config: &'static str) -> Place {
    let mut place = Place::new(folder, "sqlite");
    place.config = config;
    place
}

#[track_caller]
pub(super) fn check_sound(place: &Place) {
    let database = Connection::open(place.file()).unwrap();
    let ask = |sql: &str| -> String { database.query_row(sql, (), |row| row.get(0)).unwrap() };
    assert_eq!(ask("PRAGMA integrity_check"), "ok");
    assert_eq!(ask("PRAGMA journal_mode"), "wal");
}

#[test]
fn each_field_is_a_column_with_the_value_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    commit(
        storage.as_mut(),
        &[json!({"n": 1, "r": 1.0, "t": "12", "b": true, "o": {"k": [1, "é"]}})],
    );
    commit(
        storage.as_mut(),
        &[json!({"n": "later text", "new": -5, "o": "plain"})],
    );
    let database = Connection::open(place.file()).unwrap();
    let types = |row: i64| -> String {
        let sql =
            "SELECT typeof(n) || ' ' || typeof(r) || ' ' || typeof(t) || ' ' || typeof(b) || ' ' ||
                   typeof(o) || ' ' || typeof(new) FROM numbers WHERE rowid = ?1";
        database.query_row(sql, [row], |row| row.get(0)).unwrap()
    };
    assert_eq!(types(1), "integer real text integer text null");
    assert_eq!(types(2), "text null null null text integer");
    let nested: String = database
        .query_row(
            "SELECT o ->> '$.k[1]' FROM numbers WHERE rowid = 1",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(nested, "é");
    assert_eq!(
        load(storage.as_mut()),
        json!([
            {"n": 1, "r": 1.0, "t": "12", "b": 1, "o": {"k": [1, "é"]}, "new": null},
            {"n": "later text", "r": null, "t": null, "b": null, "o": "plain", "new": -5},
        ])
    );
}

#[test]
fn a_nested_value_in_a_column_of_plain_ones_is_json_text() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    commit(place.open().as_mut(), &[json!({"a": 1})]);
    commit(place.open().as_mut(), &[json!({"a": {"b": 1}})]);
    assert_eq!(place.load(), json!([{"a": 1}, {"a": "{\"b\":1}"}]));
    // Nulls that stand before the first value of a commit do not decide.
    let other = super::sqlite::place(folder.path(), "{table: other}");
    commit(
        other.open().as_mut(),
        &[json!({"a": null}), json!({"a": [1]}), json!({"a": "[2]"})],
    );
    assert_eq!(other.load(), json!([{"a": null}, {"a": [1]}, {"a": "[2]"}]));
}

#[test]
fn what_is_no_object_goes_to_the_column_value() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    commit(
        place.open().as_mut(),
        &[
            json!(5),
            json!("x"),
            json!(null),
            json!({"value": 1.5, "b": 2}),
        ],
    );
    let expected = json!([
        {"value": 5, "b": null}, {"value": "x", "b": null}, {"value": null, "b": null}, {"value": 1.5, "b": 2}
    ]);
    assert_eq!(place.load(), expected);
}

#[test]
fn e4_text_with_zero_bytes_is_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let row = json!({"a": "be\u{0}fore", "b": ["x\u{0}y"]});
    commit(place.open().as_mut(), std::slice::from_ref(&row));
    assert_eq!(place.load(), json!([row]));
}

#[test]
fn e9_names_and_values_from_outside_are_never_sql() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(folder.path(), "{table: \"my \\\"table\\\"; --\"}");
    let row = json!({
        "a\"; DROP TABLE x; --": "'; DROP TABLE numbers; --",
        "select": "\"", "a b": 1, "'": 2, "?1": 3, "é]": 4, "[x]": 5, "`": 6, "rowid": 7, "oid": 8,
    });
    commit(place.open().as_mut(), &[row.clone(), row.clone()]);
    place.key = Some("a\"; DROP TABLE x; --");
    let refused = try_commit(place.open().as_mut(), &[json!({"a b": 1})]);
    check_refused(refused, ErrorKind::Data, &["DROP TABLE", "missing"]);
    place.key = None;
    assert_eq!(place.load(), json!([row, row]));

    let long = "x".repeat(201);
    for (name, words) in [
        ("zero\u{0}byte", "zero byte"),
        (long.as_str(), "200 characters"),
        ("", "200 characters"),
        ("_RowId_", "row's number"),
    ] {
        let row = Value::Object(Map::from_iter([(name.to_owned(), json!(1))]));
        let refused = try_commit(place.open().as_mut(), &[json!({"a b": 2}), row]);
        assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
        check_refused(refused, ErrorKind::Data, &[words]);
    }
    assert_eq!(place.load().as_array().unwrap().len(), 2);
    for table in [
        "{table: sqlite_x}",
        "{table: _wiredflow_cursors}",
        "{table: \"\"}",
    ] {
        let problems = super::sqlite::place(folder.path(), table)
            .check()
            .unwrap_err();
        assert!(
            problems[0].message.contains("cannot be a table"),
            "{problems:?}"
        );
    }
}

#[test]
fn a_field_that_differs_from_a_column_in_letter_case_only_is_refused_and_never_merged() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"Name": 1})]);
    for other in [
        json!({"name": 2, "x": 3}),
        json!({"NAME": 4}),
        json!({"y": 1, "New": 5, "new": 6}),
    ] {
        let refused = try_commit(storage.as_mut(), &[json!({"Name": 1}), other]);
        assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
        check_refused(refused, ErrorKind::Data, &["letter case", "one spelling"]);
    }
    drop(storage);
    let mut storage = place.open();
    let refused = try_commit(storage.as_mut(), &[json!({"name": 2})]);
    check_refused(refused, ErrorKind::Data, &["`name`", "`Name`"]);
    commit(storage.as_mut(), &[json!({"Name": 7})]);
    assert_eq!(load(storage.as_mut()), json!([{"Name": 1}, {"Name": 7}]));
}

#[test]
fn any_value_in_a_column_of_nested_ones_is_loaded_as_it_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let values = [
        json!({"a": 1}),
        json!("plain text"),
        json!("12"),
        json!("{\"a\": 1}"),
        json!("\"quoted\""),
        json!("null"),
        json!(" 1 "),
        json!(""),
        json!("[1"),
        json!(12),
        json!(1.5),
        json!(true),
        json!(null),
        json!([1, "x"]),
    ];
    let rows: Vec<Value> = values.iter().map(|value| json!({"n": value})).collect();
    commit(place.open().as_mut(), &rows);
    assert_eq!(place.load(), Value::Array(rows));
    // For those who read the table with SQL, a text is itself.
    let database = Connection::open(place.file()).unwrap();
    let text: String = database
        .query_row("SELECT n FROM numbers WHERE rowid = 2", (), |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(text, "plain text");
}

#[test]
fn a_table_that_the_user_made_is_used_and_its_rules_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    fs::create_dir(folder.path().join("data")).unwrap();
    let database = Connection::open(place.file()).unwrap();
    database
        .execute_batch(
            "CREATE TABLE Numbers (id INTEGER PRIMARY KEY, a TEXT NOT NULL CHECK (a <> 'bad'), data BLOB);
             INSERT INTO Numbers VALUES (5, 'first', x'00ff');",
        )
        .unwrap();
    drop(database);
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"a": "second"})]);
    for bad in [
        json!({"a": null}),
        json!({"a": "bad"}),
        json!({"id": 5, "a": "x"}),
        json!({"id": "x", "a": "y"}),
    ] {
        let refused = try_commit(storage.as_mut(), &[json!({"a": "third", "more": 1}), bad]);
        assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
        check_refused(refused, ErrorKind::Data, &["the table refuses"]);
    }
    commit(
        storage.as_mut(),
        &[json!({"id": 2, "a": "early", "more": 1})],
    );
    let expected = json!([
        {"id": 2, "a": "early", "data": null, "more": 1},
        {"id": 5, "a": "first", "data": "AP8=", "more": null},
        {"id": 6, "a": "second", "data": null, "more": null},
    ]);
    assert_eq!(load(storage.as_mut()), expected);
}

#[test]
fn what_is_no_table_of_rows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    fs::create_dir(folder.path().join("data")).unwrap();
    let check = |sql: &str, words: &[&str]| {
        let database = Connection::open(place.file()).unwrap();
        database.execute_batch(sql).unwrap();
        drop(database);
        check_refused(place.try_open(), ErrorKind::Config, words);
        fs::remove_file(place.file()).unwrap();
    };
    check("CREATE VIEW numbers AS SELECT 1", &["view", "`table`"]);
    check(
        "CREATE TABLE numbers (a PRIMARY KEY) WITHOUT ROWID",
        &["row numbers"],
    );
    check("PRAGMA application_id = 0x57467374", &["state of a flow"]);
    fs::write(
        place.file(),
        "no database at all, but long enough to have been one".repeat(50),
    )
    .unwrap();
    check_refused(
        place.try_open(),
        ErrorKind::Config,
        &["sensors.db", "no sound SQLite"],
    );
}

#[test]
fn tables_of_one_file_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let tables = ["{table: a}", "{table: b}", "{table: c}", "{table: d}"];
    std::thread::scope(|scope| {
        for table in tables {
            let place = place(folder.path(), table);
            scope.spawn(move || {
                let mut storage = place.open();
                for number in 0..25 {
                    commit(storage.as_mut(), &records(number..number + 1));
                }
            });
        }
    });
    for table in tables {
        let place = place(folder.path(), table);
        assert_eq!(
            place.load(),
            all_loaded("sqlite", &records(0..25)),
            "{table}"
        );
    }
}

#[test]
fn b8_a_database_that_was_removed_is_noticed_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    commit(storage.as_mut(), &records(0..1));
    fs::remove_file(place.file()).unwrap();
    let refused = try_commit(storage.as_mut(), &records(1..2));
    check_refused(refused, ErrorKind::Remote, &["removed"]);
    check_refused(
        storage.load(&Default::default()),
        ErrorKind::Remote,
        &["removed"],
    );
    drop(storage);
    commit(place.open().as_mut(), &records(1..2));
    assert_eq!(place.load(), all_loaded("sqlite", &records(1..2)));
    check_sound(&place);
}

#[test]
fn a_column_that_another_program_has_added_or_dropped_is_found_when_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"a": 1, "b": 2})]);
    let database = Connection::open(place.file()).unwrap();
    database
        .execute_batch("ALTER TABLE numbers DROP COLUMN b; ALTER TABLE numbers ADD COLUMN c;")
        .unwrap();
    drop(database);
    let refused = try_commit(storage.as_mut(), &[json!({"a": 1, "b": 2})]);
    check_refused(refused, ErrorKind::Remote, &["`", "b"]);
    drop(storage);
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"b": 5, "c": 6})]);
    let expected = json!([{"a": 1, "c": null, "b": null}, {"a": null, "c": 6, "b": 5}]);
    assert_eq!(load(storage.as_mut()), expected);
}

#[test]
fn more_columns_than_sqlite_has_are_the_records_fault() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let wide = |from: usize, count: usize| {
        let field = |number: usize| (format!("c{number}"), json!(number));
        Value::Object((from..from + count).map(field).collect())
    };
    let mut storage = place.open();
    let refused = try_commit(storage.as_mut(), &[wide(0, 3), wide(0, 2001)]);
    assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
    check_refused(refused, ErrorKind::Data, &["2000 columns"]);
    commit(storage.as_mut(), &[wide(0, 2000)]);
    let refused = try_commit(storage.as_mut(), &[wide(2000, 1)]);
    check_refused(refused, ErrorKind::Data, &["2000 columns"]);
    let refused = try_commit(place.open().as_mut(), &[json!({})]);
    assert!(refused.is_ok(), "a row of nulls");
    let empty = super::sqlite::place(folder.path(), "{table: empty}");
    check_refused(
        try_commit(empty.open().as_mut(), &[json!({})]),
        ErrorKind::Data,
        &["no field"],
    );
}

#[test]
fn many_shapes_of_records_are_all_stored_right() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    let mut expected = Vec::new();
    for round in 0..3 {
        let row = |number: usize| {
            let fields = (0..9).filter(|bit| number >> bit & 1 == 1);
            let mut fields: Map<String, Value> = fields
                .map(|bit| (format!("f{bit}"), json!(number)))
                .collect();
            fields.insert("n".to_owned(), json!(number));
            Value::Object(fields)
        };
        let rows: Vec<Value> = (0..512)
            .map(|number| row((number * 7 + round) % 512))
            .collect();
        commit(storage.as_mut(), &rows);
        expected.extend(rows);
    }
    let loaded = load(storage.as_mut());
    for (stored, expected) in loaded.as_array().unwrap().iter().zip(&expected) {
        for (name, value) in stored.as_object().unwrap() {
            assert_eq!(
                value,
                expected.get(name).unwrap_or(&Value::Null),
                "{expected}"
            );
        }
    }
    assert_eq!(loaded.as_array().unwrap().len(), expected.len());
    assert_eq!(record(1)["number"], 1);
}
