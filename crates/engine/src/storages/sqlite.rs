//! `sqlite`: a table, with rows and the source's cursor in one transaction.
//!
//! One column for each top-level field, added when it is first seen. A record that is no object goes to
//! a column `value`. How values are kept is in [`crate::sql::values`]; what SQLite does not tell apart is not kept apart:
//! a field that differs from a column in letter case only is refused, and a null and a missing field are both
//! NULL and loaded as null.

mod columns;
mod conditions;
mod cursors;
mod failure;
mod opening;
mod plan;
mod table;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, TransactionBehavior};
use wiredflow_core::config;
use wiredflow_core::node::Node;
use wiredflow_core::storage::{
    CommitReceipt, Cursor, Fence, Loaded, Mapping, Query, SqlView, Storage,
};
use wiredflow_core::{Error, Result, Value};

use super::StoragePlace;
use crate::catalogue::{CheckCx, StorageKind};
use crate::files::records::merged;
use crate::sql::names::check_column;
use failure::Failure;
use plan::Plan;
use table::Table;

config! {
    /// A table of an SQLite database, with a column for each field.
    pub(crate) struct SqliteConfig short path {
        /// The database file; left out, `data/FLOW.db`.
        path: Option<String>,
        /// The table; left out, the storage's name.
        table: Option<String>,
    }
}

/// The open table.
#[derive(Debug)]
pub(crate) struct Sqlite {
    name: Arc<str>,
    path: PathBuf,
    /// Device and inode of the file that is open.
    file: (u64, u64),
    connection: Connection,
    table: Table,
}

impl StorageKind for Sqlite {
    const NAME: &'static str = "sqlite";
    const EXAMPLE: &'static str = "sqlite: {path: data/numbers.db, table: numbers}";
    type Config = SqliteConfig;

    fn check(config: &SqliteConfig, place: &StoragePlace, node: &Node, cx: &mut CheckCx<'_>) {
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
        let table = config.table.as_deref().unwrap_or(&place.name);
        if let Err(reason) = columns::check_table(table) {
            cx.reading.error(span("table"), reason);
        }
        if config
            .path
            .as_ref()
            .is_some_and(|path| path.is_empty() || path.contains('\0'))
        {
            cx.reading
                .error(span("path"), "`path` is not the path of a file");
        }
        if let Some(key) = &place.key {
            if let Err(reason) = check_column(key) {
                cx.reading.error(node.span, format!("`key`: {reason}"));
            }
            if place.mapping == Mapping::Update {
                let message = "`key` has no use with `mapping: update`, which keeps one row";
                cx.reading.error(node.span, message);
            }
        }
    }

    fn writes(config: &SqliteConfig, place: &StoragePlace) -> String {
        let table = config.table.as_deref().unwrap_or(&place.name);
        let path = path(config, place);
        // SQLite's tables differ in more than letter case.
        format!(
            "the table `{}` of `{}`",
            table.to_ascii_lowercase(),
            path.display()
        )
    }

    fn open(config: SqliteConfig, place: &StoragePlace) -> Result<Self> {
        let path = path(&config, place);
        let name = config.table.unwrap_or_else(|| place.name.to_string());
        let (connection, file) = opening::open(&path)?;
        let table = Table::read(&connection, name, place.mapping, place.key.clone());
        let table = table.map_err(|failure| failure.into_error(&path))?;
        Ok(Self {
            name: Arc::clone(&place.name),
            path,
            file,
            connection,
            table,
        })
    }
}

fn path(config: &SqliteConfig, place: &StoragePlace) -> PathBuf {
    match &config.path {
        Some(path) => place.path(path),
        None => place.path("data").join(format!("{}.db", place.flow)),
    }
}

impl Storage for Sqlite {
    /// The owner's epoch is looked at in the transaction of the rows: a commit of an earlier owner is refused with all of
    /// them.
    fn commit(
        &mut self,
        rows: &[&Value],
        cursors: &[Cursor],
        fence: &Fence,
    ) -> Result<CommitReceipt> {
        check_unchanged(&self.path, self.file)?;
        let object;
        let one;
        let rows_to_write = if self.table.mapping() == Mapping::Update {
            object = merged(None, rows)?.map(Value::Object);
            one = object.as_ref();
            one.as_slice()
        } else {
            rows
        };
        let plan = self.table.plan(rows_to_write)?;
        let nothing = rows_to_write.is_empty() && self.table.mapping() != Mapping::Overwrite;
        if !nothing || !cursors.is_empty() {
            let written = write(
                &mut self.connection,
                &self.table,
                &plan,
                rows_to_write,
                cursors,
                fence,
            );
            written.map_err(|failure| failure.into_error(&self.path))?;
            self.table.keep(plan);
        }
        Ok(CommitReceipt::issue(Arc::clone(&self.name), rows.len()))
    }

    fn cursor(&mut self, source: &str) -> Result<Option<String>> {
        let read = cursors::position(&self.connection, self.table.name(), source);
        read.map_err(|failure| failure.into_error(&self.path))
    }

    fn take_over(&mut self, fence: &Fence) -> Result<()> {
        let taken = cursors::take_over(&mut self.connection, self.table.name(), fence);
        taken.map_err(|failure| failure.into_error(&self.path))
    }

    fn joins_commits(&self) -> bool {
        self.table.mapping() != Mapping::Overwrite
    }

    fn load(&mut self, query: &Query) -> Result<Loaded> {
        check_unchanged(&self.path, self.file)?;
        let loaded = self.table.load(&self.connection, query);
        loaded.map_err(|failure| failure.into_error(&self.path))
    }

    fn sql_view(&self) -> SqlView {
        SqlView::Table {
            file: self.path.clone(),
            table: self.table.name().to_owned(),
        }
    }
}

fn write(
    connection: &mut Connection,
    table: &Table,
    plan: &Plan,
    rows: &[&Value],
    cursors: &[Cursor],
    fence: &Fence,
) -> Result<(), Failure> {
    // Immediate: it waits for its turn here, and never has to give up half of its work. Dropped, it
    // rolls back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    cursors::check(&transaction, table.name(), fence)?;
    for cursor in cursors {
        cursors::set(&transaction, table.name(), cursor, fence.epoch)?;
    }
    table.write(&transaction, plan, rows)?;
    transaction.commit()?;
    Ok(())
}

/// Refuses to write to a file that nobody will find.
fn check_unchanged(path: &Path, file: (u64, u64)) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(now) if (now.dev(), now.ino()) == file => Ok(()),
        _ => Err(Error::remote(format!(
            "`{}` was removed or replaced by another program; it is opened again",
            path.display()
        ))),
    }
}
