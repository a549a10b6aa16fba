//! Inboxes: what sources have brought and pipelines have not dealt with yet.
//!
//! A row's number counts up in its inbox and is never used again. A row goes when it is dealt with and has newer rows
//! behind it; until then it tells that its delivery was here, should the source bring it again.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, Row};
use wiredflow_core::delivery::Identity;
use wiredflow_core::{Error, Result};

use super::failure::Failure;
use super::{StateHandle, to_count, unknown_word};

/// The bits of a row's id that are its number; those above are its inbox.
const NUMBER_BITS: u32 = 48;

/// An inbox as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredInbox {
    /// Names it in the calls below.
    pub id: i64,
    /// Drawn when it was made: its deliveries are known by it.
    pub session: u64,
    /// Rows with lower numbers are dealt with.
    pub low: u64,
    /// The number of the next row.
    pub next: u64,
    /// Rows from `low` on that are dealt with.
    pub dealt: Vec<u64>,
    /// How many rows wait, and the bytes of their bodies.
    pub waiting: (u64, u64),
    /// What the newest deliveries are known by.
    pub known: Vec<(u64, Identity)>,
}

/// A delivery in an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    /// Its number.
    pub number: u64,
    /// What its source knows it by.
    pub identity: Option<Identity>,
    /// Where it came from.
    pub origin: Option<Arc<str>>,
    /// What its body is.
    pub form: InboxForm,
    /// What arrived.
    pub body: Bytes,
}

/// What the body of a row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxForm {
    /// One JSON document, as it came.
    Json,
    /// A list of the values that the source made.
    Values,
    /// Nothing that the source could read, and why.
    Unreadable(String),
    /// There was none.
    Empty,
}

impl InboxForm {
    fn word(&self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Values => "values",
            Self::Unreadable(_) => "unreadable",
            Self::Empty => "empty",
        }
    }
}

impl StateHandle {
    /// The inbox of a pipeline, which is made if it is not there. Of the newest `remembered` rows it tells what they
    /// are known by.
    pub async fn open_inbox(&self, pipeline: &str, remembered: u64) -> Result<StoredInbox> {
        let pipeline = pipeline.to_owned();
        self.writer
            .call(move |connection| open(connection, &pipeline, remembered))
            .await
    }

    /// What the rows from `number` on are known by, and the sizes of their bodies, in order.
    pub async fn inbox_heads(
        &self,
        id: i64,
        number: u64,
    ) -> Result<Vec<(Option<Identity>, usize)>> {
        let rows = ids(id, number..u64::MAX);
        self.writer
            .call(move |connection| {
                let mut heads = connection.prepare_cached(
                    "SELECT session, place, print, length(body) FROM inbox
                     WHERE row >= ?1 AND row < ?2 ORDER BY row",
                )?;
                let head = |row: &Row<'_>| {
                    let size = usize::try_from(row.get::<_, i64>(3)?).unwrap_or(usize::MAX);
                    Ok((read_identity(row, 0)?, size))
                };
                let heads = heads.query_map((rows.start, rows.end), head)?;
                Ok(heads.collect::<rusqlite::Result<Vec<_>>>()?)
            })
            .await
    }

    /// Keeps deliveries, all of them or none. Their numbers are new.
    pub async fn put_into_inbox(&self, id: i64, rows: Arc<[InboxRow]>) -> Result<()> {
        if rows.iter().any(|row| row.number >> NUMBER_BITS > 0) {
            return Err(Error::bug("the inbox has no more numbers"));
        }
        self.writer
            .call(move |connection| put(connection, id, &rows))
            .await
    }

    /// The rows of these numbers that are not dealt with: in order, at most so many, and no more of them when their
    /// bodies together are longer than `most_bytes`.
    pub async fn read_inbox(
        &self,
        id: i64,
        numbers: Range<u64>,
        most: usize,
        most_bytes: usize,
    ) -> Result<Vec<InboxRow>> {
        self.writer
            .call(move |connection| read(connection, ids(id, numbers.clone()), most, most_bytes))
            .await
    }

    /// Notes that all rows below `low` and those of `dealt` are dealt with, and removes those below `forget`.
    pub async fn settle_inbox(
        &self,
        id: i64,
        low: u64,
        dealt: Vec<u64>,
        forget: u64,
    ) -> Result<()> {
        self.writer
            .call(move |connection| {
                connection
                    .prepare_cached("UPDATE inboxes SET low = max(low, ?2) WHERE id = ?1")?
                    .execute((id, number_to_stored(low)))?;
                let mut mark = connection
                    .prepare_cached("UPDATE inbox SET dealt = 1, body = x'' WHERE row = ?1")?;
                for number in &dealt {
                    mark.execute([ids(id, *number..*number).start])?;
                }
                let gone = ids(id, 0..forget);
                connection
                    .prepare_cached("DELETE FROM inbox WHERE row >= ?1 AND row < ?2")?
                    .execute((gone.start, gone.end))?;
                Ok(())
            })
            .await
    }

    /// The pipelines in whose inboxes deliveries wait.
    pub async fn waiting_inboxes(&self) -> Result<Vec<String>> {
        self.writer
            .call(move |connection| {
                let waits = format!(
                    "SELECT pipeline FROM inboxes WHERE EXISTS (
                         SELECT 1 FROM inbox WHERE dealt = 0 AND row >= (id << {NUMBER_BITS}) + low
                             AND row < (id + 1) << {NUMBER_BITS})"
                );
                let mut waits = connection.prepare(&waits)?;
                let names = waits.query_map((), |row| row.get(0))?;
                Ok(names.collect::<rusqlite::Result<Vec<_>>>()?)
            })
            .await
    }
}

/// The ids of rows with these numbers.
fn ids(inbox: i64, numbers: Range<u64>) -> Range<i64> {
    let most = 1 << NUMBER_BITS;
    let id = |number: u64| (inbox << NUMBER_BITS) + number_to_stored(number.min(most));
    id(numbers.start)..id(numbers.end)
}

fn number_to_stored(number: u64) -> i64 {
    number.min(1 << NUMBER_BITS).cast_signed()
}

fn number_of(row: i64) -> u64 {
    row.cast_unsigned() & ((1 << NUMBER_BITS) - 1)
}

fn open(connection: &Connection, pipeline: &str, remembered: u64) -> Result<StoredInbox, Failure> {
    connection
        .prepare_cached(
            "INSERT INTO inboxes (pipeline, session, low) VALUES (?1, random(), 1) ON CONFLICT DO NOTHING",
        )?
        .execute([pipeline])?;
    let (id, session, low): (i64, i64, i64) = connection
        .prepare_cached("SELECT id, session, low FROM inboxes WHERE pipeline = ?1")?
        .query_row([pipeline], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let low = to_count(low);
    let all = ids(id, 0..u64::MAX);
    let newest: Option<i64> = connection
        .prepare_cached("SELECT max(row) FROM inbox WHERE row >= ?1 AND row < ?2")?
        .query_row((all.start, all.end), |row| row.get(0))?;
    let next = newest.map_or(low, |row| number_of(row) + 1).max(low);
    let live = ids(id, low..u64::MAX);
    let waiting: (i64, i64) = connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM inbox
             WHERE row >= ?1 AND row < ?2 AND dealt = 0",
        )?
        .query_row((live.start, live.end), |row| Ok((row.get(0)?, row.get(1)?)))?;
    // Far behind `low` nothing is marked: no more is under way than is remembered.
    let window = ids(id, low..low.saturating_add(remembered));
    let mut dealt = connection
        .prepare_cached("SELECT row FROM inbox WHERE row >= ?1 AND row < ?2 AND dealt = 1")?;
    let dealt = dealt.query_map((window.start, window.end), |row| Ok(number_of(row.get(0)?)))?;
    let dealt = dealt.collect::<rusqlite::Result<Vec<_>>>()?;
    let newest = ids(id, next.saturating_sub(remembered)..u64::MAX);
    let mut known = connection.prepare_cached(
        "SELECT session, place, print, row FROM inbox
         WHERE row >= ?1 AND row < ?2 AND session IS NOT NULL ORDER BY row",
    )?;
    let one = |row: &Row<'_>| Ok((number_of(row.get(3)?), read_identity(row, 0)?));
    let known = known.query_map((newest.start, newest.end), one)?;
    let known = known.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(StoredInbox {
        id,
        session: session.cast_unsigned(),
        low,
        next,
        dealt,
        waiting: (to_count(waiting.0), to_count(waiting.1)),
        known: known
            .into_iter()
            .filter_map(|(number, identity)| Some((number, identity?)))
            .collect(),
    })
}

fn put(connection: &Connection, inbox: i64, rows: &[InboxRow]) -> Result<(), Failure> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO inbox (row, session, place, print, origin, form, reason, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for row in rows {
        let reason = match &row.form {
            InboxForm::Unreadable(reason) => Some(reason),
            InboxForm::Json | InboxForm::Values | InboxForm::Empty => None,
        };
        insert.execute(rusqlite::params![
            ids(inbox, row.number..row.number).start,
            row.identity.map(|identity| identity.session.cast_signed()),
            row.identity.map(|identity| identity.place),
            row.identity.map(|identity| identity.print.cast_signed()),
            row.origin.as_deref(),
            row.form.word(),
            reason,
            &row.body[..],
        ])?;
    }
    Ok(())
}

fn read(
    connection: &Connection,
    rows: Range<i64>,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<InboxRow>, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT session, place, print, row, origin, form, reason, body FROM inbox
         WHERE row >= ?1 AND row < ?2 AND dealt = 0 ORDER BY row LIMIT ?3",
    )?;
    let mut found = select.query((
        rows.start,
        rows.end,
        i64::try_from(most).unwrap_or(i64::MAX),
    ))?;
    let (mut read, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let one = read_row(row)?;
        bytes += one.body.len();
        read.push(one);
        if bytes > most_bytes {
            break;
        }
    }
    Ok(read)
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<InboxRow> {
    let origin: Option<String> = row.get(4)?;
    let form: String = row.get(5)?;
    let reason: Option<String> = row.get(6)?;
    let body: Vec<u8> = row.get(7)?;
    Ok(InboxRow {
        number: number_of(row.get(3)?),
        identity: read_identity(row, 0)?,
        origin: origin.map(Arc::from),
        form: match (form.as_str(), reason) {
            ("json", _) => InboxForm::Json,
            ("values", _) => InboxForm::Values,
            ("unreadable", reason) => InboxForm::Unreadable(reason.unwrap_or_default()),
            ("empty", _) => InboxForm::Empty,
            _ => return Err(unknown_word()),
        },
        body: body.into(),
    })
}

/// Reads session, place and print; it says that the delivery came before.
fn read_identity(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Identity>> {
    let Some(session) = row.get::<_, Option<i64>>(first)? else {
        return Ok(None);
    };
    Ok(Some(Identity {
        session: session.cast_unsigned(),
        place: row.get(first + 1)?,
        print: row.get::<_, i64>(first + 2)?.cast_unsigned(),
        again: true,
    }))
}
