//! Crons: what is understood, what is refused and how.

use jiff::Timestamp;
use proptest::prelude::*;
use wiredflow_core::schedule::{CatchUp, Schedule};

use crate::schedule::time;

#[test]
fn a_date_that_never_comes_is_refused() {
    for text in [
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 31 2 +MON",
        "0 0 * * L",
        "0 0 29-30 2 +MON#1",
    ] {
        let refused = Schedule::cron(text, "UTC").unwrap_err();
        assert!(
            refused.contains(&format!("cron `{text}` never runs")),
            "{refused}"
        );
    }
}

#[test]
fn a_date_that_comes_every_few_decades_is_found() {
    let after = time("2072-03-01T00:00:00Z");
    for (text, tick) in [
        ("0 0 29 2 *", "2076-02-29T00:00:00Z"),
        ("0 0 29 2 +MON", "2112-02-29T00:00:00Z"),
        ("*/5 0 29 2 +MON", "2112-02-29T00:00:00Z"),
    ] {
        let cron = Schedule::cron(text, "UTC").unwrap();
        assert_eq!(cron.next_after(after, after), Some(time(tick)), "{text}");
    }
    let zoned = Schedule::cron("*/5 0 29 2 +MON", "America/New_York").unwrap();
    assert_eq!(
        zoned.next_after(after, after),
        Some(time("2112-02-29T05:00:00Z"))
    );
    assert_eq!(
        zoned
            .missed(
                after,
                after,
                time("2150-01-01T00:00:00Z"),
                CatchUp::Latest,
                1
            )
            .dropped,
        23
    );
}

#[test]
fn all_kinds_of_cron_fields_are_understood() {
    let after = time("2026-01-01T00:00:00Z"); // a Thursday
    for (text, tick) in [
        ("15 10 * * *", "2026-01-01T10:15:00Z"),
        ("30 15 10 * * *", "2026-01-01T10:15:30Z"),
        ("0 6 * * mon-fri", "2026-01-01T06:00:00Z"),
        ("0 6 * * 6-7", "2026-01-03T06:00:00Z"),
        ("0 6 * * SUN", "2026-01-04T06:00:00Z"),
        ("0 6 1 feb,Mar *", "2026-02-01T06:00:00Z"),
        ("10-50/20 * * * *", "2026-01-01T00:10:00Z"),
        ("0 0 L * ?", "2026-01-31T00:00:00Z"),
        ("0 0 LW * *", "2026-01-30T00:00:00Z"),
        ("0 0 17W * *", "2026-01-16T00:00:00Z"),
        ("0 0 * * FRI#2", "2026-01-09T00:00:00Z"),
        ("0 0 * * FRIL", "2026-01-30T00:00:00Z"),
        ("0 0 * * 5L", "2026-01-30T00:00:00Z"),
        ("0 0 13 * FRI", "2026-01-02T00:00:00Z"),
        ("0 0 13 * +FRI", "2026-02-13T00:00:00Z"),
        ("  0   0 * * * ", "2026-01-02T00:00:00Z"),
    ] {
        let cron = Schedule::cron(text, "UTC").unwrap_or_else(|refused| panic!("{refused}"));
        assert_eq!(cron.next_after(after, after), Some(time(tick)), "{text}");
    }
}

#[test]
fn a_wrong_cron_is_refused_by_its_field() {
    for (text, part) in [
        (
            "61 * * * *",
            "the minute `61` is not possible; it takes 0 to 59",
        ),
        (
            "* 24 * * *",
            "the hour `24` is not possible; it takes 0 to 23",
        ),
        ("60 * * * * *", "the second `60`"),
        (
            "0 0 0 * *",
            "the day of month `0` is not possible; it takes 1 to 31",
        ),
        ("0 0 32 * *", "the day of month `32`"),
        (
            "0 0 * 13 *",
            "the month `13` is not possible; it takes 1 to 12, JAN to DEC",
        ),
        ("0 0 * JAN1 *", "the month `JAN1`"),
        ("0 0 * * 8", "the day of week `8`"),
        ("0 0 * * MONDAY", "the day of week `MONDAY`"),
        ("0 0 * * SUNMON", "the day of week `SUNMON`"),
        ("0 0 * * FRI-MON", "the day of week `FRI-MON`"),
        ("0 0 * * FRI#6", "the day of week `FRI#6`"),
        ("MON * * * *", "the minute `MON`"),
        ("1,,2 * * * *", "the minute `1,,2`"),
        (", * * * *", "the minute `,`"),
        ("+5 * * * *", "the minute `+5`"),
        ("*/0 * * * *", "the minute `*/0`"),
        ("L * * * *", "the minute `L`"),
        ("5-1 * * * *", "the minute `5-1`"),
        ("0/10 * * * *", "a step follows `*` or a range: `0-59/10`"),
        ("* * * *", "has 4 fields; it has 5 (minute,"),
        ("hourly", "has 1 field;"),
        ("", "has 0 fields;"),
        ("0 0 0 1 1 * 2026", "has 7 fields;"),
        ("@daily", "cron `@daily` is not known; write `0 0 * * *`"),
        ("@reboot", "write its 5 fields"),
        ("0 0 * * ☃", "the day of week `☃`"),
    ] {
        let refused = Schedule::cron(text, "UTC").unwrap_err();
        assert!(refused.contains(part), "{text}: {refused}");
    }
    assert!(
        Schedule::cron(&"* ".repeat(100_000), "UTC")
            .unwrap_err()
            .len()
            < 200
    );
}

#[test]
fn an_unknown_time_zone_is_refused_with_the_nearest_names() {
    for (zone, part) in [
        (
            "Europe/Berln",
            "`Europe/Berln` is not known; is `Europe/Berlin` meant?",
        ),
        ("berlin", "is `Europe/Berlin` meant?"),
        ("new york", "is `America/New_York` meant?"),
        ("Mars/Olympus_Mons", "use a name such as `Europe/Berlin`"),
        ("", "use a name such as"),
        ("../../etc/passwd", "is not known"),
    ] {
        let refused = Schedule::cron("0 6 * * *", zone).unwrap_err();
        assert!(refused.contains(part), "{zone}: {refused}");
    }
    let zoned = Schedule::cron("0 6 * * *", "europe/berlin").unwrap();
    assert_eq!(zoned.to_string(), "cron 0 6 * * * (Europe/Berlin)");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_refused_or_ticks(text in "([-0-9*/,LW#?+A-Za-z@é]{1,6} ){4,6}|([0-5*]|1-[3-6]|[*]/[2-9]| ){9,13}") {
        let after = Timestamp::UNIX_EPOCH;
        if let Ok(cron) = Schedule::cron(&text, "Africa/Cairo") {
            prop_assert!(cron.next_after(after, after).is_some_and(|tick| tick > after), "{cron}");
        }
    }

    #[test]
    fn any_zone_is_refused_or_ticks(zone in "[A-Za-z/_.]{0,12}|(Etc/)?GMT[+][0-9]{1,2}") {
        let after = Timestamp::UNIX_EPOCH;
        if let Ok(cron) = Schedule::cron("0 0 * * *", &zone) {
            prop_assert!(cron.next_after(after, after).is_some_and(|tick| tick > after), "{cron}");
        }
    }
}
