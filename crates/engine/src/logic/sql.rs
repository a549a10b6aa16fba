//! Calls of a query: on a thread, and ended when nobody waits any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use wiredflow_core::charge::FunctionTime;
use wiredflow_core::{Batch, Error, Map, Result, Value};

use super::threads::{FunctionThreads, Threads};
use crate::sql::Query;
use crate::storages::StorageHandles;

/// A query, ready to be called.
#[derive(Debug)]
pub(super) struct SqlCalls {
    query: Query,
    storages: StorageHandles,
    threads: Threads,
}

impl SqlCalls {
    pub(super) fn new(query: Query, storages: StorageHandles, threads: &FunctionThreads) -> Self {
        Self {
            query,
            storages,
            threads: Threads::of(threads),
        }
    }

    /// Runs it. Dropping the future stops it.
    pub(super) async fn call(
        &self,
        batch: Batch,
        params: Map,
        time: &FunctionTime,
    ) -> Result<Vec<Value>> {
        let stop = StopOnDrop(Arc::default());
        let (query, storages) = (self.query.clone(), self.storages.clone());
        let stopped = Arc::clone(&stop.0);
        let (say, rows) = oneshot::channel();
        let mut ending = self.threads.begin(move |_| {
            let found = query.run(&batch, &params, &storages, &stopped)?;
            // Nobody may wait for it any more.
            drop(say.send(found));
            Ok(())
        })?;
        time.watch(ending.probe());
        let ended = ending.wait().await;
        if let Some(used) = ending.used() {
            time.ended(&used);
        }
        ended?;
        rows.await
            .map_err(|_| Error::bug("a query ended without a word"))
    }
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
