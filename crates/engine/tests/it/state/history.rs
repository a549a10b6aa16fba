//! Runs, ticks, cursors and dead letters: what a flow finds again.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use futures_util::future::join_all;
use jiff::SignedDuration;
use rusqlite::Connection;
use serde_json::json;
use wiredflow_core::ErrorKind;
use wiredflow_core::storage::{Cursor, Epoch};
use wiredflow_engine::state::{
    Body, DEAD_LETTER_AGE, RUN_AGE, RUN_COUNT, RunEnd, RunOutcome, Selection, StateReader,
    TICK_COUNT, TickClaim,
};

use super::{FLOW, at, check_refused, close, committed, letter, open};

pub(super) const ALL: Selection<'_> = Selection {
    pipeline: None,
    limit: None,
};

#[tokio::test]
async fn a_thousand_runs_at_once_share_a_few_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let runs = join_all((0..1000).map(|number| {
        let handle = handle.clone();
        async move {
            let run = handle.start_run("p", None, at(0)).await.unwrap();
            handle
                .finish_run(run, committed(number), at(1))
                .await
                .unwrap();
            run
        }
    }))
    .await;
    let figures = handle.snapshot();
    assert_eq!(figures.calls, 2000);
    assert!(figures.transactions <= 40, "{figures:?}");
    close(state).await;

    let stored = StateReader::open(folder.path(), FLOW).unwrap();
    let stored = stored.runs(ALL).unwrap();
    assert_eq!(stored.len(), runs.len());
    let records: u64 = stored.iter().map(|run| run.records_in).sum();
    assert_eq!(records, 499_500);
    assert!(stored.is_sorted_by(|newer, older| newer.id > older.id));
    assert!(
        stored
            .iter()
            .all(|run| run.outcome == Some(RunOutcome::Committed))
    );
}

#[tokio::test]
async fn a_call_that_fails_takes_nothing_from_the_others_of_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let known = handle.start_run("p", None, at(0)).await.unwrap();
    handle.finish_run(known, committed(1), at(1)).await.unwrap();
    let cursor = |position: &str| Cursor {
        source: "p/in".to_owned(),
        position: position.to_owned(),
    };
    handle
        .set_cursors("p", vec![cursor("5")], Epoch(5))
        .await
        .unwrap();

    // The refused call moves one cursor before it meets the one that it may not move.
    let other = Cursor {
        source: "p/other".to_owned(),
        position: "1".to_owned(),
    };
    let before = handle.snapshot().transactions;
    let (first, refused, last) = tokio::join!(
        handle.start_run("p", None, at(2)),
        handle.set_cursors("p", vec![other, cursor("4")], Epoch(4)),
        handle.start_run("p", None, at(3)),
    );
    check_refused(refused, ErrorKind::Config, &["taken over", "`p/in`"]);
    assert!(first.unwrap() < last.unwrap());
    assert!(handle.snapshot().transactions - before <= 2);
    assert_eq!(handle.cursor("p", "p/other").await.unwrap(), None);
    let kept = handle.cursor("p", "p/in").await.unwrap().unwrap();
    assert_eq!((kept.position.as_str(), kept.epoch), ("5", Epoch(5)));
    close(state).await;
}

#[tokio::test]
async fn a_tick_runs_once_whoever_asks_and_however_often() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let claims = join_all((0..50).map(|_| handle.claim_tick("p", at(10)))).await;
    let first = claims
        .into_iter()
        .filter(|claim| *claim.as_ref().unwrap() == TickClaim::First);
    assert_eq!(first.count(), 1);
    assert!(
        handle
            .start_tick("p", at(10), at(10))
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        handle
            .start_tick("q", at(10), at(10))
            .await
            .unwrap()
            .is_some()
    );
    handle.finish_tick("p", at(10)).await.unwrap();
    assert_eq!(
        handle.claim_tick("p", at(10)).await.unwrap(),
        TickClaim::Taken
    );
    close(state).await;

    let (state, _) = open(folder.path());
    let claim = state.handle().claim_tick("p", at(10)).await.unwrap();
    assert_eq!(claim, TickClaim::Taken);
    close(state).await;
}

#[tokio::test]
async fn f4_a_grid_outlives_a_restart_and_a_new_definition_starts_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let start = at(0) + SignedDuration::from_nanos(1_999_999);
    let new = handle.schedule("p", "every 10s", start).await.unwrap();
    assert_eq!(new.anchor, at(0) + SignedDuration::from_millis(1));
    assert_eq!((new.last_tick, new.interrupted.len()), (None, 0));
    for tick in [new.anchor, at(20), at(10)] {
        handle.claim_tick("p", tick).await.unwrap();
    }
    handle.finish_tick("p", at(20)).await.unwrap();
    close(state).await;

    let (state, _) = open(folder.path());
    let handle = state.handle();
    let found = handle.schedule("p", "every 10s", at(70)).await.unwrap();
    assert_eq!(found.anchor, new.anchor);
    assert_eq!(found.last_tick, Some(at(20)));
    assert_eq!(found.interrupted, [new.anchor, at(10)]);
    // A clock that was set back does not let the schedule wait for a tick of the future.
    let earlier = handle.schedule("p", "every 10s", at(15)).await.unwrap();
    assert_eq!(earlier.last_tick, Some(at(15)));

    let changed = handle.schedule("p", "every 20s", at(80)).await.unwrap();
    assert_eq!(changed.anchor, at(80));
    assert_eq!((changed.last_tick, changed.interrupted.len()), (None, 0));
    close(state).await;
}

#[tokio::test]
async fn dead_letters_are_found_again_in_the_documented_shape() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let mut record = letter("column `n` wants a text", 5);
    record.trace = Some("line 1\nline 2".to_owned());
    record.params = json!({"city": "Ulm"}).as_object().cloned();
    let record_id = handle.dead_letter(record).await.unwrap();
    let mut payload = letter("not JSON", 6);
    payload.body = Body::Bytes(b"\xff\x00{".as_slice().into());
    payload.pipeline = "q".to_owned();
    let payload_id = handle.dead_letter(payload.clone()).await.unwrap();

    // The flow still runs: a reader needs no lock and sees all that was answered.
    let reader = StateReader::open(folder.path(), FLOW).unwrap();
    let listed = serde_json::to_value(reader.dead_letters(ALL).unwrap()).unwrap();
    assert_eq!(
        listed,
        json!([
            {"id": payload_id, "pipeline": "q", "stage": "store", "reason": "not JSON",
             "time": at(6).to_string(), "bytes": 3},
            {"id": record_id, "pipeline": "p", "stage": "store",
             "reason": "column `n` wants a text", "time": at(5).to_string(), "bytes": 7},
        ])
    );
    let of_p = Selection {
        pipeline: Some("p"),
        limit: Some(1),
    };
    assert_eq!(reader.dead_letters(of_p).unwrap()[0].id, record_id);

    let shown = reader.dead_letter(&record_id.to_string()).unwrap().unwrap();
    assert_eq!((shown.kind.as_str(), shown.attempts), ("data", 3));
    assert_eq!(shown.trace.as_deref(), Some("line 1\nline 2"));
    assert_eq!(shown.params.unwrap()["city"], "Ulm");
    assert_eq!(shown.body, Body::Json(json!({"n": 1})));
    let shown = reader
        .dead_letter(&payload_id.to_string())
        .unwrap()
        .unwrap();
    assert_eq!(shown.body, payload.body);
    let shown = serde_json::to_value(shown).unwrap();
    assert_eq!(shown["body"], json!({"base64": "/wB7"}));
    assert_eq!(reader.dead_letter("nobody").unwrap(), None);
    close(state).await;
}

#[tokio::test]
async fn what_is_too_old_or_too_many_is_removed_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let still_running = handle.start_run("p", None, at(0)).await.unwrap();
    for run in 0..3 {
        let end = RunEnd {
            outcome: RunOutcome::Skipped,
            ..committed(0)
        };
        let started = at(run);
        handle
            .record_run("p", Some(started), started, end, started)
            .await
            .unwrap();
        handle.claim_tick("p", started).await.unwrap();
        handle.dead_letter(letter("old", run)).await.unwrap();
    }
    let unfinished = at(2);
    handle.finish_tick("p", at(0)).await.unwrap();
    assert_eq!(handle.prune(at(3)).await.unwrap(), Default::default());

    // One second after the age of the first two of each.
    let now = at(1) + RUN_AGE + SignedDuration::from_millis(1);
    assert_eq!(RUN_AGE, DEAD_LETTER_AGE);
    let pruned = handle.prune(now).await.unwrap();
    assert_eq!(
        (pruned.runs, pruned.ticks, pruned.dead_letters),
        (2, 2, 2),
        "{pruned:?}"
    );
    let claim = handle.claim_tick("p", unfinished).await.unwrap();
    assert_eq!(claim, TickClaim::Taken);
    close(state).await;

    // More than are kept, written behind the engine's back for speed.
    let database = Connection::open(folder.path().join("state.db")).unwrap();
    let many = |count: u32, insert: &str| {
        let series =
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?1)";
        database
            .execute(&format!("{series} {insert}"), (count, now.as_millisecond()))
            .unwrap();
    };
    many(
        RUN_COUNT + 7_000,
        "INSERT INTO runs (pipeline, started, outcome) SELECT 'p', ?2, 'committed' FROM n",
    );
    many(
        TICK_COUNT + 30,
        "INSERT INTO ticks SELECT 'q', ?2 + x, 'done', 1 FROM n",
    );
    drop(database);
    let (state, _) = open(folder.path());
    let pruned = state.handle().prune(now).await.unwrap();
    // The one old run that is left goes too; the one that was open has been ended by the start.
    assert_eq!((pruned.runs, pruned.ticks), (7_002, 30), "{pruned:?}");
    close(state).await;
    let reader = StateReader::open(folder.path(), FLOW).unwrap();
    let runs = reader.runs(ALL).unwrap();
    assert_eq!(runs.len(), RUN_COUNT as usize);
    assert!(runs.iter().all(|run| run.id != still_running));
}

#[tokio::test]
async fn a_backup_of_a_running_flow_is_a_whole_state() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let id = handle.dead_letter(letter("kept", 1)).await.unwrap();
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let target = copy.join("state.db");
    let reader = StateReader::open(folder.path(), FLOW).unwrap();
    reader.backup(&target).unwrap();
    handle.dead_letter(letter("later", 2)).await.unwrap();
    check_refused(reader.backup(&target), ErrorKind::Config, &["state.db"]);
    close(state).await;

    let names: Vec<_> = fs::read_dir(&copy).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (state, opening) = open(&copy);
    assert!(opening.crash.is_some(), "the copied session had no end");
    let letters = StateReader::open(&copy, FLOW).unwrap();
    let letters = letters.dead_letters(ALL).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id, id);
    close(state).await;
}
