//! A database in memory for one query: its tables, its guard, its rows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, Statement};
use wiredflow_core::problem::possible;
use wiredflow_core::storage::{Query, SqlView};
use wiredflow_core::{Error, Map, Result, Value};

use super::list;
use super::names::quote;
use super::refused::{ONLY_SELECT, Refused, failure};
use super::tables;
use super::values::{Cell, JSON_TEXT, read};
use crate::storages::StorageHandles;

/// The most that a query gives, in bytes, and the longest text that it may make.
const ALL: usize = 64 << 20;

/// How many steps of SQLite's machine run between two looks whether anybody still waits.
const STEPS: i32 = 10_000;

/// How many files of databases a query may read; SQLite's own limit is 10.
const FILES: usize = 8;

/// How many columns may be added to tables without rows.
const MISSING: usize = 200;

/// How long a query waits for another program's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Tables that are functions of SQLite's and read nothing.
const TABLE_FUNCTIONS: [&str; 2] = ["json_each", "json_tree"];

/// A database in memory for one query.
pub(super) struct Session {
    connection: Connection,
    /// The names that may be read, in small letters.
    tables: BTreeSet<String>,
    /// Tables of ours without rows: their columns are not known.
    empty: Vec<String>,
    /// The files that are attached.
    files: Vec<PathBuf>,
    /// Whether only reading is allowed.
    guarded: Arc<AtomicBool>,
}

impl Session {
    pub(super) fn open() -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let set_up = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_in_memory_with_flags(flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // A quoted name that is no column must be an error, not a text.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
            connection.set_limit(
                Limit::SQLITE_LIMIT_LENGTH,
                i32::try_from(ALL).unwrap_or(i32::MAX),
            )?;
            connection.execute_batch("PRAGMA trusted_schema = OFF")?;
            Ok(connection)
        };
        Ok(Self {
            connection: set_up().map_err(|error| failure(&error))?,
            tables: TABLE_FUNCTIONS.map(str::to_owned).into(),
            empty: Vec::new(),
            files: Vec::new(),
            guarded: Arc::default(),
        })
    }

    pub(super) fn add_storage(&mut self, name: &str, handles: &StorageHandles) -> Result<()> {
        let handle = handles.named(name)?;
        let texts = match handle.sql_view_blocking()? {
            SqlView::Table { file, table } if self.attach(&file, name, &table)? => return Ok(()),
            SqlView::Table { .. } | SqlView::Rows => false,
            SqlView::Texts => true,
        };
        let rows = match handle.load_blocking(Query::default())?.into_document() {
            Value::Null => Vec::new(),
            Value::Array(rows) => rows,
            object => vec![object],
        };
        self.add(name, &rows, texts)
    }

    pub(super) fn add(&mut self, name: &str, rows: &[Value], texts: bool) -> Result<()> {
        tables::create(&self.connection, name, rows, texts)?;
        self.tables.insert(name.to_lowercase());
        if rows.is_empty() {
            self.empty.push(name.to_owned());
        }
        Ok(())
    }

    /// Lets a table of a database be read under a name. `false`: it must be copied.
    fn attach(&mut self, file: &Path, name: &str, table: &str) -> Result<bool> {
        let told =
            |error: rusqlite::Error| failure(&error).context(format_args!("storage `{name}`"));
        let known = self.files.iter().position(|other| other == file);
        let number = match known {
            Some(number) => number,
            None => {
                let Some(uri) = read_only(file).filter(|_| self.files.len() < FILES) else {
                    return Ok(false);
                };
                let number = self.files.len();
                let attach = format!("ATTACH ?1 AS wiredflow_{number}");
                self.connection.execute(&attach, [uri]).map_err(told)?;
                self.files.push(file.to_owned());
                number
            }
        };
        let sql = format!(
            "SELECT count(*) FROM wiredflow_{number}.sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type = 'table'"
        );
        let tables: i64 = self
            .connection
            .query_row(&sql, [table], |row| row.get(0))
            .map_err(told)?;
        if tables == 0 {
            self.add(name, &[], false)?;
            return Ok(true);
        }
        let view = format!(
            "CREATE TEMP VIEW {} AS SELECT * FROM wiredflow_{number}.{}",
            quote(name),
            quote(table)
        );
        self.connection.execute_batch(&view).map_err(told)?;
        self.tables.insert(name.to_lowercase());
        self.tables.insert(table.to_lowercase());
        Ok(true)
    }

    /// From here on only SELECT, and only from the tables of the query.
    pub(super) fn guard(&mut self, stopped: &Arc<AtomicBool>) -> Result<()> {
        let guarded = Arc::clone(&self.guarded);
        let tables = self.tables.clone();
        let allowed = move |action: AuthAction<'_>| match action {
            AuthAction::Select | AuthAction::Recursive => true,
            AuthAction::Function { function_name } => {
                !function_name.eq_ignore_ascii_case("load_extension")
            }
            AuthAction::Read {
                table_name,
                column_name,
            } => {
                let table = table_name.to_lowercase();
                // Without a column it may also be a name that the query itself gives (`WITH`). Of other tables
                // `check` has heard: it compiles with no more than these.
                let own = column_name.is_empty() && !is_system(&table);
                tables.contains(&table) || own
            }
            _ => false,
        };
        let decide = move |context: AuthContext<'_>| {
            if !guarded.load(Ordering::Relaxed) || allowed(context.action) {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        };
        self.guarded.store(true, Ordering::Relaxed);
        let stopped = Arc::clone(stopped);
        let look = move || stopped.load(Ordering::Relaxed);
        self.connection
            .authorizer(Some(decide))
            .and_then(|()| self.connection.progress_handler(STEPS, Some(look)))
            .map_err(|error| failure(&error))
    }

    /// Whether the statement is one that may run.
    pub(super) fn compile(&self, sql: &str) -> Result<(), Refused> {
        self.prepared(sql).map(drop)
    }

    fn prepared(&self, sql: &str) -> Result<Statement<'_>, Refused> {
        let statement = self.connection.prepare(sql).map_err(Refused::By)?;
        if statement.column_count() == 0 || !statement.readonly() {
            return Err(Refused::Because(format!(
                "it selects nothing: {ONLY_SELECT}"
            )));
        }
        let unnamed = |number: &usize| {
            statement
                .parameter_name(*number)
                .is_none_or(|name| name.starts_with('?'))
        };
        if (1..=statement.parameter_count()).any(|number| unnamed(&number)) {
            let message = "a parameter needs a name: `:limit` is the param `limit`";
            return Err(Refused::Because(message.to_owned()));
        }
        let mut names = BTreeSet::new();
        for name in statement.column_names() {
            if !names.insert(name) {
                return Err(Refused::Because(format!(
                    "two columns of the result are named `{name}`: name one with `AS`"
                )));
            }
        }
        Ok(statement)
    }

    /// Gives tables without rows the columns that the query asks for: a storage that nothing is stored in yet is an
    /// empty table, not an error.
    pub(super) fn add_missing(&mut self, sql: &str) -> Result<()> {
        for _ in 0..MISSING {
            let Err(refused) = self.compile(sql) else {
                return Ok(());
            };
            let added = refused
                .missing_column()
                .is_some_and(|(of_a_table, column)| self.add_column(of_a_table, &column));
            if !added {
                return Err(Error::data(refused.message_with(&self.columns())));
            }
        }
        Ok(())
    }

    /// Adds a column to the first table without rows or, where the query says of which table it is, under whatever
    /// other name, to all of them. Says whether there was one to add it to.
    fn add_column(&self, of_a_table: bool, column: &str) -> bool {
        self.guarded.store(false, Ordering::Relaxed);
        let add = |table: &&String| {
            let sql = format!(
                "ALTER TABLE main.{} ADD COLUMN {}",
                quote(table),
                quote(column)
            );
            self.connection.execute_batch(&sql).is_ok()
        };
        let count = if of_a_table { usize::MAX } else { 1 };
        let added = self.empty.iter().filter(add).take(count).count();
        self.guarded.store(true, Ordering::Relaxed);
        added > 0
    }

    /// Which tables have which columns, for messages.
    fn columns(&self) -> String {
        self.guarded.store(false, Ordering::Relaxed);
        let tables = self.tables.iter().filter_map(|table| {
            let statement = self
                .connection
                .prepare(&format!("SELECT * FROM {}", quote(table)));
            let statement = statement
                .ok()
                .filter(|_| !TABLE_FUNCTIONS.contains(&table.as_str()))?;
            let columns: Vec<&str> = statement.column_names().take(20).collect();
            Some(format!("`{table}` has {}", list(&columns)))
        });
        let tables: Vec<String> = tables.collect();
        self.guarded.store(true, Ordering::Relaxed);
        tables.join("; ")
    }

    pub(super) fn run(&self, sql: &str, params: &Map) -> Result<Vec<Value>> {
        let mut statement = self
            .prepared(sql)
            .map_err(|refused| Error::data(refused.message_with(&self.columns())))?;
        for number in 1..=statement.parameter_count() {
            let name = statement
                .parameter_name(number)
                .unwrap_or_default()
                .to_owned();
            let value = params.get(&name[1..]).ok_or_else(|| {
                let help = possible(&name[1..], params.keys().map(String::as_str));
                Error::data(format!(
                    "`{name}` of the query is not among the params: {help}"
                ))
            })?;
            statement
                .raw_bind_parameter(number, Cell { value, json: false })
                .map_err(|error| failure(&error))?;
        }
        let columns: Vec<(String, bool)> = statement
            .columns()
            .map(|column| {
                (
                    column.name().to_owned(),
                    column.decl_type() == Some(JSON_TEXT),
                )
            })
            .collect();
        let mut rows = statement.raw_query();
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next().map_err(|error| failure(&error))? {
            let mut object = Map::new();
            for (place, (name, json)) in columns.iter().enumerate() {
                let stored = row.get_ref(place).map_err(|error| failure(&error))?;
                bytes += name.len()
                    + 16
                    + stored
                        .as_bytes_or_null()
                        .ok()
                        .flatten()
                        .map_or(0, <[u8]>::len);
                object.insert(name.clone(), read(stored, *json));
            }
            if bytes > ALL {
                return Err(Error::data(format!(
                    "the query gives more than {} MiB: select less, or `LIMIT` it",
                    ALL >> 20
                )));
            }
            found.push(Value::Object(object));
        }
        Ok(found)
    }
}

/// Names of SQLite's own and of ours.
fn is_system(name: &str) -> bool {
    ["sqlite_", "pragma_", "_wiredflow_"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// The address of a file that is opened for reading only; `None` for a path that is no text.
fn read_only(file: &Path) -> Option<String> {
    let file = std::path::absolute(file).ok()?;
    let mut uri = "file:".to_owned();
    for byte in file.to_str()?.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => uri.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(format!("{uri}?mode=ro"))
}
