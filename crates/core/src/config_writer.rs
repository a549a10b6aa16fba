//! From `FlowConfig` back to nodes: what the reader reads as the same flow.

use crate::config::{
    Ack, Attempts, FlowConfig, Grouping, OnFailure, PipelineConfig, Retry, StageConfig,
    StagePolicy, StorageConfig, StorageOptions, TriggerConfig,
};
use crate::config_reader::{CatchUpWord, OverlapWord, free_name};
use crate::node::{Node, NodeKind};
use crate::record::Value;
use crate::schedule::{CatchUp, Overlap};
use crate::units::format_duration;

/// Entries in the making.
#[derive(Default)]
struct Keys(Vec<(String, Node)>);

impl Keys {
    fn put(&mut self, key: &str, value: impl Into<Node>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// What says no more than its absence is left out.
    fn put_unless(&mut self, default: bool, key: &str, value: impl Into<Node>) {
        if !default {
            self.put(key, value);
        }
    }

    fn node(self) -> Node {
        Node::map(self.0)
    }
}

impl FlowConfig {
    /// The flow as a file would have it. Keys that say what holds without them are left out.
    ///
    /// [`read_flow`](crate::config_reader::read_flow) makes the same flow of it, but for the places.
    pub fn to_node(&self) -> Node {
        let mut keys = Keys::default();
        keys.put("name", self.name.as_str());
        keys.put_unless(self.state == ".wiredflow", "state", self.state.as_str());
        if let Some(listen) = &self.listen {
            keys.put("listen", listen.clone());
        }
        keys.put_unless(
            self.on_failure == OnFailure::default(),
            "on_failure",
            self.on_failure.word(),
        );
        if !self.storages.is_empty() {
            let storages = self
                .storages
                .iter()
                .map(|storage| (storage.name.as_str(), storage.to_node()));
            keys.put("storages", Node::map(storages));
        }
        if !self.remotes.is_empty() {
            let remotes = self.remotes.iter().map(|remote| {
                let kind = Node::map([(remote.kind.as_str(), remote.config.clone())]);
                (remote.name.as_str(), kind)
            });
            keys.put("remotes", Node::map(remotes));
        }
        let pipelines = self
            .pipelines
            .iter()
            .map(|pipeline| (pipeline.name.as_str(), pipeline.to_node()));
        keys.put("pipelines", Node::map(pipelines));
        keys.node()
    }
}

impl StorageConfig {
    /// The storage as it stands under `storages`, or in a `store` stage.
    pub fn to_node(&self) -> Node {
        let StorageOptions {
            mapping,
            preprocess,
            key,
            required,
        } = &self.options;
        let mut keys = Keys::default();
        keys.put(&self.kind, self.config.clone());
        keys.put_unless(mapping.word() == "extend", "mapping", mapping.word());
        keys.put_unless(
            preprocess.is_empty(),
            "preprocess",
            Node::new(NodeKind::List(preprocess.clone())),
        );
        key.iter().for_each(|key| keys.put("key", key.as_str()));
        keys.put_unless(*required, "required", Value::Bool(*required));
        keys.node()
    }
}

impl PipelineConfig {
    /// The pipeline as it stands under `pipelines`.
    pub fn to_node(&self) -> Node {
        let mut keys = Keys::default();
        match &self.trigger {
            TriggerConfig::Every(period) => keys.put("every", format_duration(*period)),
            TriggerConfig::Cron {
                expression,
                time_zone,
            } => {
                keys.put("cron", expression.as_str());
                keys.put_unless(time_zone == "UTC", "time_zone", time_zone.as_str());
            }
            TriggerConfig::At(time) => keys.put("at", time.as_str()),
            TriggerConfig::Once => keys.put("once", Value::Bool(true)),
            TriggerConfig::Source { kind, config } => {
                keys.put("source", Node::map([(kind.as_str(), config.clone())]))
            }
        }
        self.delay
            .iter()
            .for_each(|delay| keys.put("delay", format_duration(*delay)));
        keys.put_unless(
            self.jitter.is_zero(),
            "jitter",
            format_duration(self.jitter),
        );
        let overlap = match self.overlap {
            Overlap::Skip => OverlapWord::Skip,
            Overlap::Queue => OverlapWord::Queue,
            Overlap::Allow => OverlapWord::Allow,
        };
        keys.put_unless(overlap == OverlapWord::Skip, "overlap", overlap.word());
        let catch_up = match self.catch_up {
            CatchUp::Latest => CatchUpWord::Latest,
            CatchUp::All => CatchUpWord::All,
            CatchUp::None => CatchUpWord::None,
        };
        keys.put_unless(catch_up == CatchUpWord::Latest, "catch_up", catch_up.word());
        self.timeout
            .iter()
            .for_each(|limit| keys.put("timeout", format_duration(*limit)));
        self.on_failure
            .iter()
            .for_each(|policy| keys.put("on_failure", policy.word()));
        keys.put_unless(self.ack == Ack::Sink, "ack", self.ack.word());
        let stages = self.stages.iter().enumerate();
        let stages = stages.map(|(index, stage)| stage.to_node(&self.stages[..index]));
        keys.put("stages", Node::new(NodeKind::List(stages.collect())));
        keys.node()
    }
}

impl StageConfig {
    /// The stage as it stands in a list after the stages `before`; its name is left out where it would get it anyway.
    pub fn to_node(&self, before: &[Self]) -> Node {
        let StagePolicy {
            timeout,
            retry,
            on_error,
            parallel,
            ordered,
            batch,
            rate_limit,
            remote,
        } = &self.policy;
        let mut keys = Keys::default();
        keys.put(&self.kind, self.config.clone());
        keys.put_unless(
            self.name == free_name(&self.kind, before),
            "name",
            self.name.as_str(),
        );
        timeout
            .iter()
            .for_each(|limit| keys.put("timeout", format_duration(*limit)));
        retry
            .iter()
            .for_each(|retry| keys.put("retry", retry_node(retry)));
        on_error
            .iter()
            .for_each(|on_error| keys.put("on_error", on_error.word()));
        keys.put_unless(*parallel == 1, "parallel", Value::from(*parallel));
        keys.put_unless(*ordered, "ordered", Value::Bool(*ordered));
        batch
            .iter()
            .for_each(|batch| keys.put("batch", batch_node(batch)));
        rate_limit.iter().for_each(|limit| {
            keys.put(
                "rate_limit",
                Node::map([("per_second", Node::from(Value::from(*limit)))]),
            )
        });
        match remote.as_slice() {
            [] => {}
            [only] => keys.put("remote", only.name.as_str()),
            several => {
                let names = several.iter().map(|remote| Node::text(&remote.name));
                keys.put("remote", Node::new(NodeKind::List(names.collect())));
            }
        }
        keys.node()
    }
}

fn retry_node(retry: &Retry) -> Node {
    let mut keys = Keys::default();
    match retry.attempts {
        None => {}
        Some(Attempts::Forever) => keys.put("attempts", "forever"),
        Some(Attempts::Times(times)) => keys.put("attempts", Value::from(times)),
    }
    keys.put("backoff", format_duration(retry.backoff));
    keys.put("max", format_duration(retry.max));
    keys.node()
}

fn batch_node(batch: &Grouping) -> Node {
    Node::map([
        ("max", Node::from(Value::from(batch.max))),
        ("within", Node::from(format_duration(batch.within))),
    ])
}
