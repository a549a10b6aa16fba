//! What runs parts on a node: given to the agent, which knows no flow.

use std::fmt;

use tokio::sync::watch;
use wiredflow_core::Result;
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::storage::Epoch;

/// A part that is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartStart {
    /// The flow.
    pub flow: String,
    /// The part.
    pub part: String,
    /// Its pipelines.
    pub pipelines: Vec<String>,
    /// The digest of the flow's file and code.
    pub version: String,
    /// The revision of its assignment: later owners have higher ones.
    pub epoch: Epoch,
}

/// How a part that runs is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PartPhase {
    /// Not all of its pipelines are open; what they wait for, if that is known.
    #[default]
    Opening,
    /// As [`PartPhase::Opening`], and this is what it waits for.
    Waiting(String),
    /// All of them are open.
    Open,
}

/// How a part has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartEnd {
    /// In good order: it was stopped, or had nothing more to do.
    Well,
    /// By a failure, and its policy was to stop.
    Failed(String),
    /// It was found that another owns it now.
    Fenced,
}

/// Runs parts. It fetches what they need, and tries again what passes by itself: an error is for good, until another
/// version comes.
pub trait Host: Send + Sync + fmt::Debug + 'static {
    /// Starts a part. Dropping the future ends what has begun.
    ///
    /// # Errors
    /// `Config`: this node cannot run it, and why.
    fn start(&self, part: PartStart) -> BoxFuture<'_, Result<Box<dyn Part>>>;

    /// Gives the engine the code of a version back that it has lost, if this node has it.
    ///
    /// # Errors
    /// `Remote`, while the engine is away.
    fn give_back<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// A part that runs. Dropping it ends it at once, as a kill would: nothing that was acknowledged is lost by that.
pub trait Part: Send + fmt::Debug {
    /// How it is.
    fn phase(&self) -> watch::Receiver<PartPhase>;

    /// The cores that it kept busy of late.
    fn cores(&self) -> f64;

    /// Ends it in good order, within its time of grace.
    fn stop(&self);

    /// Waits for its end.
    fn ended(&mut self) -> BoxFuture<'_, PartEnd>;
}
