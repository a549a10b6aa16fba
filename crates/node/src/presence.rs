//! "Here I am": an entry that goes by itself when nobody puts it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wiredflow_core::engine::{If, Name, RENEW_EACH, Shelf};
use wiredflow_core::{Error, Result};
use wiredflow_engine::pool::words::Node;
use wiredflow_engine::pool::{RELEASE, VERSION, nodes, sorted};

use crate::pool::Pool;

/// The entry of a node, put again and again.
#[derive(Debug)]
pub(crate) struct Presence {
    pool: Arc<Pool>,
    name: Name,
    draining: AtomicBool,
}

impl Presence {
    /// Puts the entry, and has it put again.
    pub(crate) async fn begin(pool: &Arc<Pool>) -> Result<Arc<Self>> {
        let presence = Arc::new(Self {
            pool: Arc::clone(pool),
            name: nodes()?.and(&pool.options.name)?,
            draining: AtomicBool::new(false),
        });
        presence.put().await?;
        let renewing = Arc::clone(&presence);
        pool.around.tasks.spawn("node presence", async move {
            let mut away = false;
            loop {
                renewing.pool.around.clock.sleep(RENEW_EACH).await;
                match renewing.put().await {
                    Ok(()) if std::mem::take(&mut away) => {
                        tracing::info!("the engine can be reached again");
                    }
                    Err(error) if !std::mem::replace(&mut away, true) => {
                        tracing::warn!("the engine cannot be reached: {error}; what runs for a flow that is not heard of ends");
                    }
                    _ => {}
                }
            }
        });
        Ok(presence)
    }

    async fn put(&self) -> Result<()> {
        let options = &self.pool.options;
        let node = Node {
            version: VERSION,
            release: RELEASE.to_owned(),
            name: options.name.clone(),
            labels: sorted(&options.labels),
            kinds: options.kinds.clone(),
            slots: options.slots,
            busy: self.pool.busy(),
            cores: options.machine.cores,
            memory: options.machine.memory,
            speed: options.machine.speed,
            draining: self.draining.load(Ordering::Relaxed),
        };
        let value = serde_json::to_vec(&node)
            .map_err(|error| Error::bug(format!("a node cannot be written: {error}")))?;
        let put = self
            .pool
            .engine
            .put(Shelf::Presence, &self.name, value.into(), If::Any);
        put.await.map(drop)
    }

    /// Says that it takes no more.
    pub(crate) async fn drains(&self) {
        self.draining.store(true, Ordering::Relaxed);
        // Without an engine nobody would be told anyway.
        drop(self.put().await);
    }

    /// Takes the entry away.
    pub(crate) async fn end(&self) {
        drop(
            self.pool
                .engine
                .remove(Shelf::Presence, &self.name, If::Any)
                .await,
        );
    }
}
