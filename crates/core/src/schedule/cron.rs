//! A cron in a time zone.
//!
//! The cron library walks a wall clock without a zone; the zone's jumps are dealt with here, so that the rules of
//! [`super`] hold for every jump (a gap of a whole day too) and the work is bounded: a question costs one walk, or one for
//! each jump of the clock until the answer.
//!
//! All ticks are whole seconds, and so are the jumps of all zones. So ranges are half-open in whole seconds: "later than t"
//! is "from the second after t".

use std::fmt;

use croner::Direction;
use jiff::civil::{Date, DateTime, date};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::{pattern::Pattern, zone};

/// These years begin on every day of the week, with and without a leap day: what matches no day of them never does.
const ALL_KINDS_OF_YEARS: std::ops::Range<i16> = 2000..2028;

/// Jumps of the clock to walk over before giving up: more than there are between two matches of any pattern (40 years at most).
const MOST_JUMPS: usize = 1000;

const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// A cron pattern and the zone whose wall clock it reads.
#[derive(Debug, Clone)]
pub(super) struct CronSchedule {
    pattern: Pattern,
    zone: TimeZone,
    zone_name: String,
}

impl fmt::Display for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron {} ({})", self.pattern.text, self.zone_name)
    }
}

impl CronSchedule {
    pub(super) fn new(text: &str, zone_name: &str) -> Result<Self, String> {
        let pattern = Pattern::parse(text)?;
        let zone = zone::find(zone_name)?;
        let zone_name = zone.iana_name().unwrap_or(zone_name).to_owned();
        let cron = Self {
            pattern,
            zone,
            zone_name,
        };
        if !ALL_KINDS_OF_YEARS.clone().any(|year| cron.runs_in(year)) {
            let text = &cron.pattern.text;
            return Err(format!(
                "cron `{text}` never runs: no date has this day, month and day of the week"
            ));
        }
        Ok(cron)
    }

    /// The first tick strictly later than `after`.
    pub(super) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.next_from(second_after(after)?)
    }

    /// The first tick not before `from`.
    pub(super) fn next_from(&self, from: Timestamp) -> Option<Timestamp> {
        let from = second_after(from.checked_sub(SignedDuration::from_nanos(1)).ok()?)?;
        if self.pattern.fixed_time {
            return self.fixed_instant(self.search(self.fixed_from(from)?, Direction::Forward)?);
        }
        // One stretch of unchanging offset after the other.
        let mut start = from;
        for _ in 0..MOST_JUMPS {
            let offset = self.zone.to_offset(start);
            let tick = self.search(offset.to_datetime(start), Direction::Forward)?;
            let tick = offset.to_timestamp(tick).ok()?;
            match self.zone.following(start).next() {
                Some(jump) if jump.timestamp() <= tick => start = jump.timestamp(),
                _ => return Some(tick),
            }
        }
        None
    }

    /// The newest tick that is not later than `until`.
    pub(super) fn latest_until(&self, until: Timestamp) -> Option<Timestamp> {
        let end = second_after(until)?;
        if self.pattern.fixed_time {
            let newest = self.fixed_from(end)?.checked_sub(SECOND).ok()?;
            return self.fixed_instant(self.search(newest, Direction::Backward)?);
        }
        let mut newest = end.checked_sub(SECOND).ok()?;
        for _ in 0..MOST_JUMPS {
            let offset = self.zone.to_offset(newest);
            let tick = self.search(offset.to_datetime(newest), Direction::Backward)?;
            let tick = offset.to_timestamp(tick).ok()?;
            match self.zone.preceding(newest.checked_add(SECOND).ok()?).next() {
                Some(jump) if tick < jump.timestamp() => {
                    newest = jump.timestamp().checked_sub(SECOND).ok()?
                }
                _ => return Some(tick),
            }
        }
        None
    }

    /// How many ticks are later than `after` and not later than `until`, by counting days: ten years cost as much as a
    /// few thousand steps, however dense the pattern is.
    pub(super) fn count(&self, after: Timestamp, until: Timestamp) -> u64 {
        let (Some(start), Some(end)) = (second_after(after), second_after(until)) else {
            return 0;
        };
        if self.pattern.fixed_time {
            return self.count_fixed(start, end).unwrap_or(0);
        }
        let mut total = 0;
        let mut from = start;
        while from < end {
            let offset = self.zone.to_offset(from);
            let next_jump = self
                .zone
                .following(from)
                .next()
                .map(|jump| jump.timestamp());
            let to = next_jump.map_or(end, |jump| jump.min(end));
            total += self.matches_between(offset.to_datetime(from), offset.to_datetime(to));
            from = to;
        }
        total
    }

    /// All times named on the wall clock, less those that a gap moves to an instant that has a run already.
    fn count_fixed(&self, start: Timestamp, end: Timestamp) -> Option<u64> {
        let mut total = self.matches_between(self.fixed_from(start)?, self.fixed_from(end)?);
        let before_start = start.checked_sub(SECOND).ok()?;
        for jump in self.zone.following(before_start) {
            let at = jump.timestamp();
            if at >= end {
                break;
            }
            let gap_start = self
                .zone
                .to_offset(at.checked_sub(SECOND).ok()?)
                .to_datetime(at);
            let gap_end = jump.offset().to_datetime(at);
            if gap_start < gap_end {
                let moved = self.matches_between(gap_start, gap_end);
                let there = self.matches_between(gap_end, gap_end.checked_add(SECOND).ok()?);
                total -= (moved + there).saturating_sub(1);
            }
        }
        Some(total)
    }

    /// When a fixed-time job that names `wall` runs: at its first occurrence, or at the end of the gap it falls into. Never
    /// decreasing in `wall`.
    fn fixed_instant(&self, wall: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // Read with the offset that begins at the jump, a time in the gap lies before the jump.
                let before_jump = after.to_timestamp(wall).ok()?;
                let mut jumps = self.zone.following(before_jump);
                jumps
                    .find(|jump| jump.offset() == after)
                    .map(|jump| jump.timestamp())
            }
        }
    }

    /// The first wall time whose [`Self::fixed_instant`] is not before `from` (a whole second): what the clock shows then,
    /// or the end of the repeated time when it shows that for the second time.
    fn fixed_from(&self, from: Timestamp) -> Option<DateTime> {
        // The last second before tells on which side of a jump the question is asked: at the jump itself, times in a gap count.
        let last_before = from.checked_sub(SECOND).ok()?;
        let offset = self.zone.to_offset(last_before);
        let wall = offset.to_datetime(last_before);
        if let AmbiguousOffset::Fold { before, after } =
            self.zone.to_ambiguous_timestamp(wall).offset()
            && offset == after
        {
            let mut jumps = self.zone.preceding(from);
            let jump = jumps.find(|jump| jump.offset() == after)?;
            return Some(before.to_datetime(jump.timestamp()));
        }
        wall.checked_add(SECOND).ok()
    }

    /// The nearest match on a wall clock without jumps, `from` included; None at the end of the calendar.
    fn search(&self, from: DateTime, direction: Direction) -> Option<DateTime> {
        let cron = &self.pattern.cron;
        match direction {
            Direction::Forward => cron.find_next_occurrence(&from, true).ok(),
            Direction::Backward => cron.find_previous_occurrence(&from, true).ok(),
        }
    }

    /// How many whole seconds match from `start` up to and without `end`.
    fn matches_between(&self, start: DateTime, end: DateTime) -> u64 {
        if end <= start {
            return 0;
        }
        let until_end = self.matches_of_day_before(end);
        let before_start = self.matches_of_day_before(start);
        if start.date() == end.date() {
            return until_end - before_start;
        }
        let full_day = self.matches_of_full_day();
        let first_day = if self.day_matches(start.date()) {
            full_day - before_start
        } else {
            0
        };
        let mut days_between = 0;
        let mut day = start.date();
        while let Ok(next) = day.tomorrow()
            && next < end.date()
        {
            days_between += u64::from(self.day_matches(next));
            day = next;
        }
        first_day + days_between * full_day + until_end
    }

    /// How many seconds of the day of `time` match before it.
    fn matches_of_day_before(&self, time: DateTime) -> u64 {
        if !self.day_matches(time.date()) {
            return 0;
        }
        let pattern = &self.pattern.cron.pattern;
        let [hours, minutes, seconds] =
            [&pattern.hours, &pattern.minutes, &pattern.seconds].map(|field| field.values());
        let below = |values: &[u16], limit: i8| {
            values
                .iter()
                .filter(|value| i32::from(**value) < i32::from(limit))
                .count()
        };
        let has = |values: &[u16], value: i8| {
            usize::from(
                values
                    .iter()
                    .any(|each| i32::from(*each) == i32::from(value)),
            )
        };
        let in_minute = has(&minutes, time.minute()) * below(&seconds, time.second());
        let in_hour =
            has(&hours, time.hour()) * (below(&minutes, time.minute()) * seconds.len() + in_minute);
        (below(&hours, time.hour()) * minutes.len() * seconds.len() + in_hour) as u64
    }

    fn matches_of_full_day(&self) -> u64 {
        let pattern = &self.pattern.cron.pattern;
        [&pattern.hours, &pattern.minutes, &pattern.seconds]
            .iter()
            .map(|field| field.values().len() as u64)
            .product()
    }

    fn runs_in(&self, year: i16) -> bool {
        let days = date(year, 1, 1).series(1.day());
        days.take_while(|day| day.year() == year)
            .any(|day| self.day_matches(day))
    }

    fn day_matches(&self, day: Date) -> bool {
        let pattern = &self.pattern.cron.pattern;
        let weekday = croner::Weekday::from_days_from_sunday(
            day.weekday().to_sunday_zero_offset().unsigned_abs().into(),
        );
        let (month, day_of_month) = (
            day.month().unsigned_abs().into(),
            day.day().unsigned_abs().into(),
        );
        pattern.month_match(month).unwrap_or(false)
            && pattern
                .day_match(day.year().into(), month, day_of_month, weekday)
                .unwrap_or(false)
    }
}

/// The first whole second strictly later than `time`.
fn second_after(time: Timestamp) -> Option<Timestamp> {
    let second = i64::try_from(time.as_nanosecond().div_euclid(1_000_000_000)).ok()?;
    Timestamp::from_second(second + 1).ok()
}
