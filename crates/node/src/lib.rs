//! A machine that works for flows elsewhere: it takes calls from the queues of an engine, and runs them in processes of
//! their own.
//!
//! ```text
//! presence ── "here I am" ──> shelf            pool ── watches the queues that flows announce, pulls from those it may
//!                                                └ run: one task ── contact: what it says to its flow, and hears
//!                                                        └ shop: the stage in a process of its own, kept for the next call
//! ```
//!
//! It counts on nothing but the answers of a flow: what it cannot tell its flow for as long as a lease may not be renewed,
//! it ends. When it is killed, its processes end with their pipes.

mod drain;
mod machine;
mod pool;
mod presence;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wiredflow_core::Result;
use wiredflow_core::engine::Engine;
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::tasks::Tasks;

pub use machine::Machine;
pub use pool::contact::{Contact, Over};
pub use pool::shop::{End, Job, Shop};
pub use pool::stations::Stations;

/// The kinds of stages that a pool may bring.
pub const KINDS: [&str; 4] = ["core_logic", "configuration", "http", "send"];

/// How a node stands in its cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name: part of one at the engine.
    pub name: String,
    /// What it has.
    pub labels: Vec<String>,
    /// The kinds of stages that it takes.
    pub kinds: Vec<String>,
    /// How many calls it works on at once.
    pub slots: usize,
    /// What it says of its machine.
    pub machine: Machine,
}

/// What a node stands in.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The one clock.
    pub clock: Clock,
    /// Chance, for names.
    pub dice: Dice,
    /// What owns its tasks.
    pub tasks: Tasks,
}

/// Works for flows until `stop` fires, then drains: it takes no more, gives what runs 10 seconds to end, and leaves what is
/// left to others. Dropping the future ends all work at once; it is given to others when its signs of life stay away.
///
/// # Errors
/// Those of the engine at the start. Later it waits until the engine is back.
pub async fn run(
    engine: Arc<dyn Engine>,
    options: Options,
    shop: Arc<dyn Shop>,
    around: Surroundings,
    stop: CancellationToken,
) -> Result<()> {
    let pool = pool::Pool::open(engine, options, shop, around).await?;
    let presence = presence::Presence::begin(&pool).await?;
    pool.begin();
    stop.cancelled().await;
    drain::drain(&pool, &presence).await;
    Ok(())
}
