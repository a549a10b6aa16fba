//! How long the calls of a stage took.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest time that is told from a longer one, in microseconds: a day.
const LONGEST: u64 = 86_400_000_000;

/// How many leading bits of a time are kept: two figures.
const KEPT_BITS: u32 = 7;

/// A histogram of two figures that has a place only for the times that occurred: thousands of stages, whose
/// calls mostly take as long as ever, cost little.
#[derive(Debug, Default)]
pub(super) struct ServiceTimes {
    /// How often, by step, in order.
    counts: Vec<(u16, u32)>,
}

impl ServiceTimes {
    /// Notes the time of one call.
    pub(super) fn note(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).map_or(LONGEST, |micros| micros.min(LONGEST));
        let step = step(micros);
        match self.counts.binary_search_by_key(&step, |(step, _)| *step) {
            Ok(place) => {
                let count = &mut self.counts[place].1;
                *count = count.saturating_add(1);
            }
            Err(place) => self.counts.insert(place, (step, 1)),
        }
    }

    /// All of them, in microseconds.
    #[expect(
        clippy::expect_used,
        reason = "two significant figures are within the crate's 0 to 5"
    )]
    pub(super) fn histogram(&self) -> Histogram<u32> {
        let mut histogram = Histogram::new(2).expect("two significant figures are possible");
        for (step, count) in &self.counts {
            // It grows with its longest: no time is refused.
            histogram
                .record_n(middle(*step), *count)
                .unwrap_or_default();
        }
        histogram
    }
}

/// The step of a time: the number of bits that are left away, and those that are kept.
fn step(micros: u64) -> u16 {
    let left = (u64::BITS - micros.leading_zeros()).saturating_sub(KEPT_BITS);
    let kept = micros >> left;
    // 37 bits at most, so 30 are left away and the step is below 2^12.
    (left as u16) << KEPT_BITS | kept as u16
}

/// The middle of the times of a step.
fn middle(step: u16) -> u64 {
    let (left, kept) = (step >> KEPT_BITS, step & ((1 << KEPT_BITS) - 1));
    let begin = u64::from(kept) << left;
    begin + (1_u64 << left) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_within_a_hundredth_of_each_of_its_times_and_steps_are_in_their_order() {
        let mut before = 0;
        let mut micros = 0;
        while micros <= LONGEST {
            let (step, told) = (step(micros), middle(step(micros)));
            assert!(step >= before, "{micros}");
            assert!(told.abs_diff(micros) * 100 <= micros, "{micros}: {told}");
            before = step;
            micros += 1 + micros / 1000;
        }
    }

    #[test]
    fn calls_that_take_as_long_as_ever_need_no_more_room() {
        let mut times = ServiceTimes::default();
        for call in 0..100_000 {
            times.note(Duration::from_micros(1000 + call % 1000));
        }
        assert!(times.counts.len() <= 65, "{}", times.counts.len());
        let histogram = times.histogram();
        assert_eq!(histogram.len(), 100_000);
        let half = histogram.value_at_quantile(0.5);
        assert!((1470..1530).contains(&half), "{half}");
    }

    #[test]
    fn a_time_without_end_counts_as_the_longest() {
        let mut times = ServiceTimes::default();
        times.note(Duration::MAX);
        times.note(Duration::ZERO);
        let histogram = times.histogram();
        assert_eq!((histogram.len(), histogram.min()), (2, 0));
        assert!(histogram.max() >= LONGEST / 100 * 99);
    }
}
