//! How often each value occurred, within a hundredth: small, mergeable, and subtractable.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The largest value that is told from a larger one: a day in microseconds.
const LARGEST: u64 = 86_400_000_000;

/// How many leading bits of a value are kept: two figures.
const KEPT_BITS: u32 = 7;

/// Values of two figures, with a place only for those that occurred: thousands of stages, whose calls mostly
/// take as long as ever, cost little. Times are noted in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How often, by step, in order.
    counts: Vec<(u16, u64)>,
    /// The sum of all values.
    sum: u64,
}

impl Histogram {
    /// Notes a value.
    pub fn note(&mut self, value: u64) {
        let value = value.min(LARGEST);
        self.sum = self.sum.saturating_add(value);
        let step = step(value);
        match self.counts.binary_search_by_key(&step, |(step, _)| *step) {
            Ok(place) => self.counts[place].1 += 1,
            Err(place) => self.counts.insert(place, (step, 1)),
        }
    }

    /// Notes a time, in microseconds.
    pub fn note_time(&mut self, time: Duration) {
        self.note(u64::try_from(time.as_micros()).unwrap_or(LARGEST));
    }

    /// How many values there are.
    pub fn len(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The mean; 0 where there is no value.
    pub fn mean(&self) -> f64 {
        match self.len() {
            0 => 0.0,
            count => self.sum as f64 / count as f64,
        }
    }

    /// The smallest value, within a hundredth, that at least `share` (0 to 1) of all values do not exceed; 0
    /// where there is no value.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (share.clamp(0.0, 1.0) * self.len() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (step, count) in &self.counts {
            seen += count;
            if seen >= wanted {
                return middle(*step);
            }
        }
        0
    }

    /// Each value within a hundredth, and how often it occurred, in order.
    pub fn values(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts
            .iter()
            .map(|(step, count)| (middle(*step), *count))
    }

    /// Adds another's values.
    pub fn merge(&mut self, other: &Self) {
        for (step, count) in &other.counts {
            match self.counts.binary_search_by_key(step, |(step, _)| *step) {
                Ok(place) => self.counts[place].1 += count,
                Err(place) => self.counts.insert(place, (*step, *count)),
            }
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// What came after `earlier`, which was taken of the same counts.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |step: &u16| {
            let place = earlier.counts.binary_search_by_key(step, |(step, _)| *step);
            place.map_or(0, |place| earlier.counts[place].1)
        };
        let counts = self.counts.iter();
        let counts = counts.map(|(step, count)| (*step, count.saturating_sub(before(step))));
        Self {
            counts: counts.filter(|(_, count)| *count > 0).collect(),
            sum: self.sum.saturating_sub(earlier.sum),
        }
    }
}

/// The step of a value: the number of bits that are left away, and those that are kept.
fn step(value: u64) -> u16 {
    let left = (u64::BITS - value.leading_zeros()).saturating_sub(KEPT_BITS);
    let kept = value >> left;
    // 37 bits at most, so 30 are left away and the step is below 2^12.
    (left as u16) << KEPT_BITS | kept as u16
}

/// The middle of the values of a step.
fn middle(step: u16) -> u64 {
    let (left, kept) = (step >> KEPT_BITS, step & ((1 << KEPT_BITS) - 1));
    let begin = u64::from(kept) << left;
    begin + ((1_u64 << left) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_within_a_hundredth_of_each_of_its_values_and_steps_are_in_their_order() {
        let mut before = 0;
        let mut value = 0;
        while value <= LARGEST {
            let (step, told) = (step(value), middle(step(value)));
            assert!(step >= before, "{value}");
            assert!(told.abs_diff(value) * 100 <= value, "{value}: {told}");
            before = step;
            value += 1 + value / 1000;
        }
    }

    #[test]
    fn calls_that_take_as_long_as_ever_need_no_more_room() {
        let mut times = Histogram::default();
        for call in 0..100_000 {
            times.note(1000 + call % 1000);
        }
        assert!(times.counts.len() <= 65, "{}", times.counts.len());
        assert_eq!(times.len(), 100_000);
        assert!((times.mean() - 1499.5).abs() < 1e-9);
        let half = times.quantile(0.5);
        assert!((1470..1530).contains(&half), "{half}");
        assert!(times.quantile(0.0) < 1010 && times.quantile(1.0) > 1980);
    }

    #[test]
    fn a_time_without_end_counts_as_the_longest_and_nothing_has_no_quantile() {
        let mut times = Histogram::default();
        assert_eq!((times.quantile(0.5), times.mean()), (0, 0.0));
        times.note_time(Duration::MAX);
        times.note_time(Duration::ZERO);
        assert_eq!((times.len(), times.quantile(0.1)), (2, 0));
        assert!(times.quantile(1.0) >= LARGEST / 100 * 99);
    }

    #[test]
    fn what_came_since_is_what_was_noted_since_and_merges_back() {
        let mut times = Histogram::default();
        (0..500).for_each(|value| times.note(value * value));
        let earlier = times.clone();
        let mut later = Histogram::default();
        for value in 0..700 {
            times.note(value * 31);
            later.note(value * 31);
        }
        assert_eq!(times.since(&earlier), later);
        let mut merged = earlier.clone();
        merged.merge(&later);
        assert_eq!(merged, times);
        assert!(times.since(&times).is_empty());
    }
}
