//! How tests went, for people and for machines.

use serde_json::{Value, json};

use crate::live;
use crate::paint::{Ink, Paint, printable, printable_lines};
use crate::problems::plural;

use super::case::Played;
use super::pattern::Difference;

/// The most differences of one case that are told to people.
const MOST: usize = 12;

/// The most characters of a value that is told to people.
const LONGEST: usize = 200;

/// One case: a line, and what was not as expected.
pub(super) fn one(played: &Played, paint: Paint) -> String {
    let (word, ink) = if played.is_ok() {
        ("ok    ", Ink::Green)
    } else {
        ("failed", Ink::Red)
    };
    let mut text = format!("{}  {}\n", paint.with(ink, word), printable(&played.name));
    if let Some(error) = &played.error {
        text.push_str(&format!(
            "          {}\n",
            printable_lines(error, "          ")
        ));
    }
    for difference in played.differences.iter().take(MOST) {
        let path = paint.with(Ink::Bold, &printable(&difference.path));
        text.push_str(&format!("          {path}: {}\n", words(difference)));
    }
    if let Some(more) = played.differences.len().checked_sub(MOST + 1) {
        text.push_str(&format!(
            "          … and {}\n",
            plural(more + 1, "more difference")
        ));
    }
    text
}

fn words(difference: &Difference) -> String {
    match (&difference.expected, &difference.got) {
        (Some(expected), Some(got)) => format!("expected {}, got {}", shown(expected), shown(got)),
        (Some(expected), None) => format!("expected {}, but nothing is there", shown(expected)),
        (None, Some(got)) => format!("not expected: {}", shown(got)),
        (None, None) => String::new(),
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    crate::paint::cut(&printable(&text), LONGEST).into_owned()
}

/// The last line.
pub(super) fn sum(played: &[Played], paint: Paint) -> String {
    let failed = played.iter().filter(|one| !one.is_ok()).count();
    let seconds: f64 = played.iter().map(|one| one.seconds).sum();
    let (ink, words) = match failed {
        0 if played.len() == 1 => (Ink::Green, "ok".to_owned()),
        0 => (Ink::Green, "all ok".to_owned()),
        failed => (
            Ink::Red,
            format!("{} ok, {failed} failed", played.len() - failed),
        ),
    };
    let cases = plural(played.len(), "case");
    format!(
        "\n{cases} in {}: {}\n",
        live::time(seconds),
        paint.with(ink, &words)
    )
}

/// The document of `test --json`.
pub(super) fn document(flow: &str, played: &[Played]) -> Value {
    let difference = |one: &Difference| {
        let mut entry = serde_json::Map::new();
        entry.insert("path".to_owned(), one.path.clone().into());
        for (key, value) in [("expected", &one.expected), ("got", &one.got)] {
            if let Some(value) = value {
                entry.insert(key.to_owned(), value.clone());
            }
        }
        Value::Object(entry)
    };
    let case = |one: &Played| {
        json!({
            "name": one.name,
            "ok": one.is_ok(),
            "seconds": one.seconds,
            "error": one.error,
            "differences": one.differences.iter().map(difference).collect::<Vec<_>>(),
        })
    };
    json!({
        "flow": flow,
        "ok": played.iter().all(Played::is_ok),
        "seconds": played.iter().map(|one| one.seconds).sum::<f64>(),
        "cases": played.iter().map(case).collect::<Vec<_>>(),
    })
}
