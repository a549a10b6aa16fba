//! What a flow looks like: its pipelines, their stages, and the storages between them, for those who draw it.

use std::path::Path;

use wiredflow_core::config::{Ack, FlowConfig, PipelineConfig, StageConfig, TriggerConfig};
use wiredflow_core::fields::Reading;
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::secret::Scrubber;
use wiredflow_core::units::format_duration;

use crate::check::links::name_of;
use crate::check::storages;
use crate::logic::LANGUAGES;
use crate::sql::words::words;

/// The keys that say best what a component is about, the first that is there goes in.
const TELLING: [&str; 7] = [
    "url", "broker", "storage", "path", "folder", "command", "name",
];

/// A flow in outline; all texts are free of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The flow's name.
    pub flow: String,
    /// Its pipelines, in the order of the file.
    pub pipelines: Vec<PipelineOutline>,
    /// Its storages: shared ones first, then those that stand inline, then its links.
    pub storages: Vec<StorageOutline>,
}

/// A pipeline in outline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineOutline {
    /// Its name.
    pub name: String,
    /// What starts it: `every 10s`, `mqtt localhost:1883 /demo/integers`.
    pub trigger: String,
    /// Its stages, in order.
    pub stages: Vec<StageOutline>,
}

/// A stage in outline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageOutline {
    /// Its name.
    pub name: String,
    /// The component.
    pub kind: String,
    /// What it is about: an address, a function, a receiver.
    pub detail: String,
}

/// A storage in outline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageOutline {
    /// Its name.
    pub name: String,
    /// The component.
    pub kind: String,
    /// Who stores into it.
    pub writers: Vec<Place>,
    /// Who loads from it.
    pub readers: Vec<Place>,
}

/// A stage: the places of its pipeline in the flow and its own in the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The pipeline's.
    pub pipeline: usize,
    /// The stage's.
    pub stage: usize,
}

impl Outline {
    /// The outline of a checked flow in `folder`. A Python function counts as a reader of the storages that its
    /// body takes by name (`["numbers"]`); its file is read, nothing is run. So does SQL that names them.
    pub fn of(flow: &FlowConfig, folder: &Path, scrubber: &Scrubber) -> Self {
        let mut storages: Vec<StorageOutline> = storages::all(flow, &mut Reading::default())
            .into_iter()
            .map(|storage| StorageOutline {
                name: storage.config.name,
                kind: storage.config.kind,
                writers: Vec::new(),
                readers: Vec::new(),
            })
            .collect();
        for (pipeline, config) in flow.pipelines.iter().enumerate() {
            let mut inline = 0;
            for (stage, config_of_stage) in config.stages.iter().enumerate() {
                let place = Place { pipeline, stage };
                if let Some(written) = written(config, config_of_stage, flow, &mut inline) {
                    let found = storages.iter_mut().find(|one| one.name == written);
                    found.into_iter().for_each(|one| one.writers.push(place));
                }
                for storage in &mut storages {
                    if reads(config_of_stage, &storage.name, folder) {
                        storage.readers.push(place);
                    }
                }
            }
        }
        storages.extend(links(flow));
        let pipelines = flow.pipelines.iter().map(|config| PipelineOutline {
            name: config.name.clone(),
            trigger: scrubber.scrub(&triggered(config)),
            stages: config
                .stages
                .iter()
                .map(|stage| StageOutline {
                    name: stage.name.clone(),
                    kind: stage.kind.clone(),
                    detail: scrubber.scrub(&detail(stage)),
                })
                .collect(),
        });
        Self {
            flow: flow.name.clone(),
            pipelines: pipelines.collect(),
            storages,
        }
    }
}

/// The storage that a stage stores into. `inline` counts the pipeline's inline storages.
fn written(
    pipeline: &PipelineConfig,
    stage: &StageConfig,
    flow: &FlowConfig,
    inline: &mut usize,
) -> Option<String> {
    if stage.kind != "store" {
        return None;
    }
    if storages::is_inline(&stage.config, flow) {
        *inline += 1;
        return Some(storages::inline_name(&pipeline.name, *inline));
    }
    stage.config.as_text().map(str::to_owned)
}

/// The links of a flow: what is written to one is read by the first stage of the pipeline that takes from it.
fn links(flow: &FlowConfig) -> impl Iterator<Item = StorageOutline> + '_ {
    let takers = flow.pipelines.iter().enumerate();
    takers.filter_map(|(pipeline, taker)| {
        let TriggerConfig::Source { kind, config } = &taker.trigger else {
            return None;
        };
        let name = name_of(config).filter(|_| kind == "link")?;
        let mut writers = Vec::new();
        for (pipeline, sender) in flow.pipelines.iter().enumerate() {
            for (stage, sending) in sender.stages.iter().enumerate() {
                if sending.kind == "link" && name_of(&sending.config).as_deref() == Some(&name) {
                    writers.push(Place { pipeline, stage });
                }
            }
        }
        Some(StorageOutline {
            name,
            kind: "link".to_owned(),
            writers,
            readers: vec![Place { pipeline, stage: 0 }],
        })
    })
}

/// Whether a stage loads from a storage.
fn reads(stage: &StageConfig, storage: &str, folder: &Path) -> bool {
    if stage.kind == "load" {
        let named = stage.config.entry("storage").map(|entry| &entry.value);
        return named.unwrap_or(&stage.config).as_text() == Some(storage);
    }
    let sql = stage
        .config
        .entry("sql")
        .and_then(|entry| entry.value.as_text());
    if let Some(sql) = sql {
        return words(sql).contains(&storage.to_lowercase());
    }
    let python = stage.config.entry("python");
    let Some((file, function)) = python
        .and_then(|entry| entry.value.as_text())
        .and_then(|source| source.rsplit_once(':'))
    else {
        return false;
    };
    let Ok(text) = std::fs::read_to_string(folder.join(file)) else {
        return false;
    };
    let body = body_of(&text, function);
    ["[\"N\"]", "['N']", "get(\"N\"", "get('N'"]
        .iter()
        .any(|way| body.contains(&way.replace('N', storage)))
}

/// The lines of a Python function; the whole text where it is not found.
fn body_of(text: &str, function: &str) -> String {
    let begins = |line: &str| {
        let rest = line.strip_prefix("async ").unwrap_or(line);
        let name = rest
            .strip_prefix("def ")
            .and_then(|rest| rest.split('(').next());
        name.map(str::trim) == Some(function)
    };
    if !text.lines().any(begins) {
        return text.to_owned();
    }
    let goes_on = |line: &&str| {
        line.is_empty() || line.starts_with([' ', '\t', ')', '#', ']']) // also a signature of many lines
    };
    let mut lines = text.lines().skip_while(|line| !begins(line));
    let first = lines.next().unwrap_or_default().to_owned();
    lines
        .take_while(goes_on)
        .fold(first, |body, line| body + "\n" + line)
}

fn triggered(config: &PipelineConfig) -> String {
    match config.ack {
        Ack::Sink => trigger(&config.trigger),
        Ack::Inbox => trigger(&config.trigger) + " (inbox)",
    }
}

fn trigger(trigger: &TriggerConfig) -> String {
    match trigger {
        TriggerConfig::Every(period) => format!("every {}", format_duration(*period)),
        TriggerConfig::Cron {
            expression,
            time_zone,
        } => format!("cron {expression} ({time_zone})"),
        TriggerConfig::At(time) => format!("at {time}"),
        TriggerConfig::Once => "once".to_owned(),
        TriggerConfig::Source { kind, config } => join(kind, &about(config)),
    }
}

fn detail(stage: &StageConfig) -> String {
    let required = stage
        .config
        .entry("required")
        .map(|entry| &entry.value.kind);
    match required {
        Some(NodeKind::Bool(false)) => join(&about_stage(stage), "(not required)"),
        Some(_) | None => about_stage(stage),
    }
}

fn about_stage(stage: &StageConfig) -> String {
    let config = &stage.config;
    let is_function = LANGUAGES.iter().any(|word| config.entry(word).is_some());
    if matches!(stage.kind.as_str(), "send" | "store") && !is_function {
        // The receiver or the storage stands as a key, with options beside it.
        let inner = kind_in(config);
        return inner.map_or_else(|| about(config), |(kind, inner)| join(kind, &about(inner)));
    }
    about(config)
}

/// The first entry of a map whose value is a map, or that is no option.
fn kind_in(node: &Node) -> Option<(&str, &Node)> {
    const OPTIONS: [&str; 5] = ["field", "required", "mapping", "preprocess", "key"];
    let NodeKind::Map(entries) = &node.kind else {
        return None;
    };
    let kind = entries
        .iter()
        .find(|entry| !OPTIONS.contains(&entry.key.as_str()))?;
    Some((&kind.key, &kind.value))
}

/// What a component is about, in few words.
fn about(node: &Node) -> String {
    if let Some(text) = node.as_text() {
        return without_login(text);
    }
    let text = |key: &str| node.entry(key)?.value.as_text().map(without_login);
    let function = LANGUAGES.iter().find_map(|word| text(word));
    let telling = || TELLING.iter().find_map(|key| text(key));
    let program = || {
        let NodeKind::List(words) = &node.entry("program")?.value.kind else {
            return None;
        };
        let words = words.iter().filter_map(Node::as_text);
        Some(words.collect::<Vec<_>>().join(" "))
    };
    // Where a webhook listens: `127.0.0.1:9000/readings`.
    let address = || Some(text("listen")? + &text("path").unwrap_or_default());
    let mut words = function
        .or_else(program)
        .or_else(address)
        .or_else(telling)
        .unwrap_or_default();
    for key in ["topic", "topics"] {
        let Some(entry) = node.entry(key) else {
            continue;
        };
        let topics: Vec<String> = match &entry.value.kind {
            NodeKind::List(items) => items
                .iter()
                .filter_map(|item| item.as_text().map(str::to_owned))
                .collect(),
            _ => entry
                .value
                .as_text()
                .map(str::to_owned)
                .into_iter()
                .collect(),
        };
        words = join(&words, &topics.join(" "));
    }
    words
}

fn join(one: &str, other: &str) -> String {
    let parts = [one, other].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

/// An address without the login that may stand in it.
fn without_login(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use wiredflow_core::config_reader::read_flow;
    use wiredflow_core::yaml;

    use super::*;

    const FLOW: &str = r#"
storages: {kept: {sqlite: {path: data/k.db}, key: id}}
pipelines:
  polled:
    every: 10s
    stages:
      - http: {url: "https://me:hidden@host:1/x?y=1"}
        name: fetch
      - store: {json: {folder: data}, preprocess: [add_datetime]}
      - store: kept
  heard:
    source: {mqtt: {broker: "b:1883", topics: [a, b/+]}}
    stages: [{store: sqlite}]
  worked:
    cron: "0 6 * * *"
    stages:
      - core_logic: {python: "logic.py:work"}
      - load: kept
      - core_logic: {sql: "SELECT * FROM \"Heard\" -- not kept"}
      - core_logic: {program: [sort, -n]}
      - send: {mqtt: {broker: "b:1883", topic: t}, field: x, required: false}
  handing:
    every: 1s
    stages: [{load: kept}, {link: over}]
  taking:
    source: {link: over}
    stages: [{store: {json: {}}}]
  called:
    source: {webhook: {listen: "127.0.0.1:9000", path: /in}}
    ack: inbox
    stages: [{configuration: {sql: "select max(id) from kept"}}]
"#;

    #[test]
    fn an_outline_names_what_each_stage_is_about_and_joins_those_who_share_a_storage() {
        let folder = tempfile::tempdir().unwrap();
        let logic = "def other(d):\n    d[\"heard\"]\n\ndef work(\n    d,\n):\n    return d['polled'], \"kept\"\n\nX = \"kept\"\n";
        std::fs::write(folder.path().join("logic.py"), logic).unwrap();
        let mut reading = Reading::default();
        let flow = read_flow(&yaml::parse(FLOW).unwrap(), "flow", &mut reading).unwrap();
        let outline = Outline::of(&flow, folder.path(), &Scrubber::default());
        let pipelines: Vec<String> = outline
            .pipelines
            .iter()
            .map(|pipeline| {
                let stages = pipeline.stages.iter();
                let stages = stages.map(|stage| format!("{} {}", stage.name, stage.detail));
                format!(
                    "{}: {}",
                    pipeline.trigger,
                    stages.collect::<Vec<_>>().join(", ")
                )
            })
            .collect();
        assert_eq!(
            pipelines,
            [
                "every 10s: fetch https://host:1/x?y=1, store json data, store_2 kept",
                "mqtt b:1883 a b/+: store sqlite",
                "cron 0 6 * * * (UTC): core_logic logic.py:work, load kept, core_logic_2 SELECT * FROM \"Heard\" -- not kept, core_logic_3 sort -n, send mqtt b:1883 t (not required)",
                "every 1s: load kept, link over",
                "link over: store json",
                "webhook 127.0.0.1:9000/in (inbox): configuration select max(id) from kept",
            ]
        );
        let place = |pipeline, stage| Place { pipeline, stage };
        let links: Vec<_> = outline
            .storages
            .iter()
            .map(|one| (one.name.as_str(), one.writers.clone(), one.readers.clone()))
            .collect();
        assert_eq!(
            links,
            [
                (
                    "kept",
                    vec![place(0, 2)],
                    vec![place(2, 1), place(3, 0), place(5, 0)]
                ),
                ("polled", vec![place(0, 1)], vec![place(2, 0)]),
                ("heard", vec![place(1, 0)], vec![place(2, 2)]),
                ("taking", vec![place(4, 0)], vec![]),
                ("over", vec![place(3, 1)], vec![place(4, 0)]),
            ]
        );
    }
}
