//! When deliveries start: grids, overlap, missed ticks, the first round, and clocks that are set.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::{SignedDuration, Timestamp};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::clock::Clock;

use super::bench::{Bench, replace};
use super::turned::{Waits, by, noon, play, seconds, time};

/// A pipeline `p` whose deliveries take 25 s, run for 95 s.
fn slow_for(keys: &str) -> (Bench, u64, u64) {
    let (bench, clock) = (Bench::new(), noon());
    let text = format!(
        "pipelines: {{p: {{every: 10s, {keys}, stages: [{{core_logic: {{rust: see}}, parallel: 10}}]}}}}"
    );
    let mut plan = bench.plan(&text);
    replace(
        &mut plan,
        (0, 0),
        Work::Function,
        Waits::always(&clock, seconds(25)),
    );
    let report = play(&plan, &by(&clock, seconds(95))).report;
    assert!(report.ok, "{report:?}");
    let pipeline = &report.pipelines["p"];
    let (committed, skipped) = (pipeline.deliveries.committed, pipeline.ticks_skipped);
    (bench, committed, skipped)
}

#[test]
fn f3_a_tick_that_comes_while_the_last_delivery_runs_is_skipped_and_counted() {
    let (bench, committed, skipped) = slow_for("overlap: skip");
    let ticks = [(0.0, 0.0), (30.0, 30.0), (60.0, 60.0), (90.0, 90.0)];
    assert_eq!(bench.ticks_of("p"), ticks);
    assert_eq!((committed, skipped), (4, 6));
}

#[test]
fn f3_one_tick_waits_and_those_that_come_meanwhile_are_counted() {
    let (bench, committed, skipped) = slow_for("overlap: queue");
    let ticks = [(0.0, 0.0), (10.0, 25.0), (30.0, 50.0), (60.0, 75.0)];
    assert_eq!(bench.ticks_of("p"), ticks);
    assert_eq!((committed, skipped), (4, 4));
}

#[test]
fn f3_deliveries_that_may_overlap_run_side_by_side() {
    let (bench, committed, skipped) = slow_for("overlap: allow");
    let ticks: Vec<_> = (0..10)
        .map(|n| (f64::from(n) * 10.0, f64::from(n) * 10.0))
        .collect();
    assert_eq!(bench.ticks_of("p"), ticks);
    assert_eq!((committed, skipped), (10, 0));
}

#[test]
fn the_first_run_waits_for_the_delay_and_the_grid_begins_there() {
    let (bench, clock) = (Bench::new(), noon());
    let text = "pipelines: {p: {every: 10s, delay: 3s, stages: [{core_logic: {rust: see}}]}, \
                q: {once: true, delay: 7s, stages: [{core_logic: {rust: see}}]}}";
    assert!(bench.play(text, &clock, seconds(30)).ok);
    let ticks = [(3.0, 3.0), (13.0, 13.0), (23.0, 23.0)];
    assert_eq!(bench.ticks_of("p"), ticks);
    let runs = bench.runs();
    let once = runs.iter().find(|run| run.pipeline == "q").unwrap();
    assert_eq!(once.started, time("2026-01-01T12:00:07Z"));
}

#[test]
fn jitter_moves_the_run_and_not_the_tick() {
    let (bench, clock) = (Bench::new(), noon());
    let text = "pipelines: {p: {every: 10s, jitter: 4s, stages: [{core_logic: {rust: see}}]}}";
    assert!(bench.play(text, &clock, seconds(200)).ok);
    let ticks = bench.ticks_of("p");
    assert!((20..=21).contains(&ticks.len()), "{ticks:?}");
    for (number, (tick, started)) in ticks.iter().enumerate() {
        assert_eq!(*tick, number as f64 * 10.0);
        assert!((0.0..=4.0).contains(&(started - tick)), "{ticks:?}");
    }
    let waits: std::collections::BTreeSet<u64> = ticks
        .iter()
        .map(|(tick, started)| ((started - tick) * 1000.0) as u64)
        .collect();
    assert!(waits.len() > 10, "{ticks:?}");
}

/// Runs a flow for 25 s, then again 63 s after its first start for 12 s, and gives the ticks that ran then and the
/// seconds at which they began.
fn after_downtime(keys: &str) -> Vec<(f64, f64)> {
    let bench = Bench::new();
    let text = format!("pipelines: {{p: {{{keys}, stages: [{{core_logic: {{rust: see}}}}]}}}}");
    assert!(bench.play(&text, &noon(), seconds(25)).ok);
    let before = bench.ticks_of("p");
    let ticks: Vec<f64> = before.iter().map(|(tick, _)| *tick).collect();
    assert_eq!(ticks, [0.0, 10.0, 20.0], "{keys}");
    let again = Clock::paused(time("2026-01-01T12:01:03Z"));
    assert!(bench.play(&text, &again, seconds(12)).ok);
    bench.ticks_of("p").split_off(before.len())
}

#[test]
fn f4_the_grid_outlives_a_restart_and_missed_ticks_are_made_up_for_as_told() {
    for every in ["every: 10s", "cron: \"*/10 * * * * *\""] {
        let latest = [(60.0, 63.0), (70.0, 70.0)];
        assert_eq!(after_downtime(every), latest, "{every}");
        let keys = format!("{every}, catch_up: latest");
        assert_eq!(after_downtime(&keys), latest, "{every}");
        let keys = format!("{every}, catch_up: none");
        assert_eq!(after_downtime(&keys), [(70.0, 70.0)], "{every}");
        let all = [
            (30.0, 63.0),
            (40.0, 63.0),
            (50.0, 63.0),
            (60.0, 63.0),
            (70.0, 70.0),
        ];
        let keys = format!("{every}, catch_up: all");
        assert_eq!(after_downtime(&keys), all, "{every}");
    }
}

#[test]
fn f4_another_period_begins_a_new_grid() {
    let bench = Bench::new();
    let text = |every: &str| {
        format!("pipelines: {{p: {{every: {every}, stages: [{{core_logic: {{rust: see}}}}]}}}}")
    };
    assert!(bench.play(&text("10s"), &noon(), seconds(15)).ok);
    let again = Clock::paused(time("2026-01-01T12:01:03Z"));
    assert!(bench.play(&text("20s"), &again, seconds(25)).ok);
    let ticks = [(0.0, 0.0), (10.0, 10.0), (63.0, 63.0), (83.0, 83.0)];
    assert_eq!(bench.ticks_of("p"), ticks);
}

#[test]
fn a_time_comes_once_whenever_the_flow_runs() {
    let runs = |keys: &str, starts: &[&str]| {
        let bench = Bench::new();
        let text = format!(
            "pipelines: {{p: {{at: \"2026-01-01T12:00:30Z\"{keys}, stages: [{{core_logic: {{rust: see}}}}]}}, \
             other: {{every: 10s, stages: [{{core_logic: {{rust: see}}}}]}}}}"
        );
        for start in starts {
            let clock = Clock::paused(time(start));
            assert!(bench.play(&text, &clock, seconds(10)).ok);
        }
        bench.ticks_of("p")
    };
    let (early, there, late, later) = (
        "2026-01-01T12:00:00Z",
        "2026-01-01T12:00:25Z",
        "2026-01-01T12:05:00Z",
        "2026-01-02T12:00:00Z",
    );
    assert_eq!(runs("", &[early]), []);
    assert_eq!(runs("", &[early, there, late]), [(30.0, 30.0)]);
    assert_eq!(runs("", &[early, late, later]), [(30.0, 300.0)]);
    assert_eq!(runs(", catch_up: none", &[early, late, later]), []);
    assert_eq!(runs("", &[late]), [], "it was never planned");
}

#[test]
fn what_reads_what_others_store_goes_last_in_the_first_round() {
    let started = |keys: &str, slow: u64| {
        let clock = noon();
        let (bench, notes) = Bench::new().noting(&clock);
        let text = format!(
            "pipelines: {{reads: {{every: 1h{keys}, stages: [{{core_logic: {{rust: note}}}}]}}, \
             fast: {{every: 1h, stages: [{{http: \"http://x\"}}]}}, slow: {{every: 1h, stages: [{{http: \"http://x\"}}]}}}}"
        );
        let mut plan = bench.plan(&text);
        replace(
            &mut plan,
            (1, 0),
            Work::Peer,
            Waits::always(&clock, seconds(1)),
        );
        replace(
            &mut plan,
            (2, 0),
            Work::Peer,
            Waits::always(&clock, seconds(slow)),
        );
        assert!(play(&plan, &by(&clock, seconds(25))).report.ok);
        notes.times()
    };
    assert_eq!(started("", 4), [4.0]);
    assert_eq!(started("", 20), [10.0], "10 s at the latest");
    assert_eq!(started(", delay: 2s", 4), [2.0]);
    assert_eq!(started(", delay: 0s", 4), [0.0]);
}

/// A bench whose function `step` sets the clock at some of its calls, to the times given.
fn stepping(clock: &Clock, steps: &'static [(usize, &'static str)]) -> Bench {
    let (clock, calls) = (clock.clone(), Arc::new(AtomicUsize::new(0)));
    Bench::new().with("step", move |call| {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        if let Some((_, to)) = steps.iter().find(|(at, _)| *at == number) {
            let to = match to.parse() {
                Ok(time) => time,
                Err(_) => clock.now() + to.parse::<SignedDuration>().unwrap(),
            };
            clock.set_wall(to);
        }
        Ok(call.data)
    })
}

#[test]
fn f1_a_step_of_the_wall_clock_moves_no_interval_job() {
    let clock = noon();
    let steps = &[
        (2, "1h"),
        (4, "-1h"),
        (6, "1970-01-01T00:00:00Z"),
        (8, "2038-01-19T03:14:08Z"),
        (10, "2026-01-01T12:00:00Z"),
    ];
    let (bench, notes) = stepping(&clock, steps).noting(&clock);
    let text = "pipelines: {p: {every: 10s, stages: [{core_logic: {rust: step}}, {core_logic: {rust: note}}]}}";
    let report = bench.play(text, &clock, seconds(155));
    assert!(report.ok, "{report:?}");
    let expected: Vec<f64> = (0..16).map(|n| f64::from(n) * 10.0).collect();
    assert_eq!(notes.times(), expected);
    let ticks: Vec<f64> = bench.ticks_of("p").iter().map(|(tick, _)| *tick).collect();
    assert_eq!(ticks, expected, "their names are those of the grid");
}

#[test]
fn f1_a_cron_job_plans_anew_after_a_step_of_the_wall_clock_and_runs_no_tick_twice() {
    let clock = noon();
    let steps = &[
        (2, "1h"),
        (5, "-1h"),
        (8, "1970-01-01T00:05:00Z"),
        (11, "2038-01-19T03:05:00Z"),
        (14, "2026-01-02T12:05:00Z"),
    ];
    let (bench, notes) = stepping(&clock, steps).noting(&clock);
    let text = "pipelines: {p: {cron: \"*/10 * * * *\", stages: [{core_logic: {rust: step}}, {core_logic: {rust: note}}]}}";
    let report = bench.play(text, &clock, seconds(5 * 3600));
    assert!(report.ok, "{report:?}");
    let runs = bench.runs();
    let ticks: Vec<Timestamp> = runs.iter().filter_map(|run| run.scheduled_at).collect();
    let mut apart = ticks.clone();
    apart.sort();
    apart.dedup();
    assert_eq!(apart.len(), ticks.len(), "a tick ran twice: {ticks:?}");
    for year in [1970, 2026, 2038] {
        let zone = jiff::tz::TimeZone::UTC;
        let of = |tick: &&Timestamp| tick.to_zoned(zone.clone()).year() == year;
        assert!(ticks.iter().filter(of).count() >= 3, "{year}: {ticks:?}");
    }
    // No stall beyond what had run already, no burst, and the step forward is made up for once.
    let times = notes.times();
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap <= 3600.0), "{gaps:?}");
    let bursts = gaps.iter().filter(|gap| **gap < 300.0).count();
    assert!(bursts <= 3, "{gaps:?}");
    assert!((20..=35).contains(&times.len()), "{times:?}");
}

#[test]
fn f2_a_cron_job_runs_once_in_the_nights_on_which_the_clocks_change() {
    let text = "pipelines: {p: {cron: \"30 2 * * *\", time_zone: Europe/Berlin, stages: [{core_logic: {rust: see}}]}}";
    for (night, tick) in [
        ("2026-03-28T23:30:00Z", "2026-03-29T01:00:00Z"),
        ("2026-10-24T23:30:00Z", "2026-10-25T00:30:00Z"),
    ] {
        let bench = Bench::new();
        let clock = Clock::paused(time(night));
        assert!(bench.play(text, &clock, seconds(3 * 3600)).ok);
        let runs = bench.runs();
        let ticks: Vec<_> = runs
            .iter()
            .map(|run| (run.scheduled_at, run.started))
            .collect();
        assert_eq!(ticks, [(Some(time(tick)), time(tick))]);
    }
}
