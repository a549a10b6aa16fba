//! What Wiredflow's tests stand on: real peers on free ports, the real binary, and waiting that cannot hang.
//!
//! Everything here panics when it cannot do what it was asked to: a test fails by panicking. Everything that is
//! started is owned by the value that stands for it and ends when the value is dropped, also by a panic; when the
//! test's process itself is killed, a guardian ends what it had started. No call waits without a deadline.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use serde_json::json;
//! # use wiredflow_testkit::{FlowTest, HttpPeer, Mosquitto, Reply, Signal};
//! # const SOON: Duration = Duration::from_secs(10);
//! let broker = Mosquitto::with().user("wiredflow", "right").persistent().start();
//! let peer = HttpPeer::start();
//! peer.on_each("/numbers", [Reply::code(500), Reply::json(json!([{"number": 1}]))]);
//! let results = broker.subscribe(&["results/#"]);
//! let test = FlowTest::new("target/debug/wiredflow"); // in the cli crate: env!("CARGO_BIN_EXE_wiredflow")
//! test.file("flow.yaml", &format!("pipelines: … {} … {} …", peer.url("/numbers"), broker.address()));
//! let running = test.spawn(["run", "flow.yaml", "--json"]);
//! assert_eq!(results.wait_for(1, SOON)[0].json(), json!({"number": 1}));
//! running.signal(Signal::Term);
//! assert_eq!(running.wait(SOON).assert_code(0).json()["ok"], true);
//! assert_eq!(results.settled().len(), 1); // and no second one is on its way
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod airflow;
mod certificates;
mod collector;
mod engine_suite;
mod fault_proxy;
mod flow;
pub mod flows;
mod http;
mod ledger;
mod model_engine;
mod mosquitto;
mod mqtt;
mod nats;
mod network;
mod owned;
mod postgres;
mod processes;
mod python;
mod slurm;
mod sshd;
mod stored;
mod strace;
mod wait;

pub use airflow::{AIRFLOW_LOGIN, Airflow};
pub use certificates::{Authority, Identity, OldTls};
pub use collector::Collector;
pub use engine_suite::EngineSuite;
pub use fault_proxy::{Fault, FaultProxy};
pub use flow::{Finished, FlowTest, Running};
pub use http::{HttpPeer, Reply, Request};
pub use ledger::{Ledger, Publisher};
pub use model_engine::{Mishaps, Model};
pub use mosquitto::{Mosquitto, MosquittoOptions};
pub use mqtt::{Client, Login, Message};
pub use nats::{Nats, NatsCluster, NatsOptions, NatsVersion};
pub use owned::Signal;
pub use postgres::Postgres;
pub use python::python_program;
pub use slurm::Slurm;
pub use sshd::Sshd;
pub use stored::{check_database, rows, waiting_in_outboxes, written_lines, written_rows};
pub use strace::{Attached, Strace};
pub use wait::{Chance, free_port, seed, skipped, soaking, tell, thorough, wait_until};
