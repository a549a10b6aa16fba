//! Each system call of a commit in turn: it fails once, or the process is killed at it.

use std::fs;
use std::process::Command;

use wiredflow_core::storage::Mapping;

use super::faults::{Printed, Work, check_whole, numbers, other_process, rows};
use super::{Place, commit};

/// Runs the other process for five commits with a fault in one of its system calls on the files of the
/// storage. `None` when there was no such call.
fn run_with_fault(
    place: &Place,
    call: &str,
    fault: &str,
    number: impl std::fmt::Display,
) -> Option<Printed> {
    let log = place.folder.join("strace.log");
    let file = place.file().display().to_string();
    let mut prefix: Vec<String> = ["strace", "-f", "-qq", "-o", log.to_str().unwrap()]
        .map(str::to_owned)
        .to_vec();
    let folder = place.file().parent().unwrap().display().to_string();
    for path in [
        folder,
        file.clone(),
        format!("{file}.new"),
        format!("{file}-wal"),
        format!("{file}-shm"),
    ] {
        prefix.extend(["-P".to_owned(), path]);
    }
    prefix.extend([
        "-e".to_owned(),
        format!("inject={call}:{fault}:when={number}"),
    ]);
    let work = Work {
        place: place.clone(),
        commits: 5,
    };
    let output = other_process(&prefix, &work).output().unwrap();
    let mut printed = Printed::default();
    for line in String::from_utf8(output.stdout)
        .unwrap()
        .split_inclusive('\n')
    {
        printed.add(line);
    }
    let log = fs::read_to_string(&log).unwrap_or_default();
    let happened = log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL +++");
    assert!(happened || printed.ended, "{printed:?}\n{log}");
    happened.then_some(printed)
}

/// Every call of these kinds that five commits make, one after the other, fails once.
fn each_call(
    kind: &'static str,
    mapping: Mapping,
    fault: &str,
    mut check: impl FnMut(&Place, &Printed, &str),
) {
    let mut faults = 0;
    for call in [
        "openat",
        "pwrite64",
        "write",
        "fdatasync",
        "fsync",
        "ftruncate",
        "rename",
    ] {
        for number in 1.. {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("data")).unwrap();
            let place = Place::new(folder.path(), kind).mapping(mapping);
            let shown = format!("{kind} {mapping:?}: {call} {number} {fault}");
            let Some(printed) = run_with_fault(&place, call, fault, number) else {
                break;
            };
            faults += 1;
            check_whole_after(&place, &shown);
            check(&place, &printed, &shown);
        }
    }
    assert!(
        faults >= 10,
        "{kind} {mapping:?}: only {faults} calls could fail"
    );
}

fn check_whole_after(place: &Place, shown: &str) {
    // What a storage has opened is whole for everyone.
    let opened = std::panic::catch_unwind(|| {
        drop(place.open());
        check_whole(place);
    });
    assert!(opened.is_ok(), "{shown}");
}

fn has_strace(test: &str) -> bool {
    let works = Command::new("strace")
        .args(["-qq", "-e", "inject=close:error=EIO:when=100", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        wiredflow_testkit::skipped(test, "strace may not trace here");
    }
    works
}

fn b3(kind: &'static str, mapping: Mapping) {
    if !has_strace("b3 with failing system calls") {
        return;
    }
    each_call(kind, mapping, "error=EIO", |place, printed, shown| {
        assert!(printed.ended, "{shown}: {printed:?}");
        assert!(
            printed
                .errors
                .iter()
                .all(|error| error.starts_with("Remote")),
            "{shown}: {printed:?}"
        );
        let expected: Vec<u64> = (0..printed.kept).collect();
        assert_eq!(numbers(place), expected, "{shown}: each once, {printed:?}");
    });
}

fn a4(kind: &'static str, mapping: Mapping) {
    if !has_strace("a4 with kills at system calls") {
        return;
    }
    each_call(kind, mapping, "signal=SIGKILL", |place, printed, shown| {
        let stored = numbers(place);
        assert!(
            stored.len() as u64 >= printed.kept,
            "{shown}: {printed:?}, {stored:?}"
        );
        assert!(
            stored.len() as u64 <= printed.kept + 4,
            "{shown}: {printed:?}, {stored:?}"
        );
        assert!(
            stored.iter().copied().eq(0..stored.len() as u64),
            "{shown}: {stored:?}"
        );
        let next = stored.len() as u64;
        commit(
            place.open().as_mut(),
            &rows(if place.mapping == Mapping::Overwrite {
                0..next + 1
            } else {
                next..next + 1
            }),
        );
        assert_eq!(numbers(place).len() as u64, next + 1, "{shown}");
    });
}

macro_rules! for_each_storage {
    ($($kind:ident)*) => { $( mod $kind {
        use super::*;

        #[test]
        fn b3_any_call_that_fails_once_costs_no_row_and_doubles_none() {
            super::b3(stringify!($kind), Mapping::Extend);
        }

        #[test]
        fn b3_any_call_that_fails_once_leaves_the_last_rows_or_those_before() {
            super::b3(stringify!($kind), Mapping::Overwrite);
        }

        #[test]
        fn a4_a_kill_at_any_call_leaves_what_was_answered() {
            super::a4(stringify!($kind), Mapping::Extend);
            super::a4(stringify!($kind), Mapping::Overwrite);
        }
    } )* };
}

for_each_storage!(json jsonl csv sqlite);

#[test]
fn b4_a_call_that_is_interrupted_is_made_again() {
    if !has_strace("b4 with interrupted system calls") {
        return;
    }
    for (kind, calls) in [
        ("json", &["pwrite64", "write", "fdatasync"][..]),
        ("sqlite", &["pwrite64"]),
    ] {
        for call in calls {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("data")).unwrap();
            let place = Place::new(folder.path(), kind);
            let shown = format!("{kind}: {call}");
            // Each second one: it works when it is made again.
            let printed = run_with_fault(&place, call, "error=EINTR", "1+2").expect(&shown);
            assert!(
                printed.ended && printed.errors.is_empty(),
                "{shown}: {printed:?}"
            );
            check_whole_after(&place, &shown);
            let expected: Vec<u64> = (0..printed.kept).collect();
            assert_eq!(numbers(&place), expected, "{shown}");
        }
    }
}

#[test]
fn b4_a_short_write_leaves_no_torn_record() {
    // A file may grow to so many blocks of 512 bytes; the write that crosses the limit is cut there, and the next one
    // ends the process.
    for (kind, blocks) in [("json", 2), ("jsonl", 2), ("csv", 2), ("sqlite", 80)] {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let prefix = ["sh".to_owned(), "-c".to_owned(), script];
        let work = Work {
            place: place.clone(),
            commits: 500,
        };
        let output = other_process(&prefix, &work).output().unwrap();
        assert!(!output.status.success(), "{kind}: it met no limit");
        let mut printed = Printed::default();
        for line in String::from_utf8(output.stdout)
            .unwrap()
            .split_inclusive('\n')
        {
            printed.add(line);
        }
        assert!(printed.kept > 0, "{kind}: {printed:?}");
        check_whole_after(&place, kind);
        let stored = numbers(&place);
        assert!(stored.len() as u64 >= printed.kept, "{kind}: {printed:?}");
        assert!(
            stored.iter().copied().eq(0..stored.len() as u64),
            "{kind}: {stored:?}"
        );
        let next = stored.len() as u64;
        commit(place.open().as_mut(), &rows(next..next + 1));
        assert_eq!(numbers(&place).len() as u64, next + 1, "{kind}");
    }
}
