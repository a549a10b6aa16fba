//! What users do to a flow file by mistake: keys and values left out, doubled, misspelt, or of the wrong kind.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use wiredflow_core::node::{Entry, Node, NodeKind, Span};

/// One change at a random place of a tree.
#[derive(Clone, Debug)]
pub struct Edit {
    place: Index,
    entry: Index,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    /// The value becomes another.
    Replace(Node),
    /// An entry or item is left out.
    Remove,
    /// An entry or item stands there twice.
    Double,
    /// A key gets another name.
    Rename(String),
    /// An entry is added.
    Add(String, Node),
}

/// A random edit: of values and keys that occur in flows, and others.
pub fn edit() -> impl Strategy<Value = Edit> {
    let word = || {
        prop_oneof![
            select(vec![
                "every",
                "cron",
                "at",
                "once",
                "source",
                "stages",
                "http",
                "store",
                "send",
                "load",
                "core_logic",
                "json",
                "sqlite",
                "mqtt",
                "retry",
                "timeout",
                "name",
                "mapping",
                "key",
                "params",
                "evry",
                "sqlit",
                "batch",
                "remote",
                "filter",
            ])
            .prop_map(str::to_owned),
            super::text(),
        ]
    };
    let value = || {
        prop_oneof![
            super::document().prop_map(Node::from),
            word().prop_map(Node::from),
            select(vec![
                "10s",
                "-1s",
                "${env:NONE}",
                "${",
                "* * *",
                "http://",
                "a.py:f",
                "99999999999999999999s"
            ])
            .prop_map(Node::from),
        ]
    };
    let change = prop_oneof![
        value().prop_map(Change::Replace),
        Just(Change::Remove),
        Just(Change::Double),
        word().prop_map(Change::Rename),
        (word(), value()).prop_map(|(key, value)| Change::Add(key, value)),
    ];
    (any::<Index>(), any::<Index>(), change).prop_map(|(place, entry, change)| Edit {
        place,
        entry,
        change,
    })
}

impl Edit {
    /// Changes the tree at the edit's place; a change that does not fit there changes nothing.
    pub fn apply(&self, tree: &mut Node) {
        let mut left = self.place.index(count(tree));
        if let Some(node) = nth(tree, &mut left) {
            self.change(node);
        }
    }

    fn change(&self, node: &mut Node) {
        if let Change::Replace(value) = &self.change {
            *node = value.clone();
            return;
        }
        match &mut node.kind {
            NodeKind::List(items) if !items.is_empty() => {
                let at = self.entry.index(items.len());
                match &self.change {
                    Change::Remove => drop(items.remove(at)),
                    Change::Double => items.insert(at, items[at].clone()),
                    Change::Add(_, value) => items.insert(at, value.clone()),
                    Change::Rename(_) | Change::Replace(_) => {}
                }
            }
            NodeKind::Map(entries) if !entries.is_empty() => {
                let at = self.entry.index(entries.len());
                match &self.change {
                    Change::Remove => drop(entries.remove(at)),
                    Change::Double => entries.insert(at, entries[at].clone()),
                    Change::Rename(key) => entries[at].key.clone_from(key),
                    Change::Add(key, value) => entries.insert(
                        at,
                        Entry {
                            key: key.clone(),
                            span: Span::default(),
                            value: value.clone(),
                        },
                    ),
                    Change::Replace(_) => {}
                }
            }
            _ => {}
        }
    }
}

fn children(node: &mut Node) -> Box<dyn Iterator<Item = &mut Node> + '_> {
    match &mut node.kind {
        NodeKind::List(items) => Box::new(items.iter_mut()),
        NodeKind::Map(entries) => Box::new(entries.iter_mut().map(|entry| &mut entry.value)),
        _ => Box::new(std::iter::empty()),
    }
}

fn count(node: &mut Node) -> usize {
    1 + children(node).map(count).sum::<usize>()
}

/// The node that so many others come before.
fn nth<'n>(node: &'n mut Node, left: &mut usize) -> Option<&'n mut Node> {
    if *left == 0 {
        return Some(node);
    }
    *left -= 1;
    for child in children(node) {
        let size = count(child);
        if *left < size {
            return nth(child, left);
        }
        *left -= size;
    }
    None
}
