//! Worker pools: calls of a stage that any of many machines takes from a queue of an engine.
//!
//! ```text
//! Coordinator ── publish ──> queue ── pull ──> a node, which runs the stage in a process of its own
//!      ^────── ask: begun, outputs, loads, saves, log lines, end; the answers are the credit ─────┘
//! ```
//!
//! The engine may lose what it holds: the coordinator keeps each task until its result is there, and publishes again what
//! shows no sign of life. It alone decides who works on a task: an attempt has a token, its first taker is welcome, and what
//! anybody else says of it is answered "not wanted" and never used. Attempts are counted before they start.
//!
//! Here is what both sides say ([`words`]), how it travels ([`letter`]), and the flow's side; the machine's is
//! `crates/node`.

mod book;
mod coordinator;
mod desk;
pub mod letter;
mod sweep;
pub mod words;

use std::time::Duration;

use wiredflow_core::engine::{LEASE, Name, QueueRules};
use wiredflow_core::{Error, Result};

use crate::pack::hex;
use sha2::{Digest, Sha256};

pub use book::Counts;
pub use coordinator::{Called, Coordinator, Order, Surroundings};

/// The version of what the two sides say. Another one is refused, not guessed.
pub const VERSION: u32 = 1;

/// The release: a stage travels only between programs of the same one.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// What all names of pools begin with at an engine.
pub const NAMESPACE: &str = "wiredflow";

/// How queues of tasks treat their messages. How often a task is tried is the coordinator's to count; what was given
/// so often has no coordinator any more.
pub const RULES: QueueRules = QueueRules {
    sign_within: LEASE,
    attempts: 100,
    holds: 100_000,
    taken: 10_000,
};

/// How often a task may be begun: what ends its worker so often is a failure of its data.
pub const MOST_STARTS: u32 = 5;

/// The kind of the stage that does nothing, which every node takes: a trial of the way.
pub const TRIAL: &str = "drop";

/// How long the coordinator holds its answer while there is no room for more outputs.
const HOLD: Duration = Duration::from_secs(1);

/// What names of queues begin with.
///
/// # Errors
/// None: the parts are names.
pub fn queues() -> Result<Name> {
    Name::new(["pool", "1"])
}

/// What names of nodes begin with.
///
/// # Errors
/// None: the part is a name.
pub fn nodes() -> Result<Name> {
    Name::new(["node"])
}

/// The queue of the stages of a kind that want these labels.
///
/// # Errors
/// `Config`, where the kind is no name.
pub fn queue_of(labels: &[String], kind: &str) -> Result<Name> {
    queues()?.and(&joined(labels))?.and(kind)
}

/// Labels as one part of a name: sorted and joined where that is one, else their hash.
fn joined(labels: &[String]) -> String {
    let labels = sorted(labels);
    if labels.is_empty() {
        return "any".to_owned();
    }
    let joined = labels.join("_");
    let plain = labels.iter().all(|label| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    // One label `any` is not no label at all.
    match plain && joined.len() <= 60 && joined != "any" {
        true => joined,
        false => format!("h_{}", &hex(&Sha256::digest(labels.join(",")))[..32]),
    }
}

/// Labels in their order, each once.
pub fn sorted(labels: &[String]) -> Vec<String> {
    let mut labels = labels.to_vec();
    labels.sort();
    labels.dedup();
    labels
}

/// Why this cannot be a label; none where it can.
pub fn odd_label(label: &str) -> Option<String> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
    let fits = (1..=64).contains(&label.len()) && label.bytes().all(usual);
    (!fits).then(|| {
        let label = label.escape_debug();
        format!("`{label}` is no label: 1 to 64 of letters, digits, `-`, `_`, `.` and `=`")
    })
}

/// What cannot be written as JSON is our fault.
fn unwritten(error: &serde_json::Error) -> Error {
    Error::bug(format!("words of the pool cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(labels: &[&str]) -> String {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        queue_of(&labels, "core_logic").unwrap().as_str().to_owned()
    }

    #[test]
    fn a_queue_is_named_after_its_labels_in_any_order() {
        assert_eq!(queue(&[]), "pool.1.any.core_logic");
        assert_eq!(queue(&["gpu"]), "pool.1.gpu.core_logic");
        assert_eq!(queue(&["x", "gpu", "x"]), "pool.1.gpu_x.core_logic");
        assert_eq!(queue(&["gpu", "x"]), queue(&["x", "gpu"]));
    }

    #[test]
    fn g12_labels_that_look_like_others_have_queues_of_their_own() {
        let all = [
            queue(&["mem=64G"]),
            queue(&["mem_64G"]),
            queue(&["mem", "64G"]),
            queue(&["any"]),
            queue(&[]),
            queue(&["a_b"]),
            queue(&["a", "b"]),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
        for odd in ["", "*", ">", "a b", "ä", "task.*.>", "a,b", &"x".repeat(65)] {
            assert!(odd_label(odd).is_some(), "{odd}");
        }
        assert!(odd_label("mem=64G").is_none());
        assert!(queue_of(&[], "a.b").is_err() && queue_of(&[], "*").is_err());
    }
}
