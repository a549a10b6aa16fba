//! `load: {where}`: every storage gives the rows that match, whatever it makes of values on the disk.

use proptest::prelude::*;
use wiredflow_core::condition::Conditions;
use wiredflow_core::fields::FromNode;

use super::*;

fn read(text: &str) -> Conditions {
    let mut reading = Reading::default();
    let read = Conditions::from_node(&yaml::parse(text).unwrap(), &mut reading);
    read.unwrap_or_else(|| panic!("{text}: {:?}", reading.into_problems()))
}

fn query(conditions: &str, limit: Option<usize>) -> Query {
    Query {
        limit,
        conditions: read(conditions),
    }
}

#[test]
fn each_kind_gives_the_newest_rows_that_match() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let mut storage = place.open();
        let rows: Vec<Value> = (0..10)
            .map(|n| json!({"n": n, "even": n % 2 == 0, "name": format!("row {n}")}))
            .collect();
        commit(storage.as_mut(), &rows);
        let mut names = |conditions: &str, limit: Option<usize>| -> Vec<String> {
            match storage.load(&query(conditions, limit)).unwrap() {
                Loaded::Rows(rows) => rows
                    .iter()
                    .map(|row| row["name"].as_str().unwrap().to_owned())
                    .collect(),
                other => panic!("{kind}: {other:?}"),
            }
        };
        assert_eq!(
            names("{field: n, above: 7}", None),
            ["row 8", "row 9"],
            "{kind}"
        );
        assert_eq!(
            names("{field: even, is: true}", Some(2)),
            ["row 6", "row 8"],
            "{kind}"
        );
        assert_eq!(
            names("{any: [{field: n, is: 3}, {field: name, is: row 5}]}", None),
            ["row 3", "row 5"],
            "{kind}"
        );
        assert_eq!(names("{field: n, above: 7}", Some(0)), [""; 0], "{kind}");
        assert_eq!(
            names("{field: absent, exists: true}", None),
            [""; 0],
            "{kind}"
        );
    }
}

#[test]
fn the_one_object_of_update_matches_or_there_is_nothing() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind).mapping(Mapping::Update);
        let mut storage = place.open();
        commit(storage.as_mut(), &[json!({"a": 1, "b": "x"})]);
        let matching = storage
            .load(&query("{field: a, at_most: 1}", None))
            .unwrap();
        assert!(matches!(matching, Loaded::Object(_)), "{kind}");
        let other = storage.load(&query("{field: b, is: y}", None)).unwrap();
        assert_eq!(other, Loaded::Nothing, "{kind}");
    }
}

#[test]
fn e9_values_and_fields_of_a_condition_are_never_sql() {
    let evil = "'; DROP TABLE numbers;--";
    let column = "a\"b'; DROP TABLE numbers;--";
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), "sqlite");
    let mut storage = place.open();
    commit(
        storage.as_mut(),
        &[json!({column: evil, "n": 1}), json!({column: "x", "n": 2})],
    );
    let condition = |field: &str, value: &str| {
        let node = wiredflow_core::node::Node::from(
            json!({"field": field, "is": value, "at_least": value}),
        );
        Query {
            limit: None,
            conditions: Conditions::from_node(&node, &mut Reading::default()).unwrap(),
        }
    };
    let found = storage.load(&condition(column, evil)).unwrap();
    assert_eq!(found.into_document(), json!([{column: evil, "n": 1}]));
    let none = storage.load(&condition("x\" OR 1=1;--", evil)).unwrap();
    assert_eq!(none, Loaded::Rows(Vec::new()));
    assert_eq!(place.load().as_array().map(Vec::len), Some(2));
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..4).prop_map(Value::from),
        prop_oneof![
            Just(9_007_199_254_740_993_i64),
            Just(9_007_199_254_740_992),
            Just(i64::MAX)
        ]
        .prop_map(Value::from),
        Just(Value::from(u64::MAX)),
        (-6_i32..7).prop_map(|n| Value::from(f64::from(n) / 2.0)),
        Just(Value::from(9_007_199_254_740_992.0_f64)),
        prop_oneof![
            Just("1"),
            Just("1.0"),
            Just(" 2"),
            Just("true"),
            Just("a"),
            Just("b"),
            Just("A"),
            Just(""),
            Just("AAEC")
        ]
        .prop_map(Value::from),
        prop_oneof![Just(json!([1, "a"])), Just(json!({"a": 1}))],
    ]
}

fn conditions() -> impl Strategy<Value = Value> {
    let field = prop_oneof![Just("a"), Just("b"), Just("c"), Just("A")];
    let bound = values().prop_filter("a number or a text", |value| {
        value.is_number() || value.is_string()
    });
    let order = prop_oneof![
        Just("above"),
        Just("at_least"),
        Just("below"),
        Just("at_most")
    ];
    let one = prop_oneof![
        4 => (order, bound).prop_map(|(word, value)| (word, value)),
        2 => values().prop_map(|value| ("is", value)),
        1 => values().prop_map(|value| ("is_not", value)),
        1 => values().prop_map(|value| ("contains", value)),
        1 => any::<bool>().prop_map(|truth| ("exists", json!(truth))),
        1 => prop::collection::vec(values(), 0..3).prop_map(|list| ("one_of", Value::Array(list))),
    ];
    let plain =
        (field, one).prop_map(|(field, (word, value))| json!({"field": field, word: value}));
    prop_oneof![
        3 => plain.clone(),
        1 => prop::collection::vec(plain.clone(), 1..3).prop_map(|list| json!({"any": list})),
        1 => prop::collection::vec(plain, 1..3).prop_map(Value::Array),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The part that SQL does changes no answer: columns without type, of JSON, and of another program's types.
    #[test]
    fn sqlite_gives_the_rows_for_which_the_condition_holds(
        rows in prop::collection::vec((values(), values(), values()), 1..8),
        asked in prop::collection::vec(conditions(), 8),
        typed in prop_oneof![Just(""), Just("TEXT"), Just("INTEGER"), Just("REAL"), Just("TEXT COLLATE NOCASE")],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), "sqlite");
        std::fs::create_dir_all(folder.path().join("data")).unwrap();
        let other = rusqlite::Connection::open(place.file()).unwrap();
        other.execute_batch(&format!("CREATE TABLE numbers (a, b {typed}, c JSON_TEXT, blob DEFAULT x'000102')")).unwrap();
        drop(other);
        let mut storage = place.open();
        let rows: Vec<Value> = rows.into_iter().map(|(a, b, c)| json!({"a": a, "b": b, "c": c})).collect();
        commit(storage.as_mut(), &rows);
        let Value::Array(all) = load(storage.as_mut()) else { panic!("no rows") };
        for asked in asked {
            let node = wiredflow_core::node::Node::from(asked.clone());
            let mut reading = Reading::default();
            let conditions = Conditions::from_node(&node, &mut reading);
            prop_assert!(conditions.is_some(), "{asked}: {:?}", reading.into_problems());
            let conditions = conditions.unwrap();
            let expected: Vec<Value> = all.iter().filter(|row| conditions.hold(row)).cloned().collect();
            let found = storage.load(&Query { limit: None, conditions }).unwrap();
            prop_assert_eq!(found, Loaded::Rows(expected), "{}", asked);
        }
    }
}
