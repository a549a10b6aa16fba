//! From what the user wrote to a plan: every problem at once, nothing opened.

pub(crate) mod links;
mod python;
pub(crate) mod storages;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wiredflow_core::config::{
    FlowConfig, Isolation, OnError, PipelineConfig, StageConfig, TriggerConfig,
};
use wiredflow_core::config_reader::{not_built_yet, read_flow};
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::fill::{Lookup, fill};
use wiredflow_core::node::{Node, NodeKind, Span};
use wiredflow_core::problem::{Problem, possible};
use wiredflow_core::schedule::{Schedule, parse_time};
use wiredflow_core::secret::Scrubber;
use wiredflow_core::yaml;

use crate::catalogue::{CheckCx, SourceEntry};
use crate::functions::Functions;
use crate::listen::Listen;
use crate::payload::Shaping;
use crate::plan::{PipelinePlan, Plan, StagePlan, Steady, StoragePlan, TriggerPlan};
use crate::remotes::{self, Remotes};
use crate::sources::SOURCES;
use crate::stages::STAGES;

/// What checking gives: a plan when no problem is an error.
#[derive(Debug)]
pub struct Checked {
    /// The flow, ready to run.
    pub plan: Option<Plan>,
    /// What the user wrote, with `${env:}` and `${file:}` filled in: secrets stand in it.
    pub flow: Option<FlowConfig>,
    /// All problems, in the order of the file.
    pub problems: Vec<Problem>,
}

/// The environment of this process and the files of a folder.
#[derive(Clone, Debug)]
pub struct SystemLookup {
    folder: PathBuf,
}

impl SystemLookup {
    /// Relative paths of `${file:}` start at this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }
}

impl Lookup for SystemLookup {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let text =
            std::fs::read_to_string(self.folder.join(path)).map_err(|error| error.to_string())?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// Checks a flow file's text. `default_name` is the flow's name when the file gives none: the file's
/// name without its ending. `folder` is where relative paths start.
pub fn check_text(
    text: &str,
    default_name: &str,
    folder: &Path,
    functions: &Functions,
    lookup: &dyn Lookup,
) -> Checked {
    match yaml::parse(text) {
        Ok(node) => check_node(&node, default_name, folder, functions, lookup),
        Err(problem) => Checked {
            plan: None,
            flow: None,
            problems: vec![*problem],
        },
    }
}

/// Checks a flow that was read from a file or made by the builder.
pub fn check_node(
    node: &Node,
    default_name: &str,
    folder: &Path,
    functions: &Functions,
    lookup: &dyn Lookup,
) -> Checked {
    let mut reading = Reading::default();
    let mut secrets = Vec::new();
    let filled = fill(node, lookup, &mut reading, &mut secrets);
    let scrubber = Scrubber::new(secrets);
    let flow = read_flow(&filled, default_name, &mut reading);
    let mut plan = flow.as_ref().map(|flow| {
        let mut checker = Checker {
            flow,
            folder,
            functions,
            reading: &mut reading,
        };
        checker.plan(scrubber.clone())
    });
    if let Some(flow) = &flow {
        python::check(flow, folder, &mut reading);
    }
    if reading.failed() {
        plan = None;
    }
    let scrub = |problem: Problem| Problem {
        message: scrubber.scrub(&problem.message),
        help: problem.help.map(|help| scrubber.scrub(&help)),
        ..problem
    };
    Checked {
        plan,
        flow,
        problems: reading.into_problems().into_iter().map(scrub).collect(),
    }
}

struct Checker<'a> {
    flow: &'a FlowConfig,
    folder: &'a Path,
    functions: &'a Functions,
    reading: &'a mut Reading,
}

impl Checker<'_> {
    fn plan(&mut self, scrubber: Scrubber) -> Plan {
        let named = storages::all(self.flow, self.reading);
        let names: Vec<String> = named
            .iter()
            .map(|storage| storage.config.name.clone())
            .collect();
        let storages = self.storages(&named, &names);
        let remotes = self.remotes(&names);
        let links = links::check(self.flow, self.reading);
        let flow = self.flow;
        let pipelines = flow
            .pipelines
            .iter()
            .filter_map(|pipeline| self.pipeline(pipeline, &names, &remotes));
        let pipelines = pipelines.collect();
        Plan {
            name: self.flow.name.as_str().into(),
            folder: self.folder.to_owned(),
            state: self.folder.join(&self.flow.state),
            listen: Listen::read(self.flow.listen.as_ref(), self.folder, self.reading),
            pipelines,
            storages,
            links,
            remotes: remotes.into_values().collect(),
            functions: self.functions.clone(),
            scrubber,
        }
    }

    fn storages(&mut self, named: &[storages::Named], names: &[String]) -> Vec<StoragePlan> {
        let mut opened = Vec::new();
        for storage in named {
            let mut cx = CheckCx {
                reading: self.reading,
                flow: self.flow,
                pipeline: &storage.pipeline,
                folder: self.folder,
                functions: self.functions,
                storage_names: names,
            };
            let open = within(&storage.path, &mut cx, |cx| storages::prepare(storage, cx));
            opened.extend(open.map(|open| (storage, open)));
        }
        storages::check_owners(&opened, self.reading);
        let plan = |(storage, open): (&storages::Named, _)| StoragePlan {
            name: storage.config.name.clone(),
            open,
        };
        opened.into_iter().map(plan).collect()
    }

    fn remotes(&mut self, names: &[String]) -> Remotes {
        let mut remotes = Remotes::new();
        for remote in &self.flow.remotes {
            let mut cx = CheckCx {
                reading: self.reading,
                flow: self.flow,
                pipeline: "",
                folder: self.folder,
                functions: self.functions,
                storage_names: names,
            };
            let path = format!("remotes.{}", remote.name);
            let prepared = within(&path, &mut cx, |cx| remotes::prepare(remote, cx));
            remotes.extend(prepared.map(|prepared| (remote.name.clone(), prepared)));
        }
        remotes
    }

    fn pipeline(
        &mut self,
        config: &PipelineConfig,
        names: &[String],
        remotes: &Remotes,
    ) -> Option<PipelinePlan> {
        let path = format!("pipelines.{}", config.name);
        let mut cx = CheckCx {
            reading: self.reading,
            flow: self.flow,
            pipeline: &config.name,
            folder: self.folder,
            functions: self.functions,
            storage_names: names,
        };
        let trigger = within(&path, &mut cx, |cx| trigger(config, cx));
        let mut stages = Vec::new();
        let mut complete = true;
        for (index, stage) in config.stages.iter().enumerate() {
            let path = format!("{path}.stages.{index}");
            let prepared = within(&path, &mut cx, |cx| {
                prepare_stage(stage, (remotes, config.isolation), cx)
            });
            complete &= prepared.is_some();
            stages.extend(prepared);
        }
        let scheduled = !matches!(config.trigger, TriggerConfig::Source { .. });
        let first = config.stages.first().map(|stage| stage.kind.as_str());
        let shaping = match &config.trigger {
            TriggerConfig::Source { config, .. } => Shaping::said(config).map(Arc::new),
            _ => None,
        };
        Some(PipelinePlan {
            since: config
                .stages
                .first()
                .is_some_and(|first| first.kind == "load" && first.config.entry("since").is_some()),
            shaping,
            name: config.name.as_str().into(),
            trigger: trigger.filter(|_| complete)?,
            delay: config.delay,
            jitter: config.jitter,
            overlap: config.overlap,
            catch_up: config.catch_up,
            timeout: config.timeout,
            on_failure: config.on_failure.unwrap_or(self.flow.on_failure),
            ack: config.ack,
            is_receiving: false,
            stages,
            waits_for_others: scheduled && matches!(first, Some("core_logic" | "load")),
        })
    }
}

/// Runs a check with the path of keys set to where it looks.
fn within<'c, T>(path: &str, cx: &mut CheckCx<'c>, check: impl FnOnce(&mut CheckCx<'_>) -> T) -> T {
    let mut reading = Reading::at(path);
    let result = check(&mut CheckCx {
        reading: &mut reading,
        flow: cx.flow,
        pipeline: cx.pipeline,
        folder: cx.folder,
        functions: cx.functions,
        storage_names: cx.storage_names,
    });
    reading
        .into_problems()
        .into_iter()
        .for_each(|problem| cx.reading.report(problem));
    result
}

fn trigger(config: &PipelineConfig, cx: &mut CheckCx<'_>) -> Option<TriggerPlan> {
    let schedule = match &config.trigger {
        TriggerConfig::Source { kind, config: node } => return source(config, kind, node, cx),
        TriggerConfig::Once => return Some(TriggerPlan::Once),
        TriggerConfig::Every(period) => Schedule::every(*period),
        TriggerConfig::Cron {
            expression,
            time_zone,
        } => Schedule::cron(expression, time_zone),
        TriggerConfig::At(time) => parse_time(time).map(Schedule::at),
    };
    let steady = match &config.trigger {
        TriggerConfig::Every(_) => Steady::Yes,
        _ => Steady::No,
    };
    match schedule {
        Ok(schedule) => Some(TriggerPlan::Schedule(schedule, steady)),
        Err(message) => {
            cx.reading.error(config.trigger_span, message);
            None
        }
    }
}

fn source(
    config: &PipelineConfig,
    kind: &str,
    node: &Node,
    cx: &mut CheckCx<'_>,
) -> Option<TriggerPlan> {
    for (key, given) in [
        ("delay", config.delay.is_some()),
        ("jitter", !config.jitter.is_zero()),
        ("timeout", config.timeout.is_some()),
    ] {
        if given {
            cx.reading.error(
                config.span,
                format!("`{key}` goes with a schedule, not with a `source`"),
            );
        }
    }
    let known = |entry: &SourceEntry| entry.card.name == kind;
    let Some(entry) = SOURCES.iter().find(|entry| known(entry)) else {
        let names = SOURCES.iter().map(|entry| entry.card.name);
        unknown(kind, "source", config.trigger_span, names, &[], cx);
        return None;
    };
    let open = inside("source", cx, |cx| {
        inside(kind, cx, |cx| (entry.prepare)(node, cx))
    })?;
    Some(TriggerPlan::Source {
        kind: kind.to_owned(),
        open,
    })
}

fn prepare_stage(
    config: &StageConfig,
    (remotes, isolation): (&Remotes, Isolation),
    cx: &mut CheckCx<'_>,
) -> Option<StagePlan> {
    let Some(entry) = STAGES.iter().find(|entry| entry.card.name == config.kind) else {
        let names = STAGES.iter().map(|entry| entry.card.name);
        unknown(&config.kind, "stage", config.kind_span, names, &[], cx);
        return None;
    };
    warn_of_idle_processes(config, cx);
    let prepared = inside(&config.kind, cx, |cx| {
        let elsewhere = remotes::without_function(config, remotes, cx);
        elsewhere.or_else(|| (entry.prepare)(&config.config, cx))
    });
    let prepared = remotes::place(config, prepared?, (remotes, isolation), cx)?;
    let mut policy = config.policy.clone();
    if !prepared.required {
        if policy.on_error == Some(OnError::Stop) {
            cx.reading.error_with_help(
                config.kind_span,
                "`on_error: stop` does not go with `required: false`, whose failures stop nothing"
                    .to_owned(),
                "possible: `dead_letter` (when left out), `skip`",
            );
        }
        policy.on_error.get_or_insert(OnError::DeadLetter);
    }
    Some(StagePlan {
        name: Arc::from(config.name.as_str()),
        kind: config.kind.clone(),
        work: prepared.work,
        open: prepared.open,
        policy,
        required: prepared.required,
    })
}

/// More processes than calls at once: some would never be called.
fn warn_of_idle_processes(config: &StageConfig, cx: &mut CheckCx<'_>) {
    let Some(entry) = config.config.entry("processes") else {
        return;
    };
    let processes = usize::from_node(&entry.value, &mut Reading::default());
    let parallel = config.policy.parallel;
    if let Some(processes) = processes.filter(|processes| *processes > parallel) {
        let calls = if parallel == 1 { "call" } else { "calls" };
        cx.reading.warning_with_help(
            entry.span,
            format!("{processes} processes for {parallel} {calls} at once: the others have nothing to do"),
            format!("write `parallel: {processes}` beside `{}`, if its calls do not depend on each other", config.kind),
        );
    }
}

/// Checks something one key deeper.
pub(crate) fn inside<'c, T>(
    key: &str,
    cx: &mut CheckCx<'c>,
    check: impl FnOnce(&mut CheckCx<'_>) -> T,
) -> T {
    let path = format!("{}.{key}", cx.reading.path());
    within(&path, cx, check)
}

/// Parts a map into the entries that are not options, and the options.
pub(crate) fn split_options(node: &Node, options: &[&str]) -> (Node, Node) {
    let NodeKind::Map(entries) = &node.kind else {
        return (node.clone(), Node::empty_map().at(node.span));
    };
    let (beside, rest) = entries
        .iter()
        .cloned()
        .partition(|entry| options.contains(&entry.key.as_str()));
    let map = |entries| Node::new(NodeKind::Map(entries)).at(node.span);
    (map(rest), map(beside))
}

/// The name of the storage that a `store` stage brings along; `None` where it names a shared one.
pub(crate) fn inline_storage(node: &Node, cx: &CheckCx<'_>) -> Option<String> {
    if !storages::is_inline(node, cx.flow) {
        return None;
    }
    let pipeline = cx
        .flow
        .pipelines
        .iter()
        .find(|pipeline| pipeline.name == cx.pipeline)?;
    let inline = pipeline
        .stages
        .iter()
        .filter(|stage| stage.kind == "store" && storages::is_inline(&stage.config, cx.flow));
    let place = inline
        .take_while(|stage| !std::ptr::eq(&raw const stage.config, node))
        .count();
    Some(storages::inline_name(cx.pipeline, place + 1))
}

/// Reports a kind that is not in a catalogue.
pub(crate) fn unknown<'k>(
    kind: &str,
    what: &str,
    span: Span,
    known: impl Iterator<Item = &'k str>,
    later: &[&str],
    cx: &mut CheckCx<'_>,
) {
    if later.contains(&kind) {
        cx.reading.error(span, not_built_yet(kind));
    } else {
        let help = possible(kind, known);
        cx.reading
            .error_with_help(span, format!("there is no {what} `{kind}`"), help);
    }
}
