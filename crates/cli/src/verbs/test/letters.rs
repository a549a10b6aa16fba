//! Dead letters against those that a case expects: in any order, since pipelines and parallel calls have none.

use serde_json::{Value, json};
use wiredflow_core::Map;
use wiredflow_engine::state::{Body, StoredDeadLetter};

use super::file::Letter;
use super::pattern::{Difference, Pattern};

/// Each expected letter must be one of those that are there, and none may be left over.
pub(super) fn compare_letters(
    expected: &[Letter],
    got: &[StoredDeadLetter],
    differences: &mut Vec<Difference>,
) {
    let got: Vec<Value> = got.iter().map(shown).collect();
    compare(expected, &got, differences);
}

fn compare(expected: &[Letter], got: &[Value], differences: &mut Vec<Difference>) {
    let fits: Vec<Vec<bool>> = expected
        .iter()
        .map(|letter| got.iter().map(|one| is_like(letter, one)).collect())
        .collect();
    let mut taken_by: Vec<Option<usize>> = vec![None; got.len()];
    let found: Vec<bool> = (0..expected.len())
        .map(|index| find(index, &fits, &mut taken_by, &mut vec![false; got.len()]))
        .collect();
    // Who was found once keeps a place, though it may be another one.
    let missing = (0..expected.len()).filter(|index| !found[*index]);
    let mut left = (0..got.len()).filter(|index| taken_by[*index].is_none());
    for index in missing {
        let path = format!("dead_letters[{index}]");
        let fields = fields(&expected[index]);
        match left.next() {
            Some(other) => Pattern::Object(fields, true).compare(&got[other], &path, differences),
            None => differences.push(Difference {
                path,
                expected: Some(Pattern::Object(fields, false).shown()),
                got: None,
            }),
        }
    }
    for index in left {
        differences.push(Difference {
            path: format!("dead_letters[{index}]"),
            expected: None,
            got: Some(got[index].clone()),
        });
    }
}

/// Finds a letter for an expected one; an earlier one gives way where it can take another.
fn find(
    expected: usize,
    fits: &[Vec<bool>],
    taken_by: &mut [Option<usize>],
    asked: &mut [bool],
) -> bool {
    for letter in 0..taken_by.len() {
        if !fits[expected][letter] || std::mem::replace(&mut asked[letter], true) {
            continue;
        }
        let is_free = taken_by[letter].is_none_or(|other| find(other, fits, taken_by, asked));
        if is_free {
            taken_by[letter] = Some(expected);
            return true;
        }
    }
    false
}

fn is_like(expected: &Letter, got: &Value) -> bool {
    let mut differences = Vec::new();
    Pattern::Object(fields(expected), true).compare(got, "", &mut differences);
    differences.is_empty()
}

fn fields(letter: &Letter) -> Vec<(String, Pattern)> {
    let exactly = |text: &String| Pattern::Exactly(text.as_str().into());
    let fields = [
        ("pipeline", letter.pipeline.as_ref().map(exactly)),
        ("stage", letter.stage.as_ref().map(exactly)),
        ("reason", letter.reason.clone().map(Pattern::Contains)),
        ("payload", letter.payload.clone()),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, pattern)| Some((name.to_owned(), pattern?)));
    given.collect()
}

fn shown(letter: &StoredDeadLetter) -> Value {
    let payload = match &letter.body {
        Body::Json(value) => value.clone(),
        Body::Batch(values) => Value::Array(values.clone()),
        Body::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
    };
    let mut shown = Map::new();
    for (key, value) in [
        ("pipeline", json!(letter.listed.pipeline)),
        ("stage", json!(letter.listed.stage)),
        ("reason", json!(letter.listed.reason)),
        ("payload", payload),
    ] {
        shown.insert(key.to_owned(), value);
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(reason: &str, payload: Option<i64>) -> Letter {
        Letter {
            pipeline: None,
            stage: None,
            reason: Some(reason.to_owned()),
            payload: payload.map(|number| Pattern::Exactly(number.into())),
        }
    }

    fn got(reason: &str, payload: i64) -> Value {
        json!({"pipeline": "p", "stage": "s", "reason": reason, "payload": payload})
    }

    fn paths(expected: &[Letter], got: &[Value]) -> Vec<String> {
        let mut differences = Vec::new();
        compare(expected, got, &mut differences);
        differences
            .into_iter()
            .map(|difference| difference.path)
            .collect()
    }

    #[test]
    fn letters_count_in_any_order_and_each_once() {
        let both = [got("a", 1), got("b", 2)];
        let turned = [letter("b", Some(2)), letter("a", None)];
        assert!(paths(&turned, &both).is_empty());
        let none: [String; 0] = [];
        // The first takes what only the second can have, and gives way.
        let wide = [letter("", None), letter("a", Some(1))];
        assert_eq!(paths(&wide, &both), none);
        assert_eq!(paths(&[letter("a", None)], &both), ["dead_letters[1]"]);
        assert_eq!(
            paths(&[letter("a", None), letter("a", None)], &both[..1]),
            ["dead_letters[1]"]
        );
        let other = [letter("a", Some(7)), letter("b", None)];
        assert_eq!(paths(&other, &both), ["dead_letters[0].payload"]);
        assert_eq!(paths(&[], &[]), none);
    }
}
