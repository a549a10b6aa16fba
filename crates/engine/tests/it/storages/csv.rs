//! Tables: values that need quotes, columns that come later, and tables of other programs.

use std::fs;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};
use wiredflow_core::ErrorKind;
use wiredflow_core::storage::Mapping;

use wiredflow_engine::storages::Left;

use super::{Place, check_refused, commit, load, try_commit};

fn place(folder: &std::path::Path, config: &'static str) -> Place {
    let mut place = Place::new(folder, "csv");
    place.config = config;
    place
}

fn read(place: &Place) -> String {
    fs::read_to_string(place.file()).unwrap()
}

fn write(place: &Place, text: &str) {
    fs::create_dir_all(place.folder.join("data")).unwrap();
    fs::write(place.file(), text).unwrap();
}

#[test]
fn a_table_is_what_rfc_4180_says() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let row = json!({"a": "x,y", "b": "say \"hi\"", "c": "two\r\nlines", "d": null, "e": 1.5, "f": true,
                     "g": {"h": [1]}, "i": " | "});
    commit(place.open().as_mut(), &[row, json!({"e": 2, "a": ""})]);
    let expected = "a,b,c,d,e,f,g,i\r\n\
        \"x,y\",\"say \"\"hi\"\"\",\"two\r\nlines\",,1.5,true,\"{\"\"h\"\":[1]}\", | \r\n\
        ,,,,2,,,\r\n";
    assert_eq!(read(&place), expected);
}

#[test]
fn b11_what_is_written_is_read_whatever_the_values_names_and_gaps() {
    let seed = wiredflow_testkit::seed();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng);

    let text = || "[,\"'\r\n\u{0}|;\t \u{feff}aé=+@-]{0,6}";
    let value = prop_oneof![
        4 => text().prop_map(Value::String),
        1 => any::<i64>().prop_map(|number| json!(number)),
        1 => any::<bool>().prop_map(|truth| json!(truth)),
        1 => Just(Value::Null),
    ];
    let row = prop::collection::vec((text(), value), 1..5)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()));
    let commits = prop::collection::vec(prop::collection::vec(row, 1..4), 1..4);
    let ran = runner.run(&commits, |commits| {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), "{}");
        let mut names: Vec<&String> = Vec::new();
        for rows in &commits {
            // Opened anew each time: a whole file is never taken for a torn one.
            commit(place.open().as_mut(), rows);
            for name in rows.iter().flat_map(|row| row.as_object().unwrap().keys()) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let text = |value: Option<&Value>| match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let expected: Vec<Value> = commits
            .iter()
            .flatten()
            .map(|row| {
                let field = |name: &&String| ((*name).clone(), json!(text(row.get(name.as_str()))));
                Value::Object(names.iter().map(field).collect::<Map<String, Value>>())
            })
            .collect();
        prop_assert_eq!(place.load().to_string(), json!(expected).to_string());
        let others = fs::read_dir(folder.path().join("data")).unwrap().count();
        prop_assert_eq!(others, 1, "nothing was cut off");
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn b11_python_reads_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let row = json!({"a\n": "x,\"y\"\r\n", "é": " |' ", "b": "\u{feff}end"});
    commit(place.open().as_mut(), &[row.clone(), row.clone()]);
    let code = "import csv, json, sys
print(json.dumps(list(csv.DictReader(open(sys.argv[1], newline='', encoding='utf-8')))))";
    let output = std::process::Command::new("python3")
        .args(["-c", code])
        .arg(place.file())
        .output()
        .unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows, json!([row, row]));
}

#[test]
fn a_new_column_widens_the_table_and_the_rows_before_have_it_empty() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    commit(storage.as_mut(), &[json!({"a": "1,1", "b": 2})]);
    commit(
        storage.as_mut(),
        &[json!({"b": 3}), json!({"c": 4, "a": 5}), json!({"d": 6})],
    );
    assert_eq!(
        read(&place),
        "a,b,c,d\r\n\"1,1\",2,,\r\n,3,,\r\n5,,4,\r\n,,,6\r\n"
    );
    commit(storage.as_mut(), &[json!({"e": 7})]);
    drop(storage);
    let rows = place.load();
    assert_eq!(rows.as_array().unwrap().len(), 5);
    assert_eq!(
        rows[0],
        json!({"a": "1,1", "b": "2", "c": "", "d": "", "e": ""})
    );
    assert_eq!(
        rows[4],
        json!({"a": "", "b": "", "c": "", "d": "", "e": "7"})
    );
}

#[test]
fn a_new_column_can_be_refused_or_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let strict = place(folder.path(), "{new_columns: error}");
    let mut storage = strict.open();
    commit(storage.as_mut(), &[json!({"a": 1, "b": 2})]);
    let refused = try_commit(
        storage.as_mut(),
        &[json!({"b": 3}), json!({"a": 4, "x": 5})],
    );
    assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
    check_refused(refused, ErrorKind::Data, &["`x`", "header"]);
    assert_eq!(read(&strict), "a,b\r\n1,2\r\n");
    drop(storage);

    let loose = place(folder.path(), "{new_columns: drop}");
    commit(
        loose.open().as_mut(),
        &[json!({"x": 5, "a": 4}), json!({"x": 1})],
    );
    assert_eq!(read(&loose), "a,b\r\n1,2\r\n4,\r\n,\r\n");
    let problems = place(folder.path(), "{new_columns: widen}")
        .check()
        .unwrap_err();
    assert!(
        problems[0]
            .help
            .as_deref()
            .unwrap()
            .contains("`extend`, `error`, `drop`")
    );
}

#[test]
fn a_record_without_columns_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    let mut storage = place.open();
    for (row, words) in [
        (json!(5), "no object"),
        (json!([1]), "no object"),
        (json!({}), "no field"),
    ] {
        let refused = try_commit(storage.as_mut(), &[row]);
        assert_eq!(refused.as_ref().unwrap_err().record(), Some(0));
        check_refused(refused, ErrorKind::Data, &[words]);
    }
    let wide: Map<String, Value> = (0..2001).map(|n| (n.to_string(), json!(n))).collect();
    let refused = try_commit(storage.as_mut(), &[json!({"a": 1}), Value::Object(wide)]);
    assert_eq!(refused.as_ref().unwrap_err().record(), Some(1));
    check_refused(refused, ErrorKind::Data, &["2000 columns"]);
    assert!(!place.file().exists());
    commit(storage.as_mut(), &[json!({"a": 1}), json!({})]);
    assert_eq!(load(storage.as_mut()), json!([{"a": "1"}, {"a": ""}]));
    drop(storage);
    assert_eq!(place.load(), json!([{"a": "1"}, {"a": ""}]));
}

#[test]
fn overwrite_and_update_make_a_header_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}").mapping(Mapping::Overwrite);
    commit(place.open().as_mut(), &[json!({"a": 1})]);
    commit(place.open().as_mut(), &[json!({"b": 1}), json!({"c": 2})]);
    assert_eq!(read(&place), "b,c\r\n1,\r\n,2\r\n");
    let strict =
        super::csv::place(folder.path(), "{new_columns: error}").mapping(Mapping::Overwrite);
    let refused = try_commit(strict.open().as_mut(), &[json!({"a": 1})]);
    check_refused(refused, ErrorKind::Data, &["`a`"]);
    commit(strict.open().as_mut(), &[json!({"b": 9})]);
    assert_eq!(read(&strict), "b,c\r\n9,\r\n");
}

#[test]
fn a_table_of_another_program_is_gone_on_with_in_its_own_way() {
    let check = |text: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), "{}");
        write(&place, text);
        commit(place.open().as_mut(), &[json!({"b": "x", "a": 9})]);
        assert_eq!(read(&place), expected);
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1);
    };
    check("a,b\n1,2\n", "a,b\n1,2\n9,x\n");
    check("a,b\r\n", "a,b\r\n9,x\r\n");
    check("\u{feff}a,b\r\n1,2\r\n", "\u{feff}a,b\r\n1,2\r\n9,x\r\n");
    check(
        "\n\"a\",\"b\"\n\"1\n\n\",\"\"\"\"\n\n",
        "\n\"a\",\"b\"\n\"1\n\n\",\"\"\"\"\n9,x\n",
    );
    // A quote that is none, as some programs write it: all rows stay.
    check("a,b\n5\" pipe,2\n3,4\n", "a,b\n5\" pipe,2\n3,4\n9,x\n");
    check("", "b,a\r\nx,9\r\n");
    check("\r\n", "b,a\r\nx,9\r\n");
}

#[test]
fn a_table_that_does_not_fit_its_header_is_refused_and_left_as_it_is() {
    let check = |text: &str, words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), "{}");
        write(&place, text);
        check_refused(place.try_open(), ErrorKind::Config, words);
        assert_eq!(read(&place), text);
    };
    check("a,b,a\n1,2,3\n", &["`a` twice"]);
    check("a,b\n1,2,3\n4,5,6\n", &["do not fit", "2 columns"]);
    let ragged = format!("a,b\n1,2\n{}", "1,2,3\n".repeat(20_000));
    check(&ragged, &["do not fit"]);
}

#[test]
fn a_last_line_without_its_end_is_kept_unless_a_crash_can_have_torn_it() {
    let check = |text: &str, left: Left, expected: &str, files: usize| {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), "{}");
        write(&place, text);
        let mut storage = place.try_open_after(left).unwrap();
        commit(storage.as_mut(), &[json!({"a": 9, "b": "x"})]);
        assert_eq!(read(&place), expected, "{text:?} {left:?}");
        let count = fs::read_dir(folder.path().join("data")).unwrap().count();
        assert_eq!(count, files, "{text:?} {left:?}");
    };
    check("a,b\n1,2\n3,4", Left::InOrder, "a,b\n1,2\n3,4\n9,x\n", 1);
    check(
        "a,b\r\n3,\"4\n\"",
        Left::InOrder,
        "a,b\r\n3,\"4\n\"\r\n9,x\r\n",
        1,
    );
    check("a,b", Left::InOrder, "a,b\r\n9,x\r\n", 1);
    check("a,b\n3,4", Left::Unknown, "a,b\n9,x\n", 2);
    // What is no whole row is torn in any case.
    check("a,b\n1,2\n3", Left::InOrder, "a,b\n1,2\n9,x\n", 2);
    check("a,b\n1,2\n3,\"4", Left::InOrder, "a,b\n1,2\n9,x\n", 2);
}

#[test]
fn b12_a_text_that_a_spreadsheet_would_take_for_a_formula_is_marked_where_asked_for() {
    let row = json!({
        "=name": "=HYPERLINK(\"http://x\")", "plus": "+1", "minus": "-1", "at": "@x", "tab": "\tx", "return": "\rx",
        "number": -1, "real": -1.5, "plain": "a=1", "marked": "'=1", "quote": "it's", "list": [-1],
    });
    let folder = tempfile::tempdir().unwrap();
    let guarded = super::csv::place(folder.path(), "{formula_guard: true}");
    commit(guarded.open().as_mut(), std::slice::from_ref(&row));
    commit(
        guarded.open().as_mut(),
        &[json!({"=name": "x", "-new": "y"})],
    );
    assert_eq!(
        read(&guarded),
        "'=name,plus,minus,at,tab,return,number,real,plain,marked,quote,list,'-new\r\n\
         \"'=HYPERLINK(\"\"http://x\"\")\",'+1,'-1,'@x,'\tx,\"'\rx\",-1,-1.5,a=1,''=1,it's,[-1],\r\n\
         x,,,,,,,,,,,,y\r\n"
    );
    let loaded = guarded.load();
    assert_eq!(loaded[0]["=name"], row["=name"]);
    assert_eq!(
        (&loaded[0]["marked"], &loaded[0]["number"]),
        (&json!("'=1"), &json!("-1"))
    );
    assert_eq!(loaded[1]["-new"], "y");

    let folder = tempfile::tempdir().unwrap();
    let plain = super::csv::place(folder.path(), "{}");
    commit(plain.open().as_mut(), &[json!({"a": "=1"})]);
    assert_eq!(read(&plain), "a\r\n=1\r\n");
}

#[test]
fn b7_a_row_with_another_number_of_fields_is_named_and_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    write(&place, "a,b\n1,2\n3\n4,5\n");
    let mut storage = place.open();
    let refused = storage.load(&Default::default());
    check_refused(refused, ErrorKind::Data, &["line: 3", "csv_in_numbers.csv"]);
    commit(storage.as_mut(), &[json!({"a": 6})]);
    assert_eq!(read(&place), "a,b\n1,2\n3\n4,5\n6,\n");
    let refused = try_commit(storage.as_mut(), &[json!({"new": 6})]);
    check_refused(refused, ErrorKind::Data, &["line: 3"]);
}

#[test]
fn b6_a_row_that_is_torn_within_its_quotes_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "{}");
    commit(place.open().as_mut(), &[json!({"a": 1, "b": "x"})]);
    let whole = read(&place);
    for torn in [
        "2,\"y\r\n",
        "2,\"y\r\n3,\"\"z\"\"\r\n",
        "2,\"",
        "2",
        "2,3",
        "\"\",\"\"\"\r\n",
    ] {
        write(&place, &format!("{whole}{torn}"));
        commit(place.open().as_mut(), &[json!({"a": 9, "b": "end"})]);
        assert_eq!(read(&place), format!("{whole}9,end\r\n"), "{torn:?}");
    }
    assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 7);
}
