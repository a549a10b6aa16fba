//! Stages: the catalogue.

mod configuration;
mod core_logic;
mod http;
mod load;
pub(crate) mod send;
mod store;

use crate::catalogue::StageEntry;

/// All stages.
pub const STAGES: &[StageEntry] = &[
    configuration::ENTRY,
    core_logic::ENTRY,
    StageEntry::of::<http::Http>(),
    StageEntry::of::<load::Load>(),
    send::ENTRY,
    store::ENTRY,
];
