//! How many bytes records have, as JSON: by samples, as writing each would cost more than most stages do.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use wiredflow_core::{Batch, Value};

/// One record is written of each of the first batches, and of one in so many after those.
const EACH: u64 = 64;
const FIRST: u64 = 8;

/// A new sample is so much of the mean, and what was met before is the rest.
const WEIGHT: u64 = 8;

/// The mean is kept in parts of a byte.
const PARTS: u64 = 256;

/// A count of bytes that only grows: the records of each batch with the mean size of those that were written of late.
#[derive(Debug, Default)]
pub(super) struct BytesMeter {
    bytes: AtomicU64,
    batches: AtomicU64,
    mean: AtomicU64,
}

impl BytesMeter {
    /// Counts a batch.
    pub(super) fn note(&self, batch: &Batch) {
        if batch.is_empty() {
            return;
        }
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        if number < FIRST || number.is_multiple_of(EACH) {
            // Another place in each batch: the first records of batches may be of a kind.
            let place = usize::try_from(number / EACH + number).unwrap_or(0) % batch.len();
            if let Some(value) = batch.values().nth(place) {
                self.sample(size(value), number == 0);
            }
        }
        let mean = self.mean.load(Ordering::Relaxed);
        let bytes = (batch.len() as u64).saturating_mul(mean) / PARTS;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn sample(&self, size: u64, is_first: bool) {
        let size = size.saturating_mul(PARTS);
        let mean = self.mean.load(Ordering::Relaxed);
        let mean = match is_first {
            true => size,
            false => mean - mean / WEIGHT + size / WEIGHT,
        };
        self.mean.store(mean, Ordering::Relaxed);
    }
}

/// The length of a value's JSON.
fn size(value: &Value) -> u64 {
    let mut length = Length(0);
    // A value has no key that is no text, and nothing is written that could fail.
    drop(serde_json::to_writer(&mut length, value));
    length.0
}

struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wiredflow_core::{Batch, Record, Value};

    use super::{BytesMeter, size};

    fn text(length: usize) -> Value {
        Value::from("x".repeat(length))
    }

    fn batch(values: impl IntoIterator<Item = Value>) -> Batch {
        Batch::new(values.into_iter().map(Record::new).collect())
    }

    proptest! {
        #[test]
        fn records_of_one_size_are_counted_to_the_byte(lengths in prop::collection::vec(1..50_usize, 1..200), length in 0..2_000_usize) {
            let meter = BytesMeter::default();
            for records in &lengths {
                meter.note(&batch((0..*records).map(|_| text(length))));
            }
            let records: usize = lengths.iter().sum();
            prop_assert_eq!(meter.count(), (records * (length + 2)) as u64);
        }

        #[test]
        fn the_length_is_that_of_the_text(number in any::<f64>(), words in "\\PC{0,40}") {
            let value = serde_json::json!({"a": [number, words, null, true]});
            prop_assert_eq!(size(&value), value.to_string().len() as u64);
        }
    }

    #[test]
    fn sizes_that_vary_are_met_on_the_mean() {
        let meter = BytesMeter::default();
        let (mut bytes, mut number) = (0, 0_usize);
        for _ in 0..20_000 {
            let values: Vec<Value> = (0..7)
                .map(|_| {
                    number += 1;
                    text(number * 37 % 401)
                })
                .collect();
            bytes += values.iter().map(size).sum::<u64>();
            meter.note(&batch(values));
        }
        let counted = meter.count() as f64 / bytes as f64;
        assert!((0.9..1.1).contains(&counted), "{counted}");
    }

    #[test]
    fn what_is_empty_has_no_size() {
        let meter = BytesMeter::default();
        meter.note(&batch([]));
        assert_eq!(meter.count(), 0);
    }
}
