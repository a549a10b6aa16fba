//! The text of a cron: checked field by field before the parser sees it, so that the message names the field.
//!
//! The parser beneath is generous (names count as digits in any field, `JAN1` is November, empty list items are passed
//! over); a schedule that is read otherwise than it was meant is worse than one that is refused, so here it is strict.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// A longer text is no cron.
const LONGEST: usize = 256;

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// One field: its name, what it takes, and the words and signs it takes beside digits, `*`, `,`, `-` and `/`.
struct Field {
    name: &'static str,
    takes: &'static str,
    words: &'static [&'static str],
    signs: &'static str,
}

const FIELDS: [Field; 6] = [
    Field {
        name: "second",
        takes: "0 to 59, `*`, lists, ranges, steps",
        words: &[],
        signs: "",
    },
    Field {
        name: "minute",
        takes: "0 to 59, `*`, lists, ranges, steps",
        words: &[],
        signs: "",
    },
    Field {
        name: "hour",
        takes: "0 to 23, `*`, lists, ranges, steps",
        words: &[],
        signs: "",
    },
    Field {
        name: "day of month",
        takes: "1 to 31, `*`, `?`, lists, ranges, steps, `L`, `15W`, `LW`",
        words: &["L", "W", "LW"],
        signs: "?",
    },
    Field {
        name: "month",
        takes: "1 to 12, JAN to DEC, `*`, lists, ranges, steps",
        words: &MONTHS,
        signs: "",
    },
    Field {
        name: "day of week",
        takes: "0 to 7 (0 and 7 are Sunday), SUN to SAT, `*`, `?`, lists, ranges, steps, `FRI#2`, `FRIL`, `+MON`",
        words: &DAYS,
        signs: "?#+",
    },
];

/// A cron whose text has been understood.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub(super) cron: Cron,
    /// The text, one space between fields.
    pub(super) text: String,
    /// The second, minute and hour fields name times: no `*` and no `/`.
    pub(super) fixed_time: bool,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!(
                "the cron is longer than {LONGEST} characters; it has 5 or 6 short fields"
            ));
        }
        let written: Vec<&str> = text.split_whitespace().collect();
        let text = written.join(" ");
        let with_seconds = match written.len() {
            5 => false,
            6 => true,
            1 if text.starts_with('@') => return Err(nickname(&text)),
            count => {
                let fields = if count == 1 { "field" } else { "fields" };
                return Err(format!(
                    "cron `{text}` has {count} {fields}; it has 5 (minute, hour, day of month, month, day of week), or 6 with \
                     the second first"
                ));
            }
        };
        let mut fields = written.clone();
        if !with_seconds {
            fields.insert(0, "0");
        }
        for (index, field) in fields.iter().enumerate() {
            check_field(&text, index, field)?;
        }
        let cron = parser()
            .parse(&fields.join(" "))
            .map_err(|error| format!("cron `{text}` cannot be read: {error}"))?;
        let fixed_time = !fields[..3].iter().any(|field| field.contains(['*', '/']));
        Ok(Self {
            cron,
            text,
            fixed_time,
        })
    }
}

/// Refuses the field when its signs and words are not its own, or when the parser does not take it among `*`s.
fn check_field(text: &str, index: usize, field: &str) -> Result<(), String> {
    let known = &FIELDS[index];
    let mut probe = ["0", "0", "0", "*", "*", "*"];
    probe[index] = field;
    if spelled_right(known, field) && parser().parse(&probe.join(" ")).is_ok() {
        return Ok(());
    }
    // `0/10` is common elsewhere and means this:
    let hint = match field.split_once('/') {
        Some((start, step)) if start.parse::<u8>().is_ok() && step.parse::<u8>().is_ok() => {
            let last = ["59", "59", "23", "31", "12", "6"][index];
            format!(" (a step follows `*` or a range: `{start}-{last}/{step}`)")
        }
        _ => String::new(),
    };
    Err(format!(
        "cron `{text}`: the {} `{field}` is not possible{hint}; it takes {}",
        known.name, known.takes
    ))
}

fn spelled_right(known: &Field, field: &str) -> bool {
    let sign = |c: char| c.is_ascii_digit() || "*,-/".contains(c) || known.signs.contains(c);
    if !field.chars().all(|c| c.is_ascii_alphabetic() || sign(c)) {
        return false;
    }
    // `+` asks for both day fields and stands before all else.
    let body = if known.signs.contains('+') {
        field.strip_prefix('+').unwrap_or(field)
    } else {
        field
    };
    if body.contains('+') || (body.contains('?') && body != "?") {
        return false;
    }
    body.split(',')
        .all(|item| !item.is_empty() && item.split(['-', '/', '#']).all(|part| word(known, part)))
}

/// Digits, a word of the field, or one of the two and the field's letter (`15W`, `5L`, `FRIL`).
fn word(known: &Field, part: &str) -> bool {
    let is_word = |part: &str| known.words.contains(&part.to_uppercase().as_str());
    let digits = |part: &str| {
        !part.is_empty() && part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit())
    };
    let upper = part.to_uppercase();
    let with_letter = match known.name {
        "day of month" => upper.strip_suffix('W').is_some_and(digits),
        "day of week" => upper
            .strip_suffix('L')
            .is_some_and(|rest| rest.is_empty() || digits(rest) || is_word(rest)),
        _ => false,
    };
    matches!(part, "*" | "?") || digits(part) || is_word(part) || with_letter
}

fn nickname(text: &str) -> String {
    let meant = match text.to_lowercase().as_str() {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * SUN",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return format!("cron `{text}` is not known; write its 5 fields, such as `0 6 * * *`"),
    };
    format!("cron `{text}` is not known; write `{meant}`")
}

fn parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build()
}
