//! `load`: reads what is stored.

use wiredflow_core::charge::Activity;
use wiredflow_core::condition::Conditions;
use wiredflow_core::config::{MappingWord, StorageOptions, TriggerConfig};
use wiredflow_core::config_reader::{not_built_yet, read_storage};
use wiredflow_core::fields::Reading;
use wiredflow_core::node::Node;
use wiredflow_core::problem::possible;
use wiredflow_core::schedule::Overlap;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::storage::{Loaded, Query};
use wiredflow_core::{Batch, Result, Value, config, words};

use crate::catalogue::{CheckCx, StageKind, Work};
use crate::resources::Resources;
use crate::since::{Begin, Position, Positions};
use crate::storages::StorageHandle;

words! {
    /// What counts as read already.
    pub enum Since {
        /// What the last run that ended well has been given.
        LastRun = "last_run",
    }
}

config! {
    /// Reads the records of a storage, oldest first.
    pub struct LoadConfig short storage {
        /// The storage's name: a shared one, or a pipeline's whose storage stands inline.
        storage: String,
        /// `last_run`: only what was stored since the last run that ended well; the run after one that failed is given the same
        /// again, and more. For the first stage of a pipeline with a schedule, and rows that are only ever added.
        since: Option<Since>,
        /// At most this many records, the newest ones; with `since` the oldest ones, and the next run goes on behind them.
        limit: Option<usize>,
        /// Only records that match, in the words of the stage `filter`: `{field: temperature, above: 20}`. `limit` counts
        /// those.
        r#where: Conditions,
    }
}

/// Hands on what a storage holds.
#[derive(Debug)]
pub(crate) struct Load {
    storage: StorageHandle,
    query: Query,
    /// What the last runs were given, where only what is new is wanted.
    since: Option<Positions>,
    name: std::sync::Arc<str>,
}

impl StageKind for Load {
    const NAME: &'static str = "load";
    const EXAMPLE: &'static str =
        "load: {storage: http_numbers, where: {field: temperature, above: 20}, limit: 100}";
    const WORK: Work = Work::Records;
    type Config = LoadConfig;

    fn check(config: &LoadConfig, node: &Node, cx: &mut CheckCx<'_>) {
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.span);
        if config.since.is_some() {
            for why in against_since(config, node, cx) {
                cx.reading
                    .error(span("since"), format!("`since: last_run` {why}"));
            }
        }
        if !cx.storage_names.contains(&config.storage) {
            let what = if config.storage.contains('/') {
                not_built_yet("loading from another flow")
            } else {
                format!("there is no storage `{}`", config.storage)
            };
            let help = possible(&config.storage, cx.storage_names.iter().map(String::as_str));
            cx.reading.error_with_help(span("storage"), what, help);
        }
    }

    async fn open(config: LoadConfig, resources: &Resources) -> Result<Self> {
        let storage = resources.storages.named(&config.storage)?.clone();
        Ok(Self {
            since: config
                .since
                .map(|Since::LastRun| resources.positions.clone()),
            name: std::sync::Arc::clone(&resources.stage),
            storage,
            query: Query {
                limit: config.limit,
                conditions: config.r#where,
            },
        })
    }
}

/// Why only what is new cannot be had here.
fn against_since(config: &LoadConfig, node: &Node, cx: &CheckCx<'_>) -> Vec<String> {
    let mut why = Vec::new();
    let mut pipelines = cx.flow.pipelines.iter();
    if let Some(pipeline) = pipelines.find(|pipeline| pipeline.name == cx.pipeline) {
        let first = pipeline.stages.first();
        if first.is_none_or(|first| first.config.span != node.span) {
            why.push("goes with the first stage of a pipeline: others are called more than once in a run".to_owned());
        }
        if matches!(pipeline.trigger, TriggerConfig::Source { .. }) {
            why.push("goes with a schedule: a stream has no runs".to_owned());
        }
        if pipeline.overlap == Overlap::Allow {
            why.push("goes with `overlap: skip` or `queue`: of two runs side by side neither is the last".to_owned());
        }
    }
    if let Some(options) = options_of(&config.storage, cx) {
        let word = match options.mapping {
            MappingWord::Extend => None,
            MappingWord::Update => Some("update"),
            MappingWord::Overwrite => Some("overwrite"),
        };
        if let Some(word) = word {
            why.push(format!(
                "wants a storage whose rows are added: `mapping: {word}` changes them"
            ));
        }
        if options.key.is_some() {
            why.push("wants a storage whose rows are added: `key` replaces them".to_owned());
        }
    }
    why
}

/// The options of a storage, shared or inline.
fn options_of(name: &str, cx: &CheckCx<'_>) -> Option<StorageOptions> {
    let mut shared = cx.flow.storages.iter();
    if let Some(storage) = shared.find(|storage| storage.name == name) {
        return Some(storage.options.clone());
    }
    let mut pipelines = cx.flow.pipelines.iter();
    let pipeline = pipelines.find(|pipeline| pipeline.name == name)?;
    let stores = pipeline.stages.iter().filter(|stage| stage.kind == "store");
    let shared = |node: &Node| {
        let named = node.as_text();
        named.is_some_and(|named| cx.flow.storages.iter().any(|storage| storage.name == named))
    };
    let mut inline = stores.filter(|stage| !shared(&stage.config));
    inline.find_map(|stage| {
        let storage = read_storage(name, &stage.config, stage.span, &mut Reading::default())?;
        Some(storage.options)
    })
}

impl Load {
    /// The records that no run that ended well was given, and how far that is.
    async fn news(&self, positions: &Positions, cx: &Cx) -> Result<Vec<Value>> {
        let position = positions.position(&self.name).await?;
        let load = self.storage.load(Query::default());
        let all = match cx.spend(Activity::External, load).await? {
            Loaded::Nothing => Vec::new(),
            Loaded::Rows(rows) => rows,
            Loaded::Object(object) => vec![Value::Object(object)],
        };
        let begin = match position.begin(&all) {
            Begin::At(place) => place,
            Begin::Anew => {
                tracing::warn!(
                    pipeline = %cx.pipeline, stage = %cx.stage, storage = %self.storage.name(),
                    "the records that the last run was given are not there any more: all that is stored counts as new"
                );
                0
            }
        };
        let most = self.query.limit.unwrap_or(usize::MAX);
        let (mut rows, mut end) = (Vec::new(), begin);
        while rows.len() < most && end < all.len() {
            if self.query.conditions.hold(&all[end]) {
                rows.push(all[end].clone());
            }
            end += 1;
        }
        positions.give(&self.name, Position::behind(&all, end));
        Ok(rows)
    }
}

impl Stage for Load {
    async fn run(&self, _: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        if let Some(positions) = &self.since {
            let rows = self.news(positions, cx).await?;
            return out.emit(Batch::of_values(rows)).await;
        }
        let load = self.storage.load(self.query.clone());
        let batch = match cx.spend(Activity::External, load).await? {
            Loaded::Nothing => Batch::default(),
            Loaded::Rows(rows) => Batch::of_values(rows),
            Loaded::Object(object) => Batch::of_document(Value::Object(object)),
        };
        out.emit(batch).await
    }
}
