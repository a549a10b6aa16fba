//! Durations and sizes as users write them: one whole number and one unit, `250ms`, `64KiB`.
//!
//! There is one spelling for each amount and no arithmetic in the text (`1h30m` and `1.5s` are refused), so that a value
//! reads the same to everybody and what is printed can be put back into a file.

use std::time::Duration;

/// Units of time, smallest first, in milliseconds.
const TIME: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Units of size, smallest first, in bytes.
const SIZE: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`; a bare `0` needs no unit.
///
/// # Errors
/// A sentence that names `text` and says what is possible.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let possible = "a duration is a whole number and one unit: `250ms`, `10s`, `5m`, `2h`, `1d`";
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    parse(text, &TIME, possible, "1500ms").map(Duration::from_millis)
}

/// Prints a duration as [`parse_duration`] reads it, in the largest unit that needs no fraction; what is less than a
/// millisecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        "0s".to_owned()
    } else {
        format(millis, &TIME)
    }
}

/// Reads a size: a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB` (steps of 1024). Gives bytes.
///
/// # Errors
/// A sentence that names `text` and says what is possible.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let possible =
        "a size is a whole number and one unit: `4096B`, `64KiB`, `1MiB`, `2GiB`, `1TiB`";
    parse(text, &SIZE, possible, "1536KiB")
}

/// Prints bytes as [`parse_size`] reads them, in the largest unit that needs no fraction.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    format(bytes.into(), &SIZE)
}

/// `fraction` is an example of how a fraction is written as a whole number of a smaller unit.
fn parse(
    text: &str,
    units: &[(&'static str, u64)],
    possible: &str,
    fraction: &str,
) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits_end = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(digits_end);
    let refuse = |why: &str| Err(format!("`{}` {why}; {possible}", excerpt(trimmed)));

    if trimmed.is_empty() {
        return refuse("is empty");
    }
    if digits.is_empty() {
        let negative = unit.starts_with('-');
        return refuse(if negative {
            "is negative"
        } else {
            "does not begin with a whole number"
        });
    }
    if unit.is_empty() {
        return refuse("has no unit");
    }
    if unit.starts_with(['.', ',']) {
        return refuse(&format!(
            "has a fraction (use a smaller unit, such as `{fraction}`)"
        ));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        if unit.contains(|c: char| c.is_ascii_digit()) {
            return refuse("has more than one number");
        }
        return match meant(unit, units) {
            Some(name) => refuse(&format!("has an unknown unit (is `{digits}{name}` meant?)")),
            None => refuse("has an unknown unit"),
        };
    };
    match digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
    {
        Some(amount) => Ok(amount),
        None => refuse("is too large"),
    }
}

/// The unit that a near miss stands for: `sec`, `Min`, `KB`, ` s`.
fn meant(unit: &str, units: &[(&'static str, u64)]) -> Option<&'static str> {
    let unit = unit.trim().to_lowercase();
    let names = |wanted: &str| {
        units
            .iter()
            .map(|(name, _)| *name)
            .find(|name| *name == wanted)
    };
    let long = match unit.as_str() {
        "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => names("ms"),
        "sec" | "secs" | "second" | "seconds" => names("s"),
        "min" | "mins" | "minute" | "minutes" => names("m"),
        "hr" | "hrs" | "hour" | "hours" => names("h"),
        "day" | "days" => names("d"),
        "byte" | "bytes" => names("B"),
        "k" | "kb" => names("KiB"),
        "m" | "mb" => names("MiB"),
        "g" | "gb" => names("GiB"),
        "t" | "tb" => names("TiB"),
        _ => None,
    };
    long.or_else(|| {
        units
            .iter()
            .map(|(name, _)| *name)
            .find(|name| name.to_lowercase() == unit)
    })
}

fn format(amount: u128, units: &[(&str, u64)]) -> String {
    let whole = |factor: u64| amount > 0 && amount.is_multiple_of(u128::from(factor));
    let (name, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| whole(*factor))
        .unwrap_or(&units[0]);
    format!("{}{name}", amount / u128::from(*factor))
}

/// Keeps a message short when somebody pastes a page into a field.
fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() == text.len() {
        short
    } else {
        format!("{short}…")
    }
}
