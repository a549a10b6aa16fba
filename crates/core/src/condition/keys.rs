//! The values of a condition as they stand in the file.

use serde_json::Number;

use super::{Comparison, ConditionKeys, Order};
use crate::fields::{FromNode, Reading};
use crate::node::{Node, NodeKind};
use crate::record::Value;

/// Any value, null included; nothing where the key is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant(Option<Value>);

/// A list of values; nothing where the key is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Constants(Option<Vec<Value>>);

/// A number or a text; nothing where the key is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound(Option<Value>);

impl FromNode for Constant {
    const EXPECTS: &'static str = "any value";

    fn from_node(node: &Node, _: &mut Reading) -> Option<Self> {
        Some(Self(Some(constant(node))))
    }

    fn when_absent() -> Option<Self> {
        Some(Self(None))
    }
}

impl FromNode for Constants {
    const EXPECTS: &'static str = "a list of values";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let NodeKind::List(items) = &node.kind else {
            reading.expected(Self::EXPECTS, node);
            return None;
        };
        Some(Self(Some(items.iter().map(constant).collect())))
    }

    fn when_absent() -> Option<Self> {
        Some(Self(None))
    }
}

impl FromNode for Bound {
    const EXPECTS: &'static str = "a number or a text";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let value = constant(node);
        if !value.is_number() && !value.is_string() {
            reading.expected(Self::EXPECTS, node);
            return None;
        }
        Some(Self(Some(value)))
    }

    fn when_absent() -> Option<Self> {
        Some(Self(None))
    }
}

/// The value; a text that `${env:}` or `${file:}` has filled in may stand for a number or a truth.
fn constant(node: &Node) -> Value {
    if let NodeKind::Filled(text) = &node.kind {
        if let Ok(number) = text.trim().parse::<Number>() {
            return Value::Number(number);
        }
        if let Ok(truth) = text.trim().parse() {
            return Value::Bool(truth);
        }
    }
    node.to_value()
}

impl ConditionKeys {
    /// All comparisons that are given.
    pub(super) fn comparisons(&self) -> Vec<Comparison> {
        let mut all = Vec::new();
        all.extend(self.is.0.clone().map(Comparison::Is));
        all.extend(self.is_not.0.clone().map(Comparison::IsNot));
        all.extend(self.one_of.0.clone().map(Comparison::OneOf));
        for (order, bound) in [
            (Order::Above, &self.above),
            (Order::AtLeast, &self.at_least),
            (Order::Below, &self.below),
            (Order::AtMost, &self.at_most),
        ] {
            let comparison = |bound| Comparison::Order(order, bound);
            all.extend(bound.0.clone().map(comparison));
        }
        all.extend(self.contains.0.clone().map(Comparison::Contains));
        all.extend(self.exists.map(Comparison::Exists));
        all
    }
}
