//! Tables of a database: rows that a key tells apart, and rows that are committed with a cursor.

use rusqlite::Connection;
use serde_json::{Value, json};
use wiredflow_core::ErrorKind;
use wiredflow_core::storage::{Cursor, Epoch, Mapping};

use super::sqlite::{check_sound, place};
use super::{check_refused, commit, fence, load, try_commit};

#[test]
fn key_makes_a_later_row_replace_the_fields_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(folder.path(), "{}");
    place.key = Some("id");
    let mut storage = place.open();
    commit(
        storage.as_mut(),
        &[
            json!({"id": 1, "a": 1}),
            json!({"id": "1", "a": 2}),
            json!({"id": 1, "b": 3}),
        ],
    );
    drop(storage);
    let mut storage = place.open();
    commit(
        storage.as_mut(),
        &[
            json!({"id": 7}),
            json!({"id": 7}),
            json!({"a": 9, "id": "1"}),
        ],
    );
    let expected = json!([
        {"id": 1, "a": 1, "b": 3}, {"id": "1", "a": 9, "b": null}, {"id": 7, "a": null, "b": null}
    ]);
    assert_eq!(load(storage.as_mut()), expected);
}

#[test]
fn e8_a_key_that_is_missing_or_null_is_the_records_fault_and_its_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(folder.path(), "{}");
    place.key = Some("id");
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"id": 1, "a": 1})]);
    for bad in [
        json!({"a": 2}),
        json!({"id": null, "a": 2}),
        json!({"id": [1], "a": 2}),
        json!(5),
        json!({}),
    ] {
        let refused = try_commit(storage.as_mut(), &[json!({"id": 2, "a": 2}), bad]);
        assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
        check_refused(refused, ErrorKind::Data, &["key `id`"]);
    }
    assert_eq!(load(storage.as_mut()), json!([{"id": 1, "a": 1}]));
}

#[test]
fn a_key_over_rows_that_share_it_is_the_users_to_mend() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(folder.path(), "{}");
    commit(place.open().as_mut(), &[json!({"id": 1}), json!({"id": 1})]);
    place.key = Some("id");
    let refused = try_commit(place.open().as_mut(), &[json!({"id": 2})]);
    check_refused(refused, ErrorKind::Config, &["same `id`"]);
    place.mapping = Mapping::Update;
    let problems = place.check().unwrap_err();
    assert!(problems[0].message.contains("`key` has no use"));
    place.mapping = Mapping::Overwrite;
    commit(
        place.open().as_mut(),
        &[json!({"id": 3}), json!({"id": 3}), json!({"id": 4})],
    );
    assert_eq!(place.load(), json!([{"id": 3}, {"id": 4}]));
}

#[test]
fn rows_and_cursor_are_committed_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    let cursor = |position: &str| Cursor {
        source: "p/in".to_owned(),
        position: position.to_owned(),
    };
    let mut put = |rows: &[Value], position: &str, epoch: u64| {
        let rows: Vec<&Value> = rows.iter().collect();
        storage
            .commit(&rows, &[cursor(position)], &fence("f/p", epoch))
            .map(|receipt| receipt.rows())
    };
    assert_eq!(put(&[json!({"a": 1})], "10", 3).unwrap(), 1);
    assert_eq!(put(&[], "11", 3).unwrap(), 0);
    let stored = || {
        let database = Connection::open(place.file()).unwrap();
        let sql = "SELECT storage || ' ' || source || ' ' || position || ' ' || epoch FROM _wiredflow_cursors
                   WHERE position IS NOT NULL";
        database
            .query_row(sql, (), |row| row.get::<_, String>(0))
            .unwrap()
    };
    assert_eq!(stored(), "numbers p/in 11 3");
    put(&[json!({"a": 2}), json!({"x\u{0}": 2})], "12", 3).unwrap_err();
    assert_eq!(stored(), "numbers p/in 11 3");
    // An owner that was replaced comes back: neither its rows nor its cursor are taken.
    assert_eq!(put(&[json!({"a": 3})], "13", 4).unwrap(), 1);
    check_refused(
        put(&[json!({"a": 4, "new": 1})], "14", 3),
        ErrorKind::Config,
        &["taken over", "3"],
    );
    assert_eq!(stored(), "numbers p/in 13 4");
    drop(storage);
    assert_eq!(place.load(), json!([{"a": 1}, {"a": 3}]));
    check_sound(&place);
}

#[test]
fn a_commit_of_an_earlier_owner_is_refused_without_a_cursor_too() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    let row = json!({"a": 1});
    for _ in 0..2 {
        drop(storage.commit(&[&row], &[], &fence("f/p", 2)).unwrap());
    }
    let refused = storage.commit(&[&row], &[], &fence("f/p", 1));
    let other = storage.commit(&[&row], &[], &fence("f/q", 1));
    assert_eq!(other.unwrap().rows(), 1);
    assert_eq!(refused.as_ref().unwrap_err().fenced_by(), Some(Epoch(2)));
    check_refused(refused, ErrorKind::Config, &["taken over"]);
    assert_eq!(load(storage.as_mut()).as_array().unwrap().len(), 3);
    // An owner that has only said that it begins keeps earlier ones out as well.
    storage.take_over(&fence("f/q", 4)).unwrap();
    let refused = place.open().take_over(&fence("f/q", 3));
    check_refused(refused, ErrorKind::Config, &["`f/q`", "epoch 4"]);
    check_refused(
        storage.take_over(&fence("f/q", 0)),
        ErrorKind::Config,
        &["belongs to a cluster"],
    );
    storage.take_over(&fence("f/nobody", 0)).unwrap();
}
