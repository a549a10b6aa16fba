//! How the pipelines of a flow stand together on nodes: what keeps its records in the same file cannot be on two machines, and
//! what has files stays where they are. Links lead from one machine to another.

use std::path::Path;

use wiredflow_core::config::{Ack, FlowConfig, PipelineConfig};
use wiredflow_core::node::{Node, NodeKind};

use crate::outline::Outline;
use crate::storages::STORAGES;

/// Pipelines that stand on one node together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name: that of its first pipeline by name, so that it stays the same while that one is there.
    pub name: String,
    /// Its pipelines, in the order of the file.
    pub pipelines: Vec<String>,
    /// Why it stays on its node, each with what would free it; empty where it can be moved.
    pub pinned_by: Vec<String>,
}

/// The parts of a flow in `folder`, in the order of their first pipelines in the file. A Python function counts as a reader of the
/// storages that its body names, as in an [`Outline`].
pub fn of(flow: &FlowConfig, folder: &Path) -> Vec<Part> {
    let outline = Outline::of(flow, folder, &wiredflow_core::secret::Scrubber::default());
    let mut groups = Groups((0..flow.pipelines.len()).collect());
    for storage in outline
        .storages
        .iter()
        .filter(|storage| is_file(&storage.kind))
    {
        let places = storage.writers.iter().chain(&storage.readers);
        let pipelines: Vec<usize> = places.map(|place| place.pipeline).collect();
        pipelines
            .windows(2)
            .for_each(|pair| groups.join(pair[0], pair[1]));
    }
    let mut parts: Vec<(usize, Part)> = Vec::new();
    for (index, pipeline) in flow.pipelines.iter().enumerate() {
        let group = groups.of(index);
        let mut pinned = pinned_by(index, pipeline, &outline);
        match parts.iter_mut().find(|(known, _)| *known == group) {
            Some((_, part)) => {
                part.pipelines.push(pipeline.name.clone());
                pinned.retain(|reason| !part.pinned_by.contains(reason));
                part.pinned_by.extend(pinned);
            }
            None => {
                let part = Part {
                    name: String::new(),
                    pipelines: vec![pipeline.name.clone()],
                    pinned_by: pinned,
                };
                parts.push((group, part));
            }
        }
    }
    let named = parts.into_iter().map(|(_, part)| {
        let first = part.pipelines.iter().min().cloned();
        Part {
            name: first.unwrap_or_default(),
            ..part
        }
    });
    named.collect()
}

/// Whether a kind of storage keeps files on its machine.
fn is_file(kind: &str) -> bool {
    let mut known = STORAGES.iter().filter(|entry| entry.card.name == kind);
    known.any(|entry| !entry.is_away)
}

fn pinned_by(index: usize, pipeline: &PipelineConfig, outline: &Outline) -> Vec<String> {
    let mut reasons = Vec::new();
    for storage in outline
        .storages
        .iter()
        .filter(|storage| is_file(&storage.kind))
    {
        let mut places = storage.writers.iter().chain(&storage.readers);
        if places.any(|place| place.pipeline == index) {
            reasons.push(format!(
                "storage `{}` ({}) is a file on its node: `postgres` would free it",
                storage.name, storage.kind
            ));
        }
    }
    if pipeline.ack == Ack::Inbox {
        reasons.push(format!(
            "the inbox of pipeline `{}` is on the disk of its node: `ack: sink` would free it",
            pipeline.name
        ));
    }
    for stage in &pipeline.stages {
        if says_not_required(&stage.config) {
            reasons.push(format!(
                "stage `{}` of pipeline `{}` has `required: false`, and what waits for it is on the disk of its node: without that line it would be free",
                stage.name, pipeline.name
            ));
        }
    }
    reasons
}

fn says_not_required(config: &Node) -> bool {
    let required = config.entry("required").map(|entry| &entry.value.kind);
    matches!(required, Some(NodeKind::Bool(false)))
}

/// Which pipelines are joined: each points to another of its group, the first one to itself.
struct Groups(Vec<usize>);

impl Groups {
    fn of(&self, index: usize) -> usize {
        let mut at = index;
        while self.0[at] != at {
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.of(one), self.of(other));
        self.0[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use wiredflow_core::config_reader::read_flow;
    use wiredflow_core::fields::Reading;
    use wiredflow_core::yaml;

    use super::*;

    fn parts(text: &str) -> Vec<Part> {
        let mut reading = Reading::default();
        let flow = read_flow(&yaml::parse(text).unwrap(), "flow", &mut reading).unwrap();
        of(&flow, Path::new("/no/such/folder"))
    }

    #[test]
    fn what_shares_a_file_stands_together_and_stays_where_its_files_are() {
        let found = parts(
            r#"
storages:
  shared: {sqlite: {path: a.db}}
  away: {postgres: {url: "postgres://h/d", table: t}}
pipelines:
  z: {every: 1s, stages: [{http: "http://h"}, {store: shared}]}
  b: {every: 1s, stages: [{load: shared}, {store: away}]}
  c: {every: 1s, stages: [{http: "http://h"}, {link: l}]}
  a: {source: {link: l}, stages: [{store: away}]}
  e: {source: {mqtt: {broker: b, topic: t}}, ack: inbox, stages: [{send: {http_post: {url: "http://h"}, required: false}}]}
  d: {every: 1s, stages: [{load: away}]}
"#,
        );
        let told: Vec<_> = found
            .iter()
            .map(|part| {
                (
                    part.name.as_str(),
                    part.pipelines.join(" "),
                    part.pinned_by.len(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("b", "z b".to_owned(), 1),
                ("c", "c".to_owned(), 0),
                ("a", "a".to_owned(), 0),
                ("e", "e".to_owned(), 2),
                ("d", "d".to_owned(), 0),
            ]
        );
        assert_eq!(
            found[0].pinned_by,
            ["storage `shared` (sqlite) is a file on its node: `postgres` would free it"]
        );
    }

    proptest! {
        #[test]
        fn every_pipeline_is_in_one_part_and_those_of_one_file_in_the_same(node in wiredflow_testkit::flows::flow()) {
            let mut reading = Reading::default();
            let flow = read_flow(&node, "flow", &mut reading).unwrap();
            let folder = Path::new("/no/such/folder");
            let parts = of(&flow, folder);
            let mut all: Vec<&String> = parts.iter().flat_map(|part| &part.pipelines).collect();
            let mut names: Vec<&String> = flow.pipelines.iter().map(|pipeline| &pipeline.name).collect();
            all.sort();
            names.sort();
            prop_assert_eq!(all, names);
            let part_of = |index: usize| {
                let name = &flow.pipelines[index].name;
                parts.iter().position(|part| part.pipelines.contains(name))
            };
            let outline = Outline::of(&flow, folder, &wiredflow_core::secret::Scrubber::default());
            for storage in outline.storages.iter().filter(|storage| is_file(&storage.kind)) {
                let places = storage.writers.iter().chain(&storage.readers);
                let parts: BTreeSet<_> = places.map(|place| part_of(place.pipeline)).collect();
                prop_assert!(parts.len() <= 1, "{}", storage.name);
            }
        }
    }
}
