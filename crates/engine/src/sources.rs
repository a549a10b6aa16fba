//! Stream sources: the catalogue.

use crate::catalogue::SourceEntry;

/// All stream sources.
pub const SOURCES: &[SourceEntry] = &[];
