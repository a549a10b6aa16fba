//! Storages: the catalogue, where a storage lives, and its owner's writer thread.

mod csv;
mod json;
mod jsonl;
mod owner;
mod postgres;
mod sqlite;

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wiredflow_core::Result;
use wiredflow_core::storage::{Mapping, Storage};

use crate::catalogue::{StorageEntry, StorageOpener};
use crate::state::StateHandle;

pub use owner::{Entrusted, Ownership, RowsOf, StorageHandle, StorageHandles, Writers};

/// All storages.
pub const STORAGES: &[StorageEntry] = &[
    StorageEntry::of::<csv::Csv>(),
    StorageEntry::of::<json::Json>(),
    StorageEntry::of::<jsonl::Jsonl>(),
    StorageEntry::of::<postgres::Postgres>(),
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
    /// How its files were left.
    pub left: Left,
    /// Where the flow remembers how far they are committed; none where it need not.
    pub state: Option<StateHandle>,
}

impl StoragePlace {
    /// A path of the flow file, which starts at the flow's folder, without the steps that lead nowhere.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let mut clean = PathBuf::new();
        for part in self.folder.join(path).components() {
            match part {
                Component::CurDir => {}
                part => clean.push(part),
            }
        }
        clean
    }
}

/// What is known of those who wrote a storage's files last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Left {
    /// They have ended in order: what does not look like our own writing is another's, and whole.
    InOrder,
    /// Nothing: a crash may have torn the end.
    #[default]
    Unknown,
    /// They are this process, which opens them again: what has changed since is another's.
    Here,
}

/// How a storage is opened: as its files were left, and with what remembers how far they are committed.
type Open = dyn Fn(Left, Option<StateHandle>) -> Result<Box<dyn Storage>> + Send + Sync;

/// Opens a checked storage.
#[derive(Clone)]
pub struct OpenStorage {
    open: Arc<Open>,
    writes: Arc<str>,
    is_apart: bool,
}

impl OpenStorage {
    /// A storage that `open` opens, and the words for what it writes.
    pub fn new(
        writes: String,
        open: impl Fn(Left, Option<StateHandle>) -> Result<Box<dyn Storage>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            open: Arc::new(open),
            writes: writes.into(),
            is_apart: false,
        }
    }

    /// The same, to be held on a thread of its own.
    pub(crate) fn apart(self) -> Self {
        Self {
            is_apart: true,
            ..self
        }
    }

    /// Whether it is to be held on a thread of its own, so that its waiting holds up no other.
    pub fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// The file or table that it writes, in words.
    pub fn writes(&self) -> &str {
        &self.writes
    }

    /// Opens it, on its writer thread: as its files were left, until that has worked, and after that, which is
    /// after an error, as this process has left them. `state` remembers how far they are committed.
    pub fn opener(&self, left: Left, state: Option<StateHandle>) -> StorageOpener {
        self.opener_that_tells(left, state, Arc::default())
    }

    /// The same; once that has worked, `opened` is true.
    pub(crate) fn opener_that_tells(
        &self,
        left: Left,
        state: Option<StateHandle>,
        opened: Arc<AtomicBool>,
    ) -> StorageOpener {
        let open = Arc::clone(&self.open);
        Arc::new(move || {
            let left = match opened.load(Ordering::Relaxed) {
                true => Left::Here,
                false => left,
            };
            let storage = open(left, state.clone())?;
            opened.store(true, Ordering::Relaxed);
            Ok(storage)
        })
    }
}

impl fmt::Debug for OpenStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenStorage({})", self.writes)
    }
}
