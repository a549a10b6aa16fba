//! What `load` with `since: last_run` has given, and what of it counts: the runs that have ended well.
//!
//! A position is the number of rows that were given, and a digest of the last of them. So rows that were removed by
//! hand before them, or a file that was replaced, are noticed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wiredflow_core::storage::Cursor;
use wiredflow_core::{Result, Value};

use crate::state::StateHandle;

/// How many of the last rows that were given are digested together: two equal rows are nothing rare.
const DIGESTED: usize = 8;

/// The positions of one pipeline's loads. A cheap clone.
#[derive(Clone, Debug)]
pub struct Positions {
    pipeline: Arc<str>,
    state: Option<StateHandle>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// What counts.
    counts: BTreeMap<Arc<str>, Position>,
    /// What the run under way was given.
    given: BTreeMap<Arc<str>, Position>,
}

/// How far a load has read a storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The rows that were given or passed over.
    rows: usize,
    /// A digest of the last of them.
    print: String,
}

/// Where the new rows of a storage begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At this place.
    At(usize),
    /// At the beginning, though rows were given before: they are not there any more.
    Anew,
}

impl Positions {
    /// The positions of a pipeline's loads; without a state they are forgotten with the process.
    pub fn of(pipeline: Arc<str>, state: Option<StateHandle>) -> Self {
        Self {
            pipeline,
            state,
            known: Arc::default(),
        }
    }

    /// How far a load has come with the runs that have ended well.
    pub(crate) async fn position(&self, stage: &Arc<str>) -> Result<Position> {
        if let Some(position) = self.lock().counts.get(stage) {
            return Ok(position.clone());
        }
        let source = self.source(stage);
        let stored = match &self.state {
            Some(state) => state.cursor(&self.pipeline, &source).await?,
            None => None,
        };
        let read = |text: &str| serde_json::from_str(text).unwrap_or_default();
        let position: Position = stored.map_or_else(Position::default, |one| read(&one.position));
        self.lock()
            .counts
            .insert(Arc::clone(stage), position.clone());
        Ok(position)
    }

    /// Notes what the run under way has been given.
    pub(crate) fn give(&self, stage: &Arc<str>, position: Position) {
        self.lock().given.insert(Arc::clone(stage), position);
    }

    /// The run under way has ended: what it was given counts, and is to be kept with the run's end, or comes again.
    pub(crate) fn end(&self, well: bool) -> Vec<Cursor> {
        let mut known = self.lock();
        let given = std::mem::take(&mut known.given);
        if !well {
            return Vec::new();
        }
        let mut cursors = Vec::new();
        for (stage, position) in given {
            cursors.extend(serde_json::to_string(&position).map(|position| Cursor {
                source: self.source(&stage),
                position,
            }));
            known.counts.insert(stage, position);
        }
        cursors
    }

    fn source(&self, stage: &str) -> String {
        format!("{}/{stage}", self.pipeline)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Position {
    /// The position behind the first `rows` of all rows.
    pub(crate) fn behind(all: &[Value], rows: usize) -> Self {
        Self {
            rows,
            print: print(&all[rows.saturating_sub(DIGESTED)..rows]),
        }
    }

    /// Where the rows begin that were not given.
    pub(crate) fn begin(&self, all: &[Value]) -> Begin {
        if self.rows == 0 {
            return Begin::At(0);
        }
        let digested = self.rows.min(DIGESTED);
        // Rows that were removed before those that were given last have moved them to the front.
        let last = self.rows.min(all.len());
        let mut ends = (digested..=last).rev();
        match ends.find(|end| print(&all[end - digested..*end]) == self.print) {
            Some(end) => Begin::At(end),
            None => Begin::Anew,
        }
    }
}

/// A digest of rows. A field that is null or an empty text counts as one that is not there: a column that comes later
/// gives it to earlier rows.
fn print(rows: &[Value]) -> String {
    let mut digest = Sha256::new();
    for row in rows {
        match row {
            Value::Object(fields) => {
                let is_there = |value: &Value| !value.is_null() && value != "";
                for (name, value) in fields.iter().filter(|(_, value)| is_there(value)) {
                    digest.update(format!("{name}\u{0}{value}\u{0}"));
                }
            }
            other => digest.update(other.to_string()),
        }
        digest.update("\n");
    }
    let bytes = digest.finalize();
    bytes[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rows(numbers: impl IntoIterator<Item = i64>) -> Vec<Value> {
        numbers
            .into_iter()
            .map(|number| json!({ "n": number }))
            .collect()
    }

    #[test]
    fn a_file_that_was_replaced_begins_anew_and_a_column_that_comes_later_changes_nothing() {
        let position = Position::behind(&rows(0..20), 15);
        assert_eq!(position.begin(&rows(0..20)), Begin::At(15));
        assert_eq!(position.begin(&rows(100..150)), Begin::Anew);
        assert_eq!(position.begin(&[]), Begin::Anew);
        let mut wider = rows(0..20);
        for row in &mut wider {
            row["more"] = Value::Null;
        }
        assert_eq!(position.begin(&wider), Begin::At(15));
        assert_eq!(Position::default().begin(&rows(0..3)), Begin::At(0));
    }

    proptest! {
        #[test]
        fn rows_that_were_removed_from_the_front_cost_and_double_none(
            numbers in vec(0..3_i64, 0..60), given in 0..60_usize, removed in 0..60_usize
        ) {
            // Each row has a number of its own beside one that others share.
            let numbered = numbers.iter().enumerate();
            let all: Vec<Value> = numbered.map(|(at, n)| json!({"at": at, "n": n})).collect();
            let given = given.min(all.len());
            let position = Position::behind(&all, given);
            let removed = removed.min(given.saturating_sub(DIGESTED));
            let left = &all[removed..];
            let Begin::At(begin) = position.begin(left) else { panic!("begins anew") };
            prop_assert_eq!(&left[begin..], &all[given..]);
        }
    }
}
