//! What comes again after a crash: it is stored once, and what a crash has left half done is taken back.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_core::delivery::{Identity, Mark, Parcel, Settle, Settled, Token};
use wiredflow_core::storage::{Mapping, Query};
use wiredflow_core::{Batch, Error};
use wiredflow_engine::catalogue::OpenStorage;
use wiredflow_engine::clock::Clock;
use wiredflow_engine::state::{FileCommit, FileLine, State};
use wiredflow_engine::storages::{Entrusted, Left, Ownership, RowsOf, StorageHandle, Writers};

use wiredflow_testkit::wait_until;

use super::{FILES, KINDS, Place};

const PATIENCE: Duration = Duration::from_secs(30);

/// Nobody waits for the end of these deliveries.
struct Nobody;

impl Settle for Nobody {
    fn settled(&self, _: Vec<Settled>) {}
}

/// The start of a flow with one storage, until it is dropped: as by a kill.
struct Process {
    runtime: tokio::runtime::Runtime,
    state: State,
    storage: StorageHandle,
    writers: Writers,
    /// How many deliveries have arrived.
    arrived: Cell<u64>,
}

impl Process {
    fn start(place: &Place, folder: &Path, left: Left) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let now = "2026-11-23T00:00:00Z".parse().unwrap();
        // The last process's threads let go of the folder when they hear that nobody is left.
        let mut opened = None;
        wait_until(PATIENCE, || {
            opened = State::open(&folder.join("state"), "sensors", now).ok();
            opened.is_some()
        });
        let (state, _) = opened.unwrap();
        let opener = place.check().unwrap().opener(left, Some(state.handle()));
        let entrusted = Entrusted {
            name: "numbers",
            opener,
            apart: false,
        };
        let (writers, mut handles) = Writers::start([entrusted], &Ownership::default()).unwrap();
        Self {
            runtime,
            state,
            storage: handles.remove(0),
            writers,
            arrived: Cell::new(0),
        }
    }

    /// Commits deliveries that arrived together, each with its rows; gives how many rows the receipt has.
    fn store(&self, deliveries: &[(Identity, &[Value])]) -> usize {
        let arrived = deliveries.iter().map(|(identity, rows)| {
            let id = self.arrived.get();
            self.arrived.set(id + 1);
            let token = Token { epoch: 7, id };
            (
                Mark {
                    token,
                    identity: Some(*identity),
                },
                rows.to_vec(),
            )
        });
        let nobody: std::sync::Arc<dyn Settle> = std::sync::Arc::new(Nobody);
        let parcel = Parcel::arrived(arrived.collect::<Vec<_>>().into_iter(), &nobody);
        let of = RowsOf {
            pipeline: "p".into(),
            stage: None,
            marks: parcel.lineage.marks(),
        };
        let commit = self.storage.commit(parcel.batch.clone(), of);
        self.runtime.block_on(commit).unwrap().rows()
    }

    fn load(&self) -> Value {
        let loaded = self.storage.load(Query::default());
        self.runtime.block_on(loaded).unwrap().into_document()
    }

    /// All that was asked for is done, and nothing is ended in order.
    fn kill(self) {
        self.runtime.block_on(self.writers.close(&Clock::real()));
    }
}

fn first(place: u32, print: u64) -> Identity {
    Identity {
        session: 3,
        place,
        print,
        again: false,
    }
}

fn again(place: u32, print: u64) -> Identity {
    Identity {
        again: true,
        ..first(place, print)
    }
}

fn row(number: i32) -> Value {
    json!({"n": number.to_string()})
}

#[test]
fn a3_what_was_committed_before_a_crash_is_stored_once() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let process = Process::start(&place, folder.path(), Left::Unknown);
        process.store(&[(first(1, 10), &[row(1), row(2)]), (first(2, 20), &[row(3)])]);
        process.kill();
        let process = Process::start(&place, folder.path(), Left::Unknown);
        // The first comes with a row more than was stored of it; the third was never stored.
        let rows = [row(1), row(2), row(4)];
        process.store(&[
            (again(1, 10), &rows),
            (again(2, 20), &[row(3)]),
            (again(3, 30), &[row(5)]),
        ]);
        let all = json!([row(1), row(2), row(3), row(4), row(5)]);
        assert_eq!(process.load(), all, "{kind}");
        // All of it once more.
        process.kill();
        let process = Process::start(&place, folder.path(), Left::Unknown);
        assert_eq!(
            process.store(&[(again(1, 10), &rows), (again(3, 30), &[row(5)])]),
            4,
            "{kind}"
        );
        assert_eq!(process.load(), all, "{kind}");
        // Another message under an id that is free again.
        process.store(&[(first(1, 10), &[row(6)]), (again(2, 21), &[row(7)])]);
        let all = json!([row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
        assert_eq!(process.load(), all, "{kind}");
    }
}

#[test]
fn a3_with_overwrite_what_comes_again_replaces_nothing() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind).mapping(Mapping::Overwrite);
        let process = Process::start(&place, folder.path(), Left::Unknown);
        process.store(&[(first(1, 10), &[row(1)])]);
        process.store(&[(first(2, 20), &[row(2)])]);
        process.kill();
        let process = Process::start(&place, folder.path(), Left::Unknown);
        process.store(&[(again(1, 10), &[row(1)])]);
        assert_eq!(process.load(), json!([row(2)]), "{kind}");
    }
}

fn name(place: &Place, folder: &Path) -> String {
    let path = place.file();
    path.strip_prefix(folder)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// The line of a commit that appends `bytes`, of which this is all that reached the disk.
fn begin(process: &Process, place: &Place, folder: &Path, bytes: &[u8], reached: usize) {
    let path = place.file();
    let before = fs::read(&path).unwrap();
    let close: &[u8] = match path.extension().unwrap().to_str().unwrap() {
        "json" => b"\n]\n",
        _ => b"",
    };
    let from = before.len() - close.len();
    assert!(before.ends_with(close));
    let state = process.state.handle();
    let name = name(place, folder);
    let line = state.file_line(&name).unwrap().unwrap();
    assert_eq!(line.now.length, before.len() as u64);
    let now = FileCommit {
        from: from as u64,
        length: (from + bytes.len()) as u64,
        digested: (from + bytes.len() - close.len()) as u64,
        digest: vec![7; 16],
        old_end: close.to_vec(),
        inode: None,
        cursors: line.now.cursors.clone(),
    };
    let line = FileLine {
        now,
        length_before: before.len() as u64,
        cursors_before: line.now.cursors,
    };
    state.keep_file_line(&name, line).wait().unwrap();
    let written = [&before[..from], &bytes[..reached]].concat();
    // What is overwritten in part has its old end behind it.
    let written = match before.get(written.len()..) {
        Some(rest) => [&written[..], rest].concat(),
        None => written,
    };
    fs::write(&path, written).unwrap();
}

#[test]
fn a2_a_write_that_was_not_committed_is_taken_back() {
    for kind in FILES {
        let bytes: &[u8] = match kind {
            "csv" => b"8\r\n9\r\n",
            "json" => b",\n{\"n\":\"8\"},\n{\"n\":\"9\"}\n]\n",
            _ => b"{\"n\":\"8\"}\n{\"n\":\"9\"}\n",
        };
        for reached in 0..=bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            let place = Place::new(folder.path(), kind);
            let process = Process::start(&place, folder.path(), Left::Unknown);
            process.store(&[(first(1, 10), &[row(1)])]);
            let before = fs::read(place.file()).unwrap();
            begin(&process, &place, folder.path(), bytes, reached);
            process.kill();
            let process = Process::start(&place, folder.path(), Left::Unknown);
            assert_eq!(process.load(), json!([row(1)]), "{kind}, {reached} bytes");
            assert_eq!(
                fs::read(place.file()).unwrap(),
                before,
                "{kind}, {reached} bytes"
            );
            process.store(&[(again(1, 10), &[row(1)]), (again(2, 20), &[row(2)])]);
            assert_eq!(
                process.load(),
                json!([row(1), row(2)]),
                "{kind}, {reached} bytes"
            );
            let files = fs::read_dir(folder.path().join("data")).unwrap().count();
            assert_eq!(files, 1, "{kind}, {reached} bytes");
        }
    }
}

#[test]
fn what_another_has_added_is_kept_and_after_a_crash_kept_beside() {
    for kind in FILES {
        for (left, kept) in [(Left::InOrder, true), (Left::Unknown, false)] {
            let folder = tempfile::tempdir().unwrap();
            let place = Place::new(folder.path(), kind);
            let process = Process::start(&place, folder.path(), Left::Unknown);
            process.store(&[(first(5, 50), &[row(0)])]);
            process.store(&[(first(1, 10), &[row(1)])]);
            process.kill();
            let text = fs::read_to_string(place.file()).unwrap();
            let added = match kind {
                "csv" => format!("{text}8\r\n"),
                "json" => text.replace("\n]\n", ",\n{\"n\":\"8\"}\n]\n"),
                _ => format!("{text}{{\"n\":\"8\"}}\n"),
            };
            fs::write(place.file(), added).unwrap();
            let process = Process::start(&place, folder.path(), left);
            process.store(&[(again(1, 10), &[row(1)]), (first(2, 20), &[row(2)])]);
            let all = match kept {
                true => json!([row(0), row(1), row(8), row(2)]),
                false => json!([row(0), row(1), row(2)]),
            };
            assert_eq!(process.load(), all, "{kind} {left:?}");
            let files = fs::read_dir(folder.path().join("data")).unwrap().count();
            assert_eq!(files, if kept { 1 } else { 2 }, "{kind} {left:?}");
        }
    }
}

#[test]
fn b9_without_the_state_a_file_goes_on_as_it_is() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let process = Process::start(&place, folder.path(), Left::Unknown);
        process.store(&[(first(1, 10), &[row(1)])]);
        process.kill();
        fs::remove_dir_all(folder.path().join("state")).unwrap();
        let process = Process::start(&place, folder.path(), Left::Unknown);
        process.store(&[(again(1, 10), &[row(1)])]);
        assert_eq!(
            process.load(),
            json!([row(1), row(1)]),
            "{kind}: at least once"
        );
    }
}

#[test]
fn rows_of_no_delivery_are_stored_as_often_as_they_come() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let process = Process::start(&place, folder.path(), Left::Unknown);
        for _ in 0..2 {
            let batch = Batch::of_values(vec![row(1)]);
            let commit = process.storage.commit(batch, RowsOf::default());
            drop(process.runtime.block_on(commit).unwrap());
        }
        process.kill();
        let process = Process::start(&place, folder.path(), Left::Unknown);
        assert_eq!(process.load(), json!([row(1), row(1)]), "{kind}");
    }
}

#[test]
fn a2_a_file_that_cannot_be_opened_at_once_is_still_what_a_crash_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), "jsonl");
    let real = place.check().unwrap();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&seen);
    let storage = OpenStorage::new("a file".to_owned(), move |left, state| {
        let mut noted = noted.lock().unwrap();
        noted.push(left);
        match noted.len() {
            1 => Err(Error::remote("the disk is away")),
            _ => real.opener(left, state)(),
        }
    });
    let opener = storage.opener(Left::Unknown, None);
    assert!(opener().is_err());
    drop(opener().unwrap());
    drop(opener().unwrap());
    assert_eq!(
        *seen.lock().unwrap(),
        [Left::Unknown, Left::Unknown, Left::Here]
    );
}
