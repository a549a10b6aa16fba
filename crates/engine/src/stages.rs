//! Stages: the catalogue.

mod configuration;
mod core_logic;
mod drop;
mod filter;
mod http;
mod link;
mod load;
mod rename;
mod send;
mod set;
mod store;

use crate::catalogue::StageEntry;

pub(crate) use link::LinkConfig;
pub(crate) use send::Send as SendStage;

/// All stages.
pub const STAGES: &[StageEntry] = &[
    configuration::ENTRY,
    core_logic::ENTRY,
    StageEntry::of::<drop::Drop>(),
    StageEntry::of::<filter::Filter>(),
    StageEntry::of::<http::Http>(),
    StageEntry::of::<link::Link>(),
    StageEntry::of::<load::Load>(),
    StageEntry::of::<rename::Rename>(),
    send::ENTRY,
    StageEntry::of::<set::Set>(),
    store::ENTRY,
];
