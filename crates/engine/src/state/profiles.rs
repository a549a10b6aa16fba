//! What was measured of a flow, kept by the minute, and by the hour when it is older.
//!
//! A row has the figures of a time as the flow counted them, as compressed JSON behind a byte that names the form. Rows do
//! not overlap; a time without any work is part of the row that ends it.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use jiff::{SignedDuration, Timestamp};
use wiredflow_core::{Error, Result};
use wiredflow_scale::figures::FlowFigures;

use super::read::StateReader;
use super::{StateHandle, from_stored, to_stored};

/// How long rows stay as they were written.
pub const PROFILE_MINUTES: SignedDuration = SignedDuration::from_hours(6);

/// How long those are kept that were made of them.
pub const PROFILE_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What old rows are put together to.
const HOUR: i64 = 3_600_000;

/// The first byte of a row's figures.
const FORM: u8 = 1;

/// The most bytes that the figures of a row are read to.
const MOST: u64 = 64 << 20;

/// What was measured of a flow in a time.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptProfile {
    /// From when on.
    pub begin: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// What was counted in it: as if the flow had begun and ended with it.
    pub figures: FlowFigures,
}

impl KeptProfile {
    /// This time and a later one together.
    #[must_use]
    pub fn and_then(&self, later: &Self) -> Self {
        Self {
            begin: self.begin,
            end: later.end.max(self.end),
            figures: self.figures.and_then(&later.figures),
        }
    }
}

/// A row as it stands in the table.
type Stored = (i64, i64, Vec<u8>);

impl StateHandle {
    /// Keeps what was measured.
    pub async fn keep_profile(&self, kept: &KeptProfile) -> Result<()> {
        let (begin, ended) = (to_stored(kept.begin), to_stored(kept.end));
        let figures = packed(&kept.figures)?;
        self.writer
            .call(move |connection| {
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO profiles (begin, ended, hour, figures) VALUES (?1, ?2, 0, ?3)",
                    )?
                    .execute((begin, ended, &figures))?;
                Ok(())
            })
            .await
    }

    /// Makes one row of those of each hour that are old, and drops what is older than all is kept. Gives how many
    /// rows it has put together.
    pub async fn thin_profiles(&self, now: Timestamp) -> Result<usize> {
        let before =
            |age: SignedDuration| to_stored(now.checked_sub(age).unwrap_or(Timestamp::MIN));
        let (minutes, all) = (before(PROFILE_MINUTES), before(PROFILE_AGE));
        let mut thinned = 0;
        loop {
            let rows: Vec<Stored> = self
                .writer
                .call(move |connection| {
                    connection
                        .prepare_cached("DELETE FROM profiles WHERE ended < ?1")?
                        .execute([all])?;
                    // The whole of an hour, and only when all of it is old.
                    let mut rows = connection.prepare_cached(
                        "SELECT begin, ended, figures FROM profiles WHERE hour = 0 AND begin / ?2 = (
                             SELECT min(begin) / ?2 FROM profiles WHERE hour = 0
                         ) AND (begin / ?2 + 1) * ?2 <= ?1 ORDER BY begin",
                    )?;
                    let rows = rows.query_map((minutes, HOUR), |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })?;
                    Ok(rows.collect::<rusqlite::Result<_>>()?)
                })
                .await?;
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
                return Ok(thinned);
            };
            let (begin, ended, last_begin) = (first.0, last.1, last.0);
            thinned += rows.len();
            // What cannot be read is of another version: it goes with the others.
            let figures = rows.iter().filter_map(|row| unpacked(&row.2).ok());
            let whole = figures.reduce(|all, next| all.and_then(&next));
            let whole = whole.map(|whole| packed(&whole)).transpose()?;
            self.writer
                .call(move |connection| {
                    connection
                        .prepare_cached(
                            "DELETE FROM profiles WHERE hour = 0 AND begin BETWEEN ?1 AND ?2",
                        )?
                        .execute((begin, last_begin))?;
                    if let Some(figures) = &whole {
                        connection
                            .prepare_cached(
                                "INSERT OR REPLACE INTO profiles (begin, ended, hour, figures) VALUES (?1, ?2, 1, ?3)",
                            )?
                            .execute((begin, ended, figures))?;
                    }
                    Ok(())
                })
                .await?;
        }
    }
}

impl StateReader {
    /// What was measured in the rows that end after `from` and begin before `until`, in order.
    pub fn profiles(&self, from: Timestamp, until: Timestamp) -> Result<Vec<KeptProfile>> {
        let rows: Vec<(Timestamp, Timestamp, Vec<u8>)> = self.rows(
            "SELECT begin, ended, figures FROM profiles WHERE ended > ?1 AND begin < ?2 ORDER BY begin",
            (to_stored(from), to_stored(until)),
            |row| Ok((from_stored(row.get(0)?)?, from_stored(row.get(1)?)?, row.get(2)?)),
        )?;
        let kept = |(begin, end, figures): (_, _, Vec<u8>)| {
            let figures = unpacked(&figures)?;
            Ok(KeptProfile {
                begin,
                end,
                figures,
            })
        };
        rows.into_iter().map(kept).collect()
    }
}

fn packed(figures: &FlowFigures) -> Result<Vec<u8>> {
    let cannot =
        |error: &dyn std::fmt::Display| Error::bug(format!("figures cannot be packed: {error}"));
    let text = serde_json::to_vec(figures).map_err(|error| cannot(&error))?;
    let mut encoder = DeflateEncoder::new(vec![FORM], Compression::fast());
    encoder.write_all(&text).map_err(|error| cannot(&error))?;
    encoder.finish().map_err(|error| cannot(&error))
}

fn unpacked(bytes: &[u8]) -> Result<FlowFigures> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Error::config(format!(
            "what was measured before cannot be read by this version: {why}"
        ))
    };
    let Some((&FORM, packed)) = bytes.split_first() else {
        return Err(unreadable(&"its form is another"));
    };
    let mut text = Vec::new();
    let mut decoder = DeflateDecoder::new(packed).take(MOST);
    decoder
        .read_to_end(&mut text)
        .map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&text).map_err(|error| unreadable(&error))
}
