//! NATS JetStream as the [`Engine`](wiredflow_core::engine::Engine) that carries work between processes.
//!
//! [`Nats::connect`] gives one. All it makes has a name that begins with the namespace, so that several can share an account:
//!
//! | what | where it is kept |
//! |---|---|
//! | a queue `a.b` | stream `wf_NS=q=a=b` of subject `wf.NS.q.a.b`, retention `workqueue`, with the one durable pull consumer `wf` |
//! | what a queue has given too often | stream `wf_NS=spent`, subjects `wf.NS.spent.QUEUE` |
//! | shelves and leases | streams `KV_wf_NS_kept`, `KV_wf_NS_presence` and `KV_wf_NS_lease`, which the tools of NATS know as buckets |
//! | blobs | stream `wf_NS=blobs`: pieces under `wf.NS.blob.c.ID.N`, and under `wf.NS.blob.m.NAME` what they make |
//! | questions | nowhere: subjects `wf.NS.ask.ADDRESS`, queue group `wf` |
//!
//! A user of the server needs to publish to `wf.NS.>`, `$KV.>`, `$JS.API.>`, `$JS.ACK.>` and `$JS.FC.>`, and to subscribe to `wf.NS.>`,
//! where our inboxes are too.
//!
//! Whatever is not there is made when it is wanted: a server that has lost its store is as good as a new one. Servers from
//! 2.9.10 will do; what is better on newer ones stands in [`About`](wiredflow_core::engine::About). A revision is the moment in
//! which the stream was made, in microseconds, and the number of the message added to it: so it grows also over the loss of a store.

mod access;
mod api;
mod ask;
mod blob;
mod failure;
mod lease;
mod link;
mod names;
mod nats;
mod objects;
mod pull;
mod put;
mod queue;
mod shelf;
mod spent;
mod tls;
mod version;
mod watch;

pub use access::{Access, Login, TlsFiles};
pub use nats::Nats;
