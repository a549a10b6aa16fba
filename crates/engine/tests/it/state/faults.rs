//! Files that are wrong, gone or of another version, and a disk that is full.

use std::fs;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use wiredflow_core::{Error, ErrorKind};
use wiredflow_engine::state::{
    Body, DeadLetter, Past, Selection, SessionOutcome, State, StateReader,
};

use crate::small_disk::SmallDisk;

use super::{FLOW, at, check_refused, close, letter, open};

#[tokio::test]
async fn a15_a_newer_state_is_refused_and_not_a_byte_of_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    close(open(folder.path()).0).await;
    let path = folder.path().join("state.db");
    // As the newer version leaves it after a crash: with changes in the log that are not folded in.
    let newer = Connection::open(&path).unwrap();
    newer
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    newer
        .execute_batch("CREATE TABLE of_the_future (x); PRAGMA user_version = 99;")
        .unwrap();
    drop(newer);
    let files =
        || ["state.db", "state.db-wal"].map(|name| fs::read(folder.path().join(name)).unwrap());
    let before = files();
    assert!(!before[1].is_empty());

    for _ in 0..2 {
        let refused = State::open(folder.path(), FLOW, at(0));
        check_refused(
            refused,
            ErrorKind::Config,
            &["version 99", "knows versions up to 4"],
        );
        let refused = StateReader::open(folder.path(), FLOW);
        check_refused(
            refused,
            ErrorKind::Config,
            &["version 99", "knows versions up to 4"],
        );
        assert!(files() == before, "the refused state has changed");
    }
}

#[tokio::test]
async fn the_folder_of_another_flow_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    close(open(folder.path()).0).await;
    let words = ["`sensors`", "state: .wiredflow-other"];
    let refused = State::open(folder.path(), "other", at(0));
    check_refused(refused, ErrorKind::Config, &words);
    let refused = StateReader::open(folder.path(), "other");
    check_refused(refused, ErrorKind::Config, &words);
    close(open(folder.path()).0).await;
}

#[tokio::test]
async fn a_file_that_is_no_state_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let text = "a letter to a friend, long enough to be more than a header of a database file. "
        .repeat(20);
    fs::write(&path, &text).unwrap();
    let refused = State::open(folder.path(), FLOW, at(0));
    check_refused(refused, ErrorKind::Config, &["state.db", "move it away"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn b9_a_deleted_state_is_told_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = StateReader::open(folder.path(), FLOW);
    check_refused(
        nothing,
        ErrorKind::Config,
        &["no state of `sensors`", "yet"],
    );
    let (state, opening) = open(folder.path());
    assert_eq!(opening.past, Past::None);
    assert_eq!(opening.crash, None);
    close(state).await;
    let (state, opening) = open(folder.path());
    assert_eq!(opening.past, Past::Found);
    close(state).await;

    fs::remove_file(folder.path().join("state.db")).unwrap();
    let (state, opening) = State::open(folder.path(), FLOW, at(50)).unwrap();
    assert_eq!(opening.past, Past::Lost(at(0)));
    close(state).await;
    fs::write(folder.path().join("state.db"), "").unwrap();
    let (state, opening) = open(folder.path());
    assert_eq!(opening.past, Past::Lost(at(50)));
    close(state).await;
}

#[tokio::test]
async fn a_state_that_is_removed_while_the_flow_runs_is_an_error_and_not_a_silence() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    handle.start_run("p", None, at(0)).await.unwrap();
    fs::remove_file(folder.path().join("state.db")).unwrap();
    let refused = handle.start_run("p", None, at(1)).await;
    check_refused(refused, ErrorKind::Config, &["removed"]);
    drop((state, handle));
}

#[tokio::test]
async fn what_was_sent_before_the_end_is_kept_and_what_comes_after_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let (sent, closed) = tokio::join!(
        futures_util::future::join_all((0..100).map(|_| handle.start_run("p", None, at(0)))),
        state.close(SessionOutcome::Failed, at(1)),
    );
    closed.unwrap();
    assert!(sent.iter().all(Result::is_ok));
    let refused = handle.start_run("p", None, at(0)).await;
    check_refused(refused, ErrorKind::Bug, &["closed"]);
    assert!(!folder.path().join("state.db-wal").exists());
    let reader = StateReader::open(folder.path(), FLOW).unwrap();
    assert_eq!(reader.runs(Selection::default()).unwrap().len(), 100);
    let (state, opening) = open(folder.path());
    assert_eq!(opening.crash, None);
    close(state).await;
}

#[tokio::test]
async fn a4_a_state_that_was_half_made_when_the_process_was_killed_is_made_anew() {
    let making = tempfile::tempdir().unwrap();
    let path = making.path().join("state.db");
    let connection = Connection::open(&path).unwrap();
    // A transaction that has reached the file, and whose journal is still needed: as a kill leaves it.
    connection
        .execute_batch(
            "PRAGMA application_id = 1465275252; PRAGMA cache_size = 1; BEGIN; CREATE TABLE half (x);
             INSERT INTO half VALUES (zeroblob(1000000));",
        )
        .unwrap();
    for read_first in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        for name in ["state.db", "state.db-journal"] {
            fs::copy(making.path().join(name), folder.path().join(name)).unwrap();
        }
        if read_first {
            let nothing = StateReader::open(folder.path(), FLOW);
            check_refused(
                nothing,
                ErrorKind::Config,
                &["no state of `sensors`", "yet"],
            );
        }
        let (state, _) = open(folder.path());
        state.handle().start_run("p", None, at(0)).await.unwrap();
        close(state).await;
    }
}

#[tokio::test]
async fn b2_a_full_disk_is_told_loses_nothing_and_is_got_over() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(place.path()) else {
        wiredflow_testkit::skipped("b2 on a full disk", "this user may not mount a tmpfs");
        return;
    };
    let folder = place.path().join(".wiredflow");
    let (state, _) = open(&folder);
    let handle = state.handle();
    let large = |number: i64| DeadLetter {
        body: Body::Bytes(vec![7; 50_000].into()),
        ..letter("large", number)
    };
    let mut kept = Vec::new();
    let refused: Error = loop {
        match handle.dead_letter(large(kept.len() as i64)).await {
            Ok(id) => kept.push(id),
            Err(error) => break error,
        }
        assert!(kept.len() < 100, "the disk does not fill");
    };
    check_refused::<()>(
        Err(refused),
        ErrorKind::Remote,
        &["no space left", "state.db"],
    );
    assert!(kept.len() > 2, "{kept:?}");
    // All of a group are refused together when SQLite gives the group up, and none hangs.
    let group = (0..20).map(|number| handle.dead_letter(large(number)));
    for answer in futures_util::future::join_all(group).await {
        match answer {
            Ok(id) => kept.push(id),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Remote, "{error}"),
        }
    }
    disk.grow();
    kept.push(handle.dead_letter(large(99)).await.unwrap());
    close(state).await;

    let reader = StateReader::open(&folder, FLOW).unwrap();
    let mut stored = reader.dead_letters(Selection::default()).unwrap();
    stored.reverse();
    let stored: Vec<_> = stored.into_iter().map(|letter| letter.id).collect();
    assert_eq!(stored, kept, "exactly what was answered with a name");
    drop(reader);
}

#[tokio::test]
async fn a_state_damaged_anywhere_is_an_error_or_works_and_never_a_panic() {
    let mut dice = StdRng::seed_from_u64(wiredflow_testkit::seed());
    let whole = {
        let folder = tempfile::tempdir().unwrap();
        let (state, _) = open(folder.path());
        state.handle().start_run("p", None, at(1)).await.unwrap();
        close(state).await;
        fs::read(folder.path().join("state.db")).unwrap()
    };
    for _ in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        crate::storages::noise::damage(&mut bytes, &mut dice);
        fs::write(folder.path().join("state.db"), &bytes).unwrap();
        drop(StateReader::open(folder.path(), FLOW));
        if let Ok((state, _)) = State::open(folder.path(), FLOW, at(2)) {
            drop(state.handle().start_run("p", None, at(3)).await);
            drop(state.close(SessionOutcome::Ended, at(4)).await);
        }
    }
}
