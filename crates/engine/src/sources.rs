//! Stream sources: the catalogue.

mod mqtt;

use crate::catalogue::SourceEntry;

/// All stream sources.
pub const SOURCES: &[SourceEntry] = &[SourceEntry::of::<mqtt::MqttSource>()];
