//! From nodes to `FlowConfig`: every structural problem of a flow file, told at once.

use std::time::Duration;

use crate::config::{
    Ack, FlowConfig, Grouping, Isolation, LOCAL, NAME_HELP, OnError, OnFailure, PipelineConfig,
    RateLimit, RemoteConfig, RemoteName, Retry, StageConfig, StagePolicy, StorageConfig,
    StorageOptions, TriggerConfig, is_name, split_kind,
};
use crate::fields::{Config, FromNode, Pairs, Reading};
use crate::node::{Entry, Node, NodeKind, Span};
use crate::schedule::{CatchUp, Overlap};
use crate::{config, words};

config! {
    /// The keys of a flow file.
    pub struct FlowKeys {
        /// The flow's name; left out, the file's name without its ending.
        name: Option<String>,
        /// The folder of the flow's state.
        state: String = ".wiredflow",
        /// Where the API listens: an address, `{address, tls: {cert, key}}`, or `off`; left out, `127.0.0.1:8420` or the
        /// next free port.
        listen: Option<Node>,
        /// What carries links, leases and loads between flows; only `local` is built yet.
        engine: Option<String>,
        /// What a failed delivery does.
        on_failure: OnFailure = "stop",
        /// Storages that several pipelines share, by name.
        storages: Pairs<Node>,
        /// Named places where a stage can run: another process, another machine.
        remotes: Pairs<Node>,
        /// The pipelines, by name.
        pipelines: Pairs<Node>,
    }
}

words! {
    /// The word for overlap in the flow file.
    pub enum OverlapWord {
        /// A tick that comes too early is passed over.
        Skip = "skip",
        /// One tick waits.
        Queue = "queue",
        /// Deliveries run side by side.
        Allow = "allow",
    }
}

words! {
    /// The word for catching up in the flow file.
    pub enum CatchUpWord {
        /// The newest missed tick runs.
        Latest = "latest",
        /// All missed ticks run.
        All = "all",
        /// Missed ticks are passed over.
        None = "none",
    }
}

config! {
    /// The keys of a pipeline: exactly one trigger, `stages`, and any of the others.
    pub struct PipelineKeys {
        /// Trigger: a fixed grid without drift, from 10ms up.
        every: Option<Duration>,
        /// Trigger: 5 fields, or 6 with seconds first.
        cron: Option<String>,
        /// The time zone of `cron`; UTC when left out.
        time_zone: Option<String>,
        /// Trigger: once, at an RFC 3339 time.
        at: Option<String>,
        /// Trigger: once at each start of the flow.
        once: Option<bool>,
        /// Trigger: a stream.
        source: Option<Node>,
        /// The wait before the first delivery.
        delay: Option<Duration>,
        /// The longest random wait before each delivery.
        jitter: Duration = "0s",
        /// What happens to a tick that comes while the last delivery still runs.
        overlap: OverlapWord = "skip",
        /// What happens to the ticks that were missed while the flow was down.
        catch_up: CatchUpWord = "latest",
        /// The longest time one delivery may take.
        timeout: Option<Duration>,
        /// What a failed delivery does; left out, as the flow says.
        on_failure: Option<OnFailure>,
        /// Where the pipeline's code runs: as a task of the flow's own process, or, with `process`, each stage that could
        /// do harm there in a child process of its own.
        isolation: Isolation = "task",
        /// When the source is acknowledged: when all sinks have it, or when it is in a durable `inbox` on the disk, from
        /// which the stages take it: for slow stages and sinks that may be away for long.
        ack: Ack = "sink",
        /// The stages, in order.
        stages: Vec<Node>,
    }
}

config! {
    /// The keys that any stage may have beside its kind.
    pub struct StageKeys {
        /// Its name; left out, its kind, numbered if needed.
        name: Option<String>,
        /// The longest time of one attempt: 30s for peers and none for functions when left out.
        timeout: Option<Duration>,
        /// How often a call is tried: a peer that is away for ever, a function once, when left out.
        retry: Option<Retry>,
        /// What happens after the last attempt: `stop` when left out, and `dead_letter` with `required: false`.
        on_error: Option<OnError>,
        /// Calls at once.
        parallel: usize = "1",
        /// Whether parallel calls keep the order.
        ordered: bool = "true",
        /// Regroups records before the stage.
        batch: Option<Grouping>,
        /// The most calls in a second.
        rate_limit: Option<RateLimit>,
        /// Where it runs: a name under `remotes`, or a list of which the first that can be reached takes the call; `local`
        /// is this process, as when left out.
        remote: Vec<RemoteName>,
        /// It may be repeated and run anywhere; not built yet.
        pure: Option<bool>,
        /// Its state is per value of this field; not built yet.
        keyed: Option<String>,
        /// It is never moved; not built yet.
        pinned: Option<bool>,
    }
}

/// Reads a flow file. `default_name` is the name when the file has none.
///
/// Returns what could be read and all structural problems; the value is complete only when no problem
/// is an error. Kinds and their configs are checked by those who know the catalogue.
pub fn read_flow(node: &Node, default_name: &str, reading: &mut Reading) -> Option<FlowConfig> {
    if node.kind == NodeKind::Null {
        reading.error(node.span, "the flow file is empty: it needs `pipelines`");
        return None;
    }
    let keys = FlowKeys::from_node(node, reading)?;
    let name = keys.name.clone().unwrap_or_else(|| default_name.to_owned());
    let name_span = node
        .entry("name")
        .map_or(node.span, |entry| entry.value.span);
    check_name(&name, name_span, reading);
    refuse_later_keys(node, &keys, reading);
    if keys.pipelines.0.is_empty() {
        reading.error(
            node.span,
            "a flow needs at least one pipeline under `pipelines`",
        );
    }
    let storages = named(node, "storages", reading, |entry, reading| {
        read_storage(&entry.key, &entry.value, entry.span, reading)
    });
    let remotes = named(node, "remotes", reading, read_remote);
    let pipelines = named(node, "pipelines", reading, read_pipeline);
    Some(FlowConfig {
        name,
        state: keys.state,
        listen: keys.listen,
        on_failure: keys.on_failure,
        storages,
        remotes,
        pipelines,
    })
}

fn refuse_later_keys(node: &Node, keys: &FlowKeys, reading: &mut Reading) {
    let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.span);
    if keys
        .engine
        .as_deref()
        .is_some_and(|engine| engine != "local")
    {
        reading.error_with_help(span("engine"), not_built_yet("engine"), "possible: `local`");
    }
}

/// The message for a key, verb or word that the interface has and this version has not.
pub fn not_built_yet(what: &str) -> String {
    format!("`{what}` is not built yet")
}

fn named<T>(
    node: &Node,
    key: &str,
    reading: &mut Reading,
    read: impl Fn(&Entry, &mut Reading) -> Option<T>,
) -> Vec<T> {
    let Some(NodeKind::Map(entries)) = node.entry(key).map(|entry| &entry.value.kind) else {
        return Vec::new();
    };
    reading.inside(key, |reading| {
        let read_one = |entry: &Entry| {
            check_name(&entry.key, entry.span, reading);
            reading.inside(&entry.key, |reading| read(entry, reading))
        };
        entries.iter().filter_map(read_one).collect()
    })
}

fn check_name(name: &str, span: Span, reading: &mut Reading) {
    if !is_name(name) {
        reading.error_with_help(
            span,
            format!("`{}` cannot be a name", name.escape_debug()),
            NAME_HELP,
        );
    }
}

/// Reads a storage: a bare word for a kind with its defaults, or a map of the kind and its options.
pub fn read_storage(
    name: &str,
    node: &Node,
    span: Span,
    reading: &mut Reading,
) -> Option<StorageConfig> {
    let (kind, kind_span, config, options) = match &node.kind {
        NodeKind::Text(kind) => (
            kind.clone(),
            node.span,
            Node::empty_map().at(node.span),
            Node::empty_map().at(node.span),
        ),
        _ => {
            let beside: Vec<&str> = StorageOptions::fields()
                .iter()
                .map(|field| field.name)
                .collect();
            let (kind, options) = split_kind(node, &beside, "a storage", reading)?;
            (kind.key.clone(), kind.span, kind.value.clone(), options)
        }
    };
    let options = StorageOptions::from_node(&options, reading)?;
    Some(StorageConfig {
        name: name.to_owned(),
        span,
        kind,
        kind_span,
        config,
        options,
    })
}

fn read_remote(entry: &Entry, reading: &mut Reading) -> Option<RemoteConfig> {
    if entry.key == LOCAL {
        let message = "`local` is this process, and no name for another place".to_owned();
        reading.error(entry.span, message);
    }
    let (kind, _) = split_kind(&entry.value, &[], "a remote", reading)?;
    Some(RemoteConfig {
        name: entry.key.clone(),
        span: entry.span,
        kind: kind.key.clone(),
        kind_span: kind.span,
        config: kind.value.clone(),
    })
}

/// Reads a pipeline. What cannot be read is reported and stands in as a default, so that all else is
/// still checked; a flow with an error is never run.
fn read_pipeline(entry: &Entry, reading: &mut Reading) -> Option<PipelineConfig> {
    let node = &entry.value;
    let keys = PipelineKeys::from_node(node, reading);
    let stages = read_stages(entry, reading);
    let mut pipeline = PipelineConfig {
        name: entry.key.clone(),
        span: entry.span,
        trigger: TriggerConfig::Once,
        trigger_span: node.span,
        delay: None,
        jitter: Duration::ZERO,
        overlap: Overlap::Skip,
        catch_up: CatchUp::Latest,
        timeout: None,
        on_failure: None,
        isolation: Isolation::default(),
        ack: Ack::default(),
        stages,
    };
    let Some(keys) = keys else {
        // The problems of its source are told beside those of its keys.
        if let Some((source, span)) = read_source(node, reading) {
            (pipeline.trigger, pipeline.trigger_span) = (source, span);
        }
        return Some(pipeline);
    };
    if let Some((trigger, span)) = read_trigger(node, &keys, reading) {
        (pipeline.trigger, pipeline.trigger_span) = (trigger, span);
    }
    let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.span);
    if keys.ack == Ack::Inbox && !matches!(pipeline.trigger, TriggerConfig::Source { .. }) {
        let message = "`ack: inbox` goes with a `source`: a schedule brings nothing that could wait, and nothing to acknowledge";
        reading.error_with_help(span("ack"), message.to_owned(), "leave it out");
    }
    pipeline.isolation = keys.isolation;
    pipeline.ack = keys.ack;
    pipeline.delay = keys.delay;
    pipeline.jitter = keys.jitter;
    pipeline.overlap = match keys.overlap {
        OverlapWord::Skip => Overlap::Skip,
        OverlapWord::Queue => Overlap::Queue,
        OverlapWord::Allow => Overlap::Allow,
    };
    pipeline.catch_up = match keys.catch_up {
        CatchUpWord::Latest => CatchUp::Latest,
        CatchUpWord::All => CatchUp::All,
        CatchUpWord::None => CatchUp::None,
    };
    pipeline.timeout = keys.timeout;
    pipeline.on_failure = keys.on_failure;
    Some(pipeline)
}

fn read_stages(pipeline: &Entry, reading: &mut Reading) -> Vec<StageConfig> {
    let nodes = match pipeline.value.entry("stages").map(|entry| &entry.value) {
        Some(Node {
            kind: NodeKind::List(nodes),
            ..
        }) => nodes.as_slice(),
        Some(node) if node.kind != NodeKind::Null => std::slice::from_ref(node),
        _ => &[],
    };
    if nodes.is_empty() {
        reading.error(
            pipeline.span,
            "a pipeline needs at least one stage under `stages`",
        );
    }
    let mut stages: Vec<StageConfig> = Vec::new();
    reading.inside("stages", |reading| {
        for (index, node) in nodes.iter().enumerate() {
            let read = |reading: &mut Reading| read_stage(node, &stages, reading);
            let stage = reading.inside(&index.to_string(), read);
            stages.extend(stage);
        }
    });
    stages
}

fn read_trigger(
    node: &Node,
    keys: &PipelineKeys,
    reading: &mut Reading,
) -> Option<(TriggerConfig, Span)> {
    const TRIGGERS: [&str; 5] = ["every", "cron", "at", "once", "source"];
    let given: Vec<&Entry> = TRIGGERS.iter().filter_map(|key| node.entry(key)).collect();
    let help = "possible: `every`, `cron`, `at`, `once: true`, `source`";
    let [entry] = given[..] else {
        let message = match given.len() {
            0 => "a pipeline needs a trigger".to_owned(),
            _ => format!(
                "`{}` beside `{}`: a pipeline has exactly one trigger",
                given[1].key, given[0].key
            ),
        };
        reading.error_with_help(
            given.get(1).map_or(node.span, |entry| entry.span),
            message,
            help,
        );
        return read_source(node, reading);
    };
    if keys.time_zone.is_some() && keys.cron.is_none() {
        let span = node
            .entry("time_zone")
            .map_or(node.span, |entry| entry.span);
        reading.error(span, "`time_zone` goes with `cron`");
    }
    let trigger = if let Some(period) = keys.every {
        TriggerConfig::Every(period)
    } else if let Some(expression) = &keys.cron {
        let time_zone = keys.time_zone.clone().unwrap_or_else(|| "UTC".to_owned());
        TriggerConfig::Cron {
            expression: expression.clone(),
            time_zone,
        }
    } else if let Some(time) = &keys.at {
        TriggerConfig::At(time.clone())
    } else if let Some(once) = keys.once {
        if !once {
            reading.error_with_help(
                entry.value.span,
                "`once: false` starts nothing".to_owned(),
                help,
            );
        }
        TriggerConfig::Once
    } else {
        return read_source(node, reading);
    };
    Some((trigger, entry.value.span))
}

/// The source of a pipeline, where it has one.
fn read_source(node: &Node, reading: &mut Reading) -> Option<(TriggerConfig, Span)> {
    let source = &node.entry("source")?.value;
    let (kind, _) = reading.inside("source", |reading| {
        split_kind(source, &[], "a source", reading)
    })?;
    let trigger = TriggerConfig::Source {
        kind: kind.key.clone(),
        config: kind.value.clone(),
    };
    Some((trigger, source.span))
}

fn read_stage(node: &Node, before: &[StageConfig], reading: &mut Reading) -> Option<StageConfig> {
    let beside: Vec<&str> = StageKeys::fields().iter().map(|field| field.name).collect();
    let (kind, options) = split_kind(node, &beside, "a stage", reading)?;
    let Some(keys) = StageKeys::from_node(&options, reading) else {
        // Its kind is checked all the same: all problems are told at once.
        return Some(StageConfig {
            name: free_name(&kind.key, before),
            span: node.span,
            kind: kind.key.clone(),
            kind_span: kind.span,
            config: kind.value.clone(),
            policy: StagePolicy::default(),
        });
    };
    let span = |key: &str| options.entry(key).map_or(node.span, |entry| entry.span);
    for (key, given) in [
        ("pure", keys.pure.is_some()),
        ("keyed", keys.keyed.is_some()),
        ("pinned", keys.pinned.is_some()),
    ] {
        if given {
            reading.error(span(key), not_built_yet(key));
        }
    }
    if !(1..=1024).contains(&keys.parallel) {
        reading.error(span("parallel"), "expected a whole number from 1 to 1024");
    }
    if keys
        .batch
        .as_ref()
        .is_some_and(|batch| !(1..=100_000).contains(&batch.max))
    {
        reading.error(span("batch"), "`max` must be from 1 to 100000");
    }
    if keys
        .rate_limit
        .as_ref()
        .is_some_and(|limit| !(limit.per_second > 0.0 && limit.per_second <= 1e6))
    {
        reading.error(
            span("rate_limit"),
            "`per_second` must be above 0 and at most 1000000",
        );
    }
    if let Some(name) = &keys.name {
        check_name(name, span("name"), reading);
        if before.iter().any(|other| other.name == *name) {
            reading.error(
                span("name"),
                format!("the stage name `{name}` is taken in this pipeline"),
            );
        }
    }
    Some(StageConfig {
        name: keys
            .name
            .clone()
            .unwrap_or_else(|| free_name(&kind.key, before)),
        span: node.span,
        kind: kind.key.clone(),
        kind_span: kind.span,
        config: kind.value.clone(),
        policy: StagePolicy {
            timeout: keys.timeout,
            retry: keys.retry,
            on_error: keys.on_error,
            parallel: keys.parallel,
            ordered: keys.ordered,
            batch: keys.batch,
            rate_limit: keys.rate_limit.map(|limit| limit.per_second),
            remote: keys.remote,
        },
    })
}

/// The kind's word, numbered from 2 when it is taken.
pub fn free_name(kind: &str, before: &[StageConfig]) -> String {
    let taken = |name: &str| before.iter().any(|stage| stage.name == name);
    if !taken(kind) {
        return kind.to_owned();
    }
    (2..)
        .map(|number| format!("{kind}_{number}"))
        .find(|name| !taken(name))
        .unwrap_or_default()
}
