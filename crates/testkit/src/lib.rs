//! What Wiredflow's tests stand on: real peers on free ports, the real binary, and waiting that cannot hang.
//!
//! Everything here panics when it cannot do what it was asked to: a test fails by panicking. Everything that is
//! started is owned by the value that stands for it and ends when the value is dropped, also by a panic; when the
//! test's process itself is killed, a guardian ends what it had started. No call waits without a deadline.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod certificates;
mod collector;
mod flow;
mod http;
mod mosquitto;
mod mqtt;
mod owned;
mod wait;

pub use certificates::{Authority, Identity};
pub use collector::Collector;
pub use flow::{Finished, FlowTest, Running};
pub use http::{HttpPeer, Reply, Request};
pub use mosquitto::{Mosquitto, MosquittoOptions};
pub use mqtt::{Client, Login, Message};
pub use owned::Signal;
pub use wait::{free_port, seed, wait_until};
