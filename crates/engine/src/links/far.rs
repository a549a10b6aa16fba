//! Links that lead to another process: what one pipeline hands over there, and what it takes from there.
//!
//! ```text
//! the sender's process                                   the receiver's process
//! Link ── take ──> Sending (keeps it) ── ask: items ──> Receiving ── put ──> Link ──> stages
//!                      ^──────────── ask: settled ──────────┘
//! ```
//!
//! It is a conversation over an engine, in which nothing is kept: the sender has each item until the receiver has said that it
//! is settled, and gives a receiver that is new all that is not, oldest first. The receiver is who holds the lease of the link's
//! name. Items of one sender are numbered and taken in order, each once; what a receiver has had and not settled when it died
//! comes to the next one as what may have been delivered before.

mod receiving;
mod sending;
mod words;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::Result;
use wiredflow_core::engine::{Engine, Name};
use wiredflow_core::storage::Epoch;

use super::{LinkPlan, Links};
use crate::clock::Clock;
use crate::run::Stopping;
use crate::storages::Ownership;
use crate::tasks::Tasks;

/// How long one side waits before it looks again for the other.
const LOOK_EACH: Duration = Duration::from_millis(250);

/// How often a sender that has nothing to say shows that it is there.
const SIGN_EACH: Duration = Duration::from_secs(2);

/// How long an answer is waited for: longer than one is held back while there is no room. One that is lost holds up all behind it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What leads links to other processes.
#[derive(Clone, Debug)]
pub(crate) struct Far {
    /// Carries the words.
    pub(crate) engine: Arc<dyn Engine>,
    /// The flow.
    pub(crate) flow: Arc<str>,
    /// This run, as others know it: drawn anew for each.
    pub(crate) me: Arc<str>,
    /// Whose pipelines these are, and as which owner of them.
    pub(crate) ownership: Ownership,
    /// The one clock.
    pub(crate) clock: Clock,
    /// How the run ends.
    pub(crate) stopping: Stopping,
}

impl Far {
    /// Starts what carries the links of which one side is here, and the other is not. `here`: the pipelines of this run.
    ///
    /// # Errors
    /// `Config`, where the flow's name is none for an engine.
    pub(crate) fn start(
        &self,
        plans: &[LinkPlan],
        links: &Links,
        here: &BTreeSet<Arc<str>>,
        (supervisors, tasks): (&Tasks, &Tasks),
    ) -> Result<()> {
        for plan in plans {
            let name = Name::new(["link", &self.flow, &plan.name])?;
            let link = links.named(&plan.name)?;
            let names = |is_here: bool| {
                let senders = plan.senders.iter();
                senders
                    .filter(|sender| here.contains(*sender) == is_here)
                    .map(|sender| sender.to_string())
                    .collect::<BTreeSet<String>>()
            };
            let (near, far) = (names(true), names(false));
            match here.contains(&plan.receiver) {
                false if !near.is_empty() => {
                    let sending = sending::Sending::new(self.clone(), link, name, near)?;
                    supervisors.spawn("link to elsewhere", sending.run());
                }
                true if !far.is_empty() => {
                    let sends = link.hold_open();
                    let receiving =
                        receiving::Receiving::new(self.clone(), link, name, far, tasks.clone());
                    supervisors.spawn("link from elsewhere", receiving.run(sends));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn epoch(&self) -> Epoch {
        self.ownership.epoch()
    }
}

/// Where the process that takes from a link is asked.
fn address_of_receiver(link: &Name, session: &str) -> Result<Name> {
    link.and("to")?.and(session)
}

/// Where a process that hands over to a link is told what is settled.
fn address_of_sender(link: &Name, session: &str) -> Result<Name> {
    link.and("from")?.and(session)
}
