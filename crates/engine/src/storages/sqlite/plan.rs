//! How records become statements, decided before anything is written.

use wiredflow_core::{Error, Result, Value};

use super::columns::Columns;
use super::table::Table;
use crate::sql::names::{check_column, quote};
use crate::sql::values::{fields, is_nested};

/// SQLite's own limit.
const MOST_COLUMNS: usize = 2000;

/// Records that have the same fields in the same order, and the statements for them.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) fields: Vec<String>,
    /// The column of each field.
    pub(super) places: Vec<usize>,
    pub(super) insert: String,
    /// For `mapping: update`.
    pub(super) update: String,
}

/// How rows are to be written, made before anything is.
#[derive(Debug)]
pub(super) struct Plan {
    /// All columns, when some of them are new.
    pub(super) wider: Option<Columns>,
    /// New shapes, numbered after those of the table.
    pub(super) shapes: Vec<Shape>,
    /// The shape of each row.
    pub(super) rows: Vec<usize>,
}

impl Table {
    /// Finds the statement for each row, and the columns that are missing.
    ///
    /// # Errors
    /// `Data` for the first row that cannot be stored.
    pub(super) fn plan(&self, rows: &[&Value]) -> Result<Plan> {
        let mut plan = Plan {
            wider: None,
            shapes: Vec::new(),
            rows: Vec::with_capacity(rows.len()),
        };
        let mut last = usize::MAX;
        for (index, row) in rows.iter().enumerate() {
            let refused = |reason: String| Error::data(reason).at_record(index);
            let known = self.shape(&plan, last).is_some_and(|shape| shape.fits(row));
            if !known {
                let count = self.shapes.len() + plan.shapes.len();
                let fits = |number: &usize| {
                    self.shape(&plan, *number)
                        .is_some_and(|shape| shape.fits(row))
                };
                last = match (0..count).find(fits) {
                    Some(number) => number,
                    None => {
                        self.add_shape(&mut plan, row, &rows[index..])
                            .map_err(refused)?;
                        count
                    }
                };
            }
            if let (Some(key), Some(shape)) = (&self.key, self.shape(&plan, last)) {
                check_key(key, shape, row).map_err(refused)?;
            }
            plan.rows.push(last);
        }
        Ok(plan)
    }

    /// A shape by its number: the table's own come first.
    pub(super) fn shape<'a>(&'a self, plan: &'a Plan, number: usize) -> Option<&'a Shape> {
        let own = self.shapes.get(number);
        own.or_else(|| plan.shapes.get(number.checked_sub(self.shapes.len())?))
    }

    /// Adds the shape of a row; what follows the row tells what its nulls may become.
    fn add_shape(&self, plan: &mut Plan, row: &Value, from_here: &[&Value]) -> Result<(), String> {
        let mut wider = plan.wider.take();
        let mut places = Vec::new();
        for (name, _) in fields(row) {
            check_column(name)?;
            let columns = wider.as_ref().unwrap_or(&self.columns);
            let place = match columns.find(name) {
                Some(place) if columns.list[place].name == name => place,
                Some(place) => {
                    let column = &columns.list[place].name;
                    return Err(format!(
                        "its field `{name}` differs from the column `{column}` in letter case only, which SQLite \
                         does not tell apart: give both one spelling"
                    ));
                }
                None => {
                    let values = from_here.iter().flat_map(|row| fields(row));
                    let mut values =
                        values.filter(|(other, value)| *other == name && !value.is_null());
                    let json = values.next().is_some_and(|(_, value)| is_nested(value));
                    wider
                        .get_or_insert_with(|| self.columns.clone())
                        .add(name, json)
                }
            };
            places.push(place);
        }
        let columns = wider.as_ref().unwrap_or(&self.columns);
        if columns.list.len() > MOST_COLUMNS {
            return Err(format!("it would make more than {MOST_COLUMNS} columns"));
        }
        if columns.list.is_empty() {
            return Err("the first record has no field to make a column of".to_owned());
        }
        plan.shapes.push(self.statements(row, places, columns));
        plan.wider = wider;
        Ok(())
    }

    fn statements(&self, row: &Value, places: Vec<usize>, columns: &Columns) -> Shape {
        let table = quote(&self.name);
        let names: Vec<String> = places
            .iter()
            .map(|place| quote(&columns.list[*place].name))
            .collect();
        let list = names.join(", ");
        let holes = vec!["?"; names.len()].join(", ");
        let mut insert = if names.is_empty() {
            format!("INSERT INTO {table} DEFAULT VALUES")
        } else {
            format!("INSERT INTO {table} ({list}) VALUES ({holes})")
        };
        if let Some(key) = &self.key {
            let others = names
                .iter()
                .filter(|name| !name.eq_ignore_ascii_case(&quote(key)));
            let set: Vec<String> = others
                .map(|name| format!("{name} = excluded.{name}"))
                .collect();
            let action = match set.is_empty() {
                true => "NOTHING".to_owned(),
                false => format!("UPDATE SET {}", set.join(", ")),
            };
            insert.push_str(&format!(" ON CONFLICT ({}) DO {action}", quote(key)));
        }
        let set: Vec<String> = names.iter().map(|name| format!("{name} = ?")).collect();
        Shape {
            fields: fields(row).map(|(name, _)| name.to_owned()).collect(),
            places,
            insert,
            update: format!("UPDATE {table} SET {}", set.join(", ")),
        }
    }
}

impl Shape {
    fn fits(&self, row: &Value) -> bool {
        let same = match row {
            Value::Object(object) => object.len() == self.fields.len(),
            _ => self.fields.len() == 1,
        };
        same && fields(row)
            .zip(&self.fields)
            .all(|((name, _), field)| name == field)
    }
}

fn check_key(key: &str, shape: &Shape, row: &Value) -> Result<(), String> {
    let place = shape
        .fields
        .iter()
        .position(|name| name.eq_ignore_ascii_case(key));
    let value = place
        .and_then(|place| fields(row).nth(place))
        .map(|(_, value)| value);
    match value {
        None | Some(Value::Null) => Err(format!("its key `{key}` is missing or null")),
        Some(value) if is_nested(value) => Err(format!("its key `{key}` is no single value")),
        Some(_) => Ok(()),
    }
}
