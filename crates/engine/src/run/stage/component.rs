//! The component of a stage, which is open before the first record comes; that of one that nothing waits for, later.

use tokio::sync::OnceCell;
use wiredflow_core::charge::Activity;
use wiredflow_core::stage::{AnyStage, Cx, Emitter};
use wiredflow_core::{Batch, Result};

use crate::catalogue::{OpenStage, Work};
use crate::resources::Resources;

/// What a stage calls.
pub(in crate::run) enum Component {
    /// It was opened with its pipeline.
    Open(Box<dyn AnyStage>),
    /// It is opened when it can be.
    Later(Box<Later>),
}

/// A component that may be away while its pipeline runs.
pub(in crate::run) struct Later {
    open: OpenStage,
    resources: Resources,
    opened: OnceCell<Box<dyn AnyStage>>,
    /// What its opening counts as.
    activity: Activity,
}

impl Component {
    /// One that is opened by its first call, or before.
    pub(in crate::run) fn later(open: OpenStage, resources: Resources, work: Work) -> Self {
        Self::Later(Box::new(Later {
            open,
            resources,
            opened: OnceCell::new(),
            activity: match work {
                Work::Peer | Work::PeerSink | Work::Sink => Activity::External,
                Work::Function | Work::Records => Activity::Overhead,
            },
        }))
    }

    /// Opens it if it is not open.
    pub(in crate::run) async fn open(&self) -> Result<()> {
        match self {
            Self::Open(_) => Ok(()),
            Self::Later(later) => later.opened().await.map(drop),
        }
    }

    /// See [`wiredflow_core::stage::Stage::run`].
    pub(in crate::run) async fn run(
        &self,
        batch: &Batch,
        out: &mut Emitter<'_>,
        cx: &Cx,
    ) -> Result<()> {
        let stage = match self {
            Self::Open(stage) => stage,
            Self::Later(later) => match later.opened.get() {
                Some(stage) => stage,
                None => cx.spend(later.activity, later.opened()).await?,
            },
        };
        stage.run_boxed(batch, out, cx).await
    }
}

impl Later {
    async fn opened(&self) -> Result<&Box<dyn AnyStage>> {
        let open = || (self.open.0)(self.resources.clone());
        self.opened.get_or_try_init(open).await
    }
}
