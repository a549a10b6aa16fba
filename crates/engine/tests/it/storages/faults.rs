//! Full disks and kills: what was answered is there, and the file is whole.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use wiredflow_core::storage::{Mapping, Query};
use wiredflow_core::{Batch, ErrorKind};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::storages::{Entrusted, Left, Ownership, RowsOf, Writers};

use super::{KINDS, Place, check_refused, commit, load, try_commit};
use crate::small_disk::SmallDisk;

/// Tells the other process what to do, and so that it is the other process.
const WORK: &str = "WIREDFLOW_TEST_STORAGE";

fn row(number: u64) -> Value {
    json!({"number": number, "text": "a, \"b\"\n".repeat(number as usize % 7)})
}

pub(super) fn rows(numbers: std::ops::Range<u64>) -> Vec<Value> {
    numbers.map(row).collect()
}

/// The numbers that are stored.
pub(super) fn numbers(place: &Place) -> Vec<u64> {
    let loaded = place.load();
    let rows = loaded.as_array().cloned().unwrap_or_default();
    let number = |row: &Value| match &row["number"] {
        Value::String(text) => text.parse().unwrap(),
        number => number.as_u64().unwrap(),
    };
    rows.iter().map(number).collect()
}

/// Whether others can read the file.
#[track_caller]
pub(super) fn check_whole(place: &Place) {
    if !place.file().exists() {
        return;
    }
    match place.kind {
        "json" => {
            let bytes = fs::read(place.file()).unwrap();
            serde_json::from_slice::<Vec<Value>>(&bytes).unwrap();
        }
        "sqlite" => {
            let database = rusqlite::Connection::open(place.file()).unwrap();
            let sound: String = database
                .query_row("PRAGMA integrity_check", (), |row| row.get(0))
                .unwrap();
            assert_eq!(sound, "ok");
        }
        _ => {}
    }
}

#[test]
fn b1_a_full_disk_is_told_loses_nothing_and_is_got_over() {
    for mapping in [Mapping::Extend, Mapping::Overwrite] {
        for kind in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let Some(disk) = SmallDisk::mount(folder.path()) else {
                wiredflow_testkit::skipped("b1 on a full disk", "this user may not mount a tmpfs");
                return;
            };
            let place = Place::new(folder.path(), kind).mapping(mapping);
            let mut storage = place.open();
            let large = |number: u64| json!({"number": number, "text": "x".repeat(20_000)});
            let mut expected = Vec::new();
            let refused = loop {
                // Extend adds one row, overwrite writes one row more each time.
                let number = expected.len() as u64;
                let all: Vec<Value> = (0..=number).map(large).collect();
                let rows = if mapping == Mapping::Extend {
                    &all[number as usize..]
                } else {
                    &all
                };
                match try_commit(storage.as_mut(), rows) {
                    Ok(()) => expected.push(number),
                    Err(error) => break error,
                }
                assert!(number < 100, "the disk does not fill");
            };
            check_refused::<()>(Err(refused), ErrorKind::Remote, &["no space left", "data/"]);
            drop(storage);
            assert!(expected.len() > 5, "{kind}");
            for _ in 0..2 {
                // As the owner does: opened again for each attempt.
                let again = place.try_open().and_then(|mut storage| {
                    let rows: Vec<Value> = (0..40).map(large).collect();
                    try_commit(storage.as_mut(), &rows)
                });
                check_refused(again, ErrorKind::Remote, &["no space left"]);
                assert_eq!(numbers(&place), expected, "{kind} {mapping:?}: as it was");
                check_whole(&place);
            }
            disk.grow();
            commit(place.open().as_mut(), &[large(777)]);
            match mapping {
                Mapping::Extend => expected.push(777),
                Mapping::Overwrite | Mapping::Update => expected = vec![777],
            }
            assert_eq!(numbers(&place), expected, "{kind} {mapping:?}");
            check_whole(&place);
        }
    }
}

#[tokio::test]
async fn a16_a_save_that_fails_leaves_no_lock_behind() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let Some(_disk) = SmallDisk::mount(folder.path()) else {
            wiredflow_testkit::skipped("a16 on a full disk", "this user may not mount a tmpfs");
            return;
        };
        let place = Place::new(folder.path(), kind);
        let entrusted = Entrusted {
            name: "numbers",
            opener: place.check().unwrap().opener(Left::Unknown, None),
            apart: false,
        };
        let (writers, mut handles) = Writers::start([entrusted], &Ownership::default()).unwrap();
        let handle = handles.remove(0);
        let commit = |number: u64, size: usize| {
            let row = json!({"number": number, "text": "x".repeat(size)});
            handle.commit(Batch::of_values(vec![row]), RowsOf::default())
        };
        assert_eq!(commit(0, 10).await.unwrap().rows(), 1);
        let too_large =
            futures_util::future::join_all((1..5).map(|number| commit(number, 2 << 20)));
        for refused in too_large.await {
            check_refused(refused, ErrorKind::Remote, &["no space left"]);
        }
        // The disk is as small as before: only what was left behind could be in the way.
        assert_eq!(commit(9, 10).await.unwrap().rows(), 1);
        let stored = handle.load(Query::default()).await.unwrap().into_document();
        assert_eq!(stored.as_array().unwrap().len(), 2, "{kind}");
        drop(handle);
        writers.close(&Clock::real()).await;
        assert_eq!(numbers(&place), [0, 9], "{kind}");
    }
}

/// This test program again, as the process of [`the_other_process`]; `prefix` may put another before it.
pub(super) fn other_process(prefix: &[String], work: &Work) -> Command {
    let own = std::env::current_exe().unwrap();
    let arguments = [
        "--exact",
        "storages::faults::the_other_process",
        "--ignored",
        "--nocapture",
    ];
    let mut command = match prefix {
        [] => Command::new(own),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(own);
            command
        }
    };
    let work = json!({"folder": work.place.folder, "kind": work.place.kind, "commits": work.commits,
                      "overwrite": work.place.mapping == Mapping::Overwrite});
    command
        .args(arguments)
        .env(WORK, work.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// What the other process does.
pub(super) struct Work {
    pub(super) place: Place,
    /// So many commits, each tried again like the owner does; then it ends.
    pub(super) commits: u64,
}

/// Commits the numbers from the first that is not stored on, a few in each commit, and says `kept N` when
/// the storage has answered for all below N.
#[test]
#[ignore = "run by the other tests of this file, as a process of its own"]
fn the_other_process() {
    let Ok(work) = std::env::var(WORK) else {
        return;
    };
    let work: Value = serde_json::from_str(&work).unwrap();
    let folder = PathBuf::from(work["folder"].as_str().unwrap());
    let kind = KINDS
        .into_iter()
        .find(|kind| *kind == work["kind"])
        .unwrap();
    let overwrite = work["overwrite"] == true;
    let mapping = if overwrite {
        Mapping::Overwrite
    } else {
        Mapping::Extend
    };
    let place = Place::new(&folder, kind).mapping(mapping);
    let mut storage = None;
    let mut next = None;
    for commit in 0..work["commits"].as_u64().unwrap() {
        for attempt in 1.. {
            let mut open = match storage.take() {
                Some(storage) => storage,
                None => match place.try_open() {
                    Ok(storage) => storage,
                    Err(error) => {
                        println!("\n{:?} {error}", error.kind());
                        assert!(attempt < 5, "{error}");
                        continue;
                    }
                },
            };
            let begin = match next {
                Some(begin) => begin,
                None => load(open.as_mut())
                    .as_array()
                    .map_or(0, |rows| rows.len() as u64),
            };
            next = Some(begin);
            let end = begin + 1 + (begin + commit) % 4;
            let all = rows(if overwrite { 0..end } else { begin..end });
            match try_commit(open.as_mut(), &all) {
                Ok(()) => {
                    println!("\nkept {end}");
                    next = Some(end);
                    storage = Some(open);
                    break;
                }
                Err(error) => {
                    println!("\n{:?} {error}", error.kind());
                    assert!(attempt < 5, "{error}");
                }
            }
        }
    }
    println!("\nend");
}

/// What the other process has printed: the numbers below `kept` were answered for.
#[derive(Debug, Default)]
pub(super) struct Printed {
    pub(super) kept: u64,
    pub(super) errors: Vec<String>,
    pub(super) ended: bool,
}

impl Printed {
    pub(super) fn add(&mut self, line: &str) {
        // A kill may cut the last line; only a whole one is a promise.
        let Some(line) = line.strip_suffix('\n') else {
            return;
        };
        if let Some(number) = line.strip_prefix("kept ") {
            self.kept = number.parse().unwrap();
        }
        if ["Remote", "Config", "Data", "Bug"]
            .iter()
            .any(|kind| line.starts_with(kind))
        {
            self.errors.push(line.to_owned());
        }
        self.ended |= line == "end";
    }
}

#[test]
fn what_was_answered_outlives_a_kill_at_any_moment() {
    let mut dice = StdRng::seed_from_u64(wiredflow_testkit::seed());
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        for round in 0..6 {
            let enough = dice.random_range(1..40);
            let work = Work {
                place: place.clone(),
                commits: u64::MAX,
            };
            let mut other = other_process(&[], &work).spawn().unwrap();
            let mut output = BufReader::new(other.stdout.take().unwrap());
            let mut printed = Printed::default();
            let mut lines = 0;
            let mut line = String::new();
            while output.read_line(&mut line).unwrap() > 0 {
                printed.add(&line);
                lines += u32::from(line.starts_with("kept "));
                line.clear();
                if lines == enough {
                    other.kill().unwrap();
                }
            }
            other.wait().unwrap();
            assert!(lines >= enough, "{kind}: it ended by itself: {printed:?}");

            let stored = numbers(&place);
            let shown = format!("{kind} round {round}: {printed:?}, {} stored", stored.len());
            assert!(stored.len() as u64 >= printed.kept, "{shown}");
            assert!(stored.iter().copied().eq(0..stored.len() as u64), "{shown}");
            check_whole(&place);
        }
    }
}
