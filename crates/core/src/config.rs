//! What the user wrote: the flow as plain data, each part with its place in the file.

use std::time::Duration;

use crate::config_reader::StageKeys;
use crate::fields::{Config, FromNode, Reading, offered};
use crate::node::{Entry, Node, NodeKind, Span};
use crate::problem::possible;
use crate::schedule::{CatchUp, Overlap};
use crate::storage::Mapping;
use crate::{config, words};

/// A flow: a service as data. The file, the Rust builder and later the API all make this value.
#[derive(Clone, Debug)]
pub struct FlowConfig {
    /// Its name: `[A-Za-z0-9_-]{1,64}`.
    pub name: String,
    /// The folder of its state; relative to the flow's folder.
    pub state: String,
    /// Where its API listens: read by those who know TLS.
    pub listen: Option<Node>,
    /// What a failed delivery does where the pipeline says nothing.
    pub on_failure: OnFailure,
    /// Storages that several pipelines share, by name.
    pub storages: Vec<StorageConfig>,
    /// Named places where stages can run.
    pub remotes: Vec<RemoteConfig>,
    /// The pipelines, in the order of the file.
    pub pipelines: Vec<PipelineConfig>,
}

/// A place where stages can run.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// The component.
    pub kind: String,
    /// Where the kind's word stands.
    pub kind_span: Span,
    /// The component's config.
    pub config: Node,
}

/// One pipeline: a trigger and stages.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Its name: `[A-Za-z0-9_-]{1,64}`.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// What starts a delivery.
    pub trigger: TriggerConfig,
    /// Where the trigger stands.
    pub trigger_span: Span,
    /// The wait before the first delivery; `None` where the user said nothing.
    pub delay: Option<Duration>,
    /// The longest random wait before each delivery.
    pub jitter: Duration,
    /// What happens to a tick that comes while the last delivery still runs.
    pub overlap: Overlap,
    /// What happens to the ticks that were missed while the flow was down.
    pub catch_up: CatchUp,
    /// The longest time one delivery may take.
    pub timeout: Option<Duration>,
    /// What a failed delivery does; `None`: as the flow says.
    pub on_failure: Option<OnFailure>,
    /// Where the code of its stages runs.
    pub isolation: Isolation,
    /// When the source is acknowledged.
    pub ack: Ack,
    /// The stages, in order.
    pub stages: Vec<StageConfig>,
}

/// What starts a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum TriggerConfig {
    /// A fixed grid.
    Every(Duration),
    /// Cron's five fields, or six with seconds first, and a time zone.
    Cron {
        /// The fields.
        expression: String,
        /// The time zone's name.
        time_zone: String,
    },
    /// Once, at an RFC 3339 time.
    At(String),
    /// At each start of the flow.
    Once,
    /// A stream.
    Source {
        /// The component.
        kind: String,
        /// Its config.
        config: Node,
    },
}

/// One stage: a kind with its config, and the policies around it.
#[derive(Clone, Debug)]
pub struct StageConfig {
    /// Its name, unique in the pipeline.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// The component.
    pub kind: String,
    /// Where the kind's word stands.
    pub kind_span: Span,
    /// The component's config.
    pub config: Node,
    /// What the engine does around its calls.
    pub policy: StagePolicy,
}

/// What the engine does around the calls of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePolicy {
    /// Of one attempt; `None`: the component's default.
    pub timeout: Option<Duration>,
    /// `None`: the component's default.
    pub retry: Option<Retry>,
    /// After the last attempt; `None`: `stop`, and `dead_letter` where nothing waits for the stage.
    pub on_error: Option<OnError>,
    /// Calls at once.
    pub parallel: usize,
    /// Whether parallel calls hand on their output in the order of their input.
    pub ordered: bool,
    /// How records are regrouped before the stage.
    pub batch: Option<Grouping>,
    /// The most calls in a second.
    pub rate_limit: Option<f64>,
    /// Where its calls run: the first of these that can be reached. Empty: in this process.
    pub remote: Vec<RemoteName>,
}

/// The word for this process among the places of a stage.
pub const LOCAL: &str = "local";

/// A place as a stage names it.
#[derive(Clone, Debug)]
pub struct RemoteName {
    /// The name under `remotes`, or [`LOCAL`].
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

impl PartialEq for RemoteName {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl FromNode for RemoteName {
    const EXPECTS: &'static str = "the name of a remote, or `local`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        let name = String::from_node(node, reading)?;
        let span = node.span;
        Some(Self { name, span })
    }
}

impl Default for StagePolicy {
    fn default() -> Self {
        Self {
            timeout: None,
            retry: None,
            on_error: None,
            parallel: 1,
            ordered: true,
            batch: None,
            rate_limit: None,
            remote: Vec::new(),
        }
    }
}

words! {
    /// What a failed delivery does to its pipeline and the others.
    #[derive(Default)]
    pub enum OnFailure {
        /// All pipelines end in good order; exit code 1.
        #[default]
        Stop = "stop",
        /// The pipeline is opened again, with back-off.
        Restart = "restart",
        /// The pipeline ends, the others go on; exit code 1 at the end.
        Isolate = "isolate",
    }
}

words! {
    /// When a source is acknowledged.
    #[derive(Default)]
    pub enum Ack {
        /// When every required sink has committed.
        #[default]
        Sink = "sink",
        /// When the delivery is in a durable inbox, from which the stages take it.
        Inbox = "inbox",
    }
}

words! {
    /// Where the code of a pipeline's stages runs.
    #[derive(Default)]
    pub enum Isolation {
        /// In the flow's own process; Python and programs have processes of their own.
        #[default]
        Task = "task",
        /// Rust functions, SQL, and what asks or sends to a peer, in child processes.
        Process = "process",
    }
}

words! {
    /// What happens after the last attempt of a call.
    #[derive(Default)]
    pub enum OnError {
        /// The delivery has failed.
        #[default]
        Stop = "stop",
        /// The records go to the dead letters, the stream goes on.
        DeadLetter = "dead_letter",
        /// The records are passed over and counted.
        Skip = "skip",
    }
}

config! {
    /// How often and how patiently a call is tried.
    pub struct Retry {
        /// How many calls in all, the first counted; `forever` for no end. Left out: for ever while a peer
        /// is away, one call for anything else.
        attempts: Option<Attempts>,
        /// The wait after the first failure; it doubles each time.
        backoff: Duration = "1s",
        /// The longest wait.
        max: Duration = "60s",
    }
}

/// How many times a call is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempts {
    /// Until it works or the flow stops.
    Forever,
    /// This many calls, the first counted.
    Times(u32),
}

impl FromNode for Attempts {
    const EXPECTS: &'static str = "a whole number from 1, or `forever`";

    fn from_node(node: &Node, reading: &mut Reading) -> Option<Self> {
        if node.as_text() == Some("forever") {
            return Some(Self::Forever);
        }
        let times = match &node.kind {
            NodeKind::Number(number) => number.as_u64().and_then(|times| u32::try_from(times).ok()),
            NodeKind::Filled(text) => text.parse().ok(),
            _ => None,
        };
        match times {
            Some(times) if times > 0 => Some(Self::Times(times)),
            _ => {
                reading.error(node.span, format!("expected {}", Self::EXPECTS));
                None
            }
        }
    }
}

config! {
    /// Regroups records before a stage.
    pub struct Grouping {
        /// At most this many records in a batch.
        max: usize = "256",
        /// At most this long a wait for the batch to fill.
        within: Duration = "1s",
    }
}

config! {
    /// The most calls of a stage in a time.
    pub struct RateLimit {
        /// Calls in a second.
        per_second: f64,
    }
}

/// A place that keeps records.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// The component.
    pub kind: String,
    /// Where the kind's word stands.
    pub kind_span: Span,
    /// The component's config.
    pub config: Node,
    /// The options that stand beside the kind.
    pub options: StorageOptions,
}

words! {
    /// The word for a mapping in the flow file.
    pub enum MappingWord {
        /// Rows are added.
        Extend = "extend",
        /// Fields are merged into one object.
        Update = "update",
        /// The last rows replace all others.
        Overwrite = "overwrite",
    }
}

config! {
    /// The options that stand beside the kind of a storage.
    pub struct StorageOptions {
        /// How new rows join those that are stored.
        mapping: MappingWord = "extend",
        /// What is done to each record before it is saved: `add_datetime`, or a function.
        preprocess: Vec<Node>,
        /// The field that tells rows apart: a row with a known key replaces the old one.
        key: Option<String>,
        /// `false`: nothing waits for it. Its records go into a queue on the disk, from which they are worked off by
        /// themselves; what fails for good is a dead letter.
        required: bool = "true",
    }
}

impl From<MappingWord> for Mapping {
    fn from(word: MappingWord) -> Self {
        match word {
            MappingWord::Extend => Self::Extend,
            MappingWord::Update => Self::Update,
            MappingWord::Overwrite => Self::Overwrite,
        }
    }
}

/// Whether a name can stand for a flow, a pipeline, a stage or a storage.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// What a name may look like, for messages.
pub const NAME_HELP: &str = "a name has 1 to 64 of the characters A-Z, a-z, 0-9, `_` and `-`";

/// Whether a key beside a kind can be used already.
fn is_offered(key: &str) -> bool {
    let fields = [StageKeys::fields(), StorageOptions::fields()].concat();
    offered(&fields).any(|name| name == key) || fields.iter().all(|field| field.name != key)
}

/// The one entry of a map that names the kind, and those that stand beside it.
///
/// Reports when there is none or more than one. `kinds` is only for the message: an unknown kind is
/// reported later, by those who know the catalogue.
pub fn split_kind<'n>(
    node: &'n Node,
    beside: &[&str],
    what: &str,
    reading: &mut Reading,
) -> Option<(&'n Entry, Node)> {
    if let Some(word) = node.as_text() {
        let message = format!("{what} is a map of its kind, not a bare word");
        reading.error_with_help(node.span, message, format!("write `{word}: {{…}}`"));
        return None;
    }
    let entries = reading.any_entries(node, "a map")?;
    let (options, kinds): (Vec<&Entry>, Vec<&Entry>) = entries
        .iter()
        .partition(|entry| beside.contains(&entry.key.as_str()));
    let Some((kind, more)) = kinds.split_first() else {
        reading.error(
            node.span,
            format!("{what} needs exactly one kind beside its other keys"),
        );
        return None;
    };
    for other in more {
        let inside = StorageOptions::fields()
            .iter()
            .any(|field| field.name == other.key);
        if inside && matches!(kind.key.as_str(), "store" | "send") {
            let (key, kind) = (&other.key, &kind.key);
            let message = format!("`{key}` stands inside `{kind}`, not beside it");
            let help = format!("write `{kind}: {{…, {key}: …}}`");
            reading.error_with_help(other.span, message, help);
            continue;
        }
        let message = format!(
            "`{}` beside `{}`: {what} has exactly one kind",
            other.key, kind.key
        );
        let beside = possible(
            &other.key,
            beside.iter().copied().filter(|key| is_offered(key)),
        );
        let help = match beside.starts_with("did you mean") {
            true => beside,
            false => format!(
                "a key of `{kind}` stands inside it (`{kind}: {{{key}: …}}`); beside it, {beside}",
                kind = kind.key,
                key = other.key
            ),
        };
        reading.error_with_help(other.span, message, help);
    }
    let options = options.into_iter().cloned().collect();
    Some((
        kind,
        Node {
            kind: NodeKind::Map(options),
            span: node.span,
        },
    ))
}
