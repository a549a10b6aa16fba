//! `drop`: takes fields out of each record.

use wiredflow_core::field_path::FieldPath;
use wiredflow_core::node::Node;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Result, config};

use crate::catalogue::{CheckCx, StageKind, Work};
use crate::resources::Resources;

config! {
    /// Takes fields out of each record. A field that a record does not have is passed over. Whole records are dropped
    /// by `filter`.
    pub struct DropConfig short fields {
        /// The fields' names; `main.debug` for one inside an object.
        fields: Vec<FieldPath>,
    }
}

/// Drops fields.
#[derive(Debug)]
pub(crate) struct Drop(DropConfig);

impl StageKind for Drop {
    const NAME: &'static str = "drop";
    const EXAMPLE: &'static str = "drop: {fields: [internal_id, main.debug]}";
    const WORK: Work = Work::Records;
    type Config = DropConfig;

    fn check(config: &DropConfig, node: &Node, cx: &mut CheckCx<'_>) {
        if config.fields.is_empty() || config.fields.iter().any(FieldPath::is_whole) {
            let help = "write `drop: [FIELD, …]`; whole records are dropped by `filter`";
            cx.reading
                .error_with_help(node.span, "`drop` wants fields".to_owned(), help);
        }
    }

    async fn open(config: DropConfig, _: &Resources) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Stage for Drop {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        let changed = crate::steps::changed(batch, |record| {
            for path in &self.0.fields {
                path.remove(record);
            }
            Ok(())
        })?;
        out.emit(changed).await
    }
}
