//! What a component may use when it is opened.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Dice};
use crate::engines::Engines;
use crate::functions::{FunctionThreads, Functions};
use crate::http::HttpClients;
use crate::links::Links;
use crate::observe::Workers;
use crate::since::Positions;
use crate::storages::StorageHandles;
use crate::tasks::Tasks;

/// The surroundings of one component: where it stands, and what it may use. A cheap clone.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The flow's name.
    pub flow: Arc<str>,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The stage's name; for a source its kind.
    pub stage: Arc<str>,
    /// The flow's folder: relative paths start here, functions run here.
    pub folder: Arc<Path>,
    /// The folder of the flow's state, for what a component must keep (a client id).
    pub state_folder: Option<Arc<Path>>,
    /// The one clock.
    pub clock: Clock,
    /// Chance.
    pub dice: Dice,
    /// The flow's HTTP clients.
    pub http: HttpClients,
    /// The links between the flow's pipelines.
    pub links: Links,
    /// The flow's connections to engines.
    pub engines: Engines,
    /// The flow's storages.
    pub storages: StorageHandles,
    /// How far the pipeline's loads have come.
    pub positions: Positions,
    /// The Rust functions that are linked in.
    pub functions: Functions,
    /// The threads that they run on.
    pub threads: FunctionThreads,
    /// What counts the stage's worker processes.
    pub workers: Workers,
    /// Tasks that end with the pipeline.
    pub tasks: Tasks,
    /// Fires when the pipeline ends: tasks of the component end then.
    pub stop: CancellationToken,
}

impl Resources {
    /// Those of a component that stands alone, outside a running flow: `names` are those of its flow, its pipeline and
    /// its stage.
    pub(crate) fn alone(
        [flow, pipeline, stage]: [&str; 3],
        folder: &Path,
        functions: &Functions,
        storages: StorageHandles,
        (clock, tasks): (Clock, Tasks),
    ) -> Self {
        Self {
            flow: flow.into(),
            pipeline: pipeline.into(),
            stage: stage.into(),
            folder: folder.into(),
            state_folder: None,
            clock,
            dice: Dice::from_system(),
            http: HttpClients::default(),
            links: Links::default(),
            engines: Engines::default(),
            storages,
            positions: Positions::of(pipeline.into(), None),
            functions: functions.clone(),
            threads: FunctionThreads::default(),
            workers: Workers::default(),
            tasks,
            stop: CancellationToken::new(),
        }
    }
}
