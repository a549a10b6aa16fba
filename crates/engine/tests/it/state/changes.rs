//! Starts and ends of runs that are written together.

use std::sync::Arc;

use wiredflow_core::ErrorKind;
use wiredflow_engine::state::{RunChange, RunOutcome, StartedRun, StateReader, TickClaim};

use super::history::ALL;
use super::{FLOW, at, check_refused, close, committed, open};

fn change(run: StartedRun, is_known: bool, records: Option<u64>) -> RunChange {
    RunChange {
        run,
        pipeline: "p".into(),
        is_known,
        cursors: Vec::new(),
        end: records.map(|records| (committed(records), at(50))),
    }
}

#[tokio::test]
async fn a_run_that_is_over_when_it_is_written_costs_a_row_and_its_tick() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let ended = |tick: i64| {
        let run = handle.begin_run(Some(at(tick)), at(tick));
        change(run, false, Some(tick.unsigned_abs()))
    };
    let changes: Arc<[RunChange]> = (0..1000).map(ended).collect();
    let before = handle.snapshot();
    handle.write_runs(changes).await.unwrap();
    let after = handle.snapshot();
    assert_eq!(after.transactions - before.transactions, 1);
    assert_eq!(after.rows - before.rows, 2000);
    close(state).await;

    let stored = StateReader::open(folder.path(), FLOW).unwrap();
    let stored = stored.runs(ALL).unwrap();
    assert_eq!(stored.len(), 1000);
    for (run, tick) in stored.iter().rev().zip(0..) {
        assert_eq!(run.scheduled_at, Some(at(tick)));
        assert_eq!(run.ended, Some(at(50)));
        assert_eq!(run.records_in, tick.unsigned_abs());
        assert_eq!(run.outcome, Some(RunOutcome::Committed));
    }
}

#[tokio::test]
async fn f5_a_run_that_goes_on_is_seen_and_its_tick_is_interrupted_by_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    handle.schedule("p", "every 10s", at(0)).await.unwrap();
    let (long, short) = (
        handle.begin_run(Some(at(10)), at(10)),
        handle.begin_run(Some(at(20)), at(20)),
    );
    let starts = [change(long, false, None), change(short, false, None)];
    handle.write_runs(starts.into()).await.unwrap();
    let reader = StateReader::open(folder.path(), FLOW).unwrap();
    let outcomes = |reader: &StateReader| {
        let runs = reader.runs(ALL).unwrap();
        runs.iter().map(|run| run.outcome).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(&reader), [None, None]);
    let end = [change(short, true, Some(7))];
    handle.write_runs(end.into()).await.unwrap();
    assert_eq!(outcomes(&reader), [Some(RunOutcome::Committed), None]);
    drop((state, handle));

    let mut opened = None;
    wiredflow_testkit::wait_until(std::time::Duration::from_secs(60), || {
        opened = wiredflow_engine::state::State::open(folder.path(), FLOW, at(60)).ok();
        opened.is_some()
    });
    let (state, opening) = opened.unwrap();
    assert_eq!(opening.crash.unwrap().runs, 1);
    assert_eq!(
        outcomes(&reader),
        [Some(RunOutcome::Committed), Some(RunOutcome::Failed)]
    );
    let handle = state.handle();
    let known = handle.schedule("p", "every 10s", at(60)).await.unwrap();
    assert_eq!(known.last_tick, Some(at(20)));
    assert_eq!(known.newest, Some(at(20)));
    assert_eq!(known.interrupted, [at(10)]);
    let claims = [
        handle.claim_tick("p", at(10)).await.unwrap(),
        handle.claim_tick("p", at(20)).await.unwrap(),
    ];
    assert_eq!(claims, [TickClaim::Again, TickClaim::Taken]);
    // A run that begins now does not take the number of an old one.
    assert!(handle.begin_run(None, at(61)).id > short.id);
    close(state).await;
}

#[tokio::test]
async fn the_newest_tick_outlives_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    handle.schedule("p", "@yearly", at(0)).await.unwrap();
    let run = handle.begin_run(Some(at(10)), at(10));
    let ended = [change(run, false, Some(1))];
    handle.write_runs(ended.into()).await.unwrap();
    let later = at(40 * 24 * 3600);
    assert_eq!(handle.prune(later).await.unwrap().ticks, 1);
    let known = handle.schedule("p", "@yearly", later).await.unwrap();
    assert_eq!((known.last_tick, known.newest), (Some(at(10)), None));
    close(state).await;
}

#[tokio::test]
async fn a_change_that_cannot_be_written_leaves_nothing_and_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    let run = handle.begin_run(None, at(0));
    let first: Arc<[RunChange]> = [change(run, false, None)].into();
    handle.write_runs(Arc::clone(&first)).await.unwrap();
    let other = handle.begin_run(Some(at(1)), at(1));
    let twice = [change(other, false, None), first[0].clone()];
    let (refused, started) = tokio::join!(
        handle.write_runs(twice.into()),
        handle.start_run("p", None, at(2)),
    );
    check_refused(refused, ErrorKind::Bug, &["runs.id"]);
    started.unwrap();
    assert_eq!(
        handle.claim_tick("p", at(1)).await.unwrap(),
        TickClaim::First
    );
    close(state).await;
    let stored = StateReader::open(folder.path(), FLOW).unwrap();
    assert_eq!(stored.runs(ALL).unwrap().len(), 2);
}
