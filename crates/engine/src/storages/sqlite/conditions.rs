//! Conditions in SQL: a WHERE that leaves out most of the rows that are not meant.
//!
//! It may let rows through (each is looked at again, in the one way in which conditions hold everywhere), and
//! never leaves out one that is meant. All values are bound parameters.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::Value as Cell;
use wiredflow_core::Value;
use wiredflow_core::condition::{Comparison, Condition, Conditions, Order};

use super::columns::Columns;
use crate::sql::names::quote;

/// More parameters than this are not worth a statement.
const MOST: usize = 500;

/// A WHERE clause and its parameters; nothing where SQL cannot help.
pub(super) fn narrowed(conditions: &Conditions, columns: &Columns) -> (String, Vec<Cell>) {
    let mut narrowing = Narrowing {
        columns,
        values: Vec::new(),
    };
    let sql = narrowing.all(conditions.0.iter(), Narrowing::condition);
    match sql {
        Some(sql) if narrowing.values.len() <= MOST => (format!("WHERE {sql}"), narrowing.values),
        _ => (String::new(), Vec::new()),
    }
}

struct Narrowing<'c> {
    columns: &'c Columns,
    values: Vec<Cell>,
}

impl Narrowing<'_> {
    /// Those that SQL can tell, joined; `None` when it can tell none.
    fn all<T>(
        &mut self,
        parts: impl Iterator<Item = T>,
        mut part: impl FnMut(&mut Self, T) -> Option<String>,
    ) -> Option<String> {
        let known: Vec<String> = parts.filter_map(|item| part(self, item)).collect();
        (!known.is_empty()).then(|| format!("({})", known.join(" AND ")))
    }

    fn condition(&mut self, condition: &Condition) -> Option<String> {
        match condition {
            Condition::Any(conditions) => {
                let before = self.values.len();
                let known: Option<Vec<String>> = conditions
                    .iter()
                    .map(|condition| self.condition(condition))
                    .collect();
                let sql = known.and_then(|known| any_of(&known));
                if sql.is_none() {
                    self.values.truncate(before);
                }
                sql
            }
            Condition::Field(path, comparisons) => {
                let mut columns = self.columns.list.iter();
                let column = columns.find(|column| column.name == path.as_str() && !column.json)?;
                let column = quote(&column.name);
                self.all(comparisons.iter(), |narrowing, comparison| {
                    narrowing.comparison(&column, comparison)
                })
            }
        }
    }

    fn comparison(&mut self, column: &str, comparison: &Comparison) -> Option<String> {
        match comparison {
            Comparison::Is(value) => self.equal(column, value),
            Comparison::OneOf(values) => {
                let before = self.values.len();
                let known: Option<Vec<String>> = values
                    .iter()
                    .map(|value| self.equal(column, value))
                    .collect();
                let sql = known.and_then(|known| any_of(&known));
                if sql.is_none() {
                    self.values.truncate(before);
                }
                sql
            }
            Comparison::Order(order, bound) => {
                let bound = match bound {
                    Value::String(text) => Cell::Text(text.clone()),
                    other => number(other)?,
                };
                let sign = match order {
                    Order::Above => ">",
                    Order::AtLeast => ">=",
                    Order::Below => "<",
                    Order::AtMost => "<=",
                };
                let also = others(column);
                let hole = self.bind(bound);
                // The plus takes the column's type away, which would turn one of the two into the other's.
                Some(format!(
                    "(+{column} COLLATE BINARY {sign} {hole} OR {also})"
                ))
            }
            Comparison::Exists(true) => Some(format!("{column} IS NOT NULL")),
            Comparison::Exists(false) => Some(format!("{column} IS NULL")),
            Comparison::IsNot(_) | Comparison::Contains(_) => None,
        }
    }

    fn equal(&mut self, column: &str, value: &Value) -> Option<String> {
        match value {
            Value::Null => Some(format!("{column} IS NULL")),
            Value::String(text) => {
                // Bytes are loaded as base64.
                let bytes = STANDARD.decode(text).unwrap_or_default();
                let (text, bytes) = (
                    self.bind(Cell::Text(text.clone())),
                    self.bind(Cell::Blob(bytes)),
                );
                Some(format!("{column} IN ({text}, {bytes})"))
            }
            Value::Array(_) | Value::Object(_) => None,
            Value::Bool(_) | Value::Number(_) => {
                let also = others(column);
                let hole = self.bind(number(value)?);
                Some(format!("(+{column} = {hole} OR {also})"))
            }
        }
    }

    fn bind(&mut self, value: Cell) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }
}

fn any_of(known: &[String]) -> Option<String> {
    (!known.is_empty()).then(|| format!("({})", known.join(" OR ")))
}

/// What may be a number in the shape of a text.
fn others(column: &str) -> String {
    format!("typeof({column}) IN ('text', 'blob')")
}

/// A number that SQLite compares as we do.
fn number(value: &Value) -> Option<Cell> {
    match value {
        Value::Bool(truth) => Some(Cell::Integer(i64::from(*truth))),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Some(Cell::Integer(integer)),
            (None, Some(real)) if number.is_f64() => Some(Cell::Real(real)),
            _ => None,
        },
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
