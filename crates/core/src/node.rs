//! A tree of YAML or JSON values in which every value and key knows where it stands in the file.

use std::fmt;

use serde_json::Number;

use crate::record::{Map, Value};

/// A place in the flow file. Lines and columns count from 1; line 0 means "not from a file" (the builder).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The first byte in the file.
    pub offset: usize,
    /// How many bytes.
    pub length: usize,
}

impl Span {
    /// Whether it stands for a place in a file.
    pub fn is_known(&self) -> bool {
        self.line > 0
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and its place. Two nodes are equal when their values are, wherever they stand.
#[derive(Clone, Debug)]
pub struct Node {
    /// What stands there.
    pub kind: NodeKind,
    /// Where it stands.
    pub span: Span,
}

/// What a node can be.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A text that was made by filling in `${env:}` or `${file:}`: it may stand for a number.
    Filled(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with values, in the order of the file. Keys may be repeated: the reader reports it.
    Map(Vec<Entry>),
}

/// A key, its place, and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub span: Span,
    /// The value.
    pub value: Node,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

impl Node {
    /// A node without a place.
    pub fn new(kind: NodeKind) -> Self {
        Self {
            kind,
            span: Span::default(),
        }
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(NodeKind::Text(text.into()))
    }

    /// A map without entries.
    pub fn empty_map() -> Self {
        Self::new(NodeKind::Map(Vec::new()))
    }

    /// A map of these entries.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Node)>) -> Self {
        let entry = |(key, value): (K, Node)| Entry {
            key: key.into(),
            span: Span::default(),
            value,
        };
        Self::new(NodeKind::Map(entries.into_iter().map(entry).collect()))
    }

    /// The same value at a place.
    #[must_use]
    pub fn at(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// The same tree with no place in it: two flows read from such trees have nothing but their content.
    #[must_use]
    pub fn without_places(mut self) -> Self {
        fn forget(node: &mut Node) {
            node.span = Span::default();
            match &mut node.kind {
                NodeKind::List(items) => items.iter_mut().for_each(forget),
                NodeKind::Map(entries) => {
                    for entry in entries {
                        entry.span = Span::default();
                        forget(&mut entry.value);
                    }
                }
                _ => {}
            }
        }
        forget(&mut self);
        self
    }

    /// The entry with this key, if it is a map that has one.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            NodeKind::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Text(text) | NodeKind::Filled(text) => Some(text),
            _ => None,
        }
    }

    /// Sets a key of a map, replacing the value that was there. Does nothing to other nodes.
    pub fn set(&mut self, key: &str, value: Node) {
        if let NodeKind::Map(entries) = &mut self.kind {
            match entries.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => entry.value = value,
                None => entries.push(Entry {
                    key: key.to_owned(),
                    span: Span::default(),
                    value,
                }),
            }
        }
    }

    /// What kind of value it is, for messages.
    pub fn noun(&self) -> &'static str {
        match self.kind {
            NodeKind::Null => "nothing",
            NodeKind::Bool(_) => "true/false",
            NodeKind::Number(_) => "a number",
            NodeKind::Text(_) | NodeKind::Filled(_) => "text",
            NodeKind::List(_) => "a list",
            NodeKind::Map(_) => "a map",
        }
    }

    /// The value without places. A repeated key keeps its last value.
    pub fn to_value(&self) -> Value {
        match &self.kind {
            NodeKind::Null => Value::Null,
            NodeKind::Bool(yes) => Value::Bool(*yes),
            NodeKind::Number(number) => Value::Number(number.clone()),
            NodeKind::Text(text) | NodeKind::Filled(text) => Value::String(text.clone()),
            NodeKind::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            NodeKind::Map(entries) => {
                let pairs = entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_value()));
                Value::Object(pairs.collect::<Map>())
            }
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        Self::new(match value {
            Value::Null => NodeKind::Null,
            Value::Bool(yes) => NodeKind::Bool(yes),
            Value::Number(number) => NodeKind::Number(number),
            Value::String(text) => NodeKind::Text(text),
            Value::Array(items) => NodeKind::List(items.into_iter().map(Self::from).collect()),
            Value::Object(map) => {
                return Self::map(map.into_iter().map(|(k, v)| (k, Self::from(v))));
            }
        })
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}
