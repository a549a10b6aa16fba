//! A table of a real PostgreSQL server.

use serde_json::{Value, json};
use wiredflow_core::ErrorKind;
use wiredflow_core::storage::{Cursor, Loaded, Mapping, Query};
use wiredflow_testkit::{Authority, Postgres};

use super::{Place, check_refused, commit, fence, load, try_commit};

fn place(server: &Postgres, folder: &std::path::Path) -> Place {
    let mut place = Place::new(folder, "postgres");
    place.config = Box::leak(format!("{{url: \"{}\"}}", server.url()).into_boxed_str());
    place
}

#[test]
fn each_field_is_a_column_of_its_first_values_type() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let place = place(&server, folder.path());
    let mut storage = place.open();
    assert_eq!(load(storage.as_mut()), Value::Null);
    let rows = [
        json!({"n": 1, "r": 0.1, "t": "12 é \" ' \\ \n", "b": true, "o": {"k": [1, null, "é"]}, "late": null}),
        json!({"n": u64::MAX, "r": 1e300, "late": "text", "o": [1.5]}),
        json!({"r": -3, "b": false, "o": "a text in it", "Late": 5}),
        json!("alone"),
        json!({}),
    ];
    commit(storage.as_mut(), &rows[..1]);
    commit(storage.as_mut(), &rows[1..]);
    let types = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) \
                 FROM information_schema.columns WHERE table_name = 'numbers'";
    assert_eq!(
        server.ask(types),
        "_id bigint, n numeric, r numeric, t text, b boolean, o jsonb, late text, Late numeric, value text"
    );
    let none = json!({"n": null, "r": null, "t": null, "b": null, "o": null, "late": null, "Late": null, "value": null});
    let expected: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut all = none.clone();
            match row.as_object() {
                Some(fields) => all.as_object_mut().unwrap().extend(fields.clone()),
                None => all["value"] = row.clone(),
            }
            all
        })
        .collect();
    assert_eq!(load(storage.as_mut()), json!(expected));
    for limit in [0, 2, 9] {
        let newest = &expected[expected.len().saturating_sub(limit)..];
        let loaded = storage.load(&Query::newest(limit)).unwrap();
        assert_eq!(loaded.into_document(), json!(newest), "{limit}");
    }
}

#[test]
fn a_value_that_its_column_refuses_is_its_records_fault_and_nothing_is_stored() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let place = place(&server, folder.path());
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"n": 1, "t": "a"})]);
    for (bad, word) in [
        (json!({"n": "no number", "t": "b"}), "numeric"),
        (json!({"n": 3, "t": "a\u{0}b"}), "u0000"),
        (json!({"_id": 5}), "numbered"),
        (json!({"x".repeat(64): 5}), "63 bytes"),
    ] {
        let refused = try_commit(
            storage.as_mut(),
            &[json!({"n": 2, "t": "c"}), bad, json!({"n": 4, "t": "d"})],
        );
        assert_eq!(
            refused.as_ref().unwrap_err().record(),
            Some(1),
            "{refused:?}"
        );
        check_refused(refused, ErrorKind::Data, &[word]);
        assert_eq!(load(storage.as_mut()), json!([{"n": 1, "t": "a"}]));
    }
}

#[test]
fn a_table_that_was_there_keeps_its_types_and_its_rules() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    server.ask("CREATE TABLE numbers (id integer PRIMARY KEY, at timestamptz, level real CHECK (level < 100))");
    let mut place = place(&server, folder.path());
    place.key = Some("id");
    let mut storage = place.open();
    let rows = [
        json!({"id": 1, "at": "2026-11-24T01:02:03Z", "level": 1.5}),
        json!({"id": 1, "at": "2026-11-24T01:02:04Z", "level": 2.5}),
        json!({"level": 7, "id": 1}),
        json!({"id": 2, "at": "2026-11-24T01:02:05Z", "new": [1]}),
    ];
    commit(storage.as_mut(), &rows);
    let all = "SELECT id, at AT TIME ZONE 'UTC', level, new FROM numbers ORDER BY id";
    assert_eq!(
        server.ask(all),
        "1|2026-11-24 01:02:04|7|\n2|2026-11-24 01:02:05||[1]"
    );
    let refused = try_commit(
        storage.as_mut(),
        &[json!({"id": 3}), json!({"id": 4, "level": 100})],
    );
    assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
    check_refused(refused, ErrorKind::Data, &["level"]);
    check_refused(
        try_commit(storage.as_mut(), &[json!({"at": "x"})]),
        ErrorKind::Data,
        &["key `id`"],
    );
    // Its rows have no order, until somebody gives them one.
    check_refused(
        storage.load(&Query::default()),
        ErrorKind::Config,
        &["ALTER TABLE"],
    );
    server.ask("ALTER TABLE \"numbers\" ADD COLUMN _id bigint GENERATED ALWAYS AS IDENTITY");
    assert_eq!(load(storage.as_mut()).as_array().unwrap().len(), 2);
}

#[test]
fn mappings_keep_what_they_say() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let update = place(&server, folder.path()).mapping(Mapping::Update);
    let mut storage = update.open();
    commit(
        storage.as_mut(),
        &[json!({"a": 1, "b": {"x": 1}}), json!({"a": 2})],
    );
    drop(storage);
    let mut storage = update.open();
    commit(storage.as_mut(), &[json!({"c": "new", "b": {"y": 2}})]);
    commit(storage.as_mut(), &[]);
    commit(storage.as_mut(), &[json!({})]);
    let all = storage.load(&Query::default()).unwrap();
    assert!(matches!(all, Loaded::Object(_)), "{all:?}");
    assert_eq!(
        all.into_document(),
        json!({"a": 2, "b": {"y": 2}, "c": "new"})
    );
    assert_eq!(server.ask("SELECT count(*) FROM numbers"), "1");
    drop(storage);
    server.ask("DROP TABLE numbers");

    let overwrite = place(&server, folder.path()).mapping(Mapping::Overwrite);
    let mut storage = overwrite.open();
    for rows in [
        [json!({"n": 1}), json!({"n": 2})],
        [json!({"n": 3}), json!({"m": 4})],
    ] {
        commit(storage.as_mut(), &rows);
    }
    assert_eq!(
        load(storage.as_mut()),
        json!([{"n": 3, "m": null}, {"n": null, "m": 4}])
    );
    commit(storage.as_mut(), &[]);
    assert_eq!(load(storage.as_mut()), Value::Null);
    commit(storage.as_mut(), &[json!({"n": 5})]);
    check_refused(
        place(&server, folder.path())
            .mapping(Mapping::Update)
            .try_open()
            .map(drop)
            .and_then(|()| {
                commit(storage.as_mut(), &[json!({"n": 6}), json!({"n": 7})]);
                place(&server, folder.path())
                    .mapping(Mapping::Update)
                    .try_open()
                    .map(drop)
            }),
        ErrorKind::Config,
        &["more than one row"],
    );
}

#[test]
fn rows_and_cursors_are_committed_together_and_an_earlier_owner_is_refused() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let place = place(&server, folder.path());
    let mut storage = place.open();
    let cursor = |position: &str| Cursor {
        source: "s".to_owned(),
        position: position.to_owned(),
    };
    assert_eq!(storage.cursor("s").unwrap(), None);
    let row = json!({"n": 1});
    let first = storage.commit(&[&row], &[cursor("first")], &fence("f/p", 7));
    assert_eq!(first.unwrap().rows(), 1);
    let mut late = place.open();
    let refused = late.commit(&[&row], &[cursor("late")], &fence("f/p", 6));
    check_refused(
        refused,
        ErrorKind::Config,
        &["another owner has taken over"],
    );
    let bad = json!({"n": "x"});
    storage
        .commit(&[&bad], &[cursor("second")], &fence("f/p", 7))
        .unwrap_err();
    assert_eq!(storage.cursor("s").unwrap().as_deref(), Some("first"));
    let third = storage.commit(&[], &[cursor("third")], &fence("f/p", 8));
    assert_eq!(third.unwrap().rows(), 0);
    assert_eq!(place.open().cursor("s").unwrap().as_deref(), Some("third"));
    assert_eq!(server.ask("SELECT count(*) FROM numbers"), "1");
}

#[test]
fn a_server_that_is_killed_is_one_that_is_away_and_what_it_had_is_there() {
    let (mut server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let place = place(&server, folder.path());
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"n": 1})]);
    server.kill9();
    check_refused(
        try_commit(storage.as_mut(), &[json!({"n": 2})]),
        ErrorKind::Remote,
        &["`127.0.0.1:"],
    );
    check_refused(place.try_open(), ErrorKind::Remote, &["cannot be reached"]);
    server.start_again();
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"n": 3})]);
    assert_eq!(load(storage.as_mut()), json!([{"n": 1}, {"n": 3}]));
}

#[test]
fn a_login_a_database_and_a_name_that_are_wrong_are_the_users_matter() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let good = server.url();
    let mut place = place(&server, folder.path());
    for (url, words) in [
        (
            good.replace(":right@", ":wrong@"),
            ["password authentication failed", "flow"],
        ),
        (
            good.replace("/plant", "/desert"),
            ["desert", "does not exist"],
        ),
    ] {
        place.config = Box::leak(format!("{{url: \"{url}\"}}").into_boxed_str());
        let refused = place.try_open();
        let told = refused.as_ref().err().unwrap().to_string();
        assert!(!told.contains("wrong"), "{told}");
        check_refused(refused, ErrorKind::Config, &words);
    }
    for config in [
        "{url: \"5432\"}",
        "{url: \"postgres://\"}",
        "{url: \"postgres://a/b\", table: pg_x}",
    ] {
        place.config = config;
        assert!(place.check().is_err(), "{config}");
    }
}

#[test]
fn two_flows_may_share_a_table() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let place = place(&server, folder.path());
    let work = |who: u64| {
        let mut place = Place::new(folder.path(), "postgres");
        place.config = Box::leak(format!("{{url: \"{}\"}}", server.url()).into_boxed_str());
        move || {
            let mut storage = place.open();
            for n in 0..50 {
                commit(
                    storage.as_mut(),
                    &[json!({"who": who, "n": n, format!("of {who}"): true})],
                );
            }
        }
    };
    let threads: Vec<_> = (0..4).map(|who| std::thread::spawn(work(who))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let mut storage = place.open();
    let rows = load(storage.as_mut());
    assert_eq!(rows.as_array().unwrap().len(), 200);
    assert_eq!(
        server.ask("SELECT count(*) FROM (SELECT DISTINCT who, n FROM numbers) AS all_of_them"),
        "200"
    );
}

#[test]
fn certificates_are_verified() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let server = Postgres::with_tls(&authority.server());
    let ca = authority.path();
    let tls = format!("tls: {{ca: \"{}\"}}", ca.display());
    let mut place = place(&server, folder.path());
    let mut open = |more: &str, url: String| {
        place.config = Box::leak(format!("{{url: \"{url}\", {more}}}").into_boxed_str());
        place.try_open()
    };
    let mut storage = open(&tls, server.url()).unwrap();
    commit(storage.as_mut(), &[json!({"n": 1})]);
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'wiredflow'";
    assert_eq!(server.ask(encrypted), "t");
    // Nobody vouches for it, or it is not asked for at all.
    let words = ["signed by nobody who is trusted here"];
    check_refused(open("tls: {}", server.url()), ErrorKind::Config, &words);
    let required = format!("{}?sslmode=require", server.url());
    check_refused(open("", required), ErrorKind::Config, &words);
    check_refused(
        open("", server.url()),
        ErrorKind::Config,
        &["no encryption"],
    );
}
