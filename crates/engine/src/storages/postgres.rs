//! `postgres`: a table of a PostgreSQL database that other flows and other programs share, with rows and the source's
//! cursor in one transaction.
//!
//! One column for each top-level field, added when its first value is seen and of that value's type: `numeric` for numbers,
//! which are exact, `boolean`, `text`, and `jsonb` for what is nested. In a table that was there before, the server makes of
//! each value what its column says, such as a `timestamptz`. A field that is null makes no column; a null and a missing
//! field are both NULL and loaded as null.

mod cursors;
mod failure;
mod server;
mod table;

use std::sync::Arc;

use tokio_postgres::{Client, Config as Address};
use wiredflow_core::config;
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::storage::{CommitReceipt, Cursor, Fence, Loaded, Mapping, Query, Storage};
use wiredflow_core::{Result, Value};

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
    /// As in an SQLite file: the owner's epoch is looked at in the transaction of the rows, and a commit of an earlier owner
    /// is refused with all of them.
    fn commit(
        &mut self,
        rows: &[&Value],
        cursors: &[Cursor],
        fence: &Fence,
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
                let commit = (&plan, cursors, fence, has_cursors);
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
            self.has_cursors |= !cursors.is_empty() || fence.stands();
        }
        Ok(CommitReceipt::issue(Arc::clone(&self.name), rows.len()))
    }

    fn cursor(&mut self, source: &str) -> Result<Option<String>> {
        let table = self.table.name();
        let found = self
            .server
            .run(async |client| cursors::position(client, table, source).await);
        found.map_err(|failure| failure.into_error(self.server.told()))
    }

    fn take_over(&mut self, fence: &Fence) -> Result<()> {
        let table = self.table.name();
        let taken = self
            .server
            .run(async |client| cursors::take_over(client, table, fence).await);
        taken.map_err(|failure| failure.into_error(self.server.told()))?;
        self.has_cursors |= fence.stands();
        Ok(())
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
    (plan, cursors, fence, has_cursors): (&Plan, &[Cursor], &Fence, bool),
    pace: Pace,
) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    let written = async {
        if !cursors.is_empty() || fence.stands() {
            if !has_cursors {
                cursors::make(&transaction).await?;
            }
            // First: what the owner may not do is not even begun.
            cursors::check(&transaction, table.name(), fence).await?;
            cursors::set(&transaction, table.name(), cursors, fence.epoch).await?;
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
