//! Typed reading of nodes: one declaration makes the struct, its documentation and the reader that
//! tells all problems at once.

use std::time::Duration;

use crate::node::{Entry, Node, NodeKind, Span};
use crate::problem::{Problem, possible};
use crate::record::Value;
use crate::secret::Secret;
use crate::units;

/// Collects the problems of one reading, and knows the path of keys to the value at hand.
#[derive(Debug, Default)]
pub struct Reading {
    problems: Vec<Problem>,
    path: Vec<String>,
}

impl Reading {
    /// A reading that starts at this path (`pipelines.numbers.stages.0`).
    pub fn at(path: &str) -> Self {
        let path = path
            .split('.')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        Self {
            problems: Vec::new(),
            path,
        }
    }

    /// Reports an error at a place under the present path.
    pub fn error(&mut self, span: Span, message: impl Into<String>) {
        self.report(Problem::error(span, &self.path(), message));
    }

    /// Reports an error and what is possible.
    pub fn error_with_help(&mut self, span: Span, message: String, help: impl Into<String>) {
        self.report(Problem::error(span, &self.path(), message).with_help(help));
    }

    /// Reports a warning.
    pub fn warning(&mut self, span: Span, message: impl Into<String>) {
        self.report(Problem::warning(span, &self.path(), message));
    }

    /// Reports a warning and what is possible.
    pub fn warning_with_help(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Problem::warning(span, &self.path(), message).with_help(help));
    }

    /// Reports a problem as it is.
    pub fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Reads something one key deeper.
    pub fn inside<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(key.to_owned());
        let result = read(self);
        self.path.pop();
        result
    }

    /// The path of keys to the value at hand.
    pub fn path(&self) -> String {
        self.path.join(".")
    }

    /// Whether an error was reported.
    pub fn failed(&self) -> bool {
        crate::problem::any_error(&self.problems)
    }

    /// All problems, in the order of the file; those of other files come last.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems
            .sort_by_key(|problem| (problem.elsewhere.is_some(), problem.span));
        self.problems
    }

    /// Reports that a value is of the wrong kind.
    pub fn expected(&mut self, what: &str, node: &Node) {
        self.error(node.span, format!("expected {what}, found {}", node.noun()));
    }

    /// The entries of a map, each key once and known; reports the others.
    pub fn entries<'n>(
        &mut self,
        node: &'n Node,
        fields: &[Field],
        what: &str,
    ) -> Option<&'n [Entry]> {
        let entries = self.any_entries(node, what)?;
        for entry in entries {
            if fields.iter().all(|field| field.name != entry.key) {
                let help = possible(&entry.key, offered(fields));
                self.error_with_help(entry.span, format!("unknown key `{}`", entry.key), help);
            }
        }
        Some(entries)
    }

    /// The entries of a map whose keys are free; a repeated key is reported.
    pub fn any_entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Entry]> {
        let NodeKind::Map(entries) = &node.kind else {
            self.expected(what, node);
            return None;
        };
        for (index, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..index].iter().find(|other| other.key == entry.key) {
                let message = format!(
                    "duplicate key `{}`: first at line {}",
                    entry.key, first.span.line
                );
                self.error(entry.span, message);
            }
        }
        Some(entries)
    }
}

/// The documentation of one field of a config struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What may stand there: "a duration such as `10s`".
    pub expects: &'static str,
    /// What holds when it is left out; `None` when it must be given or has no value then.
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
}

/// A type that can stand in a flow file.
pub trait FromNode: Sized {
    /// What may stand there, for messages and the catalogue.
    const EXPECTS: &'static str;

    /// Reads it, or reports why not.
    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self>;

    /// The value when the key is left out and has no default; `None` when it must be given.
    fn when_absent() -> Option<Self> {
        None
    }
}

/// A struct declared by [`config!`](macro@crate::config).
pub trait Config: FromNode + Send + Sync + 'static {
    /// What the struct is for.
    const DOC: &'static str;
    /// The key that a bare text stands for (`http: URL`), if any.
    const SHORT: Option<&'static str>;

    /// Its fields, in order.
    fn fields() -> Vec<Field>;
}

/// Declares a config struct: documentation, type and default of each field in one place.
///
/// A field without `= "default"` must be given unless its type is an `Option`, a list or a map. The
/// default is written as in the flow file. `short field` lets a bare value stand for that field.
#[macro_export]
macro_rules! config {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident $(short $short:ident)? {
            $( $(#[doc = $field_doc:literal])* $field:ident : $type:ty $(= $default:literal)? ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name { $( $(#[doc = $field_doc])* $vis $field: $type, )* }

        impl $crate::fields::Config for $name {
            const DOC: &'static str = concat!($($doc, "\n"),*);
            const SHORT: Option<&'static str> = $crate::config!(@short $($short)?);

            fn fields() -> Vec<$crate::fields::Field> {
                vec![$( $crate::fields::Field {
                    name: $crate::fields::plain(stringify!($field)),
                    doc: concat!($($field_doc, "\n"),*),
                    expects: <$type as $crate::fields::FromNode>::EXPECTS,
                    default: $crate::config!(@default $($default)?),
                    required: $crate::config!(@default $($default)?).is_none()
                        && <$type as $crate::fields::FromNode>::when_absent().is_none(),
                } ),*]
            }
        }

        impl $crate::fields::FromNode for $name {
            const EXPECTS: &'static str = "a map";

            fn from_node(
                node: &$crate::node::Node,
                reading: &mut $crate::fields::Reading,
            ) -> Option<Self> {
                let short = <Self as $crate::fields::Config>::SHORT;
                let fields = <Self as $crate::fields::Config>::fields();
                let node = $crate::fields::widen(node, short);
                let fits = [$( (
                    $crate::fields::plain(stringify!($field)),
                    $crate::fields::fits::<$type> as $crate::fields::Fits,
                ) ),*];
                if let Some(help) = $crate::fields::written_out(&node, &fits) {
                    let message = format!(
                        "expected {}, found {}",
                        $crate::fields::a_map_with(&fields),
                        node.noun()
                    );
                    reading.error_with_help(node.span, message, help);
                    return None;
                }
                let entries = reading.entries(&node, &fields, &$crate::fields::a_map_with(&fields))?;
                $( let $field = $crate::fields::read_field::<$type>(
                    &node, entries, $crate::fields::plain(stringify!($field)), $crate::config!(@default $($default)?), reading,
                ); )*
                Some(Self { $( $field: $field?, )* })
            }
        }
    };
    (@default) => { None::<&'static str> };
    (@default $default:literal) => { Some($default) };
    (@short) => { None };
    (@short $short:ident) => { Some(stringify!($short)) };
}

/// Declares an enum whose cases are words of the flow file.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $( $(#[$case_meta:meta])* $case:ident = $word:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $( $(#[$case_meta])* $case, )* }

        impl $name {
            /// The word that stands for it in the flow file.
            $vis fn word(self) -> &'static str {
                match self { $( Self::$case => $word, )* }
            }
        }

        impl $crate::fields::FromNode for $name {
            const EXPECTS: &'static str = $crate::words!(@list $($word)*);

            fn from_node(
                node: &$crate::node::Node,
                reading: &mut $crate::fields::Reading,
            ) -> Option<Self> {
                $crate::fields::read_word(node, &[$( ($word, Self::$case) ),*], reading)
            }
        }
    };
    (@list $first:literal $($rest:literal)*) => { concat!("`", $first, "`" $(, ", `", $rest, "`")*) };
}

/// The keys that can be used: not those whose documentation says that they are not built yet.
pub fn offered(fields: &[Field]) -> impl Iterator<Item = &'static str> {
    let built = |field: &&Field| !field.doc.contains("built yet");
    fields.iter().filter(built).map(|field| field.name)
}

/// A field's key: a Rust keyword is written `r#where` in the declaration and `where` in the file.
pub fn plain(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// What a config struct is in a file, for messages: a map with its keys.
pub fn a_map_with(fields: &[Field]) -> String {
    let keys = offered(fields).count();
    let shown: Vec<String> = offered(fields)
        .take(6)
        .map(|key| format!("`{key}: …`"))
        .collect();
    let more = if keys > 6 { " …" } else { "" };
    format!("a map such as {{{}{more}}}", shown.join(", "))
}

/// Lets a bare value stand for the short field.
pub fn widen<'n>(node: &'n Node, short: Option<&str>) -> std::borrow::Cow<'n, Node> {
    match (&node.kind, short) {
        (NodeKind::Map(_), _) | (_, None) => std::borrow::Cow::Borrowed(node),
        (NodeKind::Null, Some(_)) => std::borrow::Cow::Owned(Node::empty_map().at(node.span)),
        (_, Some(short)) => {
            let entry = Entry {
                key: short.to_owned(),
                span: node.span,
                value: node.clone(),
            };
            std::borrow::Cow::Owned(Node::new(NodeKind::Map(vec![entry])).at(node.span))
        }
    }
}

/// Whether a value can stand in a field; see [`fits`].
pub type Fits = fn(&Node) -> bool;

/// What a bare value would be as a map, where one is expected: `retry: 3` as `{attempts: 3}`. The first field that
/// can hold it is meant. Text from outside the file is not shown.
pub fn written_out(node: &Node, fields: &[(&str, Fits)]) -> Option<String> {
    let value = match &node.kind {
        NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => crate::yaml::write(node),
        NodeKind::Filled(_) => "…".to_owned(),
        NodeKind::Null | NodeKind::List(_) | NodeKind::Map(_) => return None,
    };
    let value = value.trim_end();
    let (field, _) = fields.iter().find(|(_, fits)| fits(node))?;
    Some(format!("write `{{{field}: {value}}}`"))
}

/// Whether a value can stand in a field of a type, if not any value can.
pub fn fits<T: FromNode>(node: &Node) -> bool {
    T::EXPECTS != Node::EXPECTS && T::from_node(node, &mut Reading::default()).is_some()
}

/// Reads one field of a map: what is written, else the default, else what its type says of absence.
pub fn read_field<T: FromNode>(
    map: &Node,
    entries: &[Entry],
    name: &str,
    default: Option<&str>,
    reading: &mut Reading,
) -> Option<T> {
    // The last of repeated keys is read; the repetition has been reported.
    if let Some(entry) = entries.iter().rev().find(|entry| entry.key == name) {
        if entry.value.kind == NodeKind::Null && T::when_absent().is_none() {
            let message = format!("`{name}` has no value: expected {}", T::EXPECTS);
            reading.error(entry.span, message);
            return None;
        }
        return reading.inside(name, |reading| T::from_node(&entry.value, reading));
    }
    if let Some(default) = default {
        let node = Node::new(NodeKind::Filled(default.to_owned())).at(map.span);
        return reading.inside(name, |reading| T::from_node(&node, reading));
    }
    let absent = T::when_absent();
    if absent.is_none() {
        reading.error(map.span, format!("`{name}` is missing: {}", T::EXPECTS));
    }
    absent
}

/// Reads one of a set of words.
pub fn read_word<T: Copy>(node: &Node, words: &[(&str, T)], reading: &mut Reading) -> Option<T> {
    let known = words.iter().map(|(word, _)| *word);
    let Some(text) = node.as_text() else {
        let list = known
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ");
        reading.expected(&format!("one of {list}"), node);
        return None;
    };
    let found = words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, case)| *case);
    if found.is_none() {
        reading.error_with_help(
            node.span,
            format!("`{text}` is not possible here"),
            possible(text, known),
        );
    }
    found
}

impl FromNode for Node {
    const EXPECTS: &'static str = "any value";

    fn from_node(node: &Node, _: &mut Reading) -> Option<Self> {
        Some(node.clone())
    }
}

impl FromNode for Value {
    const EXPECTS: &'static str = "any value";

    fn from_node(node: &Node, _: &mut Reading) -> Option<Self> {
        Some(node.to_value())
    }
}

impl FromNode for String {
    const EXPECTS: &'static str = "text";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        match &node.kind {
            NodeKind::Text(text) | NodeKind::Filled(text) => Some(text.clone()),
            NodeKind::Number(number) => Some(number.to_string()),
            _ => {
                reading.expected("text", node);
                None
            }
        }
    }
}

impl FromNode for Secret {
    const EXPECTS: &'static str = "text, best as `${env:NAME}` or `${file:PATH}`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        String::from_node(node, reading).map(Secret::new)
    }
}

impl FromNode for bool {
    const EXPECTS: &'static str = "true or false";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        match &node.kind {
            NodeKind::Bool(yes) => return Some(*yes),
            NodeKind::Filled(text) if text == "true" => return Some(true),
            NodeKind::Filled(text) if text == "false" => return Some(false),
            // Words that other readers of YAML take for it.
            NodeKind::Text(word) if ["yes", "on", "no", "off"].contains(&&*word.to_lowercase()) => {
                let meant = ["yes", "on"].contains(&&*word.to_lowercase());
                let message = format!("expected true or false, found the word `{word}`");
                reading.error_with_help(node.span, message, format!("write `{meant}`"));
            }
            _ => reading.expected(Self::EXPECTS, node),
        }
        None
    }
}

macro_rules! whole_numbers {
    ($($type:ty: $expects:literal),*) => { $(
        impl FromNode for $type {
            const EXPECTS: &'static str = $expects;

            fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
                let number = match &node.kind {
                    NodeKind::Number(number) => number.as_u64(),
                    NodeKind::Filled(text) => text.trim().parse().ok(),
                    _ => {
                        reading.expected(Self::EXPECTS, node);
                        return None;
                    }
                };
                let number = number.and_then(|number| <$type>::try_from(number).ok());
                if number.is_none() {
                    reading.error(node.span, concat!("expected ", $expects));
                }
                number
            }
        }
    )* };
}

whole_numbers!(
    u8: "a whole number from 0 to 255",
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number",
    usize: "a whole number"
);

impl FromNode for f64 {
    const EXPECTS: &'static str = "a number";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let number = match &node.kind {
            NodeKind::Number(number) => number.as_f64(),
            NodeKind::Filled(text) => text.trim().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            reading.expected(Self::EXPECTS, node);
        }
        number
    }
}

/// A number of bytes: `64KiB`, `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromNode for Size {
    const EXPECTS: &'static str = "a size such as `64KiB` or `16MiB`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        read_unit(node, reading, Self::EXPECTS, units::parse_size).map(Size)
    }
}

impl FromNode for Duration {
    const EXPECTS: &'static str = "a duration such as `250ms`, `10s`, `5m`, `2h` or `1d`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        read_unit(node, reading, Self::EXPECTS, units::parse_duration)
    }
}

fn read_unit<T>(
    node: &Node,
    reading: &mut Reading,
    expects: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let text = match &node.kind {
        NodeKind::Number(number) => number.to_string(),
        NodeKind::Text(text) | NodeKind::Filled(text) => text.clone(),
        _ => {
            reading.expected(expects, node);
            return None;
        }
    };
    parse(&text)
        .map_err(|message| reading.error(node.span, message))
        .ok()
}

impl<T: FromNode> FromNode for Option<T> {
    const EXPECTS: &'static str = T::EXPECTS;

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        match node.kind {
            NodeKind::Null => Some(None),
            _ => T::from_node(node, reading).map(Some),
        }
    }

    fn when_absent() -> Option<Self> {
        Some(None)
    }
}

/// A list; a single value stands for a list of one.
impl<T: FromNode> FromNode for Vec<T> {
    const EXPECTS: &'static str = "a list";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let NodeKind::List(items) = &node.kind else {
            return T::from_node(node, reading).map(|one| vec![one]);
        };
        let read = |(index, item): (usize, &Node)| {
            reading.inside(&index.to_string(), |reading| T::from_node(item, reading))
        };
        // Read all before giving up, so that every problem is told.
        let read: Vec<Option<T>> = items.iter().enumerate().map(read).collect();
        read.into_iter().collect()
    }

    fn when_absent() -> Option<Self> {
        Some(Vec::new())
    }
}

/// Keys of the user's choice with values, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs<T>(pub Vec<(String, T)>);

impl<T: FromNode> FromNode for Pairs<T> {
    const EXPECTS: &'static str = "a map";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let entries = reading.any_entries(node, "a map")?;
        let read = |entry: &Entry| {
            let value = reading.inside(&entry.key, |reading| T::from_node(&entry.value, reading));
            value.map(|value| (entry.key.clone(), value))
        };
        let read: Vec<Option<(String, T)>> = entries.iter().map(read).collect();
        read.into_iter().collect::<Option<Vec<_>>>().map(Pairs)
    }

    fn when_absent() -> Option<Self> {
        Some(Pairs(Vec::new()))
    }
}

#[cfg(test)]
mod tests;
