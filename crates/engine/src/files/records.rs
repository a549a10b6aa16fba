//! Files of JSON records, one on each line: what the storages `json` and `jsonl` share.

use std::collections::VecDeque;
use std::io::{BufRead, Write};

use wiredflow_core::storage::{Cursor, Loaded, Mapping, Query};
use wiredflow_core::{Error, Map, Result, Value};

use super::layout::{ARRAY, Layout};
use super::value::write_json;
use super::{DataFile, tail};
use crate::storages::StoragePlace;

/// Buffers that have grown beyond this are not kept.
const BUFFER: usize = 1 << 20;

/// A file of records.
#[derive(Debug)]
pub(crate) struct RecordFile {
    file: DataFile,
    layout: &'static Layout,
    mapping: Mapping,
    /// Where the last record ends; `None` when there is none.
    end: Option<u64>,
    /// The one object of `mapping: update`.
    object: Option<Map>,
    buffer: Vec<u8>,
}

impl RecordFile {
    /// Opens the file, if there is one, and brings it back to its last whole record.
    pub(crate) fn open(
        path: std::path::PathBuf,
        layout: &'static Layout,
        place: &StoragePlace,
    ) -> Result<Self> {
        let mapping = place.mapping;
        let mut file = DataFile::open(path, place)?;
        let end = tail::recover(&mut file, layout, mapping)?;
        let mut records = Self {
            file,
            layout,
            mapping,
            end,
            object: None,
            buffer: Vec::new(),
        };
        if mapping == Mapping::Update {
            records.object = records.read_object()?;
        }
        Ok(records)
    }

    /// How new rows join those that are stored.
    pub(crate) fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Where a source stood at the last commit that said so.
    pub(crate) fn cursor(&self, source: &str) -> Option<String> {
        self.file.cursor(source)
    }

    /// Makes the rows safe as the mapping says, with the cursors, or changes nothing.
    pub(crate) fn commit(&mut self, rows: &[&Value], cursors: &[Cursor]) -> Result<()> {
        self.file.set_cursors(cursors);
        match self.mapping {
            Mapping::Extend if rows.is_empty() => Ok(()),
            Mapping::Extend => self.append(rows),
            Mapping::Overwrite => self.overwrite(rows),
            Mapping::Update => {
                let object = merged(self.object.as_ref(), rows)?;
                let Some(object) = object else { return Ok(()) };
                let object = Value::Object(object);
                self.overwrite(&[&object])?;
                self.object = match object {
                    Value::Object(map) => Some(map),
                    _ => None,
                };
                Ok(())
            }
        }
    }

    fn append(&mut self, rows: &[&Value]) -> Result<()> {
        let layout = self.layout;
        self.serialise(
            rows,
            if self.end.is_some() {
                layout.separator
            } else {
                layout.open
            },
        )?;
        let empty = [layout.open, layout.close_empty].concat();
        let old_end = match self.end {
            Some(_) => layout.close,
            None if self.file.length() == 0 => "",
            None => &empty,
        };
        self.file.write_end(&self.buffer, old_end.as_bytes())?;
        self.end = Some(self.file.length() - layout.close.len() as u64);
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER);
        Ok(())
    }

    fn overwrite(&mut self, rows: &[&Value]) -> Result<()> {
        let layout = self.layout;
        self.serialise(rows, layout.open)?;
        let bytes = &self.buffer;
        self.file.replace(|_, new| new.write_all(bytes))?;
        self.end = match rows {
            [] => None,
            _ => Some(self.file.length() - layout.close.len() as u64),
        };
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER);
        Ok(())
    }

    /// Fills the buffer: what stands before the rows, the rows, and the file's end.
    fn serialise(&mut self, rows: &[&Value], before: &str) -> Result<()> {
        let layout = self.layout;
        self.buffer.clear();
        self.buffer.extend_from_slice(before.as_bytes());
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                self.buffer.extend_from_slice(layout.separator.as_bytes());
            }
            write_json(row, &mut self.buffer).map_err(|reason| {
                Error::data(format!("the record cannot be stored: {reason}")).at_record(index)
            })?;
        }
        let close = if rows.is_empty() {
            layout.close_empty
        } else {
            layout.close
        };
        self.buffer.extend_from_slice(close.as_bytes());
        Ok(())
    }

    /// Reads what is committed, in the shape of the mapping.
    pub(crate) fn load(&mut self, query: &Query) -> Result<Loaded> {
        self.file.check_unchanged()?;
        if self.mapping == Mapping::Update {
            return Ok(query.of_object(self.object.clone()));
        }
        if self.end.is_none() {
            return Ok(Loaded::Nothing);
        }
        if query.limit == Some(0) {
            return Ok(Loaded::Rows(Vec::new()));
        }
        let rows = match self.read_rows(query) {
            Err(BadLine(_)) if *self.layout == ARRAY => {
                // Edited by hand in its middle, perhaps: still an array, though not ours.
                tail::adopt_array(&mut self.file)?;
                self.end = Some(self.file.length() - ARRAY.close.len() as u64);
                self.read_rows(query)
            }
            other => other,
        };
        rows.map(Loaded::Rows).map_err(|BadLine(error)| error)
    }

    fn read_object(&self) -> Result<Option<Map>> {
        let mut rows = match self.end {
            None => return Ok(None),
            Some(_) => self
                .read_rows(&Query::newest(2))
                .map_err(|BadLine(error)| error)?,
        };
        match (rows.pop(), rows.pop()) {
            (Some(Value::Object(object)), None) => Ok(Some(object)),
            _ => Err(Error::config(format!(
                "`{}` holds more than one object, and `mapping: update` keeps one: move it away, or \
                 use another folder",
                self.file.path().display()
            ))),
        }
    }

    /// The newest records, oldest first. Not more than are asked for are kept in memory.
    fn read_rows(&self, query: &Query) -> Result<Vec<Value>, BadLine> {
        let mut reader = self.file.reader(0).buffered();
        let mut rows = VecDeque::new();
        // Without conditions lines that are too old need not be parsed.
        let lines = query.limit.filter(|_| query.conditions.is_empty());
        let mut newest: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(BadLine(self.file.failed("read", &error))),
            }
            let Some(record) = self.layout.record(&line) else {
                continue;
            };
            let Some(limit) = lines else {
                query.keep(&mut rows, self.parse(number, record)?);
                continue;
            };
            let mut oldest = match newest.len() >= limit {
                true => newest.pop_front().map(|(_, line)| line).unwrap_or_default(),
                false => Vec::new(),
            };
            if limit > 0 {
                oldest.clear();
                oldest.extend_from_slice(record);
                newest.push_back((number, oldest));
            }
        }
        for (number, record) in newest {
            rows.push_back(self.parse(number, &record)?);
        }
        Ok(rows.into())
    }

    fn parse(&self, number: usize, record: &[u8]) -> Result<Value, BadLine> {
        serde_json::from_slice(record).map_err(|error| {
            let path = self.file.path().display();
            BadLine(Error::data(format!(
                "line {number} of `{path}` is not JSON: {error}"
            )))
        })
    }
}

/// Why the file could not be read line by line.
struct BadLine(Error);

/// The object that is kept, with the fields of the rows in it; `None` when there is neither.
pub(crate) fn merged(object: Option<&Map>, rows: &[&Value]) -> Result<Option<Map>> {
    let mut merged = object.cloned();
    for (index, row) in rows.iter().enumerate() {
        let Value::Object(fields) = row else {
            let message = "`mapping: update` merges fields, and the record is no object";
            return Err(Error::data(message).at_record(index));
        };
        let merged = merged.get_or_insert_default();
        for (name, value) in fields {
            merged.insert(name.clone(), value.clone());
        }
    }
    Ok(merged)
}
