//! The record steps, and functions in other languages.

use wiredflow_core::Value;
use wiredflow_core::node::{Node, NodeKind};

use super::{Component, Pipeline};

impl Pipeline {
    /// Hands records over to the pipeline whose source is [`link`] of this name.
    #[must_use]
    pub fn link(self, name: &str) -> Self {
        self.stage("link", Node::text(name), Vec::new())
    }

    /// Hands on the records that match: `json!({"field": "temperature", "above": 20})`, or an array of conditions.
    #[must_use]
    pub fn filter(self, condition: Value) -> Self {
        self.stage("filter", Node::from(condition), Vec::new())
    }

    /// The stage `set`: gives fields of each record a value, `json!({"unit": "C"})`.
    #[must_use]
    pub fn set_fields(self, fields: Value) -> Self {
        self.stage("set", Node::from(fields), Vec::new())
    }

    /// The stage `rename`: gives fields of each record other names, `json!({"temp": "celsius"})`.
    #[must_use]
    pub fn rename(self, names: Value) -> Self {
        self.stage("rename", Node::from(names), Vec::new())
    }

    /// The stage `drop`: takes fields out of each record.
    #[must_use]
    pub fn drop_fields(self, fields: &[&str]) -> Self {
        self.stage("drop", texts(fields), Vec::new())
    }

    /// Reads the records of a storage that match, in the words of [`Pipeline::filter`].
    #[must_use]
    pub fn load_where(self, storage: &str, condition: Value) -> Self {
        let config = Node::map([
            ("storage", Node::text(storage)),
            ("where", Node::from(condition)),
        ]);
        self.stage("load", config, Vec::new())
    }
}

/// What other pipelines hand over by [`Pipeline::link`], as source.
pub fn link(name: &str) -> Component {
    Component::of("link", Node::text(name))
}

/// A program and its arguments: JSON lines in, JSON lines out.
pub fn program(command: &[&str]) -> Component {
    Component::of("program", texts(command))
}

/// One `SELECT` over the flow's storages and `input`, the batch.
pub fn sql(query: &str) -> Component {
    Component::of("sql", Node::text(query))
}

fn texts(words: &[&str]) -> Node {
    Node::new(NodeKind::List(
        words.iter().copied().map(Node::text).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Flow;
    use super::*;

    #[test]
    fn steps_and_functions_are_what_the_file_says() {
        let built = Flow::new("x").pipeline("p", |pipeline| {
            pipeline
                .once()
                .load_where("p", json!({"field": "t", "above": 20}))
                .filter(json!([{"field": "t", "exists": true}]))
                .set_fields(json!({"unit": "C"}))
                .rename(json!({"t": "celsius"}))
                .drop_fields(&["a", "b.c"])
                .core_logic(program(&["jq", "-c", ".x"]))
                .core_logic(sql("select * from input").params(json!({"n": 1})))
                .store("jsonl")
        });
        let file = "
name: x
pipelines:
  p:
    once: true
    stages:
      - load: {storage: p, where: {field: t, above: 20}}
      - filter: [{field: t, exists: true}]
      - set: {unit: C}
      - rename: {t: celsius}
      - drop: [a, b.c]
      - core_logic: {program: [jq, -c, .x]}
      - core_logic: {sql: select * from input, params: {n: 1}}
      - store: jsonl
";
        let file = wiredflow_core::yaml::parse(file).unwrap();
        assert_eq!(built.node().to_value(), file.to_value());
    }
}
