//! Rust functions by name: what a user's own program links in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use crate::logic::FunctionThreads;
use wiredflow_core::storage::{Loaded, Query};
use wiredflow_core::{Params, Result, Value};

/// What a Rust function is given.
#[derive(Clone, Debug)]
pub struct Call {
    /// The batch as one document: null for none, the value for one record, an array for many.
    pub data: Value,
    /// The stage's own params; for core logic and configuration over them those of the last configuration stage.
    pub params: Params,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The flow's storages, for loading.
    pub storages: crate::storages::StorageHandles,
}

impl Call {
    /// The param of that name; null when there is none.
    pub fn param(&self, name: &str) -> &Value {
        self.params.get(name).unwrap_or(&Value::Null)
    }

    /// The rows of a storage, oldest first; the one object of `mapping: update` is a row; none where nothing is stored.
    ///
    /// # Errors
    /// When there is no such storage, or it cannot be read.
    pub fn load(&self, storage: &str) -> Result<Vec<Value>> {
        Ok(
            match self
                .storages
                .named(storage)?
                .load_blocking(Query::default())?
            {
                Loaded::Nothing => Vec::new(),
                Loaded::Rows(rows) => rows,
                Loaded::Object(object) => vec![Value::Object(object)],
            },
        )
    }
}

/// Hands out a document: null for nothing, an array for many records, else one. Its error means that the
/// flow ends: pass it on.
pub type Give<'a> = &'a mut dyn FnMut(Value) -> Result<()>;

/// A Rust function: gets a call, and hands out documents one by one. It runs on a thread that may block.
pub type Function = Arc<dyn Fn(Call, Give<'_>) -> Result<()> + Send + Sync>;

/// Rust functions by name. A cheap clone.
#[derive(Clone, Default)]
pub struct Functions {
    by_name: Arc<BTreeMap<String, Function>>,
}

impl Functions {
    /// Adds a function, or replaces the one of that name.
    pub fn register(&mut self, name: &str, function: Function) {
        Arc::make_mut(&mut self.by_name).insert(name.to_owned(), function);
    }

    /// Adds a function that gives one document.
    pub fn register_simple(
        &mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) {
        self.register(name, Arc::new(move |call, give| give(function(call)?)));
    }

    /// The function of that name.
    pub fn find(&self, name: &str) -> Option<Function> {
        self.by_name.get(name).cloned()
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
