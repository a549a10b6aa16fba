//! The links of a flow: each has those who hand over and one who takes, and they lead nowhere in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wiredflow_core::config::{Ack, FlowConfig, PipelineConfig, TriggerConfig};
use wiredflow_core::config_reader::not_built_yet;
use wiredflow_core::fields::{FromNode, Reading};
use wiredflow_core::node::{Node, Span};
use wiredflow_core::problem::{Problem, possible};

use crate::links::LinkPlan;
use crate::stages::LinkConfig;

/// The word in the flow file, of the stage and of the source.
const LINK: &str = "link";

/// One end of a link.
struct End<'f> {
    name: String,
    pipeline: &'f PipelineConfig,
    span: Span,
    path: String,
}

/// The links of a flow. What is wrong with their configs is told by those who read them.
pub(super) fn check(flow: &FlowConfig, reading: &mut Reading) -> Vec<LinkPlan> {
    let takers: Vec<End<'_>> = flow.pipelines.iter().filter_map(taker).collect();
    let senders: Vec<End<'_>> = flow.pipelines.iter().flat_map(senders).collect();
    for end in takers.iter().chain(&senders) {
        if let Some(problem) = odd_name(end) {
            reading.report(problem);
        }
    }
    for (index, taker) in takers.iter().enumerate() {
        for problem in of_taker(taker, &takers[..index], &senders) {
            reading.report(problem);
        }
    }
    for sender in &senders {
        if odd_name(sender).is_none() && !takers.iter().any(|taker| taker.name == sender.name) {
            let known = takers.iter().map(|taker| taker.name.as_str());
            let name = sender.name.escape_debug();
            let message = format!("no pipeline takes from link `{name}`");
            let nearest = possible(&sender.name, known);
            let help = match nearest.starts_with("did you mean") {
                true => nearest,
                false => {
                    format!("write `source: {{link: {name}}}` in the pipeline that goes on with it")
                }
            };
            reading.report(Problem::error(sender.span, &sender.path, message).with_help(help));
        }
    }
    for problem in circles(&takers, &senders) {
        reading.report(problem);
    }
    let plan = |taker: &End<'_>| LinkPlan {
        name: taker.name.as_str().into(),
        senders: of_link(&taker.name, &senders)
            .map(|sender| Arc::from(sender.pipeline.name.as_str()))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        receiver: taker.pipeline.name.as_str().into(),
    };
    takers.iter().map(plan).collect()
}

/// The name in a config that is right; both ends have the same.
pub(crate) fn name_of(config: &Node) -> Option<String> {
    let config = LinkConfig::from_node(config, &mut Reading::default());
    config.map(|config| config.name)
}

fn taker(pipeline: &PipelineConfig) -> Option<End<'_>> {
    let TriggerConfig::Source { kind, config } = &pipeline.trigger else {
        return None;
    };
    let name = name_of(config).filter(|_| kind == LINK)?;
    Some(End {
        name,
        pipeline,
        span: config.span,
        path: format!("pipelines.{}.source.link", pipeline.name),
    })
}

fn senders(pipeline: &PipelineConfig) -> impl Iterator<Item = End<'_>> {
    let stages = pipeline.stages.iter().enumerate();
    let links = stages.filter(|(_, stage)| stage.kind == LINK);
    links.filter_map(move |(index, stage)| {
        Some(End {
            name: name_of(&stage.config)?,
            pipeline,
            span: stage.config.span,
            path: format!("pipelines.{}.stages.{index}.link", pipeline.name),
        })
    })
}

fn of_link<'e, 'f>(name: &'e str, ends: &'e [End<'f>]) -> impl Iterator<Item = &'e End<'f>> {
    ends.iter().filter(move |end| end.name == name)
}

fn odd_name(end: &End<'_>) -> Option<Problem> {
    let name = &end.name;
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(usual) {
        return None;
    }
    let problem = |message: String| Problem::error(end.span, &end.path, message);
    if name.contains('/') {
        return Some(problem(not_built_yet("a link to another flow")));
    }
    let message = format!("`{}` cannot be the name of a link", name.escape_debug());
    let help = "1 to 64 of the letters A-Z, a-z, 0-9, `_` and `-`";
    Some(problem(message).with_help(help))
}

fn of_taker(taker: &End<'_>, before: &[End<'_>], senders: &[End<'_>]) -> Vec<Problem> {
    let name = taker.name.escape_debug();
    let problem = |message: String| Problem::error(taker.span, &taker.path, message);
    let mut problems = Vec::new();
    if let Some(other) = of_link(&taker.name, before).next() {
        let message = format!(
            "pipeline `{}` takes from link `{name}` already",
            other.pipeline.name
        );
        let help = "give each a link of its own, and the sender a `link` stage for each";
        problems.push(problem(message).with_help(help));
    }
    if odd_name(taker).is_none() && of_link(&taker.name, senders).next().is_none() {
        let known = senders.iter().map(|sender| sender.name.as_str());
        let nearest = possible(&taker.name, known);
        let help = match nearest.starts_with("did you mean") {
            true => nearest,
            false => format!("write the stage `link: {name}` in the pipeline that hands over"),
        };
        problems.push(problem(format!("no pipeline hands over to link `{name}`")).with_help(help));
    }
    if taker.pipeline.ack == Ack::Inbox {
        problems.push(problem(
            "`ack: inbox` behind a link is not built yet".to_owned(),
        ));
    }
    problems
}

/// Pipelines that hand over to themselves, by one link or by several: once they are full, none could go on.
fn circles(takers: &[End<'_>], senders: &[End<'_>]) -> Vec<Problem> {
    let mut leads: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for taker in takers {
        for sender in of_link(&taker.name, senders) {
            let to = leads.entry(&sender.pipeline.name).or_default();
            to.insert(&taker.pipeline.name);
        }
    }
    let reaches = |from: &str, to: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(pipeline) = next.pop() {
            if pipeline == to {
                return true;
            }
            if seen.insert(pipeline) {
                next.extend(leads.get(pipeline).into_iter().flatten());
            }
        }
        false
    };
    let in_circle = |sender: &&End<'_>| {
        let mut ends = of_link(&sender.name, takers);
        ends.any(|taker| reaches(&taker.pipeline.name, &sender.pipeline.name))
    };
    let problem = |sender: &End<'_>| {
        let pipeline = &sender.pipeline.name;
        let message = format!("what pipeline `{pipeline}` hands over here comes back to it");
        let help = "links lead one way; a full one would hold all of the circle for ever";
        Problem::error(sender.span, &sender.path, message).with_help(help)
    };
    senders.iter().filter(in_circle).map(problem).collect()
}
