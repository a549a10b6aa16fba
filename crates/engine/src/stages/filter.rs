//! `filter`: drops the records that are not meant.

use wiredflow_core::condition::Conditions;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Result};

use crate::catalogue::{StageKind, Work};
use crate::resources::Resources;

/// Hands on the records for which all conditions hold.
#[derive(Debug)]
pub(crate) struct Filter(Conditions);

impl StageKind for Filter {
    const NAME: &'static str = "filter";
    const EXAMPLE: &'static str = "filter: {field: temperature, above: 20}";
    const WORK: Work = Work::Records;
    type Config = Conditions;

    async fn open(config: Conditions, _: &Resources) -> Result<Self> {
        Ok(Self(config))
    }
}

impl Stage for Filter {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        let mut rest = batch.clone();
        if !batch.values().all(|value| self.0.hold(value)) {
            rest.records_mut()
                .retain(|record| self.0.hold(record.value()));
        }
        // Where all are dropped there is nothing to hand on: a function after this is not called for it.
        if rest.is_empty() && !batch.is_empty() {
            return Ok(());
        }
        out.emit(rest).await
    }
}
