//! A worker's host that is a stage: its storages are the flow's, its lines go to the log under the stage's name.

use std::sync::Arc;

use wiredflow_core::frame::Level;
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::storage::{Loaded, Query};
use wiredflow_core::{Batch, Result};

use super::WorkerHost;
use crate::resources::Resources;
use crate::storages::{RowsOf, StorageHandles};

/// Reads and writes the flow's storages for a worker, and logs what it says.
#[derive(Clone, Debug)]
pub struct StageHost {
    storages: StorageHandles,
    pipeline: Arc<str>,
    stage: Arc<str>,
}

impl StageHost {
    /// The host for a stage's workers.
    pub fn new(resources: &Resources) -> Self {
        Self {
            storages: resources.storages.clone(),
            pipeline: Arc::clone(&resources.pipeline),
            stage: Arc::clone(&resources.stage),
        }
    }
}

impl WorkerHost for StageHost {
    fn load<'a>(&'a self, storage: &'a str, query: Query) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(async move { self.storages.named(storage)?.load(query).await })
    }

    fn save<'a>(&'a self, storage: &'a str, rows: Batch) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // Code that saves by itself needs no receipt: nothing is acknowledged on its strength.
            let storage = self.storages.named(storage)?;
            let of = RowsOf {
                pipeline: Arc::clone(&self.pipeline),
                ..RowsOf::default()
            };
            storage.commit(rows, of).await.map(|_receipt| ())
        })
    }

    fn log(&self, level: Level, message: &str) {
        let (pipeline, stage) = (&*self.pipeline, &*self.stage);
        match level {
            Level::Debug => tracing::debug!(pipeline, stage, "{message}"),
            Level::Info => tracing::info!(pipeline, stage, "{message}"),
            Level::Warn => tracing::warn!(pipeline, stage, "{message}"),
            Level::Error => tracing::error!(pipeline, stage, "{message}"),
        }
    }
}
