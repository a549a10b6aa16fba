//! `jsonl`: JSON lines: one record on each line.
//!
//! A commit adds its rows to the end of the file and syncs once. `update` and `overwrite` replace the file as a whole.
//! Cursors are kept in the flow's state, with the length up to which the file is committed.

use std::path::PathBuf;
use std::sync::Arc;

use wiredflow_core::config;
use wiredflow_core::node::Node;
use wiredflow_core::storage::{CommitReceipt, Cursor, Fence, Loaded, Mapping, Query, Storage};
use wiredflow_core::{Result, Value};

use super::StoragePlace;
use crate::catalogue::{CheckCx, StorageKind};
use crate::files;
use crate::files::layout::LINES;
use crate::files::records::RecordFile;

config! {
    /// A file `jsonl_in_NAME.jsonl`: JSON lines: one record on each line.
    pub(crate) struct JsonlConfig short folder {
        /// The folder of the file.
        folder: String = "data",
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Jsonl {
    name: Arc<str>,
    records: RecordFile,
}

impl StorageKind for Jsonl {
    const NAME: &'static str = "jsonl";
    const EXAMPLE: &'static str = "jsonl: {folder: data}";
    type Config = JsonlConfig;

    fn check(config: &JsonlConfig, place: &StoragePlace, node: &Node, cx: &mut CheckCx<'_>) {
        files::check(&config.folder, place, node, cx);
    }

    fn writes(config: &JsonlConfig, place: &StoragePlace) -> String {
        format!("the file `{}`", path(config, place).display())
    }

    fn open(config: JsonlConfig, place: &StoragePlace) -> Result<Self> {
        let path = path(&config, place);
        Ok(Self {
            name: Arc::clone(&place.name),
            records: RecordFile::open(path, &LINES, place)?,
        })
    }
}

fn path(config: &JsonlConfig, place: &StoragePlace) -> PathBuf {
    let file = format!("jsonl_in_{}.jsonl", place.name);
    place.path(&config.folder).join(file)
}

impl Storage for Jsonl {
    fn commit(
        &mut self,
        rows: &[&Value],
        cursors: &[Cursor],
        _fence: &Fence,
    ) -> Result<CommitReceipt> {
        self.records.commit(rows, cursors)?;
        Ok(CommitReceipt::issue(Arc::clone(&self.name), rows.len()))
    }

    fn cursor(&mut self, source: &str) -> Result<Option<String>> {
        Ok(self.records.cursor(source))
    }

    fn joins_commits(&self) -> bool {
        self.records.mapping() != Mapping::Overwrite
    }

    fn load(&mut self, query: &Query) -> Result<Loaded> {
        self.records.load(query)
    }
}
