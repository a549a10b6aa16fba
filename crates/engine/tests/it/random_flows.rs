//! Random flows: file, config and builder say the same, and no mistake in a file goes without an answer.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use wiredflow_core::config::FlowConfig;
use wiredflow_core::config_reader::read_flow;
use wiredflow_core::fields::Reading;
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::problem::Problem;
use wiredflow_core::yaml;
use wiredflow_engine::builder::{self, Component, Flow, Pipeline, Value};
use wiredflow_engine::check::{Checked, SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_testkit::flows;

fn functions() -> Functions {
    let mut functions = Functions::default();
    functions.register_simple(flows::FUNCTION, |_| Ok(Value::Null));
    functions
}

fn check(text: &str) -> Checked {
    let folder = Path::new("/no/such/folder");
    check_text(
        text,
        "flow",
        folder,
        &functions(),
        &SystemLookup::new(folder),
    )
}

/// The config of a tree, without places.
fn config(node: Node) -> Result<FlowConfig, Vec<Problem>> {
    let mut reading = Reading::default();
    let flow = read_flow(&node.without_places(), "flow", &mut reading);
    flow.filter(|_| !reading.failed())
        .ok_or_else(|| reading.into_problems())
}

fn entries(node: &Node) -> Vec<(&str, &Node)> {
    match &node.kind {
        NodeKind::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.as_str(), &entry.value))
            .collect(),
        _ => Vec::new(),
    }
}

/// The component that a map of a kind, its config and what stands beside them says, by the builder's words.
fn component(node: &Node, beside: &[&str]) -> Component {
    let Some((kind, config)) = entries(node)
        .into_iter()
        .find(|(key, _)| !beside.contains(key))
    else {
        return Component::from(node.as_text().unwrap());
    };
    let text = |key: &str| {
        config
            .entry(key)
            .and_then(|entry| entry.value.as_text())
            .unwrap_or_default()
    };
    let component = match kind {
        "json" => builder::json(text("folder")),
        "jsonl" => builder::jsonl(text("folder")),
        "csv" => builder::csv(text("folder")),
        "sqlite" => builder::sqlite(),
        "http" => builder::http(text("url")),
        "http_post" => builder::http_post(text("url")),
        "http_put" => builder::http_put(text("url")),
        "load" => builder::load(text("storage")),
        "mqtt" if config.entry("topics").is_some() => builder::mqtt_topics(text("broker"), []),
        "mqtt" => builder::mqtt(text("broker"), text("topic")),
        "rust" => builder::rust(config.as_text().unwrap()),
        other => builder::component(other, config.clone()),
    };
    let component = entries(config)
        .into_iter()
        .fold(component, |component, (key, value)| {
            component.set(key, value.clone())
        });
    let beside = entries(node)
        .into_iter()
        .filter(|(key, _)| beside.contains(key));
    beside.fold(component, |component, (key, value)| {
        component.beside(key, value.clone())
    })
}

const BESIDE: [&str; 6] = [
    "mapping",
    "preprocess",
    "key",
    "params",
    "field",
    "required",
];

fn stage(pipeline: Pipeline, node: &Node) -> Pipeline {
    const KINDS: [&str; 10] = [
        "filter",
        "set",
        "rename",
        "drop",
        "http",
        "configuration",
        "core_logic",
        "store",
        "load",
        "send",
    ];
    let all = entries(node);
    let (kind, config) = all.iter().find(|(key, _)| KINDS.contains(key)).unwrap();
    let options = all.iter().filter(|(key, _)| key != kind);
    let with_options = |component: Component| {
        options.fold(component, |component, (key, value)| {
            component.option(key, (*value).clone())
        })
    };
    match *kind {
        "http" if config.as_text().is_some() => {
            pipeline.http(with_options(builder::http(config.as_text().unwrap())))
        }
        "http" => pipeline.http(with_options(component(
            &Node::map([("http", (*config).clone())]),
            &[],
        ))),
        "filter" | "set" | "rename" | "drop" => {
            pipeline.step(with_options(builder::component(kind, (*config).clone())))
        }
        "configuration" => pipeline.configuration(with_options(component(config, &BESIDE))),
        "core_logic" => pipeline.core_logic(with_options(component(config, &BESIDE))),
        "store" => pipeline.store(with_options(component(config, &BESIDE))),
        "send" => pipeline.send(with_options(component(config, &BESIDE))),
        _ if config.as_text().is_some() => pipeline.load(with_options(component(config, &[]))),
        _ => pipeline.load(with_options(component(
            &Node::map([("load", (*config).clone())]),
            &[],
        ))),
    }
}

/// The same flow, said with the builder.
fn built(node: &Node) -> Flow {
    let name = node.entry("name").and_then(|entry| entry.value.as_text());
    let mut flow = Flow::new(name.unwrap_or("flow"));
    for (key, value) in entries(node) {
        match key {
            "name" => {}
            "storages" => {
                for (name, storage) in entries(value) {
                    flow = flow.storage(name, component(storage, &BESIDE));
                }
            }
            "pipelines" => {
                for (name, pipeline) in entries(value) {
                    flow = flow.pipeline(name, |mut made| {
                        for (key, value) in entries(pipeline) {
                            made = match (key, &value.kind) {
                                ("stages", NodeKind::List(stages)) => {
                                    stages.iter().fold(made, stage)
                                }
                                ("every", _) => made.every(value.as_text().unwrap()),
                                ("cron", _) => made.cron(value.as_text().unwrap()),
                                ("at", _) => made.at(value.as_text().unwrap()),
                                ("once", _) => made.once(),
                                ("source", _) => made.source(component(value, &[])),
                                _ => made.set(key, value.clone()),
                            };
                        }
                        made
                    });
                }
            }
            _ => flow = flow.set(key, value.clone()),
        }
    }
    flow
}

/// Every problem stands at a place of the file, and says something.
fn check_places(text: &str, problems: &[Problem]) -> Result<(), TestCaseError> {
    for problem in problems {
        let span = problem.span;
        prop_assert!(!problem.message.is_empty());
        let lines = u32::try_from(text.lines().count()).unwrap() + 1;
        prop_assert!(
            (1..=lines).contains(&span.line) && span.column >= 1,
            "{problem:?}\n{text}"
        );
        prop_assert!(span.offset <= text.len(), "{problem:?}\n{text}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn file_config_and_builder_say_the_same(node in flows::flow()) {
        let text = yaml::write(&node);
        let checked = check(&text);
        prop_assert!(checked.plan.is_some(), "{:#?}\n{text}", checked.problems);
        prop_assert_eq!(&yaml::parse(&text).unwrap(), &node, "{}", text);

        let first = config(node.clone()).unwrap();
        let again = yaml::write(&first.to_node());
        let second = config(yaml::parse(&again).unwrap());
        prop_assert_eq!(format!("{:#?}", second.unwrap()), format!("{first:#?}"), "{}", again);
        prop_assert!(check(&again).plan.is_some(), "{again}");

        let third = config(built(&node).node().clone());
        prop_assert_eq!(third.unwrap().to_node().to_value(), first.to_node().to_value());
    }

    #[test]
    fn an_edited_file_is_answered_with_places_and_never_a_panic(
        node in flows::flow(), edits in proptest::collection::vec(flows::edit(), 1..5)
    ) {
        let mut node = node;
        edits.iter().for_each(|edit| edit.apply(&mut node));
        let text = yaml::write(&node);
        let checked = check(&text);
        check_places(&text, &checked.problems)?;
        prop_assert!(checked.plan.is_some() || !checked.problems.is_empty(), "{text}");
    }

    #[test]
    fn a_damaged_file_is_answered_with_places_and_never_a_panic(
        node in flows::flow(), cuts in proptest::collection::vec((any::<Index>(), 0..4_usize, ".{0,3}"), 1..5)
    ) {
        let mut text: Vec<char> = yaml::write(&node).chars().collect();
        for (place, length, other) in cuts {
            let at = place.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, other.chars());
        }
        let text: String = text.into_iter().collect();
        let checked = check(&text);
        check_places(&text, &checked.problems)?;
        prop_assert!(checked.plan.is_some() || !checked.problems.is_empty(), "{text}");
    }
}
