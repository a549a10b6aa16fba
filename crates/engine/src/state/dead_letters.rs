//! Dead letters: what could not be handled, kept with the reason so that a person can look and replay.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use wiredflow_core::{Error, ErrorKind, Result};

use super::failure::Failure;
use super::{StateHandle, from_stored, of_count, to_count, to_stored, unknown_word};

/// What is set aside. Reason, trace and params are scrubbed of secrets by whoever makes it; the body
/// is the user's data and is kept as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The pipeline that it was in.
    pub pipeline: String,
    /// The stage or source that could not handle it.
    pub stage: String,
    /// Whose fault it was.
    pub kind: ErrorKind,
    /// Why, in words.
    pub reason: String,
    /// The trace of the user's code.
    pub trace: Option<String>,
    /// When the last attempt failed.
    pub time: Timestamp,
    /// The delivery that it came with, where its source can tell one that comes again.
    pub delivery: Option<String>,
    /// Whether that delivery may have come before: then the same letter is not kept twice.
    pub again: bool,
    /// Attempts that were made.
    pub attempts: u32,
    /// Where a payload came from: a topic, an address.
    pub origin: Option<String>,
    /// Params that the stage had.
    pub params: Option<Map<String, Value>>,
    /// The places in the params where secrets stood, from [`Scrubber::keep`](wiredflow_core::secret::Scrubber::keep).
    pub secrets: Option<Value>,
    /// What could not be handled.
    pub body: Body,
}

/// What could not be handled.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A record.
    Json(Value),
    /// The records of a call that failed as a whole.
    Batch(Vec<Value>),
    /// A payload that could not be read.
    Bytes(Bytes),
}

/// Names a dead letter, for ever and in any state: later ones sort behind earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DeadLetterId(pub(super) String);

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A dead letter as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedDeadLetter {
    /// Its name.
    pub id: DeadLetterId,
    /// The pipeline that it was in.
    pub pipeline: String,
    /// The stage or source that could not handle it.
    pub stage: String,
    /// Why, in words.
    pub reason: String,
    /// When the last attempt failed.
    pub time: Timestamp,
    /// The size of its body as it is kept.
    pub bytes: u64,
}

/// A dead letter with all that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredDeadLetter {
    /// What a list shows.
    #[serde(flatten)]
    pub listed: ListedDeadLetter,
    /// Whose fault it was: the word of an [`ErrorKind`].
    pub kind: String,
    /// The trace of the user's code.
    pub trace: Option<String>,
    /// The delivery that it came with.
    pub delivery: Option<String>,
    /// Attempts that were made.
    pub attempts: u32,
    /// Params that the stage had.
    pub params: Option<Map<String, Value>>,
    /// What could not be handled.
    pub body: Body,
    /// Where a payload came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Since when it is asked for: it is replayed when its flow runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// See [`DeadLetter::secrets`].
    #[serde(skip)]
    pub secrets: Option<Value>,
    /// Whether the body is here as text because it is nested too deep to be read: it cannot be replayed.
    #[serde(skip)]
    pub too_deep: bool,
    /// Whether it is of a version that did not note where secrets stood in its params.
    #[serde(skip)]
    pub is_old: bool,
}

impl Serialize for Body {
    /// JSON as itself, records as an array, bytes as `{"base64": "…"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(value) => value.serialize(serializer),
            Self::Batch(values) => values.serialize(serializer),
            Self::Bytes(bytes) => {
                serializer.collect_map([("base64", BASE64_STANDARD.encode(bytes))])
            }
        }
    }
}

impl StateHandle {
    /// Sets something aside and gives the name that it can be found by.
    ///
    /// # Errors
    /// As every call; the letter is safe only after `Ok`, so its source may be acked only then.
    pub async fn dead_letter(&self, letter: DeadLetter) -> Result<DeadLetterId> {
        // Made into text here, on the caller's thread: the writer's time is everyone's.
        let row = RowTexts::of(&letter)?;
        self.writer
            .call(move |connection| insert(connection, &letter, &row))
            .await
    }
}

/// The parts of a letter that are stored in another form.
pub(super) struct RowTexts {
    pub(super) encoding: &'static str,
    pub(super) is_batch: bool,
    pub(super) body: Bytes,
    pub(super) params: Option<String>,
    pub(super) secrets: Option<String>,
}

impl RowTexts {
    pub(super) fn of(letter: &DeadLetter) -> Result<Self> {
        let told =
            |error: serde_json::Error| Error::bug(format!("a dead letter has no text: {error}"));
        let (encoding, body) = match &letter.body {
            Body::Json(value) => ("json", serde_json::to_vec(value).map_err(told)?.into()),
            Body::Batch(values) => ("json", serde_json::to_vec(values).map_err(told)?.into()),
            Body::Bytes(bytes) => ("bytes", bytes.clone()),
        };
        let params = letter.params.as_ref().map(serde_json::to_string);
        let secrets = letter.secrets.as_ref().map(serde_json::to_string);
        Ok(Self {
            encoding,
            is_batch: matches!(letter.body, Body::Batch(_)),
            body,
            params: params.transpose().map_err(told)?,
            secrets: secrets.transpose().map_err(told)?,
        })
    }
}

pub(super) fn insert(
    connection: &Connection,
    letter: &DeadLetter,
    row: &RowTexts,
) -> Result<DeadLetterId, Failure> {
    if letter.again
        && let Some(id) = same(connection, letter, row)?
    {
        return Ok(id);
    }
    let id = next_id(connection, letter.time)?;
    connection
        .prepare_cached(
            "INSERT INTO dead_letters (id, pipeline, stage, time, bytes, attempts, kind, delivery,
                 reason, trace, params, body_encoding, body, is_batch, origin, secrets)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(rusqlite::params![
            id.0,
            letter.pipeline,
            letter.stage,
            to_stored(letter.time),
            of_count(row.body.len() as u64),
            letter.attempts,
            letter.kind.word(),
            letter.delivery,
            letter.reason,
            letter.trace,
            row.params,
            row.encoding,
            &row.body[..],
            row.is_batch,
            letter.origin,
            row.secrets,
        ])?;
    Ok(id)
}

/// The letter that an earlier arrival of the same delivery has left.
fn same(
    connection: &Connection,
    letter: &DeadLetter,
    row: &RowTexts,
) -> Result<Option<DeadLetterId>, Failure> {
    let found = connection
        .prepare_cached(
            "SELECT id FROM dead_letters
             WHERE delivery = ?1 AND pipeline = ?2 AND stage = ?3 AND body = ?4",
        )?
        .query_row(
            (
                &letter.delivery,
                &letter.pipeline,
                &letter.stage,
                &row.body[..],
            ),
            |row| row.get(0),
        )
        .optional()?;
    Ok(found.map(DeadLetterId))
}

/// Digits whose order as text is their order as numbers, without letters that read alike.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Ten digits of the time and ten of chance, so that ids of several machines can be put together.
const HALF: usize = 10;
const HALF_MASK: u64 = (1 << (5 * HALF)) - 1;

/// The next id: after every other of this state, also when the clock was set back.
fn next_id(connection: &Connection, time: Timestamp) -> Result<DeadLetterId, Failure> {
    let (newest, chance): (Option<String>, i64) = connection
        .prepare_cached("SELECT max(id), random() FROM dead_letters")?
        .query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut id = (milliseconds(time), chance.cast_unsigned() & HALF_MASK);
    if let Some(newest) = newest.as_deref().and_then(decode)
        && id <= newest
    {
        id = match newest {
            (time, HALF_MASK) => (time + 1, 0),
            (time, chance) => (time, chance + 1),
        };
    }
    Ok(DeadLetterId(encode(id.0) + &encode(id.1)))
}

/// The ids of letters of `time` and later are not less than this.
pub(super) fn first_id_of(time: Timestamp) -> String {
    encode(milliseconds(time))
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(to_stored(time)).unwrap_or(0)
}

fn encode(number: u64) -> String {
    let digit = |place: usize| char::from(DIGITS[(number >> (5 * place)) as usize % DIGITS.len()]);
    (0..HALF).rev().map(digit).collect()
}

fn decode(id: &str) -> Option<(u64, u64)> {
    let half = |text: &str| {
        text.bytes().try_fold(0u64, |number, byte| {
            let digit = DIGITS.iter().position(|digit| *digit == byte)?;
            Some(number << 5 | digit as u64)
        })
    };
    let (time, chance) = id.split_at_checked(HALF)?;
    Some((half(time)?, half(chance)?)).filter(|_| chance.len() == HALF)
}

pub(super) const LISTED_COLUMNS: &str = "id, pipeline, stage, reason, time, bytes";

pub(super) const COLUMNS: &str = "id, pipeline, stage, reason, time, bytes, kind, trace, delivery, \
                                  attempts, params, body_encoding, body, is_batch, origin, asked, \
                                  secrets";

/// Reads a row of [`LISTED_COLUMNS`].
pub(super) fn read_listed(row: &Row<'_>) -> rusqlite::Result<ListedDeadLetter> {
    Ok(ListedDeadLetter {
        id: DeadLetterId(row.get(0)?),
        pipeline: row.get(1)?,
        stage: row.get(2)?,
        reason: row.get(3)?,
        time: from_stored(row.get(4)?)?,
        bytes: to_count(row.get(5)?),
    })
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read_stored(row: &Row<'_>) -> rusqlite::Result<StoredDeadLetter> {
    let params: Option<String> = row.get(10)?;
    let secrets: Option<String> = row.get(16)?;
    let asked: Option<i64> = row.get(15)?;
    let (body, too_deep) = read_body(row)?;
    Ok(StoredDeadLetter {
        listed: read_listed(row)?,
        kind: row.get(6)?,
        trace: row.get(7)?,
        delivery: row.get(8)?,
        attempts: row.get(9)?,
        params: params.and_then(|text| serde_json::from_str(&text).ok()),
        body,
        origin: row.get(14)?,
        asked: asked.map(from_stored).transpose()?,
        secrets: secrets.and_then(|text| serde_json::from_str(&text).ok()),
        too_deep,
        is_old: row.get::<_, Option<bool>>(13)?.is_none(),
    })
}

/// The body of a row, and whether it is only its text.
fn read_body(row: &Row<'_>) -> rusqlite::Result<(Body, bool)> {
    let encoding: String = row.get(11)?;
    let body: Vec<u8> = row.get(12)?;
    // A letter of an older version does not say whether its array is a record or the records of a call.
    let is_batch: Option<bool> = row.get(13)?;
    match encoding.as_str() {
        "json" => Ok(match serde_json::from_slice(&body) {
            Ok(Value::Array(records)) if is_batch.unwrap_or(true) => (Body::Batch(records), false),
            Ok(value) => (Body::Json(value), false),
            // A record may be nested deeper than the reader follows; then its text is shown.
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                (Body::Json(Value::String(text.into())), true)
            }
        }),
        "bytes" => Ok((Body::Bytes(body.into()), false)),
        _ => Err(unknown_word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_they_were_made_even_when_the_clock_goes_back() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE dead_letters (id TEXT PRIMARY KEY);")
            .unwrap();
        let mut ids = Vec::new();
        for second in [
            1_800_000_000,
            1_800_000_000,
            1_700_000_000,
            0,
            1_800_000_001,
        ] {
            let time = Timestamp::from_second(second).unwrap();
            let id = next_id(&connection, time).unwrap();
            assert_eq!(id.0.len(), 2 * HALF);
            connection
                .execute("INSERT INTO dead_letters VALUES (?1)", [&id.0])
                .unwrap();
            ids.push(id);
        }
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        let newest = Timestamp::from_second(1_800_000_001).unwrap();
        assert!(ids[3].0 < first_id_of(newest) && first_id_of(newest) < ids[4].0);
    }

    #[test]
    fn an_id_after_the_last_of_its_millisecond_takes_the_next() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE dead_letters (id TEXT PRIMARY KEY);")
            .unwrap();
        let last = encode(1000) + &encode(HALF_MASK);
        assert_eq!(decode(&last), Some((1000, HALF_MASK)));
        connection
            .execute("INSERT INTO dead_letters VALUES (?1)", [&last])
            .unwrap();
        let time = Timestamp::from_millisecond(1000).unwrap();
        assert_eq!(
            next_id(&connection, time).unwrap().0,
            encode(1001) + &encode(0)
        );
    }
}
