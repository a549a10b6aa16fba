//! `configuration`: the user's function makes params for the stages after it.

use std::sync::Arc;

use wiredflow_core::frame::Role;
use wiredflow_core::node::Node;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Error, Map, Result, Value};

use crate::catalogue::{CheckCx, Prepared, StageEntry, Work};
use crate::logic::{self, FunctionKeys, Logic};
use crate::resources::Resources;

/// The line in the catalogue.
pub(crate) const ENTRY: StageEntry = StageEntry::with::<FunctionKeys>(
    "configuration",
    "configuration: {python: \"logic.py:configure\", params: {table: demo_table}}",
    Work::Function,
    prepare,
)
.saying("Makes params for the stages after it: a function that returns or yields them. The stages after it run once for each.");

fn prepare(node: &Node, cx: &mut CheckCx<'_>) -> Option<Prepared> {
    let plan = logic::prepare(node, Role::Configuration, cx)?;
    Some(Prepared::new(
        Work::Function,
        move |resources: Resources| {
            let plan = plan.clone();
            async move {
                Ok(Configuration {
                    logic: plan.open(&resources).await?,
                })
            }
        },
    ))
}

/// Replaces the params; a generator runs the rest of the pipeline once for each params.
#[derive(Debug)]
struct Configuration {
    logic: Logic,
}

impl Stage for Configuration {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let mut outputs = self.logic.call(batch, cx).await?;
        while let Some(output) = outputs.next().await? {
            let params = Arc::new(params(&output)?);
            if let Err(closed) = out.emit_params(batch.clone(), params).await {
                outputs.close().await?;
                return Err(closed);
            }
        }
        Ok(())
    }
}

fn params(output: &Batch) -> Result<Map> {
    match logic::document(output) {
        Value::Null => Ok(Map::new()),
        Value::Object(params) => Ok(params),
        _ => Err(Error::data(
            "a configuration function returns a dict of params, or None",
        )),
    }
}
