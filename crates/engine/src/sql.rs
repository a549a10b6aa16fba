//! SQL over the flow's storages and the batch at hand, by SQLite in memory.
//!
//! Each storage that a query mentions is a table of its name: an SQLite storage as a view of the real file, which
//! is opened for reading only; any other as a copy of what is stored. `input` is the batch. A query is one SELECT:
//! whatever else is refused before it runs.

pub(crate) mod names;
mod refused;
mod session;
mod tables;
pub(crate) mod values;
pub(crate) mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use wiredflow_core::{Batch, Error, Map, Result, Value};

use crate::storages::StorageHandles;
use session::Session;

/// The table of the batch at hand.
pub(crate) const INPUT: &str = "input";

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
                session.add(table, &[], false)?;
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

#[cfg(test)]
mod tests;
