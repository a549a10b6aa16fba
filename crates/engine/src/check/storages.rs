//! The storages of a flow: the shared ones, and the inline ones under their pipeline's name.

use std::sync::Arc;

use wiredflow_core::config::{FlowConfig, StorageConfig};
use wiredflow_core::config_reader::read_storage;
use wiredflow_core::fields::Reading;
use wiredflow_core::node::Node;
use wiredflow_core::problem::Problem;

use crate::catalogue::{CheckCx, OpenStorage};
use crate::logic;
use crate::storages::{Left, STORAGES, StoragePlace};

use super::unknown;

/// Storages of the interface that are not built yet.
const LATER: [&str; 3] = ["mysql", "mongo", "parquet"];

/// A storage and where it was declared.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// What the user wrote, under the name by which it can be loaded.
    pub(crate) config: StorageConfig,
    /// The pipeline of an inline storage; empty for a shared one.
    pub(crate) pipeline: String,
    /// The path of keys that leads to it.
    pub(crate) path: String,
}

/// All storages of a flow. Structural problems of inline ones go to `reading`.
pub(crate) fn all(flow: &FlowConfig, reading: &mut Reading) -> Vec<Named> {
    let shared = flow.storages.iter().map(|config| Named {
        path: format!("storages.{}", config.name),
        config: config.clone(),
        pipeline: String::new(),
    });
    let mut named: Vec<Named> = shared.collect();
    for pipeline in &flow.pipelines {
        let mut inline = 0;
        for (index, stage) in pipeline.stages.iter().enumerate() {
            if stage.kind != "store" || !is_inline(&stage.config, flow) {
                continue;
            }
            inline += 1;
            let name = inline_name(&pipeline.name, inline);
            let path = format!("pipelines.{}.stages.{index}.store", pipeline.name);
            let mut inner = Reading::at(&path);
            let config = read_storage(&name, &stage.config, stage.span, &mut inner);
            inner
                .into_problems()
                .into_iter()
                .for_each(|problem| reading.report(problem));
            let Some(config) = config else { continue };
            let new = Named {
                config,
                pipeline: pipeline.name.clone(),
                path,
            };
            match named.iter().find(|other| other.config.name == name) {
                Some(other) => reading.report(same_name(&new, other)),
                None => named.push(new),
            }
        }
    }
    named
}

/// Two storages of one name could not be told apart: by `load`, by functions, and in their files.
fn same_name(new: &Named, other: &Named) -> Problem {
    let (name, pipeline) = (&new.config.name, &new.pipeline);
    let whose = match other.pipeline.as_str() {
        "" => "the shared storage under `storages`".to_owned(),
        other => format!("the inline storage of pipeline `{other}`"),
    };
    let message = format!(
        "the inline storage of pipeline `{pipeline}` is called `{name}`, and so is {whose}"
    );
    let help = match other.pipeline.as_str() {
        "" => format!("write `store: {name}` to use the shared one, or give that another name"),
        _ => "rename one of the pipelines, or declare the storage under `storages` with a name of its own"
            .to_owned(),
    };
    Problem::error(new.config.kind_span, &new.path, message).with_help(help)
}

/// Reports storages that would write the same file or table: each has one owner.
pub(crate) fn check_owners(opened: &[(&Named, OpenStorage)], reading: &mut Reading) {
    for (index, (storage, open)) in opened.iter().enumerate() {
        let same = |(_, other): &&(&Named, OpenStorage)| other.writes() == open.writes();
        let Some((other, _)) = opened[..index].iter().find(same) else {
            continue;
        };
        let message = format!(
            "the storages `{}` and `{}` would both write {}",
            other.config.name,
            storage.config.name,
            open.writes()
        );
        let problem = Problem::error(storage.config.kind_span, &storage.path, message);
        reading.report(
            problem
                .with_help("declare it once under `storages` and name it in both `store` stages"),
        );
    }
}

/// The name of a pipeline's inline storage: the pipeline's, numbered from the second on.
pub(crate) fn inline_name(pipeline: &str, number: usize) -> String {
    if number == 1 {
        pipeline.to_owned()
    } else {
        format!("{pipeline}_{number}")
    }
}

/// Whether a `store` stage brings its own storage: neither the name of a shared one nor a function.
pub(crate) fn is_inline(node: &Node, flow: &FlowConfig) -> bool {
    let shared = |name: &str| flow.storages.iter().any(|storage| storage.name == name);
    !node.as_text().is_some_and(shared) && !logic::is_function(node)
}

/// Checks a storage against the catalogue.
pub(crate) fn prepare(storage: &Named, cx: &mut CheckCx<'_>) -> Option<OpenStorage> {
    let config = &storage.config;
    let Some(entry) = STORAGES.iter().find(|entry| entry.card.name == config.kind) else {
        let names = STORAGES.iter().map(|entry| entry.card.name);
        let mut known: Vec<&str> = names.collect();
        let shared: Vec<&str> = cx
            .flow
            .storages
            .iter()
            .map(|storage| storage.name.as_str())
            .collect();
        known.extend(&shared);
        unknown(
            &config.kind,
            "storage",
            config.kind_span,
            known.into_iter(),
            &LATER,
            cx,
        );
        return None;
    };
    let place = StoragePlace {
        name: Arc::from(config.name.as_str()),
        flow: Arc::from(cx.flow.name.as_str()),
        folder: cx.folder.to_owned(),
        mapping: config.options.mapping.into(),
        key: config.options.key.clone(),
        left: Left::Unknown,
        state: None,
    };
    (entry.prepare)(&config.config, place, cx)
}

/// Whether the values of a storage are texts, of numbers too.
pub(crate) fn has_texts(flow: &FlowConfig, name: &str) -> bool {
    let named = all(flow, &mut Reading::default());
    named
        .iter()
        .any(|known| known.config.name == name && known.config.kind == "csv")
}
