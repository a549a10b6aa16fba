//! Outboxes: the rows of senders, from the moment in which they are taken on until the peer has confirmed them, and a
//! while longer for those that may come again.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use wiredflow_core::Result;

use super::failure::Failure;
use super::{StateHandle, of_count, to_count, to_stored};

/// Bits of a row's number that are its own; those above name the outbox.
const NUMBER_BITS: u32 = 48;

/// One record on its way to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number in the outbox, which no other ever has.
    pub number: u64,
    /// What it is known by, beside pipeline and stage.
    pub key: Arc<str>,
    /// A digest of its body, where it may come again.
    pub digest: Option<u64>,
    /// The number of the first row that came in one parcel with it.
    pub parcel: u64,
    /// The number of the first row of its delivery in that parcel.
    pub delivery: u64,
    /// Whether the parcel was a list, whatever its length.
    pub list: bool,
    /// The params of its parcel, as JSON.
    pub params: Option<Arc<str>>,
    /// The record, as JSON.
    pub body: Arc<[u8]>,
}

/// What is no longer to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOut {
    /// Sent, and may come again: their bodies go, their keys stay.
    pub sent: Vec<u64>,
    /// These go as a whole.
    pub removed: Vec<u64>,
}

/// What the disk has of an outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundOutbox {
    /// Its id.
    pub id: i64,
    /// A number that no other outbox has.
    pub session: u64,
    /// The number of the next row.
    pub next: u64,
    /// How many rows wait, and the bytes of their bodies.
    pub waiting: (u64, u64),
    /// The newest rows that may come again: number, key, digest, and whether it is sent.
    pub known: Vec<(u64, Arc<str>, u64, bool)>,
}

impl StateHandle {
    /// Looks at the outbox of a stage, which is made if there is none. Of what is sent the `remembered` newest stay
    /// known. `session` is its number if it is made now.
    pub async fn open_outbox(
        &self,
        pipeline: &str,
        stage: &str,
        (session, remembered): (u64, usize),
    ) -> Result<FoundOutbox> {
        let (pipeline, stage) = (pipeline.to_owned(), stage.to_owned());
        self.writer
            .call(move |connection| open(connection, (&pipeline, &stage), session, remembered))
            .await
    }

    /// Keeps rows, and takes out others: all of it, or nothing. `next` is the number of the next row.
    pub async fn write_outbox(
        &self,
        id: i64,
        rows: Arc<[OutboxRow]>,
        taken: TakenOut,
        (next, now): (u64, Timestamp),
    ) -> Result<()> {
        self.writer
            .call(move |connection| {
                keep(connection, id, &rows, to_stored(now))?;
                if !rows.is_empty() {
                    connection
                        .prepare_cached("UPDATE outboxes SET next = ?2 WHERE id = ?1")?
                        .execute((id, of_count(next)))?;
                }
                take_out(connection, id, &taken)
            })
            .await
    }

    /// Reads rows that wait, from number `from` on: so many, or so many bytes, and what came in one parcel with the last.
    pub async fn read_outbox(
        &self,
        id: i64,
        from: u64,
        (most, bytes): (usize, usize),
    ) -> Result<Vec<OutboxRow>> {
        self.writer
            .call(move |connection| read(connection, id, from, (most, bytes)))
            .await
    }

    /// The outboxes in which rows wait: pipeline, stage, and how many.
    pub async fn waiting_outboxes(&self) -> Result<Vec<(String, String, u64)>> {
        self.writer
            .call(|connection| {
                let mut statement = connection.prepare(
                    "SELECT pipeline, stage, (SELECT count(*) FROM outbox WHERE body IS NOT NULL
                         AND row BETWEEN id << 48 AND (id << 48) + 281474976710655) AS waiting
                     FROM outboxes WHERE waiting > 0",
                )?;
                let rows = statement.query_map((), |row| {
                    Ok((row.get(0)?, row.get(1)?, to_count(row.get(2)?)))
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }
}

/// The row of a number.
fn row_of(id: i64, number: u64) -> i64 {
    (id << NUMBER_BITS) | of_count(number)
}

fn number_of(row: i64) -> u64 {
    row.cast_unsigned() & ((1 << NUMBER_BITS) - 1)
}

/// The first and the last row that an outbox can have.
fn range(id: i64) -> (i64, i64) {
    (row_of(id, 0), row_of(id, (1 << NUMBER_BITS) - 1))
}

fn open(
    connection: &Connection,
    names: (&str, &str),
    session: u64,
    remembered: usize,
) -> Result<FoundOutbox, Failure> {
    let found = connection
        .prepare_cached(
            "SELECT id, session, next FROM outboxes WHERE pipeline = ?1 AND stage = ?2",
        )?
        .query_row(names, |row| {
            let session: i64 = row.get(1)?;
            Ok((row.get(0)?, session.cast_unsigned(), to_count(row.get(2)?)))
        })
        .optional()?;
    let Some((id, session, next)) = found else {
        connection
            .prepare_cached(
                "INSERT INTO outboxes (pipeline, stage, session, next) VALUES (?1, ?2, ?3, 0)",
            )?
            .execute((names.0, names.1, session.cast_signed()))?;
        return Ok(FoundOutbox {
            id: connection.last_insert_rowid(),
            session,
            ..FoundOutbox::default()
        });
    };
    let (first, last) = range(id);
    let waiting = connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM outbox
             WHERE row BETWEEN ?1 AND ?2 AND body IS NOT NULL",
        )?
        .query_row((first, last), |row| {
            Ok((to_count(row.get(0)?), to_count(row.get(1)?)))
        })?;
    let mut statement = connection.prepare_cached(
        "SELECT row, key, digest, body IS NULL FROM outbox
         WHERE row BETWEEN ?1 AND ?2 AND digest IS NOT NULL ORDER BY row DESC LIMIT ?3",
    )?;
    let rows = statement.query_map((first, last, of_count(remembered as u64)), |row| {
        let (key, digest): (String, i64) = (row.get(1)?, row.get(2)?);
        let number = number_of(row.get(0)?);
        Ok((number, key.into(), digest.cast_unsigned(), row.get(3)?))
    })?;
    let mut known: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    known.reverse();
    if let Some((oldest, ..)) = known.first() {
        connection
            .prepare_cached("DELETE FROM outbox WHERE row BETWEEN ?1 AND ?2 AND body IS NULL")?
            .execute((first, row_of(id, *oldest) - 1))?;
    }
    Ok(FoundOutbox {
        id,
        session,
        next,
        waiting,
        known,
    })
}

fn keep(connection: &Connection, id: i64, rows: &[OutboxRow], now: i64) -> Result<(), Failure> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO outbox (row, key, digest, parcel, delivery, list, time, bytes, params, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for row in rows {
        insert.execute(rusqlite::params![
            row_of(id, row.number),
            &*row.key,
            row.digest.map(u64::cast_signed),
            of_count(row.parcel),
            of_count(row.delivery),
            row.list,
            now,
            of_count(row.body.len() as u64),
            row.params.as_deref(),
            &row.body[..],
        ])?;
    }
    Ok(())
}

fn take_out(connection: &Connection, id: i64, taken: &TakenOut) -> Result<(), Failure> {
    let mut empty =
        connection.prepare_cached("UPDATE outbox SET body = NULL, params = NULL WHERE row = ?1")?;
    for number in &taken.sent {
        empty.execute([row_of(id, *number)])?;
    }
    let mut remove = connection.prepare_cached("DELETE FROM outbox WHERE row = ?1")?;
    for number in &taken.removed {
        remove.execute([row_of(id, *number)])?;
    }
    Ok(())
}

fn read(
    connection: &Connection,
    id: i64,
    from: u64,
    (most, most_bytes): (usize, usize),
) -> Result<Vec<OutboxRow>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT row, key, digest, parcel, delivery, list, params, body FROM outbox
         WHERE row BETWEEN ?1 AND ?2 AND body IS NOT NULL ORDER BY row",
    )?;
    let (_, last) = range(id);
    let mut found = statement.query((row_of(id, from), last))?;
    let (mut rows, mut bytes): (Vec<OutboxRow>, usize) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let parcel = to_count(row.get(3)?);
        let is_full = rows.len() >= most || bytes >= most_bytes;
        if is_full && rows.last().is_some_and(|last| last.parcel != parcel) {
            break;
        }
        let (key, params): (String, Option<String>) = (row.get(1)?, row.get(6)?);
        let digest: Option<i64> = row.get(2)?;
        let body: Vec<u8> = row.get(7)?;
        bytes += body.len();
        rows.push(OutboxRow {
            number: number_of(row.get(0)?),
            key: key.into(),
            digest: digest.map(i64::cast_unsigned),
            parcel,
            delivery: to_count(row.get(4)?),
            list: row.get(5)?,
            params: params.map(Into::into),
            body: body.into(),
        });
    }
    Ok(rows)
}
