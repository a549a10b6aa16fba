//! How JSON values are kept in SQLite, and read again.
//!
//! A column has no type unless its first value is nested, so that every value keeps its own: integers
//! are exact, reals are reals, text is text. Booleans are 1 and 0. An integer over 2^63 - 1 is kept as
//! text. Nested values are JSON text; a column that was made for them is declared `JSON_TEXT` and is read as
//! JSON; a text in it stands as it is, and in quotes only where it would be taken for JSON itself. A nested value that comes later to a column without
//! type is JSON text that is read as text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde_json::Number;
use wiredflow_core::Value;

use crate::files::value::write_json;

/// The declared type of columns that hold JSON. Its TEXT affinity leaves the text as it is, which plain
/// `JSON` would not: SQLite takes that for a number's type.
pub(crate) const JSON_TEXT: &str = "JSON_TEXT";

/// Whether a value makes a new column one of JSON.
pub(crate) fn is_nested(value: &Value) -> bool {
    value.is_array() || value.is_object()
}

/// A value on its way into a column.
pub(crate) struct Cell<'v> {
    pub(crate) value: &'v Value,
    /// The column holds JSON.
    pub(crate) json: bool,
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.value {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Array(_) | Value::Object(_) => json_text(self.value)?,
            // A text stands as it is where nobody would take it for JSON.
            Value::String(text) if self.json && parsed(text.as_bytes()).is_none() => {
                ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes()))
            }
            value if self.json => json_text(value)?,
            Value::Bool(truth) => ToSqlOutput::from(*truth),
            Value::String(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => ToSqlOutput::from(integer),
                (None, Some(real)) if number.is_f64() => ToSqlOutput::from(real),
                _ => ToSqlOutput::from(number.to_string()),
            },
        })
    }
}

fn parsed(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok()
}

fn json_text(value: &Value) -> rusqlite::Result<ToSqlOutput<'static>> {
    let mut text = Vec::new();
    write_json(value, &mut text)
        .map_err(|reason| rusqlite::Error::ToSqlConversionFailure(reason.into()))?;
    Ok(ToSqlOutput::from(
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// A stored value as JSON. Bytes, which another program may have stored, come as base64.
pub(crate) fn read(stored: ValueRef<'_>, json: bool) -> Value {
    match stored {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::from(integer),
        ValueRef::Real(real) => Number::from_f64(real).map_or(Value::Null, Value::Number),
        ValueRef::Text(text) => {
            let value = json.then(|| parsed(text)).flatten();
            value.unwrap_or_else(|| Value::String(String::from_utf8_lossy(text).into_owned()))
        }
        ValueRef::Blob(bytes) => Value::String(STANDARD.encode(bytes)),
    }
}

/// A record's fields; what is no object is the value of a field of that name.
pub(crate) fn fields(row: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let object = row.as_object();
    let lone = object.is_none().then_some(("value", row));
    let of_object = object.into_iter().flatten();
    of_object
        .map(|(name, value)| (name.as_str(), value))
        .chain(lone)
}
