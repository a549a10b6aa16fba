//! What was measured, kept by the minute and by the hour.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wiredflow_engine::run::RunOptions;
use wiredflow_engine::state::{KeptProfile, PROFILE_AGE, PROFILE_MINUTES, StateReader};
use wiredflow_scale::figures::{FlowFigures, StageFigures};
use wiredflow_testkit::wait_until;

use super::{FLOW, at, close, open};
use crate::flows::bench::{Bench, PATIENCE, Started};

/// A minute in which one stage was called so often.
fn minute(begin: Timestamp, calls: u64) -> KeptProfile {
    let mut stage = StageFigures {
        pipeline: "p".to_owned(),
        stage: "s".to_owned(),
        calls,
        ..StageFigures::default()
    };
    (0..calls).for_each(|call| stage.service.note(1000 + call));
    KeptProfile {
        begin,
        end: begin + Duration::from_secs(60),
        figures: FlowFigures {
            flow: FLOW.to_owned(),
            seconds: 60.0,
            stages: vec![stage],
            ..FlowFigures::default()
        },
    }
}

fn calls(kept: &[KeptProfile]) -> Vec<u64> {
    kept.iter().map(|one| one.figures.stages[0].calls).collect()
}

#[tokio::test]
async fn minutes_become_hours_and_hours_go_and_no_call_is_lost_between() {
    let folder = tempfile::tempdir().unwrap();
    let (state, _) = open(folder.path());
    let handle = state.handle();
    // From a quarter past an hour on, three hours.
    let begin = at(100);
    assert_eq!(begin.as_second() % 3600, 15 * 60);
    let minutes: Vec<KeptProfile> = (0..180)
        .map(|number| minute(begin + SignedDuration::from_mins(number), number as u64 % 7))
        .collect();
    for one in &minutes {
        handle.keep_profile(one).await.unwrap();
    }
    let reader = StateReader::open(folder.path(), FLOW).unwrap();
    let all = || reader.profiles(Timestamp::MIN, Timestamp::MAX).unwrap();
    assert_eq!(all(), minutes);
    let some = reader.profiles(minutes[9].end, minutes[12].begin).unwrap();
    assert_eq!(some, minutes[10..12]);

    assert_eq!(handle.thin_profiles(minutes[179].end).await.unwrap(), 0);
    let late = minutes[179].end + PROFILE_MINUTES;
    // The last, begun hour is not over for all of its minutes.
    let thinned = handle.thin_profiles(late).await.unwrap();
    assert_eq!(thinned, 45 + 60 + 60);
    let kept = all();
    assert_eq!(kept.len(), 3 + 15);
    let sum = |kept: &[KeptProfile]| calls(kept).iter().sum::<u64>();
    assert_eq!(sum(&kept), sum(&minutes));
    assert_eq!(
        kept[0].figures.stages[0].service.len(),
        calls(&minutes[..45]).iter().sum::<u64>()
    );
    assert_eq!(
        (kept[0].begin, kept[0].end),
        (minutes[0].begin, minutes[44].end)
    );
    assert_eq!(
        (kept[0].figures.seconds, kept[1].figures.seconds),
        (2700.0, 3600.0)
    );
    assert_eq!(
        handle.thin_profiles(late).await.unwrap(),
        0,
        "again there is nothing to do"
    );

    let last = late + SignedDuration::from_hours(2);
    assert_eq!(handle.thin_profiles(last).await.unwrap(), 15);
    assert_eq!(sum(&all()), sum(&minutes));
    handle.thin_profiles(last + PROFILE_AGE).await.unwrap();
    assert_eq!(all(), []);
    drop(handle);
    close(state).await;
}

#[test]
fn a_flow_keeps_what_it_measures_while_it_runs_and_a_kill_loses_the_last_part_only() {
    let bench = Bench::new();
    let text = "pipelines: {p: {every: 10ms, stages: [{core_logic: {rust: see}}]}}";
    let options = RunOptions {
        profile_each: Duration::from_millis(100),
        ..RunOptions::default()
    };
    let folder = bench.folder().join(".wiredflow");
    let kept = || {
        let reader = StateReader::open(&folder, "test").unwrap();
        reader.profiles(Timestamp::MIN, Timestamp::MAX).unwrap()
    };
    let flow = Started::new(&bench.plan(text), &options);
    wait_until(PATIENCE, || kept().len() >= 3);
    flow.abandon();
    let rows = kept();
    let sum = |kept: &[KeptProfile]| calls(kept).iter().sum::<u64>();
    assert!(
        sum(&rows) > 0 && rows.iter().all(|row| row.begin < row.end),
        "{rows:#?}"
    );
    assert!(
        sum(&rows) <= bench.seen().len() as u64 + 1,
        "each call is in one part"
    );
    for pair in rows.windows(2) {
        assert_eq!(pair[0].end, pair[1].begin);
    }
    // The next start goes on behind them.
    let flow = Started::new(&bench.plan(text), &options);
    wait_until(PATIENCE, || kept().len() > rows.len());
    flow.stop();
    flow.end();
    assert_eq!(kept()[..rows.len()], rows);
}

#[test]
fn where_nothing_is_done_nothing_is_written() {
    let bench = Bench::new();
    let text = "pipelines: {p: {every: 1h, delay: 1h, stages: [{core_logic: {rust: see}}]}}";
    let options = RunOptions {
        profile_each: Duration::from_millis(20),
        ..RunOptions::default()
    };
    let flow = Started::new(&bench.plan(text), &options);
    flow.until(|report| report.seconds > 0.5);
    flow.stop();
    flow.end();
    let reader = StateReader::open(&bench.folder().join(".wiredflow"), "test").unwrap();
    assert_eq!(reader.profiles(Timestamp::MIN, Timestamp::MAX).unwrap(), []);
}
