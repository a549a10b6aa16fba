//! Peers for trying Wiredflow out: HTTP servers and an MQTT broker with something to say, all inside this process.
//!
//! `wiredflow demo` starts them on free ports beside a flow; `wiredflow mock` starts them alone, on the ports
//! that upstream's examples expect. Everything listens on 127.0.0.1 only. Each peer has a thread of its own, so
//! that starting and stopping are plain calls and a busy flow does not slow its peers down.

mod background;
mod broker;
mod error;
mod http;
mod kept;
mod listener;
mod peers;
mod publisher;

pub use broker::{Broker, Login};
pub use error::{Error, Result};
pub use http::{HttpPeers, Received, Server};
pub use listener::Heard;
pub use peers::{Peers, Ports};
pub use publisher::{LETTERS_TOPIC, NUMBERS_TOPIC, Publisher};
