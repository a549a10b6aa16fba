//! Records and batches: what travels through a pipeline.

use std::sync::Arc;

/// One JSON value. Objects keep the order of their fields.
pub type Value = serde_json::Value;

/// A JSON object.
pub type Map = serde_json::Map<String, Value>;

/// Params that a configuration stage made for the stages after it.
pub type Params = Arc<Map>;

/// Which of the call's deliveries a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// All of them: a record that the stage made itself.
    All,
    /// The delivery at this place of the call's lineage.
    One(u32),
}

/// One JSON value and the delivery that it came with.
///
/// A stage that changes a record's value in place, or makes one with [`Record::with_value`], keeps its
/// delivery; a record made with [`Record::new`] belongs to all deliveries of the call that emits it.
/// Dropping a record inside a stage is allowed (that is how a filter works).
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    value: Value,
    pub(crate) origin: Origin,
}

impl Record {
    /// A record of the stage's own making.
    pub fn new(value: Value) -> Self {
        Self {
            value,
            origin: Origin::All,
        }
    }

    pub(crate) fn of(value: Value, delivery: u32) -> Self {
        Self {
            value,
            origin: Origin::One(delivery),
        }
    }

    /// Another value in this record's place.
    #[must_use]
    pub fn with_value(&self, value: Value) -> Self {
        Self {
            value,
            origin: self.origin,
        }
    }

    /// The place, among the call's deliveries, of the one that it belongs to; none for a record of the stage's own
    /// making, which belongs to all of them.
    pub fn delivery(&self) -> Option<usize> {
        match self.origin {
            Origin::One(place) => Some(place as usize),
            Origin::All => None,
        }
    }

    /// The value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value, to be changed.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.value
    }

    /// The value alone.
    pub fn into_value(self) -> Value {
        self.value
    }
}

/// Records that travel together. An empty batch is what a schedule's tick starts with and what a
/// function that returns nothing gives.
///
/// Cloning is cheap: clones share their records until one of them is changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    records: Arc<Vec<Record>>,
    list: bool,
}

impl Batch {
    /// A batch of these records.
    pub fn new(records: Vec<Record>) -> Self {
        Self {
            records: Arc::new(records),
            list: false,
        }
    }

    /// A batch of new values.
    pub fn of_values(values: Vec<Value>) -> Self {
        Self::new(values.into_iter().map(Record::new).collect())
    }

    /// What a JSON document stands for: an array is many records, null none, anything else one.
    pub fn of_document(value: Value) -> Self {
        match value {
            Value::Null => Self::default(),
            Value::Array(values) => Self::of_values(values),
            one => Self::new(vec![Record::new(one)]),
        }
    }

    /// Whether a user's function gets a list: there are many records, or the user asked for groups
    /// (`batch`), which then come as lists whatever their length.
    pub fn is_list(&self) -> bool {
        self.list || self.records.len() > 1
    }

    /// Whether it is marked as a list, so that one record stays one.
    pub fn is_marked_list(&self) -> bool {
        self.list
    }

    /// Marks the batch as a list (see [`Batch::is_list`]).
    #[must_use]
    pub fn as_list(mut self, list: bool) -> Self {
        self.list = list;
        self
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The records, to be changed, removed or added to; copied first where a clone shares them.
    pub fn records_mut(&mut self) -> &mut Vec<Record> {
        Arc::make_mut(&mut self.records)
    }

    /// The records alone.
    pub fn into_records(self) -> Vec<Record> {
        Arc::unwrap_or_clone(self.records)
    }

    /// The place of the first record of the last delivery: behind it lie no records of another one. 0 where
    /// all belong to one delivery or to all of them, and in a batch that the user has grouped.
    pub fn last_delivery(&self) -> usize {
        let of_last = |last: &Record| {
            let mut others = self.records.iter();
            others.rposition(|record| record.origin != last.origin)
        };
        match self.records.last().filter(|_| !self.list).map(of_last) {
            Some(Some(other)) => other + 1,
            Some(None) | None => 0,
        }
    }

    /// A batch of the records from a place on.
    #[must_use]
    pub fn from_place(&self, place: usize) -> Self {
        match place {
            0 => self.clone(),
            _ => Self::new(self.records[place.min(self.len())..].to_vec()).as_list(self.list),
        }
    }

    /// The values, one after the other.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.records.iter().map(Record::value)
    }
}

impl IntoIterator for Batch {
    type Item = Record;
    type IntoIter = std::vec::IntoIter<Record>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_records().into_iter()
    }
}
