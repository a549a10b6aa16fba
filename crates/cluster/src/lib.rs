//! Deployed flows on many machines: who runs what, and what happens when one of them is gone.
//!
//! | word | meaning |
//! |---|---|
//! | part | pipelines of a flow that stand on one node together |
//! | assignment | the word of the leader on which node a part stands; its revision is the part's epoch |
//! | leader | the one node that places parts, by a lease; nothing stops when it is gone |
//! | agent | what on each node does as the assignments say |
//!
//! Everything that is known stands in the engine ([`wiredflow_core::engine`]), so a leader that takes over reads it there. All of it is written by
//! compare and set: of two that believe to lead, one finds that he does not.
//!
//! ```text
//! run --engine ─> flows.F ─> leader ─> assignments.F.P ─> agent ─> Host: the part runs
//!                              ^                                      │
//!                              └─ nodes.N, reports.F.P <──────────────┘
//! ```
//!
//! This crate knows no flow file and starts no pipeline: an agent is given a [`Host`] that does.

mod agent;
mod client;
mod decide;
mod documents;
mod host;
mod leader;
mod memory;
mod shelf;

pub use agent::{Agent, AgentEnd};
pub use client::{Client, PartStatus, Status};
pub use decide::{Action, View, decide};
pub use documents::{
    Assignment, Deployed, FORMAT, NodeCard, PartSpec, Phase, Report, Wanted, Wish,
};
pub use host::{Host, Part, PartEnd, PartPhase, PartStart};
pub use leader::lead;
pub use memory::Memory;
pub use shelf::{Key, read};
