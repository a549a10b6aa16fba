//! `csv`: a table as RFC 4180 has it, with a header and columns by name.
//!
//! A commit adds its rows to the end of the file and syncs once; only a new column rewrites the file. A
//! null and a missing field are empty, nested values are JSON text, and what is loaded is text. A last row
//! without a line end is kept where those who wrote the file last ended in order: it comes from an editor.
//! After a crash it counts as torn: what looks whole may be the beginning of a longer value.
//! Cursors are kept in the flow's state, with the length up to which the file is committed.

mod columns;
mod guard;
mod opening;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use ::csv::{ReaderBuilder, StringRecord, Terminator};
use wiredflow_core::node::Node;
use wiredflow_core::storage::{
    CommitReceipt, Cursor, Fence, Loaded, Mapping, Query, SqlView, Storage,
};
use wiredflow_core::{Error, Map, Result, Value, config, words};

use super::StoragePlace;
use crate::catalogue::{CheckCx, StorageKind};
use crate::files::records::merged;
use crate::files::{self, DataFile};
use columns::Columns;
use opening::Header;

/// Buffers that have grown beyond this are not kept.
const BUFFER: usize = 1 << 20;

words! {
    /// What a field does that the header does not have.
    pub(crate) enum NewColumns {
        /// The file is rewritten with the column in its header.
        Extend = "extend",
        /// The record is refused.
        Error = "error",
        /// The field is left out.
        Drop = "drop",
    }
}

config! {
    /// A file `csv_in_NAME.csv`: a header, and a row for each record.
    pub(crate) struct CsvConfig short folder {
        /// The folder of the file.
        folder: String = "data",
        /// What a field does that the first row did not have: `extend` rewrites the file with a wider
        /// header, once for each new field; `error` refuses the record; `drop` leaves the field out.
        new_columns: NewColumns = "extend",
        /// `true`, for files that people open in a spreadsheet: a text that it would take for a formula (it
        /// begins with `=`, `+`, `-`, `@`, a tab or a carriage return) is written with a `'` before it. Numbers
        /// stay as they are, and `load` gives back the text without it.
        formula_guard: bool = "false",
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Csv {
    name: Arc<str>,
    file: DataFile,
    mapping: Mapping,
    new_columns: NewColumns,
    /// Those of the header; none when there is no header.
    columns: Columns,
    terminator: Terminator,
    /// The one object of `mapping: update`.
    object: Option<Map>,
    buffer: Vec<u8>,
}

impl StorageKind for Csv {
    const NAME: &'static str = "csv";
    const EXAMPLE: &'static str = "csv: {folder: data}";
    type Config = CsvConfig;

    fn check(config: &CsvConfig, place: &StoragePlace, node: &Node, cx: &mut CheckCx<'_>) {
        files::check(&config.folder, place, node, cx);
    }

    fn writes(config: &CsvConfig, place: &StoragePlace) -> String {
        format!("the file `{}`", path(config, place).display())
    }

    fn open(config: CsvConfig, place: &StoragePlace) -> Result<Self> {
        let mut file = DataFile::open(path(&config, place), place)?;
        let header = opening::recover(&mut file, place.left, config.formula_guard)?;
        let Header {
            columns,
            terminator,
        } = header.unwrap_or_else(|| Header::none(config.formula_guard));
        let mut csv = Self {
            name: Arc::clone(&place.name),
            file,
            mapping: place.mapping,
            new_columns: config.new_columns,
            columns,
            terminator,
            object: None,
            buffer: Vec::new(),
        };
        if place.mapping == Mapping::Update {
            csv.object = csv.read_object()?;
        }
        Ok(csv)
    }
}

fn path(config: &CsvConfig, place: &StoragePlace) -> PathBuf {
    let file = format!("csv_in_{}.csv", place.name);
    place.path(&config.folder).join(file)
}

impl Storage for Csv {
    fn commit(
        &mut self,
        rows: &[&Value],
        cursors: &[Cursor],
        _fence: &Fence,
    ) -> Result<CommitReceipt> {
        self.file.set_cursors(cursors);
        match self.mapping {
            Mapping::Extend if rows.is_empty() => {}
            Mapping::Extend => self.append(rows)?,
            Mapping::Overwrite => self.overwrite(rows)?,
            Mapping::Update => self.update(rows)?,
        }
        Ok(CommitReceipt::issue(Arc::clone(&self.name), rows.len()))
    }

    fn cursor(&mut self, source: &str) -> Result<Option<String>> {
        Ok(self.file.cursor(source))
    }

    fn joins_commits(&self) -> bool {
        self.mapping != Mapping::Overwrite
    }

    fn load(&mut self, query: &Query) -> Result<Loaded> {
        self.file.check_unchanged()?;
        if self.mapping == Mapping::Update {
            return Ok(query.of_object(self.read_object()?));
        }
        let (rows, any) = self.read_rows(query)?;
        Ok(if any {
            Loaded::Rows(rows)
        } else {
            Loaded::Nothing
        })
    }

    fn sql_view(&self) -> SqlView {
        SqlView::Texts
    }
}

impl Csv {
    fn append(&mut self, rows: &[&Value]) -> Result<()> {
        let wider = self.columns.widened(rows, self.new_columns)?;
        let columns = wider.as_ref().unwrap_or(&self.columns);
        self.buffer.clear();
        if self.columns.is_empty() {
            columns.write_header(self.terminator, &mut self.buffer)?;
        }
        columns.write_rows(rows, self.terminator, &mut self.buffer)?;
        if let Some(wider) = wider {
            if !self.columns.is_empty() {
                self.widen(&wider)?;
            }
            self.columns = wider;
        }
        self.file.write_end(&self.buffer, b"")?;
        self.clear_buffer();
        Ok(())
    }

    /// Rewrites the file with more columns. That changes no row: if the rows that need it cannot be
    /// added afterwards, nothing of them is seen.
    fn widen(&mut self, wider: &Columns) -> Result<()> {
        let terminator = self.terminator;
        self.file.replace(|old, new| {
            wider
                .copy_rows(old.buffered(), new, terminator)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        })
    }

    fn overwrite(&mut self, rows: &[&Value]) -> Result<()> {
        let base = match self.new_columns {
            NewColumns::Extend if !rows.is_empty() => self.columns.emptied(),
            NewColumns::Extend | NewColumns::Error | NewColumns::Drop => self.columns.clone(),
        };
        let columns = base.widened(rows, self.new_columns)?.unwrap_or(base);
        self.buffer.clear();
        if !columns.is_empty() {
            columns.write_header(self.terminator, &mut self.buffer)?;
        }
        columns.write_rows(rows, self.terminator, &mut self.buffer)?;
        let bytes = &self.buffer;
        self.file.replace(|_, new| new.write_all(bytes))?;
        self.columns = columns;
        self.clear_buffer();
        Ok(())
    }

    fn update(&mut self, rows: &[&Value]) -> Result<()> {
        let Some(object) = merged(self.object.as_ref(), rows)? else {
            return Ok(());
        };
        let object = Value::Object(object);
        self.overwrite(&[&object])?;
        if let Value::Object(object) = object {
            self.object = Some(object);
        }
        Ok(())
    }

    fn clear_buffer(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER);
    }

    fn read_object(&self) -> Result<Option<Map>> {
        let (mut rows, _) = self.read_rows(&Query::newest(2))?;
        match (rows.pop(), rows.pop()) {
            (None, None) => Ok(None),
            (Some(Value::Object(object)), None) => Ok(Some(object)),
            _ => Err(Error::config(format!(
                "`{}` holds more than one row, and `mapping: update` keeps one: move it away, or use \
                 another folder",
                self.file.path().display()
            ))),
        }
    }

    /// The newest rows, oldest first, and whether there is any.
    fn read_rows(&self, query: &Query) -> Result<(Vec<Value>, bool)> {
        let mut reader = ReaderBuilder::new().from_reader(self.file.reader(0).buffered());
        let mut rows = VecDeque::new();
        let mut any = false;
        let mut row = StringRecord::new();
        while reader
            .read_record(&mut row)
            .map_err(|error| self.unreadable(&error))?
        {
            any = true;
            if query.limit == Some(0) {
                break;
            }
            query.keep(&mut rows, self.columns.object(&row));
        }
        Ok((rows.into(), any))
    }

    fn unreadable(&self, error: &::csv::Error) -> Error {
        match error.kind() {
            ::csv::ErrorKind::Io(error) => self.file.failed("read", error),
            _ => Error::data(format!("`{}`: {error}", self.file.path().display())),
        }
    }
}
