//! Storages: the catalogue, where a storage lives, and its owner's writer thread.

mod csv;
mod json;
mod jsonl;
mod owner;
mod sqlite;

use std::path::PathBuf;
use std::sync::Arc;

use wiredflow_core::storage::Mapping;

use crate::catalogue::StorageEntry;

pub use owner::{Entrusted, StorageHandle, StorageHandles, Writers};

/// All storages.
pub const STORAGES: &[StorageEntry] = &[
    StorageEntry::of::<csv::Csv>(),
    StorageEntry::of::<json::Json>(),
    StorageEntry::of::<jsonl::Jsonl>(),
    StorageEntry::of::<sqlite::Sqlite>(),
];

/// Where a storage lives and how rows join it.
#[derive(Clone, Debug)]
pub struct StoragePlace {
    /// The storage's name: the pipeline's where it stands inline.
    pub name: Arc<str>,
    /// The flow's name.
    pub flow: Arc<str>,
    /// The flow's folder: relative paths start here.
    pub folder: PathBuf,
    /// How new rows join those that are stored.
    pub mapping: Mapping,
    /// The field that tells rows apart.
    pub key: Option<String>,
}
