//! The connections of a flow to engines that carry work between processes: one for each engine.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use wiredflow_core::engine::Engine;
use wiredflow_core::{Error, Result};

/// The engines of a flow. A cheap clone.
#[derive(Clone, Default)]
pub struct Engines(Arc<Mutex<HashMap<String, Arc<Known>>>>);

type Known = OnceCell<Arc<dyn Engine>>;

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engines")
    }
}

impl Engines {
    /// The same engines, and this one at an address: what a test puts in the place of a server.
    #[must_use]
    pub fn with(self, address: &str, engine: Arc<dyn Engine>) -> Self {
        let known = Arc::new(OnceCell::new_with(Some(engine)));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(address.to_owned(), known);
        drop(all);
        self
    }

    /// The engine at an address, connected when it is first wanted.
    pub(crate) async fn connect(&self, address: &str) -> Result<Arc<dyn Engine>> {
        let known = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(address.to_owned()).or_default())
        };
        let engine = known.get_or_try_init(|| async {
            Err(Error::config("connections to engines are not built yet"))
        });
        engine.await.cloned()
    }
}
