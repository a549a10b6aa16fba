//! The far end of a stage that runs elsewhere, and the way there.
//!
//! ```text
//! engine ─ Station ─ pipes ─ serve                       remote `process`
//! engine ─ Station ─ pipes ─ link ─ ssh ─ session/serve  remote `ssh`
//! ```
//!
//! What `ssh` starts there is a `bridge`: it hands its streams over to the session, and is no way of theirs.
//!
//! `serve` speaks the worker's side of the worker protocol for one whole stage. A `session` is a `serve` that outlives
//! its connection for a while: link and session keep what the other has not got yet (`relay`), so that a connection may
//! break anywhere. The engine starts all of it by this program's verb `worker` and knows none of it.

mod cache;
mod desk;
mod handover;
mod ledger;
mod limits;
mod link;
mod outlet;
mod relay;
mod serve;
mod session;
mod settle;
mod ssh;
mod stdio;
mod storage;
mod venv;
mod voice;

pub use cache::Cache;
pub use limits::Limits;
pub use link::link;
pub use relay::{Carried, Relay, Token};
pub use serve::{Ended, Surroundings, serve};
pub use session::{Bridged, LEASE, Session, Setup, bridge, read_first};
pub use settle::Found;
pub use ssh::Refusal;
pub use stdio::{Reader, Streams, Writer};
pub use venv::Venv;
