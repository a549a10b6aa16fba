//! `json`: one JSON array that is valid after every commit.
//!
//! A commit writes its rows over the closing bracket, one row on each line, and syncs once: its cost
//! does not grow with the file. `update` and `overwrite` replace the file as a whole.
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
use crate::files::layout::ARRAY;
use crate::files::records::RecordFile;

config! {
    /// A file `json_in_NAME.json`: one JSON array that is valid after every commit.
    pub(crate) struct JsonConfig short folder {
        /// The folder of the file.
        folder: String = "data",
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Json {
    name: Arc<str>,
    records: RecordFile,
}

impl StorageKind for Json {
    const NAME: &'static str = "json";
    const EXAMPLE: &'static str = "json: {folder: data}";
    type Config = JsonConfig;

    fn check(config: &JsonConfig, place: &StoragePlace, node: &Node, cx: &mut CheckCx<'_>) {
        files::check(&config.folder, place, node, cx);
    }

    fn writes(config: &JsonConfig, place: &StoragePlace) -> String {
        format!("the file `{}`", path(config, place).display())
    }

    fn open(config: JsonConfig, place: &StoragePlace) -> Result<Self> {
        let path = path(&config, place);
        Ok(Self {
            name: Arc::clone(&place.name),
            records: RecordFile::open(path, &ARRAY, place)?,
        })
    }
}

fn path(config: &JsonConfig, place: &StoragePlace) -> PathBuf {
    let file = format!("json_in_{}.json", place.name);
    place.path(&config.folder).join(file)
}

impl Storage for Json {
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
