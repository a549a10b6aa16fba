//! A second process beside the first, and one that is killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use wiredflow_core::ErrorKind;
use wiredflow_engine::state::{Past, RunOutcome, Selection, State, StateReader, TickClaim};

use super::{FLOW, at, check_refused, close, letter, open};

/// Tells the other process which folder to work in, and so that it is the other process.
const FOLDER: &str = "WIREDFLOW_TEST_STATE_FOLDER";

/// Starts this test program again, as the process of [`the_other_process`].
fn start_other(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "state::processes::the_other_process"])
        .args(["--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Opens the state, starts a tick's run, says so, and once it reads a line from its parent sets letters
/// aside for ever; it names each only after the state has answered.
#[test]
#[ignore = "run by the other tests of this file, as a process of its own"]
fn the_other_process() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (state, _) = open(&folder);
    let handle = state.handle();
    runtime.block_on(async {
        handle.schedule("p", "every 10s", at(0)).await.unwrap();
        handle.start_tick("p", at(10), at(10)).await.unwrap();
    });
    println!("open");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    if line.is_empty() {
        return;
    }
    for writer in 0..4 {
        let handle = handle.clone();
        runtime.spawn(async move {
            for number in 0.. {
                let reason = format!("writer {writer} number {number}");
                let id = handle.dead_letter(letter(&reason, number)).await.unwrap();
                println!("kept {id} {reason}");
            }
        });
    }
    std::io::stdin().read_line(&mut line).unwrap();
}

/// Waits until the other process holds the folder, and gives what it prints after that.
fn wait_until_open(other: &mut Child) -> BufReader<impl Read + use<>> {
    let mut printed = BufReader::new(other.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("open\n") {
        line.clear();
        let length = printed.read_line(&mut line).unwrap();
        assert_ne!(length, 0, "the other process ended early");
    }
    printed
}

fn kill(other: &mut Child) {
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a10_a_second_process_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = start_other(folder.path());
    let _printed = wait_until_open(&mut other);
    let pid = other.id();
    check_refused(
        State::open(folder.path(), FLOW, at(0)),
        ErrorKind::Config,
        &["in use", &format!("process {pid}")],
    );
    kill(&mut other);

    let (state, opening) = open(folder.path());
    assert_eq!(opening.past, Past::Found);
    let crash = opening.crash.expect("a killed process is a crash");
    assert_eq!((crash.pid, crash.runs, crash.started), (pid, 1, at(0)));
    close(state).await;
    let (state, opening) = open(folder.path());
    assert_eq!(opening.crash, None, "told once");
    close(state).await;
}

#[tokio::test]
async fn f5_a_tick_whose_process_was_killed_can_be_claimed_again_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = start_other(folder.path());
    let _printed = wait_until_open(&mut other);
    kill(&mut other);

    let (state, _) = open(folder.path());
    let handle = state.handle();
    let schedule = handle.schedule("p", "every 10s", at(12)).await.unwrap();
    assert_eq!(schedule.interrupted, [at(10)]);
    assert_eq!(schedule.last_tick, Some(at(10)));
    let reader = StateReader::open(folder.path(), FLOW).unwrap();
    let run = reader.runs(Selection::default()).unwrap().remove(0);
    assert_eq!(run.outcome, Some(RunOutcome::Failed));
    assert!(run.error.unwrap().contains("interrupted"));

    let claim = handle.claim_tick("p", at(10)).await.unwrap();
    assert_eq!(claim, TickClaim::Again);
    let claim = handle.claim_tick("p", at(10)).await.unwrap();
    assert_eq!(claim, TickClaim::Taken);
    let schedule = handle.schedule("p", "every 10s", at(12)).await.unwrap();
    assert!(schedule.interrupted.is_empty(), "{schedule:?}");
    close(state).await;
}

#[tokio::test]
async fn a_killed_process_keeps_every_letter_that_it_was_answered_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut kept = 0;
    for enough in [1, 150, 1_000] {
        let mut other = start_other(folder.path());
        let mut printed = wait_until_open(&mut other);
        let mut input = other.stdin.take().unwrap();
        input.write_all(b"go\n").unwrap();
        let mut ledger = Vec::new();
        let mut line = String::new();
        while printed.read_line(&mut line).unwrap() > 0 {
            // The kill may cut the last line; a whole one is a promise.
            if let Some(promise) = line.strip_suffix('\n') {
                ledger.extend(promise.strip_prefix("kept ").map(str::to_owned));
            }
            line.clear();
            if ledger.len() == enough {
                // A reader of another process, while the writer is at work.
                let reader = StateReader::open(folder.path(), FLOW).unwrap();
                let seen = reader.dead_letters(Selection::default()).unwrap();
                assert!(seen.len() >= kept + enough);
                other.kill().unwrap();
            }
        }
        kill(&mut other);
        assert!(ledger.len() >= enough);

        let (state, opening) = open(folder.path());
        assert!(opening.crash.is_some());
        close(state).await;
        let reader = StateReader::open(folder.path(), FLOW).unwrap();
        for promise in ledger {
            let (id, reason) = promise.split_once(' ').unwrap();
            let letter = reader.dead_letter(id).unwrap().expect("it was answered");
            assert_eq!(letter.listed.reason, reason);
        }
        kept = reader.dead_letters(Selection::default()).unwrap().len();
    }
}
