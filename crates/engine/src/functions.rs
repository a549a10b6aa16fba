//! Rust functions by name: what a user's own program links in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use crate::logic::FunctionThreads;
use wiredflow_core::storage::{Loaded, Query};
use wiredflow_core::{Error, Params, Result, Value};

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
    /// When there is no such storage, or it cannot be read. `Config` in a quick function, which must not wait.
    pub fn load(&self, storage: &str) -> Result<Vec<Value>> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(Error::config(format!(
                "a quick function cannot load `{storage}`, which takes time; register it as one that may wait"
            )));
        }
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

/// A quick function: gets a call, and gives one document without ever waiting.
pub type Quick = Arc<dyn Fn(Call) -> Result<Value> + Send + Sync>;

/// A Rust function as it was registered.
#[derive(Clone)]
pub enum Linked {
    /// It may wait: it is called on a thread.
    Waits(Function),
    /// It never waits: it is called where its stage runs.
    Quick(Quick),
}

impl fmt::Debug for Linked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waits(_) => "Waits",
            Self::Quick(_) => "Quick",
        })
    }
}

/// Rust functions by name. A cheap clone.
#[derive(Clone, Default)]
pub struct Functions {
    by_name: Arc<BTreeMap<String, Linked>>,
}

impl Functions {
    /// Adds a function, or replaces the one of that name.
    pub fn register(&mut self, name: &str, function: Function) {
        self.insert(name, Linked::Waits(function));
    }

    /// Adds a function that gives one document, and may block or compute for as long as it likes.
    pub fn register_simple(
        &mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) {
        self.register(name, Arc::new(move |call, give| give(function(call)?)));
    }

    /// Adds a function that gives one document and never waits: no file, no network, no lock that is held for long,
    /// no runtime of its own; some microseconds of work, up to a millisecond now and then.
    ///
    /// It is called right where its stage runs, which spares the way to a thread and back: some microseconds for a
    /// call instead of some tens. While it runs nothing else runs in its place: one that blocks holds up other
    /// pipelines, and its `timeout` is looked at when it has returned.
    pub fn register_quick(
        &mut self,
        name: &str,
        function: impl Fn(Call) -> Result<Value> + Send + Sync + 'static,
    ) {
        self.insert(name, Linked::Quick(Arc::new(function)));
    }

    fn insert(&mut self, name: &str, function: Linked) {
        Arc::make_mut(&mut self.by_name).insert(name.to_owned(), function);
    }

    /// The function of that name.
    pub fn find(&self, name: &str) -> Option<Linked> {
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
