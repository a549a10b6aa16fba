//! `postgres`: a table of a PostgreSQL database that other flows and other programs share, with rows and the source's
//! cursor in one transaction.
//!
//! One column for each top-level field, added when its first value is seen and of that value's type: `numeric` for numbers,
//! which are exact, `boolean`, `text`, and `jsonb` for what is nested. In a table that was there before, the server makes of
//! each value what its column says, such as a `timestamptz`. A field that is null makes no column; a null and a missing
//! field are both NULL and loaded as null.

mod failure;
mod server;
mod table;

use std::sync::Arc;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config as Address, Transaction};
use wiredflow_core::config;
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::storage::{CommitReceipt, Cursor, Epoch, Loaded, Mapping, Query, Storage};
use wiredflow_core::{Error, Result, Value};

use super::StoragePlace;
use crate::catalogue::{CheckCx, StorageKind};
use crate::files::records::merged;
use crate::sql::names::check_name;
use crate::tls::TlsKeys;
use failure::Failure;
use server::Server;
use table::{Pace, Plan, Table};

config! {
    /// A table of a PostgreSQL database (12 or newer), with a column for each field.
    pub(crate) struct PostgresConfig short url {
        /// The database: `postgres://user:password@host:5432/database`; with `?sslmode=require` over TLS.
        url: Secret,
        /// The table; left out, the storage's name.
        table: Option<String>,
        /// TLS, and its certificates: `{}` or `{ca, cert, key}`; `{insecure: true}` takes any, for a trial.
        tls: Option<TlsKeys>,
    }
}

/// The table, and the connection to its server.
#[derive(Debug)]
pub(crate) struct Postgres {
    name: Arc<str>,
    server: Server,
    table: Table,
    /// The table of the positions is there.
    has_cursors: bool,
}

impl StorageKind for Postgres {
    const NAME: &'static str = "postgres";
    const EXAMPLE: &'static str =
        r#"postgres: {url: "postgres://flow:${env:PG_PASSWORD:-none}@db/plant", table: readings}"#;
    const IS_AWAY: bool = true;
    type Config = PostgresConfig;

    fn check(config: &PostgresConfig, place: &StoragePlace, node: &Node, cx: &mut CheckCx<'_>) {
        let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
        if let Err(error) = server::address(config) {
            cx.reading.error(span("url"), error.message());
        }
        let table = config.table.as_deref().unwrap_or(&place.name);
        if let Err(reason) = table::check_table(table) {
            cx.reading.error(span("table"), reason);
        }
        if let Some(tls) = &config.tls {
            let keys = node.entry("tls").map_or(node, |entry| &entry.value);
            let folder = cx.folder;
            cx.reading
                .inside("tls", |reading| tls.check(keys, folder, reading));
        }
        if let Some(key) = &place.key {
            if let Err(reason) = check_name(key, "column") {
                cx.reading.error(node.span, format!("`key`: {reason}"));
            }
            if place.mapping == Mapping::Update {
                let message = "`key` has no use with `mapping: update`, which keeps one row";
                cx.reading.error(node.span, message);
            }
        }
    }

    fn writes(config: &PostgresConfig, place: &StoragePlace) -> String {
        let table = config.table.as_deref().unwrap_or(&place.name);
        let at = server::address(config).map(|address| server::told(&address));
        format!("the table `{table}` of {}", at.unwrap_or_default())
    }

    fn open(config: PostgresConfig, place: &StoragePlace) -> Result<Self> {
        let address: Address = server::address(&config)?;
        let told = server::told(&address);
        let mut server = Server::connect(&address, config.tls.as_ref(), &place.folder)?;
        let name = config.table.unwrap_or_else(|| place.name.to_string());
        let table = server
            .run(async |client| Table::read(client, name, place.mapping, place.key.clone()).await);
        Ok(Self {
            name: Arc::clone(&place.name),
            table: table.map_err(|failure| failure.into_error(&told))?,
            server,
            has_cursors: false,
        })
    }
}

impl Storage for Postgres {
    /// As in an SQLite file: a cursor is kept with the owner's epoch, and a commit of an earlier owner is refused with all
    /// its rows.
    fn commit(
        &mut self,
        rows: &[&Value],
        cursors: &[Cursor],
        epoch: Epoch,
    ) -> Result<CommitReceipt> {
        let object;
        let one;
        let to_write = if self.table.mapping() == Mapping::Update {
            object = merged(None, rows)?.map(Value::Object);
            one = object.as_ref();
            one.as_slice()
        } else {
            rows
        };
        let nothing = to_write.is_empty() && self.table.mapping() != Mapping::Overwrite;
        if !nothing || !cursors.is_empty() {
            let plan = self.table.plan(to_write)?;
            let (table, has_cursors) = (&self.table, self.has_cursors);
            let written = self.server.run(async |client| {
                let commit = (&plan, cursors, epoch, has_cursors);
                match write(client, table, commit, Pace::Together).await {
                    // One of them is refused: which one, only each alone can tell.
                    Err(failure) if failure.is_of_a_value => {
                        write(client, table, commit, Pace::Alone).await
                    }
                    written => written,
                }
            });
            written.map_err(|failure| failure.into_error(self.server.told()))?;
            self.table.keep(plan);
            self.has_cursors |= !cursors.is_empty();
        }
        Ok(CommitReceipt::issue(Arc::clone(&self.name), rows.len()))
    }

    fn cursor(&mut self, source: &str) -> Result<Option<String>> {
        let table = self.table.name();
        let found = self.server.run(async |client| {
            let known = "SELECT to_regclass('_wiredflow_cursors') IS NOT NULL";
            if !client.query_typed_one(known, &[]).await?.get::<_, bool>(0) {
                return Ok(None);
            }
            let sql = "SELECT position FROM _wiredflow_cursors WHERE storage = $1 AND source = $2";
            let row = client
                .query_typed_opt(sql, &[(&table, Type::TEXT), (&source, Type::TEXT)])
                .await?;
            Ok(row.and_then(|row| row.get(0)))
        });
        found.map_err(|failure| failure.into_error(self.server.told()))
    }

    fn joins_commits(&self) -> bool {
        self.table.mapping() != Mapping::Overwrite
    }

    fn load(&mut self, query: &Query) -> Result<Loaded> {
        let table = &self.table;
        let loaded = self
            .server
            .run(async |client| table.load(client, query).await);
        loaded.map_err(|failure| failure.into_error(self.server.told()))
    }
}

/// Writes one commit in a transaction.
async fn write(
    client: &mut Client,
    table: &Table,
    (plan, cursors, epoch, has_cursors): (&Plan, &[Cursor], Epoch, bool),
    pace: Pace,
) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    let written = async {
        if !cursors.is_empty() || epoch != Epoch::default() {
            if !has_cursors {
                make_cursors(&transaction).await?;
            }
            keep_cursors(&transaction, table.name(), cursors, epoch).await?;
        }
        table.write(&transaction, plan, pace).await
    };
    match written.await {
        Ok(()) => Ok(transaction.commit().await?),
        Err(failure) => {
            // Dropped, it would roll back when the connection is used again, and hold its locks until then. One that
            // cannot has lost its connection, and with it the transaction.
            drop(transaction.rollback().await);
            Err(failure)
        }
    }
}

/// Makes the table of the sources' positions, where there is none.
async fn make_cursors(transaction: &Transaction<'_>) -> Result<(), Failure> {
    // Two that make it at once would fail: one waits for the other here.
    let missing = "SELECT pg_advisory_xact_lock(hashtext('_wiredflow_cursors')) WHERE to_regclass('_wiredflow_cursors') IS NULL";
    if transaction.query_typed_opt(missing, &[]).await?.is_some() {
        let sql = "CREATE TABLE IF NOT EXISTS _wiredflow_cursors (
                       storage text NOT NULL, source text NOT NULL, position text, epoch numeric NOT NULL,
                       PRIMARY KEY (storage, source))";
        transaction.batch_execute(sql).await?;
    }
    Ok(())
}

/// Keeps the sources' positions, unless a later owner has been here.
async fn keep_cursors(
    transaction: &Transaction<'_>,
    table: &str,
    cursors: &[Cursor],
    epoch: Epoch,
) -> Result<(), Failure> {
    let sql = "INSERT INTO _wiredflow_cursors AS known (storage, source, position, epoch)
               VALUES ($1, $2, $3, $4::text::numeric)
               ON CONFLICT (storage, source) DO UPDATE SET position = excluded.position, epoch = excluded.epoch
               WHERE excluded.epoch >= known.epoch";
    let number = epoch.0.to_string();
    // The epoch of commits without a cursor has a line of its own.
    let lone = [("", None)];
    let places: Vec<(&str, Option<&str>)> = match cursors {
        [] => lone.to_vec(),
        cursors => cursors
            .iter()
            .map(|cursor| (cursor.source.as_str(), Some(cursor.position.as_str())))
            .collect(),
    };
    for (source, position) in places {
        let kept = transaction
            .execute_typed(
                sql,
                &[
                    (&table, Type::TEXT),
                    (&source, Type::TEXT),
                    (&position, Type::TEXT),
                    (&number, Type::TEXT),
                ],
            )
            .await?;
        if kept != 1 {
            return Err(Failure::from(Error::config(format!(
                "another owner has taken over `{table}`: its epoch is past {number}; stop this process"
            ))));
        }
    }
    Ok(())
}
