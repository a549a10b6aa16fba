//! The words of Wiredflow: what a flow is made of, without any input or output.
//!
//! | word | meaning |
//! |---|---|
//! | flow | a service: a named set of pipelines, declared as data |
//! | pipeline | one trigger and a list of stages, run in order for each delivery |
//! | trigger | what starts a delivery: a schedule or a stream source |
//! | stage | one step: a batch (and params) in, zero or more batches out |
//! | connector | a stage or source that reads from outside |
//! | core logic | a stage that is the user's own code |
//! | configuration | a stage that makes params for the stages after it |
//! | storage | a named place that keeps records |
//! | send | a stage that delivers to an outside receiver |
//! | record, batch | one JSON value with its delivery; records that travel together |
//! | delivery | one trigger's work; settled exactly once: committed or failed |
//! | receipt | proof that a sink has committed |
//! | profile | measured figures of each stage of a running flow |

pub mod charge;
pub mod condition;
pub mod config;
pub mod config_reader;
mod config_writer;
pub mod delivery;
pub mod engine;
pub mod error;
pub mod field_path;
pub mod fields;
pub mod fill;
pub mod frame;
pub mod json;
pub mod node;
pub mod problem;
pub mod record;
pub mod schedule;
pub mod secret;
pub mod stage;
pub mod storage;
pub mod units;
pub mod yaml;

pub use error::{Error, ErrorKind, Result};
pub use record::{Batch, Map, Params, Record, Value};
