//! The grid of `every`, missed ticks, single ticks, jitter, and what is refused.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use wiredflow_core::schedule::{CATCH_UP_CAP, CatchUp, Missed, Schedule, jittered, parse_time};

const POLICIES: [CatchUp; 3] = [CatchUp::Latest, CatchUp::All, CatchUp::None];

pub(crate) fn time(text: &str) -> Timestamp {
    parse_time(text).unwrap()
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn every_ticks_on_its_grid_from_the_anchor_on() {
    let schedule = Schedule::every(millis(10_000)).unwrap();
    let anchor = time("2026-01-01T00:00:03Z");
    for (after, tick) in [
        ("2025-12-31T00:00:00Z", "2026-01-01T00:00:03Z"),
        ("2026-01-01T00:00:02.999999999Z", "2026-01-01T00:00:03Z"),
        ("2026-01-01T00:00:03Z", "2026-01-01T00:00:13Z"),
        ("2026-01-01T00:00:12.999999999Z", "2026-01-01T00:00:13Z"),
        ("2036-01-01T00:00:00Z", "2036-01-01T00:00:03Z"),
    ] {
        assert_eq!(
            schedule.next_after(anchor, time(after)),
            Some(time(tick)),
            "after {after}"
        );
    }
    assert_eq!(schedule.next_after(anchor, Timestamp::MAX), None);
    let eternity = Schedule::every(Duration::MAX).unwrap();
    assert_eq!(eternity.next_after(Timestamp::MIN, Timestamp::MAX), None);
}

#[test]
fn a_period_under_ten_milliseconds_is_refused() {
    assert!(Schedule::every(millis(10)).is_ok());
    let refused = Schedule::every(millis(9)).unwrap_err();
    assert!(
        refused.contains("`every` is 9ms") && refused.contains("at least `10ms`"),
        "{refused}"
    );
    assert!(Schedule::every(Duration::ZERO).is_err());
}

#[test]
fn at_ticks_once_and_once_never_again() {
    let noon = time("2026-03-01T12:00:00Z");
    let before = noon - SignedDuration::from_nanos(1);
    let at = Schedule::at(noon);
    assert_eq!(at.next_after(before, before), Some(noon));
    assert_eq!(at.next_after(before, noon), None);
    assert_eq!(Schedule::once().next_after(before, before), None);

    let later = noon + SignedDuration::from_hours(1);
    for policy in POLICIES {
        let wanted = if policy == CatchUp::None {
            vec![]
        } else {
            vec![noon]
        };
        let dropped = 1 - wanted.len() as u64;
        assert_eq!(
            at.missed(before, before, later, policy, 1000),
            Missed {
                ticks: wanted,
                dropped
            }
        );
        assert_eq!(
            at.missed(before, noon, later, policy, 1000),
            Missed::default()
        );
        assert_eq!(
            Schedule::once().missed(before, before, later, policy, 1000),
            Missed::default()
        );
    }
}

#[test]
fn the_first_tick_waits_for_the_delay() {
    let started = time("2026-03-01T11:59:58Z");
    let delay = millis(5_000);
    let end = time("2026-03-01T12:00:03Z");
    let cron = |text| Schedule::cron(text, "UTC").unwrap();
    for (schedule, first) in [
        (Schedule::every(millis(60_000)).unwrap(), Some(end)),
        (Schedule::once(), Some(end)),
        (cron("0 * * * *"), Some(time("2026-03-01T13:00:00Z"))),
        (cron("3 0 12 * * *"), Some(end)),
        (Schedule::at(time("2026-03-01T12:00:00Z")), Some(end)),
        (
            Schedule::at(time("2026-03-01T18:00:00Z")),
            Some(time("2026-03-01T18:00:00Z")),
        ),
        (Schedule::at(time("2026-03-01T11:00:00Z")), None),
    ] {
        assert_eq!(schedule.first(started, delay), first, "{schedule}");
    }
    assert_eq!(
        cron("0 12 * * *").first(time("2026-03-01T12:00:00Z"), Duration::ZERO),
        Some(time("2026-03-01T12:00:00Z"))
    );
}

#[test]
fn f4_five_missed_ticks_are_made_up_for_as_the_policy_says() {
    let anchor = time("2026-01-01T00:00:00Z");
    let (last, now) = (time("2026-01-01T00:00:20Z"), time("2026-01-01T00:01:10.5Z"));
    let tick = |second| anchor + SignedDuration::from_secs(second);
    let every = Schedule::every(millis(10_000)).unwrap();
    let cron = Schedule::cron("*/10 * * * * *", "UTC").unwrap();
    for schedule in [every, cron] {
        let missed = |policy, cap| schedule.missed(anchor, last, now, policy, cap);
        let all = [30, 40, 50, 60, 70].map(tick).to_vec();
        assert_eq!(
            missed(CatchUp::Latest, CATCH_UP_CAP),
            Missed {
                ticks: vec![tick(70)],
                dropped: 4
            }
        );
        assert_eq!(
            missed(CatchUp::All, CATCH_UP_CAP),
            Missed {
                ticks: all.clone(),
                dropped: 0
            }
        );
        assert_eq!(
            missed(CatchUp::All, 2),
            Missed {
                ticks: all[3..].to_vec(),
                dropped: 3
            }
        );
        assert_eq!(
            missed(CatchUp::None, CATCH_UP_CAP),
            Missed {
                ticks: vec![],
                dropped: 5
            }
        );
        // A tick that is due right now is missed too, and then not given again.
        assert_eq!(
            schedule
                .missed(anchor, last, tick(30), CatchUp::All, 9)
                .ticks,
            [tick(30)]
        );
        assert_eq!(schedule.next_after(anchor, tick(30)), Some(tick(40)));
    }
}

#[test]
fn f1_a_clock_put_back_has_missed_nothing() {
    let (last, now) = (time("2026-01-01T02:00:00Z"), time("2026-01-01T01:00:00Z"));
    for schedule in [
        Schedule::every(millis(10)).unwrap(),
        Schedule::cron("* * * * *", "UTC").unwrap(),
    ] {
        for policy in POLICIES {
            assert_eq!(
                schedule.missed(last, last, now, policy, 1000),
                Missed::default()
            );
        }
    }
}

#[test]
fn ten_years_of_missed_ticks_are_counted_without_walking_them() {
    let (last, now) = (time("2016-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z"));
    let seconds = now.as_second().abs_diff(last.as_second());
    let every = Schedule::every(millis(10)).unwrap();
    let missed = every.missed(last, last, now, CatchUp::All, CATCH_UP_CAP);
    assert_eq!(missed.dropped + 1000, seconds * 100);
    assert_eq!((missed.ticks.len(), missed.ticks[999]), (1000, now));
    assert_eq!(missed.ticks[0], now - SignedDuration::from_millis(9_990));

    // Daylight saving changes the number of seconds of no year.
    let cron = Schedule::cron("* * * * * *", "Europe/Berlin").unwrap();
    let missed = cron.missed(last, last, now, CatchUp::All, CATCH_UP_CAP);
    assert_eq!(missed.dropped + 1000, seconds);
    assert_eq!((missed.ticks.len(), missed.ticks[999]), (1000, now));
}

#[test]
fn the_ends_of_the_calendar_are_no_trap() {
    for text in ["* * * * * *", "0 0 29 2 *", "0 0-1 29 2 *"] {
        let cron = Schedule::cron(text, "America/New_York").unwrap();
        assert_eq!(cron.next_after(Timestamp::MIN, Timestamp::MAX), None);
        let near_the_end = time("6000-01-01T00:00:00Z");
        assert_eq!(cron.next_after(near_the_end, near_the_end), None);
        let missed = cron.missed(
            Timestamp::MIN,
            Timestamp::UNIX_EPOCH,
            time("2200-01-01T00:00:00Z"),
            CatchUp::Latest,
            1,
        );
        assert_eq!(missed.ticks.len(), 1, "{text}");
    }
}

#[test]
fn a_time_without_an_offset_is_refused() {
    assert_eq!(
        time("2026-03-01T06:00:00+01:00"),
        time("2026-03-01T05:00:00Z")
    );
    for text in [
        "2026-03-01T06:00:00",
        "2026-03-01",
        "06:00",
        "tomorrow",
        "2026-02-30T06:00:00Z",
    ] {
        let refused = parse_time(text).unwrap_err();
        assert!(
            refused.contains(&format!("`{text}` is not a time")),
            "{refused}"
        );
    }
}

fn instant() -> impl Strategy<Value = Timestamp> {
    (1_200_000_000i64..2_000_000_000, 0..1_000_000_000i32)
        .prop_map(|(second, nanosecond)| Timestamp::new(second, nanosecond).unwrap())
}

fn period() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (10_000_000u64..20_000_000).prop_map(Duration::from_nanos),
        (10u64..10_000).prop_map(Duration::from_millis),
        (1u64..40_000_000).prop_map(Duration::from_secs),
    ]
}

proptest! {
    #[test]
    fn every_tick_is_exactly_on_the_grid_and_the_next_one(anchor in instant(), after in instant(), period in period()) {
        let schedule = Schedule::every(period).unwrap();
        let tick = schedule.next_after(anchor, after).unwrap();
        prop_assert!(tick > after && tick >= anchor);
        let nanos = period.as_nanos() as i128;
        prop_assert_eq!((tick.as_nanosecond() - anchor.as_nanosecond()) % nanos, 0);
        prop_assert!(tick == anchor || tick.as_nanosecond() - nanos <= after.as_nanosecond());
    }

    #[test]
    fn a_restart_at_any_moment_keeps_the_grid_and_loses_no_tick(
        anchor in instant(), period in period(), ran in 0u32..1000, down in 0u32..50, fraction in 0.0..1.0f64,
    ) {
        let schedule = Schedule::every(period).unwrap();
        let last = anchor + period * ran;
        let now = last + period * down + period.mul_f64(fraction * 0.999);
        let missed = schedule.missed(anchor, last, now, CatchUp::All, CATCH_UP_CAP);
        let next = schedule.next_after(anchor, now).unwrap();
        let after_restart: Vec<_> = missed.ticks.iter().copied().chain([next]).collect();
        let without: Vec<_> = (1..=down + 1).map(|step| last + period * step).collect();
        prop_assert_eq!(after_restart, without);
        prop_assert_eq!(missed.dropped, 0);
    }

    #[test]
    fn jitter_never_runs_early_nor_later_than_said(tick in instant(), jitter in 0u64..100_000_000_000, seed: u64) {
        let jitter = Duration::from_nanos(jitter);
        let run = jittered(tick, jitter, &mut StdRng::seed_from_u64(seed));
        prop_assert!(run >= tick && run <= tick + jitter);
    }
}

#[test]
fn jitter_spreads_and_none_moves_nothing() {
    let tick = time("2026-01-01T00:00:00Z");
    let rng = &mut StdRng::seed_from_u64(rand::random());
    assert_eq!(jittered(tick, Duration::ZERO, rng), tick);
    let halves = (0..200).map(|_| jittered(tick, millis(1000), rng) < tick + millis(500));
    let early = halves.filter(|half| *half).count();
    assert!(
        (40..=160).contains(&early),
        "{early} of 200 in the first half"
    );
    assert_eq!(jittered(Timestamp::MAX, Duration::MAX, rng), Timestamp::MAX);
}

#[test]
fn the_mean_period_is_that_of_the_grid_or_of_the_next_ticks() {
    let now = time("2026-01-01T00:00:03Z");
    assert_eq!(
        Schedule::every(millis(250)).unwrap().mean_period(now),
        Some(0.25)
    );
    let cron = |text| Schedule::cron(text, "UTC").unwrap().mean_period(now);
    assert_eq!(cron("*/5 * * * *"), Some(300.0));
    assert_eq!(cron("0 6 * * *"), Some(86_400.0));
    assert_eq!(
        Schedule::at(time("2026-01-02T00:00:00Z")).mean_period(now),
        None
    );
}
