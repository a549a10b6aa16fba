//! SQL over the flow's storages and the batch at hand, by SQLite in memory.
//!
//! Each storage that a query mentions is a table of its name: an SQLite storage as a view of the real file, which
//! is opened for reading only; any other as a copy of what is stored. `input` is the batch. A query is one SELECT:
//! whatever else is refused before it runs.

pub(crate) mod names;
mod tables;
pub(crate) mod values;
mod words;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement};
use wiredflow_core::problem::possible;
use wiredflow_core::storage::{Query as LoadQuery, SqlView};
use wiredflow_core::{Batch, Error, Map, Result, Value};

use crate::storages::StorageHandles;
use names::quote;
use values::{Cell, JSON_TEXT, read};

/// The table of the batch at hand.
pub(crate) const INPUT: &str = "input";

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

const ONLY_SELECT: &str = "only `SELECT` is possible, over the flow's own storages";

/// Tables that are functions of SQLite's and read nothing.
const TABLE_FUNCTIONS: [&str; 2] = ["json_each", "json_tree"];

/// A checked query.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    sql: Arc<str>,
    /// The storages that it mentions.
    storages: Vec<String>,
}

impl Query {
    /// Compiles a query as far as that goes without knowing columns.
    ///
    /// # Errors
    /// What is wrong, and what is possible.
    pub(crate) fn check(sql: &str, storages: &[String]) -> Result<Self, (String, String)> {
        let help = || {
            let tables: Vec<&str> = storages.iter().map(String::as_str).chain([INPUT]).collect();
            format!("one `select …` over the tables {}", list(&tables))
        };
        if storages.iter().any(|name| name.eq_ignore_ascii_case(INPUT)) {
            let message = "a storage is named `input`, and in SQL that is the batch at hand";
            return Err((
                message.to_owned(),
                "give the storage another name".to_owned(),
            ));
        }
        let words = words::words(sql);
        let mentioned = |name: &&String| words.contains(&name.to_lowercase());
        let query = Self {
            sql: sql.into(),
            storages: storages.iter().filter(mentioned).cloned().collect(),
        };
        let tables = query.storages.iter().map(String::as_str).chain([INPUT]);
        let prepared = Session::open().and_then(|mut session| {
            for table in tables {
                tables::create(&session.connection, table, &[], false)?;
                session.tables.insert(table.to_lowercase());
            }
            session.guard(&Arc::default())?;
            Ok(session.compile(sql))
        });
        match prepared.map_err(|error| (error.message().to_owned(), help()))? {
            Ok(()) => Ok(query),
            Err(refused) => match refused.missing_column() {
                Some(_) => Ok(query), // what columns there are is seen when it runs
                None => Err((refused.message(storages), help())),
            },
        }
    }

    /// Runs it, on a thread that may block; `stopped` ends it soon. Each row is an object.
    ///
    /// # Errors
    /// `Data` where SQLite refuses it: a column that is not there, a param that is not given. `Remote` where a
    /// storage cannot be read for now.
    pub(crate) fn run(
        &self,
        input: &Batch,
        params: &Map,
        handles: &StorageHandles,
        stopped: &Arc<AtomicBool>,
    ) -> Result<Vec<Value>> {
        let mut session = Session::open()?;
        for name in &self.storages {
            if stopped.load(Ordering::Relaxed) {
                return Err(Error::data("the query was stopped"));
            }
            session.add_storage(name, handles)?;
        }
        let values: Vec<Value> = input.values().cloned().collect();
        session.add(INPUT, &values, false)?;
        session.guard(stopped)?;
        session.add_missing(&self.sql)?;
        session.run(&self.sql, params)
    }
}

fn list(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A database in memory for one query.
struct Session {
    connection: Connection,
    /// The names that may be read, in small letters.
    tables: BTreeSet<String>,
    /// Tables of ours without rows: their columns are not known.
    empty: Vec<String>,
    /// Names in attached files, in small letters; those of them that are not in `tables` are not for the query.
    others: BTreeSet<String>,
    /// The files that are attached.
    files: Vec<std::path::PathBuf>,
    /// Whether only reading is allowed.
    guarded: Arc<AtomicBool>,
}

impl Session {
    fn open() -> Result<Self> {
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
            others: BTreeSet::new(),
            files: Vec::new(),
            guarded: Arc::default(),
        })
    }

    fn add_storage(&mut self, name: &str, handles: &StorageHandles) -> Result<()> {
        let handle = handles.named(name)?;
        let texts = match handle.sql_view_blocking()? {
            SqlView::Table { file, table } if self.attach(&file, name, &table)? => return Ok(()),
            SqlView::Table { .. } | SqlView::Rows => false,
            SqlView::Texts => true,
        };
        let rows = match handle.load_blocking(LoadQuery::default())?.into_document() {
            Value::Null => Vec::new(),
            Value::Array(rows) => rows,
            object => vec![object],
        };
        self.add(name, &rows, texts)
    }

    fn add(&mut self, name: &str, rows: &[Value], texts: bool) -> Result<()> {
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
                let names = format!("SELECT lower(name) FROM wiredflow_{number}.sqlite_schema");
                let mut statement = self.connection.prepare(&names).map_err(told)?;
                let names = statement.query_map((), |row| row.get::<_, String>(0));
                for name in names.map_err(told)? {
                    self.others.insert(name.map_err(told)?);
                }
                drop(statement);
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
    fn guard(&mut self, stopped: &Arc<AtomicBool>) -> Result<()> {
        let guarded = Arc::clone(&self.guarded);
        let (tables, others) = (self.tables.clone(), self.others.clone());
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
                // Without a column it may also be a name that the query itself gives (`WITH`).
                let own = column_name.is_empty() && !others.contains(&table) && !is_system(&table);
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
    fn compile(&self, sql: &str) -> Result<(), Refused> {
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
    fn add_missing(&mut self, sql: &str) -> Result<()> {
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

    fn run(&self, sql: &str, params: &Map) -> Result<Vec<Value>> {
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

/// Why a statement may not run.
enum Refused {
    By(rusqlite::Error),
    Because(String),
}

impl Refused {
    /// What SQLite says.
    fn text(&self) -> Option<&str> {
        match self {
            Self::By(rusqlite::Error::SqlInputError { msg, .. }) => Some(msg),
            Self::By(rusqlite::Error::SqliteFailure(_, text)) => text.as_deref(),
            Self::By(_) | Self::Because(_) => None,
        }
    }

    /// The name of a column that is not there, and whether the query says of which table it is.
    fn missing_column(&self) -> Option<(bool, String)> {
        let text = self.text()?;
        if let Some(join) = text.strip_prefix("cannot join using column ") {
            let name = join.split(" - column not present").next()?;
            return Some((true, name.to_owned()));
        }
        let name = text.strip_prefix("no such column: ")?;
        let name = name.split(" - should this be").next().unwrap_or(name);
        if let Some(quoted) = name.strip_prefix('"') {
            return Some((false, quoted.strip_suffix('"').unwrap_or(quoted).to_owned()));
        }
        Some(match name.split_once('.') {
            Some((_, column)) => (true, column.to_owned()),
            None => (false, name.to_owned()),
        })
    }

    fn message(&self, storages: &[String]) -> String {
        let denied = Some(ErrorCode::AuthorizationForStatementDenied);
        match self {
            Self::Because(reason) => reason.clone(),
            Self::By(rusqlite::Error::MultipleStatement) => {
                "it is more than one statement".to_owned()
            }
            Self::By(error) if error.sqlite_error_code() == denied => ONLY_SELECT.to_owned(),
            Self::By(error) => {
                let text = self.text().map_or_else(|| error.to_string(), str::to_owned);
                if let Some(table) = text.strip_prefix("no such table: ") {
                    let known = storages.iter().map(String::as_str).chain([INPUT]);
                    return format!("there is no table `{table}`: {}", possible(table, known));
                }
                match text.strip_prefix("not authorized to use function: ") {
                    Some(function) => format!("the function `{function}` is not possible here"),
                    None => text,
                }
            }
        }
    }

    fn message_with(&self, columns: &str) -> String {
        let message = self.message(&[]);
        match self.missing_column() {
            Some(_) => format!("{message}; {columns}"),
            None => message,
        }
    }
}

/// Who must act on what SQLite says while a query runs.
fn failure(error: &rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => Error::data("the query was stopped"),
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::DiskFull,
        ) => Error::remote(format!("SQLite refuses: {error}")),
        _ => Error::data(format!("SQLite refuses: {error}")),
    }
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

#[cfg(test)]
mod tests;
