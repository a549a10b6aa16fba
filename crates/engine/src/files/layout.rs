//! How records stand in a file: one on each line, alone or as items of a JSON array.

use std::fmt;
use std::io::{self, BufRead, Write};

use serde::de::{Deserializer, SeqAccess, Visitor};
use wiredflow_core::Value;

/// What stands around records. An append writes `separator`, records and `close` over the old `close`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What a file begins with.
    pub(crate) open: &'static str,
    /// What stands between two records.
    pub(crate) separator: &'static str,
    /// What a file with records ends with.
    pub(crate) close: &'static str,
    /// What a file without records ends with.
    pub(crate) close_empty: &'static str,
}

/// A JSON array with one record on each line: valid JSON for everyone else.
pub(crate) const ARRAY: Layout = Layout {
    open: "[\n",
    separator: ",\n",
    close: "\n]\n",
    close_empty: "]\n",
};

/// JSON lines.
pub(crate) const LINES: Layout = Layout {
    open: "",
    separator: "\n",
    close: "\n",
    close_empty: "",
};

/// The bytes that editors of another system put before a text.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Layout {
    /// A line of the file without what stands around the record: `None` for a line that is no record's.
    pub(crate) fn record<'l>(&self, line: &'l [u8]) -> Option<&'l [u8]> {
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        let line = line.trim_ascii_end();
        match line {
            b"" => None,
            b"[" | b"]" if *self == ARRAY => None,
            _ if *self == ARRAY => Some(line.strip_suffix(b",").unwrap_or(line)),
            _ => Some(line),
        }
    }
}

/// Reads a JSON array to its end, and nothing of it is kept: says why it is none, with the line.
pub(crate) fn validate_array(input: impl BufRead) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_reader(input);
    reader.deserialize_seq(Items)?;
    reader.end()
}

/// Reads one JSON object to its end.
pub(crate) fn is_object(input: impl BufRead) -> bool {
    serde_json::from_reader::<_, wiredflow_core::Map>(input).is_ok()
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        // As values, not as anything that is ignored: what passes here can be loaded.
        while items.next_element::<Value>()?.is_some() {}
        Ok(())
    }
}

/// Copies a JSON array that has been validated, or one object, into [`ARRAY`]'s layout. Every number
/// and text stays as it was written.
pub(crate) fn one_per_line(mut input: impl BufRead, output: &mut impl Write) -> io::Result<()> {
    let mut text = Text::default();
    let mut records: usize = 0;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        let mut out = Vec::with_capacity(chunk.len() * 2);
        for &byte in chunk {
            let Some(place) = text.read(byte) else {
                continue;
            };
            match (place, records, byte) {
                (Place::Bracket, _, _) => {}
                (Place::Comma, _, _) => out.extend_from_slice(ARRAY.separator.as_bytes()),
                (Place::Record, 0, _) => {
                    out.extend_from_slice(ARRAY.open.as_bytes());
                    out.push(byte);
                    records += 1;
                }
                (Place::Record, _, _) => out.push(byte),
            }
        }
        output.write_all(&out)?;
        let used = chunk.len();
        input.consume(used);
    }
    let end = match records {
        0 => [ARRAY.open, ARRAY.close_empty].concat(),
        _ => ARRAY.close.to_owned(),
    };
    output.write_all(end.as_bytes())
}

/// Where a byte of a JSON text stands.
enum Place {
    /// Around all items.
    Bracket,
    /// Between two items.
    Comma,
    /// In an item.
    Record,
}

/// What must be known to tell where the next byte stands.
#[derive(Default)]
struct Text {
    depth: usize,
    array: bool,
    quoted: bool,
    escaped: bool,
}

impl Text {
    /// The place of the next byte; `None` for white space that means nothing.
    fn read(&mut self, byte: u8) -> Option<Place> {
        if self.quoted {
            self.quoted = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return Some(Place::Record);
        }
        let outer = usize::from(self.array);
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return None,
            b'"' => self.quoted = true,
            b'[' if self.depth == 0 => {
                self.array = true;
                self.depth = 1;
                return Some(Place::Bracket);
            }
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => {
                self.depth -= 1;
                if self.array && self.depth == 0 {
                    return Some(Place::Bracket);
                }
            }
            b',' if self.array && self.depth == outer => return Some(Place::Comma),
            _ => {}
        }
        Some(Place::Record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_copy(text: &str, expected: &str) {
        let mut copy = Vec::new();
        validate_array(text.as_bytes()).unwrap();
        one_per_line(io::BufReader::with_capacity(3, text.as_bytes()), &mut copy).unwrap();
        assert_eq!(String::from_utf8(copy).unwrap(), expected);
    }

    #[test]
    fn any_spelling_of_an_array_becomes_one_record_on_each_line() {
        check_copy("[]", "[\n]\n");
        check_copy(" [ 1 , \"a , ]\\\" \" ] ", "[\n1,\n\"a , ]\\\" \"\n]\n");
        check_copy(
            "[\n  {\n    \"a b\": [1, 2],\n    \"c\": \"\\\\\"\n  },\n  {}\n]",
            "[\n{\"a b\":[1,2],\"c\":\"\\\\\"},\n{}\n]\n",
        );
        // More digits than a float has: not a digit is lost.
        check_copy(
            "[123456789012345678901234567890.50]",
            "[\n123456789012345678901234567890.50\n]\n",
        );
    }

    #[test]
    fn one_object_becomes_an_array_of_it() {
        let mut copy = Vec::new();
        one_per_line(&b"{\"a\": [1, {}],\n \"b\": 2}"[..], &mut copy).unwrap();
        assert_eq!(copy, b"[\n{\"a\":[1,{}],\"b\":2}\n]\n");
    }

    #[test]
    fn what_is_no_array_is_refused_with_its_line() {
        for (text, line) in [("{\"a\": 1}", 1), ("[1,\n2,\n3", 3), ("[1]\n\n[2]", 3)] {
            let error = validate_array(text.as_bytes()).unwrap_err();
            assert_eq!(error.line(), line, "{error}");
        }
        validate_array(&b"[\"\\ud800\"]"[..]).unwrap_err();
        validate_array("[".repeat(100_000).as_bytes()).unwrap_err();
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(|number| json!(number)),
            any::<f64>().prop_map(|number| json!(number)),
            "[ \\[\\]{},:\"\\\\a\n\u{0}é]{0,8}".prop_map(Value::String),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec(("[ \"\\\\a,]{0,4}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_copy_says_the_same(items in prop::collection::vec(values(), 0..5)) {
            let document = Value::Array(items);
            for text in [document.to_string(), format!("{document:#}")] {
                let mut copy = Vec::new();
                one_per_line(text.as_bytes(), &mut copy).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<Value>(&copy).unwrap(), &document);
                let lines = copy.iter().filter(|byte| **byte == b'\n').count();
                prop_assert_eq!(lines, document.as_array().map_or(0, Vec::len) + 2);
            }
        }
    }
}
