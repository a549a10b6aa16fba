//! The flow's storages in a private folder: the kinds are the real ones, the files are not the user's.

use std::path::Path;

use wiredflow_core::node::{Entry, Node, NodeKind};

use crate::logic;

/// The kinds of storages that are files, and the key that says where.
const PLACES: [(&str, &str); 4] = [
    ("csv", "folder"),
    ("json", "folder"),
    ("jsonl", "folder"),
    ("sqlite", "path"),
];

/// The kind of storages that are tables of a server.
const SERVER: &str = "postgres";

/// The flow's tree with all its stages in this process, wherever they run else.
pub fn all_here(flow: &Node) -> Node {
    let mut flow = flow.clone();
    for_each_entry(&mut flow, "pipelines", |pipeline| {
        if let NodeKind::Map(keys) = &mut pipeline.value.kind {
            keys.retain(|entry| entry.key != "isolation");
        }
        let stages = child(&mut pipeline.value, "stages").map(|stages| &mut stages.kind);
        let Some(NodeKind::List(stages)) = stages else {
            return;
        };
        for stage in stages {
            // One without a function is done by a remote's own code: a test answers for it.
            let logic = child(stage, "core_logic").map(|logic| logic::is_function(logic));
            if let (NodeKind::Map(entries), None | Some(true)) = (&mut stage.kind, logic) {
                entries.retain(|entry| entry.key != "remote");
            }
        }
    });
    flow
}

/// The flow's tree with all files of its storages below `folder`. Storages that share a file share one
/// there. Everything else stays, its places in the file too.
pub fn private_storages(flow: &Node, folder: &Path) -> Node {
    let mut flow = flow.clone();
    let mut moving = Moving {
        folder: folder.to_string_lossy().into_owned(),
        seen: Vec::new(),
    };
    let shared = names(&flow);
    for_each_entry(&mut flow, "storages", |storage| {
        moving.storage(&mut storage.value)
    });
    for_each_entry(&mut flow, "pipelines", |pipeline| {
        let stages = child(&mut pipeline.value, "stages");
        let stages = match stages.map(|stages| &mut stages.kind) {
            Some(NodeKind::List(stages)) => stages.as_mut_slice(),
            _ => &mut [],
        };
        for stage in stages {
            let Some(store) = child(stage, "store") else {
                continue;
            };
            let named = store
                .as_text()
                .is_some_and(|name| shared.iter().any(|one| one == name));
            if !named && !logic::is_function(store) {
                moving.storage(store);
            }
        }
    });
    flow
}

struct Moving {
    folder: String,
    /// The places that were met: their kind's key and what the user wrote.
    seen: Vec<(&'static str, String)>,
}

impl Moving {
    fn storage(&mut self, node: &mut Node) {
        if let Some(kind) = node.as_text() {
            let span = node.span;
            let entry = Entry {
                key: kind.to_owned(),
                span,
                value: Node::empty_map().at(span),
            };
            *node = Node::new(NodeKind::Map(vec![entry])).at(span);
        }
        let NodeKind::Map(entries) = &mut node.kind else {
            return;
        };
        for entry in entries {
            if entry.key == SERVER {
                self.database(entry);
            }
            let place = PLACES.iter().find(|(kind, _)| *kind == entry.key);
            if let Some((_, key)) = place {
                self.keep(key, &mut entry.value);
            }
        }
    }

    /// A server's table becomes one of a database file: one file for each server.
    fn database(&mut self, entry: &mut Entry) {
        let span = entry.value.span;
        let (url, table) = match entry.value.as_text() {
            Some(url) => (url.to_owned(), None),
            None => {
                let text = |key| Some(entry.value.entry(key)?.value.as_text()?.to_owned());
                (text("url").unwrap_or_default(), text("table"))
            }
        };
        entry.key = "sqlite".to_owned();
        entry.value = Node::empty_map().at(span);
        entry.value.set("path", Node::text(&url).at(span));
        if let Some(table) = table {
            entry.value.set("table", Node::text(&table).at(span));
        }
    }

    /// Sets the key that says where.
    fn keep(&mut self, key: &'static str, config: &mut Node) {
        let span = config.span;
        let written = config.entry(key).map_or(&*config, |entry| &entry.value);
        let written = written.as_text().unwrap_or_default().to_owned();
        if !matches!(config.kind, NodeKind::Map(_)) {
            *config = Node::empty_map().at(span);
        }
        let known = (key, written);
        let number = match self.seen.iter().position(|place| *place == known) {
            Some(number) => number,
            None => {
                self.seen.push(known);
                self.seen.len() - 1
            }
        };
        let ending = if key == "path" { ".db" } else { "" };
        let place = format!("{}/{number}{ending}", self.folder);
        config.set(key, Node::text(place).at(span));
    }
}

/// The names of the shared storages.
fn names(flow: &Node) -> Vec<String> {
    match flow.entry("storages").map(|entry| &entry.value.kind) {
        Some(NodeKind::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
        _ => Vec::new(),
    }
}

fn child<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    let NodeKind::Map(entries) = &mut node.kind else {
        return None;
    };
    let entry = entries.iter_mut().find(|entry| entry.key == key);
    entry.map(|entry| &mut entry.value)
}

fn for_each_entry(node: &mut Node, key: &str, work: impl FnMut(&mut Entry)) {
    if let Some(NodeKind::Map(entries)) = child(node, key).map(|node| &mut node.kind) {
        entries.iter_mut().for_each(work);
    }
}

#[cfg(test)]
mod tests {
    use wiredflow_core::yaml;

    use super::*;

    #[test]
    fn every_file_goes_below_the_folder_and_nothing_else_changes() {
        let text = "storages: {a: {sqlite: {path: /x/a.db, table: t}, key: id}, b: {sqlite: {path: /x/a.db}}}\npipelines:\n  \
                    p:\n    once: true\n    stages:\n    - store: sqlite\n    - store: {json: here, mapping: update}\n    - \
                    store: a\n    - store: {python: 'f.py:x'}\n    - store: {csv: {folder: '../out'}}\n";
        let moved = private_storages(&yaml::parse(text).unwrap(), Path::new("/tmp/t"));
        let expected = serde_json::json!({
            "storages": {"a": {"sqlite": {"path": "/tmp/t/0.db", "table": "t"}, "key": "id"}, "b": {"sqlite": {"path": "/tmp/t/0.db"}}},
            "pipelines": {"p": {"once": true, "stages": [
                {"store": {"sqlite": {"path": "/tmp/t/1.db"}}},
                {"store": {"json": {"folder": "/tmp/t/2"}, "mapping": "update"}},
                {"store": "a"},
                {"store": {"python": "f.py:x"}},
                {"store": {"csv": {"folder": "/tmp/t/3"}}},
            ]}},
        });
        assert_eq!(moved.to_value(), expected);
    }
}
