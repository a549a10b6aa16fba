//! Work that runs in another process: the host's side of the worker protocol.
//!
//! ```text
//! Pool ── a place for each process ── Process ── Client ──frames── the worker
//!  │ calls, deadlines, starts anew      │ kill, exit status, stderr   │ calls by id, outputs with credit, load and save
//! ```
//!
//! `Client` knows frames and nothing of processes, so that it serves any byte stream: a child's pipes today.
//! `wiredflow_core::frame` has the frames, docs/worker-protocol.md tells what they mean.

mod client;
mod gate;
mod group;
mod launch;
mod pool;
mod process;
mod program;
mod spawner;
mod station;
mod stderr;
mod storages;

use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::frame::Level;
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::storage::{Epoch, Loaded, Query};
use wiredflow_core::{Batch, Map, Result};

pub(crate) use client::query_of;
pub use client::{Call, CallError, Client, Given, Link, Loss, StartError};
pub use launch::{Launch, Parting};
pub use pool::{Pool, Running};
pub(crate) use program::{Program, ProgramCall, look_for};
pub use station::{Called, Missed, Station};
pub use storages::StageHost;

/// What a worker may ask of its host while it works.
pub trait WorkerHost: Send + Sync + 'static {
    /// Reads a storage, as `db_connectors[storage].load()` does. An error goes to the worker's code.
    fn load<'a>(&'a self, storage: &'a str, query: Query) -> BoxFuture<'a, Result<Loaded>>;

    /// Makes rows safe in a storage, as `db_connectors[storage].save(…)` does.
    fn save<'a>(&'a self, storage: &'a str, rows: Batch) -> BoxFuture<'a, Result<()>>;

    /// Takes a line that the worker's code printed or logged. Must not block.
    fn log(&self, level: Level, message: &str);
}

/// One call of a worker's function.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The function's name, as in `Start::functions`.
    pub function: &'a str,
    /// Params by name.
    pub params: &'a Map,
    /// What to work on.
    pub batch: &'a Batch,
    /// Which attempt with this batch it is, from 1.
    pub attempt: u32,
    /// What each record is known by at a peer, where the stage delivers to one.
    pub keys: Option<&'a [Arc<str>]>,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// How long anybody waits for the whole call.
    pub deadline: Option<Duration>,
}
