//! Stream sources: the catalogue.

mod link;
mod mqtt;
mod webhook;

use crate::catalogue::SourceEntry;

pub(crate) use webhook::ListenAddress;

/// All stream sources.
pub const SOURCES: &[SourceEntry] = &[
    SourceEntry::of::<link::LinkSource>(),
    SourceEntry::of::<mqtt::MqttSource>(),
    SourceEntry::of::<webhook::WebhookSource>(),
];
