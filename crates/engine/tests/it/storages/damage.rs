//! Torn and wrong files, and what opening makes of them.

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};
use wiredflow_core::ErrorKind;
use wiredflow_core::storage::Mapping;

use super::{FILES, Place, all_loaded, check_refused, commit, load, record, records};

/// Those with one JSON record on each line.
const RECORDS: [&str; 2] = ["json", "jsonl"];

/// The files that were kept beside a data file, oldest first.
fn kept_aside(place: &Place) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(place.file().parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains(".corrupt-"))
        .collect();
    paths.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Whether the file is what it promises to everyone else.
#[track_caller]
fn check_valid(place: &Place) {
    let bytes = fs::read(place.file()).unwrap();
    match place.kind {
        "json" => assert!(serde_json::from_slice::<Vec<Value>>(&bytes).is_ok()),
        "jsonl" => {
            let text = str::from_utf8(&bytes).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'));
            for line in text.lines() {
                serde_json::from_str::<Value>(line).unwrap();
            }
        }
        _ => {}
    }
}

/// Three commits, and where the last record of the second ends.
fn three_commits(place: &Place, last: &[Value]) -> (Vec<u8>, usize) {
    let mut storage = place.open();
    commit(storage.as_mut(), &records(0..1));
    commit(storage.as_mut(), &records(1..3));
    let before = fs::metadata(place.file()).unwrap().len() as usize;
    let before = match place.kind {
        "json" => before - 3,
        "jsonl" => before - 1,
        _ => before,
    };
    commit(storage.as_mut(), last);
    drop(storage);
    (fs::read(place.file()).unwrap(), before)
}

#[test]
fn b6_a_file_cut_at_any_byte_is_recovered_to_its_last_whole_record() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let (whole, before) = three_commits(&place, &records(3..4));
        let mut torn = 0;
        for cut in before..whole.len() {
            let folder = tempfile::tempdir().unwrap();
            let place = Place::new(folder.path(), kind);
            fs::create_dir(folder.path().join("data")).unwrap();
            fs::write(place.file(), &whole[..cut]).unwrap();

            let mut storage = place.open();
            let rows = load(storage.as_mut());
            let count = rows.as_array().unwrap().len() as u64;
            assert!((3..=4).contains(&count), "{kind} cut at {cut}: {count}");
            assert_eq!(rows, all_loaded(kind, &records(0..count)), "{kind} {cut}");
            check_valid(&place);
            // Not a byte of data is gone: it is in the file or beside it.
            for kept in kept_aside(&place) {
                assert!(whole[..cut].ends_with(&kept) && count == 3, "{kind} {cut}");
                torn += 1;
            }

            commit(storage.as_mut(), &records(9..10));
            let expected = all_loaded(kind, &records((0..count).chain([9])));
            assert_eq!(load(storage.as_mut()), expected, "{kind} cut at {cut}");
            check_valid(&place);
            drop(storage);
            assert_eq!(place.load(), expected, "{kind} cut at {cut}, reopened");
        }
        assert!(torn > 50, "{kind}: {torn}");
    }
}

#[test]
fn b6_a_first_commit_cut_at_any_byte_leaves_a_storage_that_works() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        commit(place.open().as_mut(), &records(0..1));
        let whole = fs::read(place.file()).unwrap();
        for cut in 0..whole.len() {
            fs::write(place.file(), &whole[..cut]).unwrap();
            let mut storage = place.open();
            let count = load(storage.as_mut()).as_array().map_or(0, Vec::len) as u64;
            commit(storage.as_mut(), &records(9..10));
            let expected = all_loaded(kind, &records((0..count).chain([9])));
            assert_eq!(load(storage.as_mut()), expected, "{kind} cut at {cut}");
            check_valid(&place);
        }
    }
}

/// Bytes of several sorts: noise, zeros of a power cut, and what looks like data.
fn garbage(dice: &mut StdRng) -> Vec<u8> {
    let length = dice.random_range(1..400);
    match dice.random_range(0..4) {
        0 => {
            let mut bytes = vec![0; length];
            dice.fill_bytes(&mut bytes);
            bytes
        }
        1 => vec![0; length * 300],
        _ => {
            let pieces = [
                "{", "}", "[", "]", ",", "\n", "\"", "\"a\":1", "x", "\r\n", "\n]\n", "{\"b\"", ":",
            ];
            let piece = |_| pieces[dice.random_range(0..pieces.len())];
            (0..length).map(piece).collect::<String>().into_bytes()
        }
    }
}

/// Noise that happens to end as a file does cannot be told from a file with damage in its middle.
fn ends_as_a_file_does(kind: &str, bytes: &[u8]) -> bool {
    match kind {
        "csv" => ends_with_a_row(bytes),
        _ => ends_with_a_line_of_json(bytes),
    }
}

/// Whether the last line, read back to where its quotes are paired, has as many fields as the header.
fn ends_with_a_row(bytes: &[u8]) -> bool {
    let mut quoted = false;
    let body = bytes.trim_ascii_end();
    let before = body.iter().rposition(|byte| {
        quoted ^= *byte == b'"';
        !quoted && matches!(byte, b'\n' | b'\r')
    });
    let fields = |bytes: &[u8]| {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(bytes);
        let first = reader.byte_records().next();
        first.map_or(0, |row| row.unwrap().len())
    };
    fields(&body[before.map_or(0, |at| at + 1)..]) == fields(bytes)
}

fn ends_with_a_line_of_json(bytes: &[u8]) -> bool {
    let body = bytes.trim_ascii_end();
    let body = body.strip_suffix(b"]").map_or(body, <[u8]>::trim_ascii_end);
    let line = body.rsplit(|byte| *byte == b'\n').next().unwrap();
    serde_json::from_slice::<Value>(line).is_ok() || line.is_empty()
}

#[test]
fn b6_garbage_at_the_end_is_kept_beside_the_file() {
    let mut dice = StdRng::seed_from_u64(wiredflow_testkit::seed());
    for round in 0..60 {
        for kind in FILES {
            let folder = tempfile::tempdir().unwrap();
            let place = Place::new(folder.path(), kind);
            let (whole, before) = three_commits(&place, &records(3..5));
            let cut = dice.random_range(before + 2..=whole.len());
            let noise = garbage(&mut dice);
            let damaged = [&whole[..cut], &noise].concat();
            fs::write(place.file(), &damaged).unwrap();
            if ends_as_a_file_does(kind, &damaged) {
                continue;
            }
            let shown = || {
                format!(
                    "{kind} round {round}, cut at {cut}, {:?}",
                    String::from_utf8_lossy(&noise)
                )
            };

            let mut storage = place.open();
            let rows = load(storage.as_mut());
            let rows = rows.as_array().unwrap();
            assert_eq!(
                rows[..3],
                all_loaded(kind, &records(0..3)).as_array().unwrap()[..],
                "{}",
                shown()
            );
            check_valid(&place);
            let kept = kept_aside(&place);
            assert!(
                kept.iter().all(|kept| damaged.ends_with(kept)),
                "{}",
                shown()
            );
            commit(storage.as_mut(), &records(9..10));
            let after = load(storage.as_mut());
            let after = after.as_array().unwrap();
            assert_eq!(after.len(), rows.len() + 1, "{}", shown());
            assert_eq!(after[..rows.len()], rows[..], "{}", shown());
            check_valid(&place);
        }
    }
}

#[test]
fn b6_a_hole_that_a_power_cut_left_in_the_last_commit_is_cut_out() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let (mut bytes, before) = three_commits(&place, &records(3..20));
        bytes[before + 300..before + 600].fill(0);
        fs::write(place.file(), &bytes).unwrap();
        let rows = place.load();
        let count = rows.as_array().unwrap().len() as u64;
        assert!((3..8).contains(&count), "{kind}: {count}");
        assert_eq!(rows, all_loaded(kind, &records(0..count)), "{kind}");
        assert_eq!(kept_aside(&place).len(), 1, "{kind}");
    }
}

#[test]
fn a_long_last_record_is_found_though_it_is_larger_than_a_window() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let long = json!({"a": "x\"y\n".repeat(200_000)});
        commit(place.open().as_mut(), &[json!({"a": "b"}), long.clone()]);
        let whole = fs::read(place.file()).unwrap();
        assert_eq!(place.load(), json!([{"a": "b"}, long]), "{kind}");
        fs::write(place.file(), &whole[..whole.len() - 100]).unwrap();
        assert_eq!(place.load(), json!([{"a": "b"}]), "{kind}");
        assert!(kept_aside(&place)[0].len() > 700_000, "{kind}");
    }
}

#[test]
fn two_torn_ends_are_kept_in_two_files() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let (whole, before) = three_commits(&place, &records(3..4));
        for torn in 1..=3 {
            fs::write(place.file(), &whole[..before + 20]).unwrap();
            place.load();
            assert_eq!(kept_aside(&place).len(), torn, "{kind}");
        }
    }
}

/// Runs a line of Python in the folder.
fn python(folder: &Path, code: &str) -> String {
    let output = std::process::Command::new("python3")
        .args(["-c", code])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_array_that_another_program_wrote_is_taken_over_whatever_its_spelling() {
    let rows = json!([{"a": 1, "b": [1, {"c": "] , \""}]}, {"a": 2, "b": []}, 3, "é", {}]);
    for options in [
        "",
        ", indent=4",
        ", indent=0",
        ", indent=1, ensure_ascii=False",
        ", separators=(',', ':')",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), "json");
        fs::create_dir(folder.path().join("data")).unwrap();
        let path = "data/json_in_numbers.json";
        let code = format!(
            "import json; rows = json.loads({:?}); json.dump(rows, open('{path}', 'w'){options})",
            rows.to_string()
        );
        python(folder.path(), &code);
        let mut storage = place.open();
        assert_eq!(load(storage.as_mut()), rows, "{options}");
        commit(storage.as_mut(), &records(7..8));
        let mut expected = rows.as_array().unwrap().clone();
        expected.push(record(7));
        assert_eq!(load(storage.as_mut()), json!(expected), "{options}");
        let read = format!("import json; print(json.dumps(json.load(open('{path}'))))");
        let read: Value = serde_json::from_str(&python(folder.path(), &read)).unwrap();
        assert_eq!(read, json!(expected), "as python reads it");
        assert!(kept_aside(&place).is_empty());
    }
}

#[test]
fn an_array_that_was_edited_by_hand_in_its_middle_is_still_an_array() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), "json");
    commit(
        place.open().as_mut(),
        &[json!(1), json!({"a": 1}), json!(3)],
    );
    let text = fs::read_to_string(place.file()).unwrap();
    fs::write(
        place.file(),
        text.replace("{\"a\":1}", "{\n  \"a\": [\n1, 2]\n}, 2"),
    )
    .unwrap();
    let mut storage = place.open();
    assert_eq!(load(storage.as_mut()), json!([1, {"a": [1, 2]}, 2, 3]));
    commit(storage.as_mut(), &[json!(4)]);
    drop(storage);
    assert_eq!(place.load(), json!([1, {"a": [1, 2]}, 2, 3, 4]));
}

#[test]
fn b7_a_damaged_line_in_the_middle_is_named_and_not_passed_over() {
    for kind in RECORDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        commit(
            place.open().as_mut(),
            &[json!({"a": 1}), json!({"a": 2}), json!({"a": 3})],
        );
        let text = fs::read_to_string(place.file()).unwrap();
        let damaged = text.replace("{\"a\":2}", "{\"a\"?2}");
        fs::write(place.file(), &damaged).unwrap();
        let line = if kind == "json" { "line 3" } else { "line 2" };
        let refused = place.open().load(&Default::default());
        let error = refused.unwrap_err();
        assert!(error.message().contains(line), "{error}");
        assert_eq!(fs::read_to_string(place.file()).unwrap(), damaged);
    }
}

#[test]
fn a_file_of_another_kind_is_refused_and_left_as_it_is() {
    let check = |kind: &'static str, text: &str, words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(place.file(), text).unwrap();
        check_refused(place.try_open(), ErrorKind::Config, words);
        assert_eq!(fs::read_to_string(place.file()).unwrap(), text);
        assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 1);
    };
    check(
        "json",
        "{\"a\": 1}\n",
        &["json_in_numbers.json", "JSON array", "line 1"],
    );
    check(
        "json",
        "[\n  {\"a\": 1},\n  {\"a\": ?}\n]",
        &["JSON array", "line 3"],
    );
    check(
        "json",
        "[{\"a\": 1}]\n[{\"a\": 1}]\n",
        &["JSON array", "line 2"],
    );
    check("json", "a,b\n1,2\n", &["JSON array", "line 1"]);
    check("jsonl", "a,b\n1,2\n", &["jsonl_in_numbers.jsonl", "line 1"]);
}

#[test]
fn a_bare_object_becomes_the_one_object_of_update() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), "json").mapping(Mapping::Update);
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(place.file(), "{\n    \"a\": 1,\n    \"b\": [1, 2]\n}").unwrap();
    commit(place.open().as_mut(), &[json!({"a": 5})]);
    assert_eq!(place.load(), json!({"a": 5, "b": [1, 2]}));
    check_valid(&place);
}

#[test]
fn blank_files_and_byte_order_marks_of_editors_do_no_harm() {
    for kind in RECORDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        fs::create_dir(folder.path().join("data")).unwrap();
        for text in ["", "\n", " \r\n\r\n"] {
            fs::write(place.file(), text).unwrap();
            let mut storage = place.open();
            assert_eq!(load(storage.as_mut()), Value::Null);
            commit(storage.as_mut(), &[json!({"a": 1})]);
            assert_eq!(load(storage.as_mut()), json!([{"a": 1}]));
            check_valid(&place);
        }
    }
    for (kind, text) in [
        ("json", "\u{feff}[{\"a\": 1}]"),
        ("jsonl", "\u{feff}{\"a\": 1}\r\n"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(place.file(), text).unwrap();
        commit(place.open().as_mut(), &[json!({"a": 2})]);
        assert_eq!(place.load(), json!([{"a": 1}, {"a": 2}]), "{kind}");
    }
}
