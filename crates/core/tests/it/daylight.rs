//! Crons in zones whose clock jumps: named cases, and every jump of six zones against a minute-by-minute reading of the clock.

use std::collections::BTreeSet;

use jiff::civil::{Date, DateTime, Time, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use wiredflow_core::schedule::{CatchUp, Schedule};

use crate::schedule::time;

const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);

/// Zones and ten years of each in which something happens.
const ZONES: [(&str, i16); 6] = [
    ("UTC", 2020),
    ("Europe/Berlin", 2020),
    ("America/New_York", 2020),
    ("Australia/Lord_Howe", 2020),
    ("Africa/Cairo", 2020),
    ("Pacific/Apia", 2006),
];

/// The ticks from (and with) `from` up to (and with) `until`.
fn ticks(schedule: &Schedule, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let next = |after: &Timestamp| {
        let tick = schedule.next_after(*after, *after)?;
        assert!(
            tick > *after,
            "{schedule}: {tick} is not later than {after}"
        );
        Some(tick)
    };
    let before = from - NANOSECOND;
    std::iter::successors(next(&before), next)
        .take_while(|tick| *tick <= until)
        .collect()
}

#[test]
fn f2_jumps_of_the_clock_are_met_as_documented() {
    let cases: [(&str, &str, &str, &[&str]); 17] = [
        // Spring in Berlin, 02:00 to 03:00 on the 29th: 02:30 runs at 03:00.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            &[
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z",
            ],
        ),
        // What is named in a gap and at its end runs once.
        (
            "0,15,30 2,3 * * *",
            "Europe/Berlin",
            "2026-03-29T00:59:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z"],
        ),
        // A cron that is interval-like has nothing to do in the gap, and goes on after it.
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &["2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:30:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"],
        ),
        // Autumn in New York, 02:00 back to 01:00: 01:30 runs once, 01:*/30 four times.
        (
            "30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00:00Z",
            &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-11-01T06:10:00Z", // within the second 01:00 to 02:00
            &["2026-11-02T06:30:00Z"],
        ),
        (
            "*/30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00:00Z",
            &[
                "2026-11-01T05:00:00Z",
                "2026-11-01T05:30:00Z",
                "2026-11-01T06:00:00Z",
                "2026-11-01T06:30:00Z",
                "2026-11-02T06:00:00Z",
            ],
        ),
        // Half an hour on Lord Howe: 02:00 to 02:30 in October, 02:00 back to 01:30 in April.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T15:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T12:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        // Midnight does not exist in Cairo and Santiago on these days.
        (
            "0 0 * * *",
            "Africa/Cairo",
            "2024-04-25T00:00:00Z",
            &["2024-04-25T22:00:00Z", "2024-04-26T21:00:00Z"],
        ),
        (
            "0 0 * * *",
            "America/Santiago",
            "2024-09-08T00:00:00Z",
            &["2024-09-08T04:00:00Z", "2024-09-09T03:00:00Z"],
        ),
        // 23:30 is twice on Cairo's 31st of October.
        (
            "30 23 * * *",
            "Africa/Cairo",
            "2024-10-31T12:00:00Z",
            &["2024-10-31T20:30:00Z", "2024-11-01T21:30:00Z"],
        ),
        // The gap ends on Sunday; the job of Saturday runs all the same.
        (
            "30 23 * * SAT",
            "America/Nuuk",
            "2024-03-30T12:00:00Z",
            &["2024-03-31T01:00:00Z", "2024-04-07T00:30:00Z"],
        ),
        // Samoa had no 30th of December in 2011.
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29T12:00:00Z",
            &[
                "2011-12-29T22:00:00Z",
                "2011-12-30T10:00:00Z",
                "2011-12-30T22:00:00Z",
            ],
        ),
        (
            "0 12 30 12 *",
            "Pacific/Apia",
            "2011-06-01T00:00:00Z",
            &["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"],
        ),
        (
            "0 * * * *",
            "Pacific/Apia",
            "2011-12-30T09:30:00Z",
            &["2011-12-30T10:00:00Z", "2011-12-30T11:00:00Z"],
        ),
        (
            "0 */6 30 * *",
            "Pacific/Apia",
            "2011-12-29T00:00:00Z",
            &["2012-01-29T10:00:00Z", "2012-01-29T16:00:00Z"],
        ),
    ];
    for (text, zone, from, wanted) in cases {
        let schedule = Schedule::cron(text, zone).unwrap();
        let wanted: Vec<_> = wanted.iter().map(|tick| time(tick)).collect();
        let until = *wanted.last().unwrap();
        assert_eq!(
            ticks(&schedule, time(from), until),
            wanted,
            "{schedule} from {from}"
        );
        let before = time(from) - NANOSECOND;
        assert_eq!(
            schedule
                .missed(before, before, until, CatchUp::All, 1000)
                .ticks,
            wanted,
            "{schedule}, missed"
        );
    }
}

#[test]
fn a_daily_job_runs_once_a_day_over_ten_years_in_six_zones() {
    // At times that the zone leaves out on one day and repeats on another.
    for (zone, text) in [
        ("UTC", "30 2 * * *"),
        ("Europe/Berlin", "30 2 * * *"),
        ("America/New_York", "30 1 * * *"),
        ("America/New_York", "30 2 * * *"),
        ("Australia/Lord_Howe", "45 1 * * *"),
        ("Australia/Lord_Howe", "15 2 * * *"),
        ("Africa/Cairo", "0 0 * * *"),
        ("Africa/Cairo", "30 23 * * *"),
        ("Pacific/Apia", "0 0 * * *"),
        ("Pacific/Apia", "30 3 * * *"),
    ] {
        let (_, year) = ZONES.into_iter().find(|(name, _)| *name == zone).unwrap();
        let clock = TimeZone::get(zone).unwrap();
        let (first, end) = (date(year, 1, 1), date(year + 10, 1, 1));
        let instant = |day: Date| clock.to_zoned(day.at(0, 0, 0, 0)).unwrap().timestamp();
        let (from, until) = (instant(first), instant(end) - NANOSECOND);
        let schedule = Schedule::cron(text, zone).unwrap();
        let found = ticks(&schedule, from, until);

        // Samoa's missing midnight is the same moment as the next one.
        let merged = usize::from((zone, text) == ("Pacific/Apia", "0 0 * * *"));
        let days = first.series(1.day()).take_while(|day| *day < end).count();
        assert_eq!(found.len(), days - merged, "{schedule}");

        let (minute, hour) = text.split_once(' ').unwrap();
        let hour = hour.split_once(' ').unwrap().0;
        let named = Time::new(hour.parse().unwrap(), minute.parse().unwrap(), 0, 0).unwrap();
        for tick in &found {
            let shown = clock.to_datetime(*tick);
            let a_second_before = clock.to_datetime(*tick - SignedDuration::from_secs(1));
            let is_gap_end = shown > a_second_before + 1.second();
            assert!(
                shown.time() == named || is_gap_end,
                "{schedule}: {tick} is {shown}"
            );
        }
        let missed = schedule.missed(
            from - NANOSECOND,
            from - NANOSECOND,
            until,
            CatchUp::All,
            100,
        );
        assert_eq!(missed.ticks, found[found.len() - 100..], "{schedule}");
        assert_eq!(missed.dropped as usize, found.len() - 100, "{schedule}");
    }
}

#[test]
fn f2_ticks_are_strictly_later_over_ten_years_in_six_zones() {
    for (zone, year) in ZONES {
        let from = date(year, 1, 1)
            .to_zoned(TimeZone::UTC)
            .unwrap()
            .timestamp();
        let until = date(year + 10, 1, 1)
            .to_zoned(TimeZone::UTC)
            .unwrap()
            .timestamp();
        for text in [
            "15 */6 * * *",
            "0,30 1-3 * * SUN",
            "0 0 1 * *",
            "59 23 L * *",
        ] {
            let schedule = Schedule::cron(text, zone).unwrap();
            // `ticks` looks that each is later than the one before.
            let found = ticks(&schedule, from, until);
            let missed = schedule.missed(
                from - NANOSECOND,
                from - NANOSECOND,
                until,
                CatchUp::None,
                0,
            );
            assert_eq!(missed.dropped as usize, found.len(), "{schedule}");
            assert!(found.len() >= 119, "{schedule}: {}", found.len());
        }
        let every = Schedule::every(std::time::Duration::from_secs(7 * 3600)).unwrap();
        let next = |after: &Timestamp| every.next_after(from, *after);
        let all: Vec<_> = std::iter::successors(Some(from), next)
            .take_while(|tick| *tick <= until)
            .collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]) && all.len() > 12_000);
    }
}

/// A field of the hour or minute: its text, its values, and whether it names times.
#[derive(Debug, Clone)]
struct Field {
    text: String,
    values: BTreeSet<i8>,
    names_times: bool,
}

fn field(size: i8) -> impl Strategy<Value = Field> {
    let list = proptest::collection::btree_set(0..size, 1..4).prop_map(|values| {
        let text: Vec<_> = values.iter().map(ToString::to_string).collect();
        Field {
            text: text.join(","),
            values,
            names_times: true,
        }
    });
    let range = (0..size, 0..size).prop_map(|(a, b)| {
        let (low, high) = (a.min(b), a.max(b));
        Field {
            text: format!("{low}-{high}"),
            values: (low..=high).collect(),
            names_times: true,
        }
    });
    let step = (1..=size / 2).prop_map(move |step| Field {
        text: if step == 1 {
            "*".to_owned()
        } else {
            format!("*/{step}")
        },
        values: (0..size).step_by(step as usize).collect(),
        names_times: false,
    });
    prop_oneof![3 => list, 1 => range, 3 => step]
}

/// What the documentation says, read off a clock that is looked at every minute from `from` to `until`.
fn read_off_the_clock(
    clock: &TimeZone,
    from: Timestamp,
    until: Timestamp,
    hour: &Field,
    minute: &Field,
) -> Vec<Timestamp> {
    let named = |wall: DateTime| {
        hour.values.contains(&wall.hour()) && minute.values.contains(&wall.minute())
    };
    // Two days ahead, so that the clock has shown all that it showed before `from`.
    let begin = from - SignedDuration::from_hours(48);
    let minutes = std::iter::successors(Some(begin), |at| Some(*at + SignedDuration::from_mins(1)));
    let shown: Vec<_> = minutes
        .take_while(|at| *at <= until)
        .map(|at| (at, clock.to_datetime(at)))
        .collect();
    let mut found = BTreeSet::new();
    if hour.names_times && minute.names_times {
        // A named time runs when the clock first shows it or a later one.
        let mut wall = shown[0].1;
        for (at, now) in &shown {
            while wall <= *now {
                if named(wall) {
                    found.insert(*at);
                }
                wall += 1.minute();
            }
        }
    } else {
        found.extend(
            shown
                .iter()
                .filter(|(_, wall)| named(*wall))
                .map(|(at, _)| *at),
        );
    }
    found.into_iter().filter(|at| *at >= from).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn f2_around_every_jump_the_ticks_are_those_read_off_the_clock(
        (zone, year) in select(&ZONES[1..]), jump: Index, hours_before in -2i64..30, minutes in 0i64..60,
        hour in field(24), minute in field(60),
    ) {
        let clock = TimeZone::get(zone).unwrap();
        let begin = date(year, 1, 1).to_zoned(TimeZone::UTC).unwrap().timestamp();
        let end = date(year + 10, 1, 1).to_zoned(TimeZone::UTC).unwrap().timestamp();
        let jumps: Vec<_> = clock.following(begin).map(|jump| jump.timestamp()).take_while(|at| *at < end).collect();
        let from = *jump.get(&jumps) - SignedDuration::from_hours(hours_before) - SignedDuration::from_mins(minutes);
        let until = from + SignedDuration::from_hours(36);

        let schedule = Schedule::cron(&format!("{} {} * * *", minute.text, hour.text), zone).unwrap();
        let wanted = read_off_the_clock(&clock, from, until, &hour, &minute);
        let before = from - NANOSECOND;
        let missed = schedule.missed(before, before, until, CatchUp::All, 100);
        prop_assert_eq!(missed.dropped as usize, wanted.len().saturating_sub(100), "{}", &schedule);
        prop_assert_eq!(&missed.ticks[..], &wanted[wanted.len().saturating_sub(100)..], "{}", &schedule);
        let found: Vec<_> = ticks(&schedule, from, until).into_iter().take(200).collect();
        prop_assert_eq!(&found[..], &wanted[..wanted.len().min(200)], "{}", &schedule);
    }

    #[test]
    fn the_next_tick_is_strictly_later_and_none_lies_between(
        (zone, year) in select(&ZONES[..]), second in 0i64..315_000_000, nanosecond in 0i32..1_000_000_000,
        hour in field(24), minute in field(60), day in select(&["*", "1", "31", "L", "29-31"][..]),
        weekday in select(&["*", "MON", "+FRI", "SAT#2", "SUNL"][..]),
    ) {
        let begin = date(year, 1, 1).to_zoned(TimeZone::UTC).unwrap().timestamp();
        let after = begin + SignedDuration::new(second, nanosecond);
        let schedule = Schedule::cron(&format!("{} {} {day} * {weekday}", minute.text, hour.text), zone).unwrap();
        let tick = schedule.next_after(after, after).unwrap();
        prop_assert!(tick > after);
        // Asked at any moment before it, the answer is the same; backwards too.
        let between = after + (tick - after).total(jiff::Unit::Second).map(|all| SignedDuration::from_secs_f64(all * 0.7)).unwrap();
        prop_assert_eq!(schedule.next_after(after, between.min(tick - NANOSECOND)), Some(tick));
        let missed = schedule.missed(after, after, tick, CatchUp::All, 10);
        prop_assert_eq!((missed.ticks, missed.dropped), (vec![tick], 0));
    }
}
