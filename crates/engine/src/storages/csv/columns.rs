//! The columns of a table: which there are, and how records and rows become each other.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Read, Write};

use ::csv::{
    ByteRecord, QuoteStyle, ReaderBuilder, StringRecord, Terminator, Writer, WriterBuilder,
};
use wiredflow_core::{Error, Map, Result, Value};

use super::{NewColumns, guard};
use crate::files::value::write_json;

/// More columns than this are refused: somebody's names have become data.
const MOST: usize = 2000;

/// The columns in their order, each name once.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    names: Vec<String>,
    places: HashMap<String, usize>,
    /// Whether texts that a spreadsheet would take for formulas are written with a mark.
    guarded: bool,
}

impl Columns {
    /// The columns of a header; the name that stands there twice when there is one.
    pub(super) fn of(header: &StringRecord, guarded: bool) -> Result<Self, String> {
        let mut columns = Self::none(guarded);
        for name in header {
            if !columns.add(columns.read(name)) {
                return Err(name.to_owned());
            }
        }
        Ok(columns)
    }

    /// No columns yet. `guarded`: see `formula_guard`.
    pub(super) fn none(guarded: bool) -> Self {
        Self {
            guarded,
            ..Self::default()
        }
    }

    /// As at the beginning.
    pub(super) fn emptied(&self) -> Self {
        Self::none(self.guarded)
    }

    /// A text as it is written.
    fn written<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        match self.guarded && guard::needs_mark(&text) {
            true => Cow::Owned(guard::marked(&text)),
            false => text,
        }
    }

    /// A text as it was before it was written.
    fn read<'t>(&self, text: &'t str) -> &'t str {
        match self.guarded {
            true => guard::unmarked(text),
            false => text,
        }
    }

    fn add(&mut self, name: &str) -> bool {
        let new = !self.places.contains_key(name);
        if new {
            self.places.insert(name.to_owned(), self.names.len());
            self.names.push(name.to_owned());
        }
        new
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The columns with those that the rows need beside them; `None` when there are no others. The first
    /// row of all makes the header, whatever the policy.
    pub(super) fn widened(&self, rows: &[&Value], policy: NewColumns) -> Result<Option<Self>> {
        let mut wider: Option<Self> = None;
        for (index, row) in rows.iter().enumerate() {
            let refused = |message: String| Error::data(message).at_record(index);
            let Value::Object(fields) = row else {
                return Err(refused(
                    "a csv row has columns by name, and the record is no object".into(),
                ));
            };
            let present = wider.as_ref().unwrap_or(self);
            let first = present.is_empty();
            if first && fields.is_empty() {
                return Err(refused(
                    "the first record has no field to make a column of".into(),
                ));
            }
            let new = fields
                .keys()
                .filter(|name| !present.places.contains_key(*name));
            let new: Vec<&String> = new.collect();
            match (policy, new.first()) {
                (_, None) => {}
                (NewColumns::Drop, _) if !first => {}
                (NewColumns::Error, Some(name)) if !first => {
                    let message =
                        format!("`{name}` is not in the header, and `new_columns` is `error`");
                    return Err(refused(message));
                }
                (NewColumns::Extend | NewColumns::Error | NewColumns::Drop, _) => {
                    if present.names.len() + new.len() > MOST {
                        return Err(refused(format!("it would make more than {MOST} columns")));
                    }
                    let wider = wider.get_or_insert_with(|| self.clone());
                    for name in new {
                        wider.add(name);
                    }
                }
            }
        }
        Ok(wider)
    }

    pub(super) fn write_header(&self, terminator: Terminator, out: &mut Vec<u8>) -> Result<()> {
        let mut writer = self.header_writer(terminator, out);
        writer.write_record(self.header()).map_err(broken)?;
        writer.flush().map_err(broken)
    }

    fn header(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let names = self.names.iter();
        names.map(|name| self.written(Cow::Borrowed(name)).into_owned().into_bytes())
    }

    fn header_writer<W: Write>(&self, terminator: Terminator, out: W) -> Writer<W> {
        // Unquoted, it would be taken for the mark that some editors put before a text.
        let marked = self
            .names
            .first()
            .is_some_and(|name| name.starts_with('\u{feff}'));
        let style = if marked {
            QuoteStyle::Always
        } else {
            QuoteStyle::Necessary
        };
        WriterBuilder::new()
            .terminator(terminator)
            .quote_style(style)
            .from_writer(out)
    }

    pub(super) fn write_rows(
        &self,
        rows: &[&Value],
        terminator: Terminator,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut writer = WriterBuilder::new().terminator(terminator).from_writer(out);
        for (index, row) in rows.iter().enumerate() {
            for name in &self.names {
                let value = row.get(name).unwrap_or(&Value::Null);
                let text = text(value).map_err(|reason| {
                    let message = format!("`{name}` cannot be stored: {reason}");
                    Error::data(message).at_record(index)
                })?;
                let text = match value {
                    Value::String(_) => self.written(text),
                    _ => text,
                };
                writer.write_field(text.as_bytes()).map_err(broken)?;
            }
            writer.write_record(None::<&[u8]>).map_err(broken)?;
        }
        writer.flush().map_err(broken)
    }

    /// Copies a table that has fewer of these columns, and only such ones.
    pub(super) fn copy_rows(
        &self,
        old: impl Read,
        new: &mut impl Write,
        terminator: Terminator,
    ) -> ::csv::Result<()> {
        let mut header = self.header_writer(terminator, &mut *new);
        header.write_record(self.header())?;
        header.flush()?;
        drop(header);
        let mut reader = ReaderBuilder::new().from_reader(old);
        let mut writer = WriterBuilder::new().terminator(terminator).from_writer(new);
        let mut row = ByteRecord::new();
        while reader.read_byte_record(&mut row)? {
            let more = self.names.len().saturating_sub(row.len());
            let empty = std::iter::repeat_n(&b""[..], more);
            writer.write_record(row.iter().chain(empty))?;
        }
        writer.flush()?;
        Ok(())
    }

    /// A row as an object: every column, as text.
    pub(super) fn object(&self, row: &StringRecord) -> Value {
        let field = |(name, text): (&String, &str)| {
            (name.clone(), Value::String(self.read(text).to_owned()))
        };
        Value::Object(self.names.iter().zip(row).map(field).collect::<Map>())
    }
}

fn text(value: &Value) -> Result<Cow<'_, str>, String> {
    Ok(match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => Cow::Borrowed(text),
        Value::Bool(true) => Cow::Borrowed("true"),
        Value::Bool(false) => Cow::Borrowed("false"),
        Value::Number(number) => Cow::Owned(number.to_string()),
        Value::Array(_) | Value::Object(_) => {
            let mut text = Vec::new();
            write_json(value, &mut text)?;
            Cow::Owned(String::from_utf8_lossy(&text).into_owned())
        }
    })
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::bug(format!("a row could not be written to memory: {error}"))
}
