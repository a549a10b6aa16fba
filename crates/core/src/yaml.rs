//! YAML to nodes: a budgeted parser that keeps the place of every key and value; and nodes to YAML.

mod write;

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use crate::node::{Entry, Node, NodeKind, Span};
use crate::problem::Problem;

pub use write::write;

/// The largest flow file, in bytes.
pub const MAX_FILE: usize = 1 << 20;

/// The most values that a flow file may hold, aliases filled in.
const MAX_NODES: usize = 200_000;

/// The most values that aliases may stand for in all.
const MAX_REPLAYED: usize = 20_000;

/// The deepest nesting.
const MAX_DEPTH: usize = 64;

/// Reads a YAML document. Bombs (aliases, depth, size) are refused within milliseconds; a syntax error
/// is one problem with its place. Nothing in the text is ever executed or looked up.
pub fn parse(text: &str) -> Result<Node, Box<Problem>> {
    if text.len() > MAX_FILE {
        let message = format!("the file is larger than {MAX_FILE} bytes");
        return Err(Box::new(Problem::error(Span::default(), "", message)));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut options = serde_saphyr::Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.strict_booleans = true;
    options.leading_zero_numbers_as_strings = true;
    options.with_snippet = false;
    options.budget = serde_saphyr::budget! { max_nodes: MAX_NODES, max_depth: MAX_DEPTH };
    options.alias_limits.max_total_replayed_events = MAX_REPLAYED;
    match serde_saphyr::from_str_with_options::<Option<Node>>(text, options) {
        Ok(Some(node)) => Ok(node),
        Ok(None) => Ok(Node::new(NodeKind::Null)),
        Err(error) => {
            let span = error.location().map(span_of).unwrap_or_default();
            let message = error.to_string();
            let message = message
                .split_once(": ")
                .filter(|(head, _)| head.starts_with("line "));
            let message = message.map_or_else(|| error.to_string(), |(_, rest)| rest.to_owned());
            Err(Box::new(Problem::error(
                span,
                "",
                format!("not YAML: {message}"),
            )))
        }
    }
}

fn span_of(location: Location) -> Span {
    Span {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX),
        offset: location
            .span()
            .byte_offset()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0),
        length: location
            .span()
            .byte_len()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Node {
            kind: spanned.value.0,
            span: span_of(spanned.referenced),
        })
    }
}

/// The value of a node, read without its place.
struct Kind(NodeKind);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor).map(Kind)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = NodeKind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<NodeKind, E> {
        Ok(NodeKind::Null)
    }

    fn visit_none<E>(self) -> Result<NodeKind, E> {
        Ok(NodeKind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<NodeKind, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<NodeKind, E> {
        Ok(NodeKind::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<NodeKind, E> {
        Ok(NodeKind::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<NodeKind, E> {
        Ok(NodeKind::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<NodeKind, E> {
        serde_json::Number::from_f64(number)
            .map(NodeKind::Number)
            .ok_or_else(|| E::custom("infinity and not-a-number are no values here"))
    }

    fn visit_str<E>(self, text: &str) -> Result<NodeKind, E> {
        Ok(NodeKind::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NodeKind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(NodeKind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NodeKind, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(Entry {
                key: key.value,
                span: span_of(key.referenced),
                value,
            });
        }
        Ok(NodeKind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_knows_its_line_and_column() {
        let node = parse("a: 1\nb:\n  - x: yes\n").unwrap();
        let entry = node.entry("b").unwrap();
        assert_eq!((entry.span.line, entry.span.column), (2, 1));
        let NodeKind::List(items) = &entry.value.kind else {
            panic!("not a list")
        };
        let inner = &items[0].entry("x").unwrap().value;
        assert_eq!((inner.span.line, inner.span.column), (3, 8));
        assert_eq!(inner.kind, NodeKind::Text("yes".to_owned()));
    }

    #[test]
    fn a_repeated_key_is_kept_for_the_reader_to_report() {
        let NodeKind::Map(entries) = parse("a: 1\na: 2\n").unwrap().kind else {
            panic!()
        };
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn e11_bombs_are_refused_fast() {
        let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, last) in ["b", "c", "d", "e", "f", "g", "h", "i"]
            .iter()
            .zip("abcdefgh".chars())
        {
            bomb += &format!(
                "{name}: &{name} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
            );
        }
        for text in [
            bomb,
            "[".repeat(100_000),
            format!("a: {}", "x".repeat(MAX_FILE)),
        ] {
            assert!(parse(&text).is_err());
        }
    }

    #[test]
    fn e11_words_of_other_languages_stay_text() {
        let node = parse("a: no\nb: 012\nc: !!python/object:os.system x\n");
        if let Ok(node) = node {
            assert_eq!(node.entry("a").unwrap().value.as_text(), Some("no"));
            assert_eq!(node.entry("b").unwrap().value.as_text(), Some("012"));
        }
        assert_eq!(
            parse("no: 1")
                .unwrap()
                .entry("no")
                .map(|entry| entry.span.line),
            Some(1)
        );
    }

    #[test]
    fn a_syntax_error_names_its_place() {
        let problem = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(problem.span.line >= 2, "{problem:?}");
    }
}
