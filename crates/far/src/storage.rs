//! A storage that the host holds, read and written by frames.

use std::collections::VecDeque;
use std::sync::Arc;

use wiredflow_core::frame::{Frame, Load, Payload, Save};
use wiredflow_core::storage::{CommitReceipt, Cursor, Fence, Loaded, Query, SqlView, Storage};
use wiredflow_core::{Map, Result, Value};
use wiredflow_engine::remotes::Held;

use crate::desk::Desk;

/// See the module.
#[derive(Debug)]
pub(crate) struct HostStorage {
    name: Arc<str>,
    texts: bool,
    desk: Desk,
}

impl HostStorage {
    /// One of the host's storages.
    pub(crate) fn new(held: &Held, desk: &Desk) -> Self {
        Self {
            name: held.name.as_str().into(),
            texts: held.texts,
            desk: desk.clone(),
        }
    }
}

impl Storage for HostStorage {
    /// Safe when the host says so, after its own commit, in which it looks whether it still owns what it writes to.
    fn commit(&mut self, rows: &[&Value], _: &[Cursor], _: &Fence) -> Result<CommitReceipt> {
        let values: Vec<Value> = rows.iter().map(|row| (*row).clone()).collect();
        self.desk.ask_blocking(|id| {
            Frame::Save(Save {
                id,
                call: None,
                storage: self.name.to_string(),
                batch: (!values.is_empty()).then_some(Payload::Many(values)),
            })
        })?;
        Ok(CommitReceipt::issue(Arc::clone(&self.name), rows.len()))
    }

    /// What comes again is known where the storage is.
    fn cursor(&mut self, _source: &str) -> Result<Option<String>> {
        Ok(None)
    }

    fn load(&mut self, query: &Query) -> Result<Loaded> {
        let mut asked = Map::new();
        let plain = *query
            == Query {
                limit: query.limit,
                ..Query::default()
            };
        if let Some(limit) = query.limit.filter(|_| plain) {
            asked.insert("limit".to_owned(), Value::from(limit));
        }
        let rows = self.desk.ask_blocking(|id| {
            Frame::Load(Load {
                id,
                call: None,
                storage: self.name.to_string(),
                query: asked,
            })
        })?;
        Ok(match rows {
            None => Loaded::Nothing,
            Some(Payload::One(Value::Object(object))) => query.of_object(Some(object)),
            Some(Payload::One(row)) => kept(query, vec![row]),
            Some(Payload::Many(rows)) => kept(query, rows),
        })
    }

    fn sql_view(&self) -> SqlView {
        match self.texts {
            true => SqlView::Texts,
            false => SqlView::Rows,
        }
    }
}

fn kept(query: &Query, rows: Vec<Value>) -> Loaded {
    let mut kept = VecDeque::with_capacity(rows.len());
    for row in rows {
        query.keep(&mut kept, row);
    }
    Loaded::Rows(kept.into())
}
