//! One table: its columns, the statements that fill them, and reading it.

use std::collections::HashMap;
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};
use wiredflow_core::storage::{Loaded, Mapping, Query};
use wiredflow_core::{Error, Map, Result, Value};

use super::failure::Failure;
use crate::sql::names::{check_name, quote};
use crate::sql::values::{fields, is_nested};

/// The column by which rows are ordered; no field may have its name.
const NUMBER: &str = "_id";

/// The longest name, in bytes: PostgreSQL cuts longer ones without a word.
const LONGEST: usize = 63;

/// A table and what is known of it. It may not exist yet.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    mapping: Mapping,
    key: Option<String>,
    exists: bool,
    columns: Vec<String>,
    has_key: bool,
}

/// A table as it stands there now.
struct Found {
    columns: Vec<String>,
    /// Whether its rows are numbered, so that they can be loaded in order.
    is_numbered: bool,
}

impl Found {
    async fn of(client: &Client, name: &str) -> Result<Option<Self>, Failure> {
        let sql = "SELECT to_regclass($1::text) IS NOT NULL, array(
                       SELECT attname::text FROM pg_attribute
                       WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped ORDER BY attnum)";
        let row = client
            .query_typed_one(sql, &[(&quote(name), Type::TEXT)])
            .await?;
        let mut columns: Vec<String> = row.get(1);
        let is_numbered = columns.iter().any(|column| column == NUMBER);
        columns.retain(|column| column != NUMBER);
        Ok(row.get::<_, bool>(0).then_some(Self {
            columns,
            is_numbered,
        }))
    }
}

/// How rows are to be written, made before anything is.
#[derive(Debug)]
pub(super) struct Plan {
    /// New columns, with their types.
    new: Vec<(String, &'static str)>,
    groups: Vec<Group>,
}

/// Rows that follow one another and have the same columns.
#[derive(Debug)]
struct Group {
    columns: Vec<String>,
    /// Each row by its place in the commit, as a JSON object.
    rows: Vec<(usize, String)>,
}

/// How rows are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// All that are alike in one statement.
    Together,
    /// Each in a statement of its own, which can be told when it is refused.
    Alone,
}

/// Whether a name can be a table's.
pub(super) fn check_table(name: &str) -> Result<(), String> {
    check_name(name, "table").and_then(|()| check_length(name, "table"))?;
    if name.starts_with("pg_") || name.starts_with("_wiredflow_") {
        return Err(format!(
            "`{name}` cannot be a table: names that begin so are taken"
        ));
    }
    Ok(())
}

fn check_length(name: &str, what: &str) -> Result<(), String> {
    match name.len() {
        ..=LONGEST => Ok(()),
        _ => Err(format!(
            "`{}…` cannot be a {what}: PostgreSQL takes {LONGEST} bytes",
            name.chars().take(40).collect::<String>().escape_debug()
        )),
    }
}

impl Table {
    /// Reads what there is of the table.
    pub(super) async fn read(
        client: &Client,
        name: String,
        mapping: Mapping,
        key: Option<String>,
    ) -> Result<Self, Failure> {
        let found = Found::of(client, &name).await?;
        let table = Self {
            name,
            mapping,
            key,
            exists: found.is_some(),
            columns: found.map(|found| found.columns).unwrap_or_default(),
            has_key: false,
        };
        let quoted = quote(&table.name);
        if table.mapping == Mapping::Update && table.exists {
            let sql = format!("SELECT count(*) FROM (SELECT FROM {quoted} LIMIT 2) AS two");
            if client.query_typed_one(&sql, &[]).await?.get::<_, i64>(0) > 1 {
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

    /// Puts rows that are alike together, and finds the columns that are missing.
    ///
    /// # Errors
    /// `Data` for the first row that cannot be stored.
    pub(super) fn plan(&self, rows: &[&Value]) -> Result<Plan> {
        let mut plan = Plan {
            new: Vec::new(),
            groups: Vec::new(),
        };
        for (index, row) in rows.iter().enumerate() {
            let refused = |reason: String| Error::data(reason).at_record(index);
            let mut columns = Vec::new();
            let mut values = Map::new();
            for (name, value) in fields(row) {
                let known = |column: &String| column == name;
                let is_known = self.columns.iter().any(known)
                    || plan.new.iter().any(|(column, _)| known(column));
                if !is_known {
                    check_name(name, "column")
                        .and_then(|()| check_length(name, "column"))
                        .map_err(refused)?;
                    if name == NUMBER {
                        let message =
                            format!("`{NUMBER}` cannot be a column: rows are numbered by it");
                        return Err(refused(message));
                    }
                    // A null says nothing of the type that others will have.
                    let Some(kind) = kind(value) else { continue };
                    plan.new.push((name.to_owned(), kind));
                }
                columns.push(name.to_owned());
                values.insert(name.to_owned(), value.clone());
            }
            if let Some(key) = &self.key {
                check_key(key, values.get(key)).map_err(refused)?;
            }
            let text = Value::Object(values).to_string();
            match plan
                .groups
                .last_mut()
                .filter(|group| group.columns == columns)
            {
                Some(group) => group.rows.push((index, text)),
                None => plan.groups.push(Group {
                    columns,
                    rows: vec![(index, text)],
                }),
            }
        }
        Ok(plan)
    }

    /// Writes what is planned. Nothing of the table changes in memory: see [`Table::keep`].
    pub(super) async fn write(
        &self,
        transaction: &Transaction<'_>,
        plan: &Plan,
        pace: Pace,
    ) -> Result<(), Failure> {
        let table = quote(&self.name);
        self.make_columns(transaction, plan).await?;
        let replaces = self.mapping == Mapping::Overwrite && self.exists;
        if replaces {
            let sql = format!("DELETE FROM {table}");
            transaction.execute_typed(&sql, &[]).await?;
        }
        for group in &plan.groups {
            if self.mapping == Mapping::Update && group.columns.is_empty() {
                // It says nothing of the one row, and is none of its own.
                continue;
            }
            let (update, insert) = self.statements(group);
            let all = [(0, self.all_of(group))];
            let each: Vec<(usize, String)>;
            let portions = match pace {
                Pace::Together => all.as_slice(),
                Pace::Alone => {
                    let alone = |(index, row): &(usize, String)| (*index, format!("[{row}]"));
                    each = group.rows.iter().map(alone).collect();
                    each.as_slice()
                }
            };
            for (index, rows) in portions {
                let refused = |error| {
                    let failure = Failure::from(error);
                    match (pace, failure.is_of_a_value) {
                        (Pace::Alone, true) => failure.of_record(*index),
                        _ => failure,
                    }
                };
                let given: [(&(dyn ToSql + Sync), Type); 1] = [(rows, Type::TEXT)];
                if let Some(update) = &update {
                    // The one row of `mapping: update`.
                    let changed = transaction.execute_typed(update, &given);
                    if changed.await.map_err(refused)? > 0 {
                        continue;
                    }
                }
                let added = transaction.execute_typed(&insert, &given);
                added.await.map_err(refused)?;
            }
        }
        Ok(())
    }

    /// The rows as one array; of those with the same key the last one, which has the same columns.
    fn all_of(&self, group: &Group) -> String {
        let mut last: HashMap<String, usize> = HashMap::new();
        if let Some(key) = &self.key {
            for (place, (_, row)) in group.rows.iter().enumerate() {
                let row: Map = serde_json::from_str(row).unwrap_or_default();
                let value = row.get(key).map(ToString::to_string);
                last.insert(value.unwrap_or_default(), place);
            }
        }
        let kept: std::collections::HashSet<usize> = last.values().copied().collect();
        let rows = group.rows.iter().enumerate();
        let rows = rows.filter(|(place, _)| self.key.is_none() || kept.contains(place));
        let rows: Vec<&str> = rows.map(|(_, (_, row))| row.as_str()).collect();
        format!("[{}]", rows.join(","))
    }

    /// The statement that changes the one row of `mapping: update`, and the one that adds rows. Both take JSON: the
    /// server makes of each value what its column says.
    fn statements(&self, group: &Group) -> (Option<String>, String) {
        let table = quote(&self.name);
        let names: Vec<String> = group.columns.iter().map(|name| quote(name)).collect();
        let list = names.join(", ");
        if names.is_empty() {
            let insert =
                format!("INSERT INTO {table} SELECT FROM json_array_elements($1::text::json)");
            return (None, insert);
        }
        let given = format!("json_populate_recordset(NULL::{table}, $1::text::json)");
        let mut insert = format!("INSERT INTO {table} ({list}) SELECT {list} FROM {given}");
        let set = |source: &str, but: Option<&str>| {
            let names = names.iter().filter(|name| Some(name.as_str()) != but);
            let set = names.map(|name| format!("{name} = {source}.{name}"));
            set.collect::<Vec<_>>().join(", ")
        };
        if let Some(key) = &self.key {
            let key = quote(key);
            let set = set("excluded", Some(&key));
            let action = match set.is_empty() {
                true => "NOTHING".to_owned(),
                false => format!("UPDATE SET {set}"),
            };
            insert.push_str(&format!(" ON CONFLICT ({key}) DO {action}"));
        }
        let update = (self.mapping == Mapping::Update).then(|| {
            let given = format!("json_populate_recordset(NULL::{table}, $1::text::json) AS given");
            format!("UPDATE {table} SET {} FROM {given}", set("given", None))
        });
        (update, insert)
    }

    async fn make_columns(
        &self,
        transaction: &Transaction<'_>,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let table = quote(&self.name);
        if !self.exists && !plan.groups.is_empty() {
            // Two that make it at once would fail: one waits for the other here.
            let lock = "SELECT pg_advisory_xact_lock(hashtext($1))";
            transaction
                .query_typed_one(lock, &[(&self.name, Type::TEXT)])
                .await?;
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {table} ({NUMBER} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)"
            );
            transaction.batch_execute(&sql).await?;
        }
        for (name, kind) in &plan.new {
            let sql = format!(
                "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {} {kind}",
                quote(name)
            );
            transaction.batch_execute(&sql).await?;
        }
        let Some(key) = self.key.as_ref().filter(|_| !self.has_key) else {
            return Ok(());
        };
        if plan.groups.is_empty() && !self.columns.contains(key) {
            return Ok(());
        }
        // Any index that makes it the only one will do, such as that of a primary key.
        let known = "SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
                     WHERE indrelid = to_regclass($1::text) AND indisunique AND indnkeyatts = 1 AND indpred IS NULL
                       AND attname = $2";
        let is_known = transaction
            .query_typed(known, &[(&table, Type::TEXT), (key, Type::TEXT)])
            .await?;
        if !is_known.is_empty() {
            return Ok(());
        }
        let sql = format!("CREATE UNIQUE INDEX ON {table} ({})", quote(key));
        let made = transaction.batch_execute(&sql).await;
        made.map_err(|error| {
            let failure = Failure::from(error);
            match failure.is_of_a_value {
                true => Failure::from(Error::config(format!(
                    "{table} holds rows with the same `{key}`: it cannot be its `key`"
                ))),
                false => failure,
            }
        })
    }

    /// Remembers what was planned, once it is committed.
    pub(super) fn keep(&mut self, plan: Plan) {
        if !plan.groups.is_empty() {
            self.exists = true;
            self.has_key = true;
        }
        self.columns
            .extend(plan.new.into_iter().map(|(name, _)| name));
    }

    /// Reads the newest rows, oldest first, as objects with all columns. Not more than are asked for are kept in memory.
    pub(super) async fn load(&self, client: &Client, query: &Query) -> Result<Loaded, Failure> {
        // Others may have made it, or widened it, meanwhile.
        let Some(found) = Found::of(client, &self.name).await? else {
            return Ok(Loaded::Nothing);
        };
        let table = quote(&self.name);
        if !found.is_numbered {
            return Err(Failure::from(Error::config(format!(
                "the rows of {table} have no order to be loaded in: ALTER TABLE {table} ADD COLUMN {NUMBER} bigint \
                 GENERATED ALWAYS AS IDENTITY"
            ))));
        }
        let names: Vec<String> = found.columns.iter().map(|name| quote(name)).collect();
        let most = query.limit.unwrap_or(usize::MAX);
        // Those that a condition leaves out are looked at one by one below.
        let limit = match query.limit {
            Some(limit) if query.conditions.is_empty() => format!(" LIMIT {limit}"),
            _ => String::new(),
        };
        let sql = format!(
            "SELECT row_to_json(one)::text FROM (SELECT {} FROM {table} ORDER BY {NUMBER} DESC{limit}) AS one",
            names.join(", ")
        );
        let found = client
            .query_typed_raw(&sql, std::iter::empty::<(&str, Type)>())
            .await?;
        let mut found = pin!(found);
        let mut rows = Vec::new();
        while rows.len() < most
            && let Some(row) = found.try_next().await?
        {
            let row = serde_json::from_str(row.get(0))
                .map_err(|error| Error::data(format!("a row cannot be read: {error}")))?;
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

/// The type of a column for such values; none for a null.
fn kind(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some("boolean"),
        Value::Number(_) => Some("numeric"),
        Value::String(_) => Some("text"),
        Value::Array(_) | Value::Object(_) => Some("jsonb"),
    }
}

fn check_key(key: &str, value: Option<&Value>) -> Result<(), String> {
    match value {
        None | Some(Value::Null) => Err(format!("its key `{key}` is missing or null")),
        Some(value) if is_nested(value) => Err(format!("its key `{key}` is no single value")),
        Some(_) => Ok(()),
    }
}
