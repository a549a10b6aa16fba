//! When a pipeline runs: the pure part of its schedule. No clock is read here; the caller says what time it is.
//!
//! # What ticks when
//!
//! * **`every`** ticks at `anchor + k × D` for `k = 0, 1, 2 …` in whole nanoseconds, so nothing drifts. The anchor is the
//!   first run; it is kept with the pipeline's state, and so a restart or a move to another machine keeps the grid.
//! * **`cron`** ticks by the wall clock of its time zone; see [`Schedule::cron`] for the fields and below for daylight
//!   saving.
//! * **`at`** ticks once, at its time. **`once`** ticks at each start of the flow and at no other time.
//!
//! # Daylight saving
//!
//! A cron whose second, minute and hour fields name times (no `*` and no `/` in them: `30 2 * * *`, `0 9,17 * * *`) is a
//! *fixed-time* job: each time it names happens once a day. A time that the clock jumps over runs at the moment of the
//! jump, the end of the gap (02:30 runs at 03:00; on a day that the zone leaves out altogether, as Samoa did in 2011, at the
//! next midnight), and several times in one gap run once. A time that happens twice runs the first time only.
//!
//! Any other cron (`*/15 * * * *`, `0 * * * *`, `*/15 2 * * *`) is *interval-like*: it runs whenever the wall clock shows a
//! time that matches. It goes on through a repeated hour, both times, and has nothing to do in a gap.
//!
//! # What the caller does about clocks
//!
//! * Between two ticks of `every`, wait by the **monotonic** clock: take the wall time once at start, keep `start +
//!   elapsed`, and pass that as the time. A step of the wall clock then moves no interval job, and causes neither a
//!   burst nor a stall. The wall clock is read again at the next start, where [`Schedule::missed`] sorts out the difference.
//! * For `cron` and `at`, wait by the wall clock in waits of bounded length (a minute or less), and after each ask
//!   [`Schedule::next_after`] anew with the last tick that ran. After a step forward
//!   (also: a suspended machine) the ticks that were jumped over go through `missed` and `catch_up`, as after downtime. After a
//!   step back, ask with the time now: what is planned goes on at once, and the names of the ticks keep those that have run
//!   from running twice.
//! * A tick is known by the time given here. Jitter ([`jittered`]) moves the moment of the run, never the tick's
//!   identity, so that a tick which is claimed on one machine is the same tick on another.

mod cron;
mod pattern;
mod zone;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;
use serde::{Deserialize, Serialize};

use self::cron::CronSchedule;
use crate::units::format_duration;

/// The shortest period of `every`.
pub const SHORTEST_PERIOD: Duration = Duration::from_millis(10);

/// How many missed ticks `catch_up: all` runs at most.
pub const CATCH_UP_CAP: usize = 1000;

/// When a pipeline runs, checked and ready to be asked.
#[derive(Debug, Clone)]
pub struct Schedule(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Every(Duration),
    Cron(Box<CronSchedule>),
    At(Timestamp),
    Once,
}

/// What happens to ticks that were missed while the flow was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// The newest missed tick runs, the others are dropped.
    #[default]
    Latest,
    /// All missed ticks run, oldest first, up to a cap; the newest are kept.
    All,
    /// None runs.
    None,
}

/// What happens when a tick comes while the pipeline's last delivery still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// The tick is dropped and counted.
    #[default]
    Skip,
    /// One tick waits; further ones are dropped and counted.
    Queue,
    /// Deliveries run side by side.
    Allow,
}

/// The ticks to make up for, and how many were given up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missed {
    /// Ticks to run now, oldest first.
    pub ticks: Vec<Timestamp>,
    /// How many further ticks were missed that the policy or the cap drops; exact.
    pub dropped: u64,
}

impl Schedule {
    /// A tick each `period`, on a fixed grid.
    ///
    /// # Errors
    /// When `period` is shorter than [`SHORTEST_PERIOD`].
    pub fn every(period: Duration) -> Result<Self, String> {
        if period < SHORTEST_PERIOD {
            let shortest = format_duration(SHORTEST_PERIOD);
            return Err(format!(
                "`every` is {period:?}, shorter than {shortest}; use a stream source, or at least `{shortest}`"
            ));
        }
        Ok(Self(Kind::Every(period)))
    }

    /// Ticks by the wall clock of the time zone `zone` (an IANA name, in any case; `UTC` is the default of a flow file).
    ///
    /// `text` has 5 fields (minute, hour, day of month, month, day of week) or 6 with seconds first. A field takes `*`, numbers,
    /// ranges `1-5`, lists `1,3` and steps `*/5`, `10-50/5`; months and days of the week also names (`JAN`, `MON`; Sunday is 0 or 7);
    /// the day of the month also `L` (the last), `15W` (the working day nearest to it) and `LW`; the day of the week also
    /// `FRI#2` (the second Friday) and `FRIL` (the last). When both day fields are given, a day that matches either counts;
    /// with `+` before the day of the week it must match both (`0 6 1-7 * +MON`).
    ///
    /// # Errors
    /// A sentence that names the wrong field and what it takes, or the nearest time zones; also when no such date exists
    /// (`0 0 30 2 *`).
    pub fn cron(text: &str, zone: &str) -> Result<Self, String> {
        CronSchedule::new(text, zone).map(|cron| Self(Kind::Cron(Box::new(cron))))
    }

    /// One tick, at `time`; [`parse_time`] reads the text.
    #[must_use]
    pub fn at(time: Timestamp) -> Self {
        Self(Kind::At(time))
    }

    /// One run at each start of the flow.
    #[must_use]
    pub fn once() -> Self {
        Self(Kind::Once)
    }

    /// The first tick of a pipeline without earlier state that is started at `started` and waits for `delay`.
    ///
    /// For `every` and `once` that is the end of the delay (and for `every` the anchor of its grid), for `cron` the first tick not
    /// before it. An `at` whose time has passed when the flow starts gives None; one that falls into the delay waits for its end.
    #[must_use]
    pub fn first(&self, started: Timestamp, delay: Duration) -> Option<Timestamp> {
        let earliest = started.checked_add(delay).ok()?;
        match &self.0 {
            Kind::Every(_) | Kind::Once => Some(earliest),
            Kind::Cron(cron) => cron.next_from(earliest),
            Kind::At(time) => (*time >= started).then_some((*time).max(earliest)),
        }
    }

    /// Seconds from one tick to the next: the mean of the next ten gaps after `now`, for one that is no fixed grid.
    /// None where it ticks once.
    #[must_use]
    pub fn mean_period(&self, now: Timestamp) -> Option<f64> {
        if let Kind::Every(period) = &self.0 {
            return Some(period.as_secs_f64());
        }
        let first = self.next_after(now, now)?;
        let (mut last, mut gaps) = (first, 0);
        while gaps < 10
            && let Some(next) = self.next_after(now, last)
        {
            (last, gaps) = (next, gaps + 1);
        }
        let seconds = last.duration_since(first).as_secs_f64();
        (gaps > 0).then(|| seconds / f64::from(gaps))
    }

    /// The first tick strictly later than `after`; None when there is none (`once`, an `at` that has passed, or the end
    /// of the calendar).
    ///
    /// `anchor` is the first run of an `every`, which is never preceded by a tick; the others take no notice of it.
    #[must_use]
    pub fn next_after(&self, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Every(period) => {
                let grid = Grid {
                    anchor,
                    period: *period,
                };
                grid.tick(grid.first_step_after(after))
            }
            Kind::Cron(cron) => cron.next_after(after),
            Kind::At(time) => (*time > after).then_some(*time),
            Kind::Once => None,
        }
    }

    /// The ticks later than `last`, the newest tick that ran, up to and with `now`, as `policy` wants them; never more than
    /// `cap` ([`CATCH_UP_CAP`]), and the newest of them.
    ///
    /// The work does not depend on how many were missed. [`Schedule::next_after`] with `now` gives the tick that follows. `now`
    /// before `last` (the clock was put back) means that nothing was missed.
    #[must_use]
    pub fn missed(
        &self,
        anchor: Timestamp,
        last: Timestamp,
        now: Timestamp,
        policy: CatchUp,
        cap: usize,
    ) -> Missed {
        let wanted = match policy {
            CatchUp::Latest => cap.min(1),
            CatchUp::All => cap,
            CatchUp::None => 0,
        };
        let mut ticks = Vec::new();
        let total = if now <= last {
            0
        } else {
            match &self.0 {
                Kind::Every(period) => {
                    let grid = Grid {
                        anchor,
                        period: *period,
                    };
                    let (first, end) = (grid.first_step_after(last), grid.first_step_after(now));
                    let newest_first = (first..end).rev().map_while(|step| grid.tick(step));
                    ticks.extend(newest_first.take(wanted));
                    u64::try_from(end - first).unwrap_or(u64::MAX)
                }
                Kind::Cron(cron) => {
                    let newest_first = std::iter::successors(cron.latest_until(now), |tick| {
                        cron.latest_until(*tick - Duration::from_nanos(1))
                    });
                    ticks.extend(newest_first.take_while(|tick| *tick > last).take(wanted));
                    cron.count(last, now)
                }
                Kind::At(time) if *time > last && *time <= now => {
                    ticks.extend((wanted > 0).then_some(*time));
                    1
                }
                Kind::At(_) | Kind::Once => 0,
            }
        };
        ticks.reverse();
        let dropped = total.saturating_sub(ticks.len() as u64);
        Missed { ticks, dropped }
    }
}

/// As a user would write it.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Every(period) => write!(f, "every {}", format_duration(*period)),
            Kind::Cron(cron) => cron.fmt(f),
            Kind::At(time) => write!(f, "at {time}"),
            Kind::Once => f.write_str("once"),
        }
    }
}

/// When the run of `tick` starts: a random time from `tick` to `tick + jitter`, both included.
pub fn jittered<R: Rng + ?Sized>(tick: Timestamp, jitter: Duration, rng: &mut R) -> Timestamp {
    let longest = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
    let wait = Duration::from_nanos(rng.random_range(0..=longest));
    tick.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Reads the time of an `at`: RFC 3339 with its offset, `2026-03-01T06:00:00+01:00`.
///
/// # Errors
/// A sentence that names `text` and says what is possible.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.trim().parse().map_err(|_| {
        format!(
            "`{text}` is not a time; write the date, the time and the offset from UTC: `2026-03-01T06:00:00Z`, \
             `2026-03-01T06:00:00+01:00`"
        )
    })
}

/// The grid of an `every`. All in `i128` nanoseconds, which hold the product of any two values that occur.
struct Grid {
    anchor: Timestamp,
    period: Duration,
}

impl Grid {
    /// The number of the first tick strictly later than `after`.
    fn first_step_after(&self, after: Timestamp) -> i128 {
        let elapsed = after.as_nanosecond() - self.anchor.as_nanosecond();
        (elapsed.div_euclid(self.nanos()) + 1).max(0)
    }

    fn tick(&self, step: i128) -> Option<Timestamp> {
        let offset = step.checked_mul(self.nanos())?;
        Timestamp::from_nanosecond(self.anchor.as_nanosecond().checked_add(offset)?).ok()
    }

    fn nanos(&self) -> i128 {
        // A `Duration` has at most 94 bits of nanoseconds.
        self.period.as_nanos().cast_signed()
    }
}
