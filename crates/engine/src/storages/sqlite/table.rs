//! One table: its columns, the statements that fill them, and reading it.

use rusqlite::{Connection, OptionalExtension, Transaction};
use wiredflow_core::storage::{Loaded, Mapping, Query};
use wiredflow_core::{Error, Map, Result, Value};

use super::columns::{Column, Columns};
use super::conditions::narrowed;
use super::failure::Failure;
use super::plan::{Plan, Shape};
use crate::sql::names::{ROW_ID, quote};
use crate::sql::values::{Cell, JSON_TEXT, fields, read};

/// Shapes of records that are remembered; beyond that all are forgotten.
const SHAPES: usize = 256;

/// A table and what is known of it. It may not exist yet.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    mapping: Mapping,
    pub(super) key: Option<String>,
    exists: bool,
    pub(super) columns: Columns,
    pub(super) shapes: Vec<Shape>,
}

impl Table {
    /// Reads what there is of the table.
    pub(super) fn read(
        connection: &Connection,
        name: String,
        mapping: Mapping,
        key: Option<String>,
    ) -> Result<Self, Failure> {
        let mut table = Self {
            name,
            mapping,
            key,
            exists: false,
            columns: Columns::default(),
            shapes: Vec::new(),
        };
        let kind: Option<String> = connection
            .query_row(
                "SELECT type FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')",
                [&table.name],
                |row| row.get(0),
            )
            .optional()?;
        table.exists = kind.is_some();
        let mut statement = connection.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
        let mut rows = statement.query([&table.name])?;
        while let Some(row) = rows.next()? {
            let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
            table
                .columns
                .add(&name, kind.eq_ignore_ascii_case(JSON_TEXT));
        }
        let quoted = quote(&table.name);
        let numbered = connection.prepare(&format!("SELECT {ROW_ID} FROM {quoted}"));
        if kind.is_some_and(|kind| kind == "view" || numbered.is_err()) {
            return Err(Failure::from(Error::config(format!(
                "{quoted} is a view or a table without row numbers; set another `table`"
            ))));
        }
        if table.mapping == Mapping::Update && table.exists {
            let sql = format!("SELECT COUNT(*) FROM (SELECT 1 FROM {quoted} LIMIT 2)");
            if connection.query_row(&sql, (), |row| row.get::<_, i64>(0))? > 1 {
                return Err(Failure::from(Error::config(format!(
                    "{quoted} holds more than one row, and `mapping: update` keeps one: set another `table`"
                ))));
            }
        }
        Ok(table)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Writes the rows as planned. Nothing of the table changes in memory: see [`Table::keep`].
    pub(super) fn write(
        &self,
        transaction: &Transaction<'_>,
        plan: &Plan,
        rows: &[&Value],
    ) -> Result<(), Failure> {
        let columns = plan.wider.as_ref().unwrap_or(&self.columns);
        if self.mapping == Mapping::Overwrite && self.exists {
            transaction.execute(&format!("DELETE FROM {}", quote(&self.name)), ())?;
        }
        self.make_columns(transaction, columns)?;
        let mut at = 0;
        while at < rows.len() {
            let number = plan.rows[at];
            let alike = plan.rows[at..]
                .iter()
                .take_while(|other| **other == number)
                .count();
            let Some(shape) = self.shape(plan, number) else {
                return Err(Failure::from(Error::bug("a planned row has no shape")));
            };
            self.write_alike(transaction, shape, columns, at, &rows[at..at + alike])?;
            at += alike;
        }
        Ok(())
    }

    fn write_alike(
        &self,
        transaction: &Transaction<'_>,
        shape: &Shape,
        columns: &Columns,
        at: usize,
        rows: &[&Value],
    ) -> Result<(), Failure> {
        let run = |sql: &str| -> Result<usize, Failure> {
            let mut statement = transaction.prepare_cached(sql)?;
            let mut changed = 0;
            for (index, row) in rows.iter().enumerate() {
                let failed = |error| Failure::of_record(error, at + index);
                for (hole, (_, value)) in fields(row).enumerate() {
                    let json = columns.list[shape.places[hole]].json;
                    statement
                        .raw_bind_parameter(hole + 1, Cell { value, json })
                        .map_err(failed)?;
                }
                changed += statement.raw_execute().map_err(failed)?;
            }
            Ok(changed)
        };
        match self.mapping {
            // It says nothing of the one row, and is none of its own.
            Mapping::Update if shape.fields.is_empty() => return Ok(()),
            Mapping::Update if run(&shape.update)? > 0 => return Ok(()),
            _ => {}
        }
        run(&shape.insert).map(drop)
    }

    fn make_columns(
        &self,
        transaction: &Transaction<'_>,
        columns: &Columns,
    ) -> Result<(), Failure> {
        let table = quote(&self.name);
        let declared: Vec<String> = columns.list.iter().map(Column::declared).collect();
        if !self.exists && !declared.is_empty() {
            transaction
                .execute_batch(&format!("CREATE TABLE {table} ({})", declared.join(", ")))?;
        }
        for column in declared
            .iter()
            .skip(self.columns.list.len())
            .filter(|_| self.exists)
        {
            transaction.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column}"))?;
        }
        let Some(key) = self.key.as_ref().filter(|key| columns.find(key).is_some()) else {
            return Ok(());
        };
        let index = quote(&format!("_wiredflow_key_{}_{key}", self.name));
        let made = transaction.execute_batch(&format!(
            "CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {table} ({})",
            quote(key)
        ));
        made.map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ConstraintViolation) => Failure::from(Error::config(
                format!("{table} holds rows with the same `{key}`: it cannot be its `key`"),
            )),
            _ => Failure::from(error),
        })
    }

    /// Remembers what was planned, once it is committed.
    pub(super) fn keep(&mut self, plan: Plan) {
        if let Some(wider) = plan.wider {
            self.columns = wider;
        }
        self.exists |= !self.columns.list.is_empty();
        self.shapes.extend(plan.shapes);
        if self.shapes.len() > SHAPES {
            self.shapes.clear();
        }
    }

    /// Reads the newest rows, oldest first, as objects with all columns. Not more than are asked for are kept in
    /// memory.
    pub(super) fn load(&self, connection: &Connection, query: &Query) -> Result<Loaded, Failure> {
        if !self.exists {
            return Ok(Loaded::Nothing);
        }
        let names: Vec<String> = self
            .columns
            .list
            .iter()
            .map(|column| quote(&column.name))
            .collect();
        let table = quote(&self.name);
        let (filter, values) = narrowed(&query.conditions, &self.columns);
        let sql = format!(
            "SELECT {} FROM {table} {filter} ORDER BY {ROW_ID} DESC",
            names.join(", ")
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut found = statement.query(rusqlite::params_from_iter(values))?;
        let most = query.limit.unwrap_or(usize::MAX);
        let mut rows = Vec::new();
        while rows.len() < most
            && let Some(row) = found.next()?
        {
            let mut object = Map::new();
            for (place, column) in self.columns.list.iter().enumerate() {
                object.insert(column.name.clone(), read(row.get_ref(place)?, column.json));
            }
            let row = Value::Object(object);
            if query.conditions.hold(&row) {
                rows.push(row);
            }
        }
        if self.mapping == Mapping::Update {
            return Ok(match rows.pop() {
                Some(Value::Object(object)) => Loaded::Object(object),
                _ => Loaded::Nothing,
            });
        }
        if rows.is_empty() && most > 0 && query.conditions.is_empty() {
            return Ok(Loaded::Nothing);
        }
        rows.reverse();
        Ok(Loaded::Rows(rows))
    }
}
