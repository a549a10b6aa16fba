//! What limits a flow, and why.

use serde::{Deserialize, Serialize};

/// Why a stage is as slow as it is: one vocabulary everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// One thread's CPU.
    Compute,
    /// Ready, but no core is free.
    HostFull,
    /// Waiting outside, sleep included.
    ExternalLatency,
    /// 429, `Retry-After`, or the stage's own `rate_limit`.
    ExternalLimit,
    /// One key has most of the work.
    Skew,
    /// Memory is short.
    Memory,
    /// Python threads wait for each other.
    Gil,
    /// A run takes longer than its period.
    ScheduleTooTight,
    /// A finite source with work left is slower than all the rest.
    SourceBound,
}

/// The stage that limits the flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// Its pipeline.
    pub pipeline: String,
    /// Its name.
    pub stage: String,
    /// Why it is slow.
    pub cause: Cause,
    /// Whether all readings agree.
    pub certain: bool,
    /// The figures that say so.
    pub evidence: Vec<String>,
    /// What to do, the cheapest first.
    pub advice: Vec<String>,
}
