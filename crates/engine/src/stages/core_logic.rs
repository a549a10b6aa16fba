//! `core_logic`: the user's own code at work on a batch.

use wiredflow_core::frame::Role;
use wiredflow_core::node::Node;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Result};

use crate::catalogue::{CheckCx, Prepared, StageEntry, Work};
use crate::logic::{self, FunctionKeys, Logic};
use crate::resources::Resources;

/// The line in the catalogue.
pub(crate) const ENTRY: StageEntry = StageEntry::with::<FunctionKeys>(
    "core_logic",
    "core_logic: {python: \"logic.py:order_and_calculate\", params: {limit: 5}}",
    Work::Function,
    prepare,
)
.saying("The user's own code at work on the records: a function in Python or Rust, any program, or SQL. What it returns or yields goes on.");

fn prepare(node: &Node, cx: &mut CheckCx<'_>) -> Option<Prepared> {
    let plan = logic::prepare(node, Role::CoreLogic, cx)?;
    Some(Prepared::new(
        Work::Function,
        move |resources: Resources| {
            let plan = plan.clone();
            async move {
                Ok(CoreLogic {
                    logic: plan.open(&resources).await?,
                })
            }
        },
    ))
}

/// Hands on whatever the function returns or yields, as it appears.
#[derive(Debug)]
struct CoreLogic {
    logic: Logic,
}

impl Stage for CoreLogic {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let mut outputs = self.logic.call(batch, cx).await?;
        while let Some(output) = outputs.next().await? {
            if let Err(closed) = out.emit(output).await {
                outputs.close().await?;
                return Err(closed);
            }
        }
        Ok(())
    }
}
