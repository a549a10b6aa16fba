//! Stages: the catalogue.

use crate::catalogue::StageEntry;

/// All stages.
pub const STAGES: &[StageEntry] = &[];
