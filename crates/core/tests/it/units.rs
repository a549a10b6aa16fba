//! Durations and sizes: what is read, what is printed, what is refused and how.

use std::time::Duration;

use proptest::prelude::*;
use wiredflow_core::units::{format_duration, format_size, parse_duration, parse_size};

#[test]
fn durations_are_read_in_all_units() {
    for (text, millis) in [
        ("250ms", 250),
        ("10s", 10_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("0", 0),
        ("0s", 0),
        (" 007s ", 7_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
}

#[test]
fn sizes_are_read_in_all_units() {
    for (text, bytes) in [
        ("4096B", 4096),
        ("64KiB", 65_536),
        ("1MiB", 1 << 20),
        ("2GiB", 2 << 30),
        ("3TiB", 3 << 40),
        ("0B", 0),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_reason_and_what_is_possible() {
    for (text, reason) in [
        ("", "is empty"),
        ("10", "`10` has no unit"),
        ("1.5s", "`1.5s` has a fraction"),
        ("1,5s", "has a fraction"),
        ("-5s", "`-5s` is negative"),
        ("s", "does not begin with a whole number"),
        ("1h30m", "`1h30m` has more than one number"),
        ("10sec", "is `10s` meant?"),
        ("10 s", "is `10s` meant?"),
        ("10S", "is `10s` meant?"),
        ("5 minutes", "is `5m` meant?"),
        ("10w", "`10w` has an unknown unit;"),
        ("٣s", "does not begin with a whole number"),
        ("213503982335d", "is too large"),
        ("99999999999999999999ms", "is too large"),
    ] {
        let refused = parse_duration(text).unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
        assert!(
            refused.ends_with("`250ms`, `10s`, `5m`, `2h`, `1d`"),
            "{refused}"
        );
    }
    for (text, reason) in [
        ("64", "`64` has no unit"),
        ("64KB", "is `64KiB` meant?"),
        ("64mib", "is `64MiB` meant?"),
        ("1.5GiB", "`1.5GiB` has a fraction"),
        ("10s", "`10s` has an unknown unit;"),
        ("16777216TiB", "is too large"),
    ] {
        let refused = parse_size(text).unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
        assert!(
            refused.ends_with("`4096B`, `64KiB`, `1MiB`, `2GiB`, `1TiB`"),
            "{refused}"
        );
    }
}

#[test]
fn a_page_of_text_makes_a_short_message() {
    assert!(parse_duration(&"x".repeat(100_000)).unwrap_err().len() < 250);
}

#[test]
fn amounts_are_printed_in_the_largest_whole_unit() {
    for (millis, text) in [
        (0, "0s"),
        (250, "250ms"),
        (1_500, "1500ms"),
        (90_000, "90s"),
        (3_600_000, "1h"),
        (86_400_000 * 30, "30d"),
    ] {
        assert_eq!(format_duration(Duration::from_millis(millis)), text);
    }
    for (bytes, text) in [
        (0, "0B"),
        (1000, "1000B"),
        (1536, "1536B"),
        (65_536, "64KiB"),
        (1 << 40, "1TiB"),
    ] {
        assert_eq!(format_size(bytes), text);
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(amount: u64, shift in 0u32..60) {
        let amount = amount >> shift;
        let duration = Duration::from_millis(amount);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        prop_assert_eq!(parse_size(&format_size(amount)), Ok(amount));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[0-9]{0,25}.{0,8}") {
        let _unused = (parse_duration(&text), parse_size(&text));
    }
}
