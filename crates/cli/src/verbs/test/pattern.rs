//! Expected values: exact JSON, with a few words that begin with `$` where something else is meant.

use jiff::Timestamp;
use serde_json::{Value, json};
use wiredflow_core::Map;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::node::{Entry, Node, NodeKind};
use wiredflow_core::problem::possible;

/// The words that stand alone.
const WORDS: [(&str, Pattern); 4] = [
    ("$any", Pattern::Any),
    ("$text", Pattern::Text),
    ("$number", Pattern::Number),
    ("$time", Pattern::Time),
];

/// In a map: other fields may be there. In a list: more may follow.
const OTHERS: &str = "$others";

/// The keys of a map that is a pattern itself.
const KEYS: [&str; 4] = ["$contains", "$near", "$exactly", OTHERS];

/// How far a number may be off where nothing is said.
const NEAR: f64 = 1e-9;

/// What is expected of a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pattern {
    /// This value.
    Exactly(Value),
    /// Anything.
    Any,
    /// Any text.
    Text,
    /// Any number.
    Number,
    /// A time in ISO 8601, with its offset.
    Time,
    /// A text with this part.
    Contains(String),
    /// A number not further away than this.
    Near(f64, f64),
    /// Each item; more may follow.
    List(Vec<Pattern>, bool),
    /// Each field; there may be others.
    Object(Vec<(String, Pattern)>, bool),
}

/// One place where what is and what should be are not the same.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// `storages.numbers[0].number`.
    pub(super) path: String,
    /// None: nothing should be there.
    pub(super) expected: Option<Value>,
    /// None: nothing is there.
    pub(super) got: Option<Value>,
}

impl Pattern {
    /// Reads a pattern. What cannot be one is reported and counts as anything.
    pub(super) fn read(node: &Node, reading: &mut Reading) -> Self {
        match &node.kind {
            NodeKind::Text(text) => match WORDS.iter().find(|(word, _)| word == text) {
                Some((_, pattern)) => pattern.clone(),
                None if is_word(text) => {
                    let words = WORDS.iter().map(|(word, _)| *word);
                    let known = words.chain(KEYS);
                    unknown(text, node, known, reading)
                }
                None => Self::Exactly(node.to_value()),
            },
            NodeKind::List(items) => {
                let more = items
                    .last()
                    .is_some_and(|item| item.as_text() == Some(OTHERS));
                let items = &items[..items.len() - usize::from(more)];
                let items = items.iter().map(|item| Self::read(item, reading));
                Self::List(items.collect(), more)
            }
            NodeKind::Map(entries) => Self::read_map(node, entries, reading),
            NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Filled(_) => {
                Self::Exactly(node.to_value())
            }
        }
    }

    fn read_map(node: &Node, entries: &[Entry], reading: &mut Reading) -> Self {
        let value = |key: &str| node.entry(key).map(|entry| &entry.value);
        if let (Some(part), 1) = (value("$contains"), entries.len()) {
            return String::from_node(part, reading).map_or(Self::Any, Self::Contains);
        }
        if let (Some(exact), 1) = (value("$exactly"), entries.len()) {
            return Self::Exactly(exact.to_value());
        }
        if let Some(number) = value("$near")
            && entries
                .iter()
                .all(|entry| matches!(entry.key.as_str(), "$near" | "within"))
        {
            let within = value("within").map_or(Some(NEAR), |node| f64::from_node(node, reading));
            let near = f64::from_node(number, reading).zip(within);
            return near.map_or(Self::Any, |(near, within)| Self::Near(near, within));
        }
        let mut fields = Vec::new();
        let mut others = false;
        for entry in entries {
            match entry.key.as_str() {
                OTHERS => others = true,
                key if KEYS.contains(&key) => {
                    let message = format!("`{key}` stands alone in its map, or with its own keys");
                    reading.error(entry.span, message);
                }
                key if is_word(key) && entries.len() == 1 => {
                    let at = Node::new(NodeKind::Null).at(entry.span);
                    return unknown(key, &at, KEYS.into_iter(), reading);
                }
                key => fields.push((key.to_owned(), Self::read(&entry.value, reading))),
            }
        }
        Self::Object(fields, others)
    }

    /// Compares a value, and tells all differences.
    pub(super) fn compare(&self, got: &Value, path: &str, differences: &mut Vec<Difference>) {
        match (self, got) {
            (Self::List(items, more), Value::Array(values)) => {
                let longest = if *more {
                    items.len()
                } else {
                    items.len().max(values.len())
                };
                for index in 0..longest {
                    let path = format!("{path}[{index}]");
                    one(items.get(index), values.get(index), path, differences);
                }
            }
            (Self::Object(fields, others), Value::Object(values)) => {
                for (name, pattern) in fields {
                    one(
                        Some(pattern),
                        values.get(name),
                        join(path, name),
                        differences,
                    );
                }
                let known = |name: &str| fields.iter().any(|(field, _)| field == name);
                for (name, value) in values.iter().filter(|(name, _)| !others && !known(name)) {
                    one(None, Some(value), join(path, name), differences);
                }
            }
            _ if self.fits(got) => {}
            _ => differences.push(Difference {
                path: path.to_owned(),
                expected: Some(self.shown()),
                got: Some(got.clone()),
            }),
        }
    }

    /// Whether a value that is no list and no map is as expected.
    fn fits(&self, got: &Value) -> bool {
        match self {
            Self::Exactly(value) => same(value, got),
            Self::Any => true,
            Self::Text => got.is_string(),
            Self::Number => got.is_number(),
            Self::Time => got
                .as_str()
                .is_some_and(|text| text.parse::<Timestamp>().is_ok()),
            Self::Contains(part) => got.as_str().is_some_and(|text| text.contains(part)),
            Self::Near(near, within) => got
                .as_f64()
                .is_some_and(|got| (got - near).abs() <= *within),
            Self::List(..) | Self::Object(..) => false,
        }
    }

    /// The pattern as it can be shown.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::Exactly(value) => value.clone(),
            Self::Any => "$any".into(),
            Self::Text => "$text".into(),
            Self::Number => "$number".into(),
            Self::Time => "$time".into(),
            Self::Contains(part) => json!({"$contains": part}),
            Self::Near(near, within) => json!({"$near": near, "within": within}),
            Self::List(items, more) => {
                let mut items: Vec<Value> = items.iter().map(Self::shown).collect();
                items.extend(more.then(|| OTHERS.into()));
                items.into()
            }
            Self::Object(fields, others) => {
                let fields = fields
                    .iter()
                    .map(|(name, pattern)| (name.clone(), pattern.shown()));
                let mut fields: Map = fields.collect();
                if *others {
                    fields.insert(OTHERS.to_owned(), "$any".into());
                }
                fields.into()
            }
        }
    }
}

fn one(
    pattern: Option<&Pattern>,
    got: Option<&Value>,
    path: String,
    differences: &mut Vec<Difference>,
) {
    match (pattern, got) {
        (Some(pattern), Some(got)) => pattern.compare(got, &path, differences),
        (pattern, got) => differences.push(Difference {
            path,
            expected: pattern.map(Pattern::shown),
            got: got.cloned(),
        }),
    }
}

/// Equal as JSON: a number is its value, however it is written.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || (one.is_f64() != other.is_f64() && one.as_f64() == other.as_f64())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let known = |(name, value)| other.get(name).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(known)
        }
        _ => one == other,
    }
}

/// Whether a text looks like one of our words: `$any`, and not `$5`.
fn is_word(text: &str) -> bool {
    let rest = text.strip_prefix('$').unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn unknown<'k>(
    word: &str,
    node: &Node,
    known: impl Iterator<Item = &'k str>,
    reading: &mut Reading,
) -> Pattern {
    let message = format!("there is no `{word}`; the text itself is `{{$exactly: \"{word}\"}}`");
    reading.error_with_help(node.span, message, possible(word, known));
    Pattern::Any
}

/// A path one field further; names that would be misread stand in quotes.
fn join(path: &str, name: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | ' ');
    if !name.is_empty() && name.chars().all(plain) {
        format!("{path}.{name}")
    } else {
        format!("{path}[{name:?}]")
    }
}

#[cfg(test)]
mod tests {
    use wiredflow_core::yaml;

    use super::*;

    fn differences(pattern: &str, got: &Value) -> Vec<String> {
        let mut reading = Reading::default();
        let pattern = Pattern::read(&yaml::parse(pattern).unwrap(), &mut reading);
        assert!(!reading.failed(), "{:?}", reading.into_problems());
        let mut differences = Vec::new();
        pattern.compare(got, "x", &mut differences);
        let shown =
            |value: Option<Value>| value.map_or("nothing".to_owned(), |value| value.to_string());
        let line =
            |one: Difference| format!("{}: {} {}", one.path, shown(one.expected), shown(one.got));
        differences.into_iter().map(line).collect()
    }

    #[test]
    fn json_is_compared_exactly_and_every_difference_has_its_path() {
        let got = json!([{"a": 1, "b b": [true, null]}, {"a": 2.0}]);
        assert!(differences("[{a: 1, b b: [true, null]}, {a: 2}]", &got).is_empty());
        assert_eq!(
            differences("[{a: '1', b b: [true, 5, 6], c: x}]", &got),
            [
                r#"x[0].a: "1" 1"#,
                "x[0].b b[1]: 5 null",
                "x[0].b b[2]: 6 nothing",
                r#"x[0].c: "x" nothing"#,
                r#"x[1]: nothing {"a":2.0}"#,
            ]
        );
        assert_eq!(
            differences("{}", &json!({"a.b": 1})),
            [r#"x["a.b"]: nothing 1"#]
        );
        assert_eq!(differences("[]", &json!({})), ["x: [] {}"]);
        assert_eq!(
            differences("9007199254740993", &json!(9_007_199_254_740_992_u64)).len(),
            1
        );
    }

    #[test]
    fn words_stand_for_what_is_not_known_before() {
        for (pattern, fits, fails) in [
            ("$any", json!(null), None),
            ("$text", json!(""), Some(json!(1))),
            ("$number", json!(0.5), Some(json!("0.5"))),
            (
                "$time",
                json!("2026-01-01T00:00:00.000000+01:00"),
                Some(json!("today")),
            ),
            ("{$contains: way}", json!("no way"), Some(json!("no"))),
            ("{$near: 20, within: 0.5}", json!(20.5), Some(json!(20.6))),
            ("{$near: 0.3}", json!(0.1 + 0.2), Some(json!(0.3001))),
            ("{$exactly: $any}", json!("$any"), Some(json!("x"))),
            ("$5", json!("$5"), Some(json!("5"))),
            (
                "{a: 1, $others: $any}",
                json!({"b": 2, "a": 1}),
                Some(json!({"a": 2})),
            ),
            ("[1, $others]", json!([1, 2, 3]), Some(json!([]))),
        ] {
            assert!(differences(pattern, &fits).is_empty(), "{pattern}");
            let fails = fails.map(|value| differences(pattern, &value));
            assert!(fails.is_none_or(|found| !found.is_empty()), "{pattern}");
        }
    }

    #[test]
    fn a_word_that_does_not_exist_is_a_problem_with_what_is_possible() {
        for text in ["[$anny]", "{$contians: x}", "{a: 1, $contains: x}"] {
            let mut reading = Reading::default();
            Pattern::read(&yaml::parse(text).unwrap(), &mut reading);
            assert!(reading.failed(), "{text}");
        }
    }
}
