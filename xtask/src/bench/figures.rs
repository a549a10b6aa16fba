//! From many runs to a few figures.

use std::fmt;

/// The middle of several figures, and between what they lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Figures {
    /// Of at least one figure; all 0 of none.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sorted(figures);
        Self {
            median: median(&sorted),
            least: sorted.first().copied().unwrap_or(0.0),
            most: sorted.last().copied().unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Figures {
    /// The median [the least … the most].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Self {
            median,
            least,
            most,
        } = self;
        write!(f, "{median:.digits$} [{least:.digits$} … {most:.digits$}]")
    }
}

/// A ratio of pairs: its median and an interval that holds the true median with at least 90 %
/// certainty, whatever its distribution (the interval of the sign test). Fewer than five pairs give
/// only their range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// In percent; `None` where there are too few pairs for 90.
    pub(super) certainty: Option<u32>,
}

impl Ratio {
    pub(super) fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let sorted = sorted(pairs.into_iter().map(|(ours, floor)| ours / floor));
        let count = sorted.len();
        let mut inward = 0;
        while inward + 1 < count / 2 && certainty(count, inward + 1) >= 0.9 {
            inward += 1;
        }
        let sure = certainty(count, inward);
        Self {
            median: median(&sorted),
            low: sorted.get(inward).copied().unwrap_or(0.0),
            high: sorted
                .get(count.wrapping_sub(1 + inward))
                .copied()
                .unwrap_or(0.0),
            certainty: (sure >= 0.9).then_some((sure * 100.0) as u32),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2}", self.median, self.low, self.high)?;
        match self.certainty {
            Some(sure) => write!(f, ", {sure} % sure)"),
            None => f.write_str(")"),
        }
    }
}

fn sorted(figures: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// Of sorted figures.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted {
        [] => 0.0,
        _ if sorted.len() % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// How surely the median lies between the figures that have `inward` others outside of them on each
/// side: 1 - 2 P(at most `inward` heads of `count` coins).
fn certainty(count: usize, inward: usize) -> f64 {
    let (mut ways, mut outside) = (1.0, 1.0);
    for heads in 1..=inward {
        ways *= (count + 1 - heads) as f64 / heads as f64;
        outside += ways;
    }
    1.0 - 2.0 * outside / 2f64.powi(i32::try_from(count).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let figures = Figures::of([3.0, 1.0, 2.0]);
        assert_eq!(
            (figures.median, figures.least, figures.most),
            (2.0, 1.0, 3.0)
        );
        assert_eq!(Figures::of([4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn an_interval_leaves_out_what_it_can_spare() {
        let of = |count: usize| Ratio::of((1..=count).map(|figure| (figure as f64, 1.0)));
        let five = of(5);
        assert_eq!((five.low, five.median, five.high), (1.0, 3.0, 5.0));
        assert_eq!(five.certainty, Some(93)); // 1 - 2/32
        let nine = of(9);
        assert_eq!((nine.low, nine.median, nine.high), (2.0, 5.0, 8.0));
        assert_eq!(nine.certainty, Some(96)); // 1 - 2 * 10/512
        assert_eq!(of(3).certainty, None);
        assert_eq!((of(3).low, of(3).high), (1.0, 3.0));
    }
}
