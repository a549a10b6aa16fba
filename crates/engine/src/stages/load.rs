//! `load`: reads what is stored.

use wiredflow_core::charge::Activity;
use wiredflow_core::condition::Conditions;
use wiredflow_core::config_reader::not_built_yet;
use wiredflow_core::node::Node;
use wiredflow_core::problem::possible;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::storage::{Loaded, Query};
use wiredflow_core::{Batch, Result, Value, config};

use crate::catalogue::{CheckCx, StageKind, Work};
use crate::resources::Resources;
use crate::storages::StorageHandle;

config! {
    /// Reads the records of a storage, oldest first.
    pub struct LoadConfig short storage {
        /// The storage's name: a shared one, or a pipeline's whose storage stands inline.
        storage: String,
        /// `last_run`: only what is new; not built yet.
        since: Option<String>,
        /// At most this many records, the newest ones.
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
            cx.reading.error(span("since"), not_built_yet("since"));
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
            storage,
            query: Query {
                limit: config.limit,
                conditions: config.r#where,
            },
        })
    }
}

impl Stage for Load {
    async fn run(&self, _: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let load = self.storage.load(self.query.clone());
        let batch = match cx.spend(Activity::External, load).await? {
            Loaded::Nothing => Batch::default(),
            Loaded::Rows(rows) => Batch::of_values(rows),
            Loaded::Object(object) => Batch::of_document(Value::Object(object)),
        };
        out.emit(batch).await
    }
}
