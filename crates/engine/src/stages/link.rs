//! `link`: hands records over to another pipeline.

use std::sync::Arc;

use wiredflow_core::charge::Activity;
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::{Batch, Result, config};

use crate::catalogue::{StageKind, Work};
use crate::links;
use crate::resources::Resources;

config! {
    /// Hands its input over to the pipeline with `source: {link: NAME}`, in order and with its params; it goes on here unchanged. What
    /// is handed over counts as done when that pipeline is through with it: its storages and receivers have it, or it is in
    /// the dead letters. While that pipeline is behind, this one waits.
    pub struct LinkConfig short name {
        /// The link's name: one pipeline takes from it, any number hand over.
        name: String,
    }
}

/// Hands over.
#[derive(Debug)]
pub(crate) struct Link(Arc<links::Link>);

impl StageKind for Link {
    const NAME: &'static str = "link";
    const EXAMPLE: &'static str = "link: {name: to_store}";
    const WORK: Work = Work::Records;
    type Config = LinkConfig;

    async fn open(config: LinkConfig, resources: &Resources) -> Result<Self> {
        resources.links.named(&config.name).map(Self)
    }
}

impl Stage for Link {
    async fn run(&self, _: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        cx.spend(Activity::Blocked, self.0.room()).await?;
        self.0.put(out.share());
        out.pass(None);
        Ok(())
    }
}
