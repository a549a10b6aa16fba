//! Frames' parts from and to the words of the flow: batches, what is loaded, errors.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Failure, Payload, PayloadRef};
use crate::error::Error;
use crate::record::{Batch, Record, Value};
use crate::storage::Loaded;

impl<'a> PayloadRef<'a> {
    /// The batch in the shape that user code gets.
    pub fn of(batch: &'a Batch) -> Option<Self> {
        match batch.records() {
            [] => None,
            [one] if !batch.is_list() => Some(Self::One(one.value())),
            many => Some(Self::Many(many)),
        }
    }
}

impl Serialize for PayloadRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Values<'a>(&'a [Record]);
        impl Serialize for Values<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.iter().map(Record::value))
            }
        }
        match self {
            Self::One(value) => serializer.serialize_newtype_variant("Payload", 0, "one", value),
            Self::Many(records) => {
                serializer.serialize_newtype_variant("Payload", 1, "many", &Values(records))
            }
        }
    }
}

impl Payload {
    /// The batch that a function gave; `None` is an empty one.
    pub fn into_batch(payload: Option<Self>) -> Batch {
        Batch::of_values(Self::into_rows(payload))
    }

    /// The rows alone.
    pub fn into_rows(payload: Option<Self>) -> Vec<Value> {
        match payload {
            None => Vec::new(),
            Some(Self::One(value)) => vec![value],
            Some(Self::Many(values)) => values,
        }
    }

    /// What a storage holds, in the shape that user code gets.
    pub fn of_loaded(loaded: Loaded) -> Option<Self> {
        match loaded {
            Loaded::Nothing => None,
            Loaded::Rows(rows) => Some(Self::Many(rows)),
            Loaded::Object(object) => Some(Self::One(Value::Object(object))),
        }
    }
}

impl Failure {
    /// The frame for an error of a call, a load or a save.
    pub fn of(id: Option<u64>, error: &Error) -> Self {
        Self {
            id,
            kind: error.kind(),
            message: error.message().to_owned(),
            trace: error.trace().map(str::to_owned),
            record: error.record(),
            limited: error.is_limit(),
            retry_after: error
                .retry_after()
                .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            used: None,
        }
    }

    /// The error that the frame stands for.
    pub fn into_error(self) -> Error {
        let mut error = Error::new(self.kind, self.message);
        if let Some(trace) = self.trace {
            error = error.with_trace(trace);
        }
        if let Some(record) = self.record {
            error = error.at_record(record);
        }
        if self.limited {
            error = error.as_limit();
        }
        if let Some(wait) = self.retry_after {
            error = error.with_retry_after(Duration::from_millis(wait));
        }
        error
    }
}
