//! Which records are meant: the one vocabulary of the stage `filter` and of `load: {where}`.
//!
//! What storages make of values must not matter: csv keeps all as text and SQLite has no booleans. So a number
//! also fits a text that is written as that number, and `true` fits 1 and the text `true`.

mod keys;

use std::cmp::Ordering;

use serde_json::Number;

use crate::config;
use crate::field_path::FieldPath;
use crate::fields::{Config, Field, FromNode, Reading};
use crate::node::{Node, NodeKind};
use crate::record::Value;
use keys::{Bound, Constant, Constants};

config! {
    /// Hands on the records that match and drops the others. Several comparisons, and several conditions in a
    /// list, must all hold.
    pub struct ConditionKeys {
        /// The field that is looked at: `temperature`, or `main.temp` for one inside an object; `.` is the record itself.
        field: Option<FieldPath>,
        /// It equals this. `null` also fits a field that is not there.
        is: Constant,
        /// It does not equal this.
        is_not: Constant,
        /// It equals one of these.
        one_of: Constants,
        /// It is greater: of numbers, or of texts by their letters, as ISO dates have them.
        above: Bound,
        /// It is greater or equal.
        at_least: Bound,
        /// It is less.
        below: Bound,
        /// It is less or equal.
        at_most: Bound,
        /// It is a text with this text in it, or a list with this item.
        contains: Constant,
        /// `true`: it is there and not null; `false`: it is not.
        exists: Option<bool>,
        /// In place of all others: conditions of which at least one holds.
        any: Vec<Condition>,
    }
}

/// One condition, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// At least one of these holds.
    Any(Vec<Condition>),
    /// All comparisons of a field hold.
    Field(FieldPath, Vec<Comparison>),
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Is(Value),
    /// Not equal.
    IsNot(Value),
    /// Equal to one of them.
    OneOf(Vec<Value>),
    /// Greater or less than a number or text.
    Order(Order, Value),
    /// A text with this text in it, or a list with this item.
    Contains(Value),
    /// There and not null, or the contrary.
    Exists(bool),
}

/// The comparisons that ask for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Greater.
    Above,
    /// Greater or equal.
    AtLeast,
    /// Less.
    Below,
    /// Less or equal.
    AtMost,
}

/// Conditions that must all hold; none is no condition at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions(pub Vec<Condition>);

impl Conditions {
    /// Whether a record is meant.
    pub fn hold(&self, record: &Value) -> bool {
        self.0.iter().all(|condition| condition.holds(record))
    }

    /// Whether every record is meant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Condition {
    /// Whether it holds for a record.
    pub fn holds(&self, record: &Value) -> bool {
        match self {
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(record)),
            Self::Field(path, comparisons) => {
                let found = path.find(record).unwrap_or(&Value::Null);
                comparisons.iter().all(|comparison| comparison.holds(found))
            }
        }
    }
}

impl Comparison {
    fn holds(&self, found: &Value) -> bool {
        match self {
            Self::Is(expected) => equal(expected, found),
            Self::IsNot(expected) => !equal(expected, found),
            Self::OneOf(expected) => expected.iter().any(|expected| equal(expected, found)),
            Self::Order(order, bound) => {
                compare(found, bound).is_some_and(|found| order.allows(found))
            }
            Self::Contains(expected) => match (expected, found) {
                (Value::String(part), Value::String(text)) => text.contains(part.as_str()),
                (_, Value::Array(items)) => items.iter().any(|item| equal(expected, item)),
                _ => false,
            },
            Self::Exists(wanted) => found.is_null() != *wanted,
        }
    }
}

impl Order {
    fn allows(self, found: Ordering) -> bool {
        match self {
            Self::Above => found.is_gt(),
            Self::AtLeast => found.is_ge(),
            Self::Below => found.is_lt(),
            Self::AtMost => found.is_le(),
        }
    }
}

fn equal(expected: &Value, found: &Value) -> bool {
    match expected {
        Value::Bool(truth) => match found {
            Value::Bool(found) => found == truth,
            Value::Number(number) => number.as_u64() == Some(u64::from(*truth)),
            Value::String(text) => text.trim().parse() == Ok(*truth),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        },
        Value::Number(_) => compare(found, expected) == Some(Ordering::Equal),
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => expected == found,
    }
}

/// How a value stands to a number or a text; `None` where they cannot be compared.
fn compare(found: &Value, bound: &Value) -> Option<Ordering> {
    match bound {
        Value::Number(bound) => compare_numbers(&number_of(found)?, bound),
        Value::String(bound) => Some(found.as_str()?.cmp(bound)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn number_of(found: &Value) -> Option<Number> {
    match found {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn compare_numbers(one: &Number, other: &Number) -> Option<Ordering> {
    match (one.as_i128(), other.as_i128()) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        (Some(one), None) => Some(compare_mixed(one, other.as_f64()?)),
        (None, Some(other)) => Some(compare_mixed(other, one.as_f64()?).reverse()),
        (None, None) => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

/// Exact, where turning the integer into a float would not be.
fn compare_mixed(integer: i128, real: f64) -> Ordering {
    let whole = real.trunc();
    // Beyond all 64-bit integers the conversion stops at the ends of the range, which changes no answer.
    let part = real - whole;
    integer
        .cmp(&(whole as i128))
        .then(0.0_f64.partial_cmp(&part).unwrap_or(Ordering::Equal))
}

impl FromNode for Condition {
    const EXPECTS: &'static str = "a condition such as `{field: temperature, above: 20}`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let keys = ConditionKeys::from_node(node, reading)?;
        let known = ConditionKeys::fields();
        let known = |key: &str| known.iter().any(|field| field.name == key);
        if matches!(&node.kind, NodeKind::Map(entries) if !entries.iter().all(|entry| known(&entry.key)))
        {
            return None; // has been reported, and may be what is missed below
        }
        let comparisons = keys.comparisons();
        let any = !keys.any.is_empty() || node.entry("any").is_some();
        let message = match (any, &keys.field, comparisons.is_empty()) {
            (true, None, true) => return Some(Self::Any(keys.any)),
            (true, _, _) => "`any` stands alone: it holds conditions of its own",
            (false, None, _) => "`field` is missing: the field that is looked at",
            (false, Some(field), false) => return Some(Self::Field(field.clone(), comparisons)),
            (false, Some(_), true) => "a comparison is missing",
        };
        let help = "a condition is `{field: temperature, above: 20}`; possible: `is`, `is_not`, `one_of`, `above`, \
                    `at_least`, `below`, `at_most`, `contains`, `exists`, or `any: [condition, …]` alone";
        reading.error_with_help(node.span, message.to_owned(), help);
        None
    }
}

/// One condition, or a list of them.
impl FromNode for Conditions {
    const EXPECTS: &'static str =
        "a condition such as `{field: temperature, above: 20}`, or a list of them";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        match node.kind {
            NodeKind::List(_) | NodeKind::Map(_) => {
                Vec::<Condition>::from_node(node, reading).map(Self)
            }
            _ => {
                reading.expected(Self::EXPECTS, node);
                None
            }
        }
    }

    fn when_absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl Config for Conditions {
    const DOC: &'static str = ConditionKeys::DOC;
    const SHORT: Option<&'static str> = None;

    fn fields() -> Vec<Field> {
        ConditionKeys::fields()
    }
}

#[cfg(test)]
mod tests;
