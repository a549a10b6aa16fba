//! Where calls are done.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;
use wiredflow_core::Error;
use wiredflow_core::charge::Used;
use wiredflow_core::frame::{Call, Passed};
use wiredflow_core::stage::BoxFuture;
use wiredflow_engine::worker::Given;

use super::contact::Contact;

/// One call.
#[derive(Clone, Debug)]
pub struct Job {
    /// The hash of the setting of its stage.
    pub setting: String,
    /// What the process list shows.
    pub label: String,
    /// The call.
    pub call: Call,
}

/// How a call ended.
#[derive(Debug)]
pub enum End {
    /// Well.
    Done {
        /// What became of its input, where the stage hands that on itself.
        passed: Option<Passed>,
        /// What it has used.
        used: Option<Used>,
    },
    /// It has failed.
    Failed(Error, Option<Used>),
    /// What worked on it has died.
    Died(Error),
    /// This machine cannot do it, whatever the call: others may.
    Unfit(Error),
}

/// Does calls.
pub trait Shop: Send + Sync + fmt::Debug + 'static {
    /// Why calls of a setting cannot be done here just now; none where nothing is known.
    fn objection(&self, setting: &str) -> Option<String>;

    /// Does a call; what it makes goes to `out` as it appears, and waits there. Dropping the future ends the call.
    fn work<'a>(
        &'a self,
        job: Job,
        out: mpsc::Sender<Given>,
        contact: Arc<Contact>,
    ) -> BoxFuture<'a, End>;

    /// Ends what is kept for later calls.
    fn close(&self) -> BoxFuture<'_, ()>;
}
