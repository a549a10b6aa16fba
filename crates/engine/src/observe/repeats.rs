//! Failures that come again and again: the first is said whole, its like are counted and said once a minute.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_core::units::format_duration;

use crate::clock::Clock;

/// How often the counts are said.
pub(crate) const EACH: Duration = Duration::from_secs(60);

/// So many different failures of one stage are said in a minute; what is more is counted together.
const MOST: usize = 32;

/// The most letters of a failure that are said again beside its count.
const SHOWN: usize = 160;

/// Each of the first attempts of a call is said, and then one a minute at least.
const FIRST_ATTEMPTS: u32 = 10;

/// A failure as the log tells of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure<'a> {
    /// Whose it is.
    pub(crate) pipeline: &'a Arc<str>,
    /// Where; the kind of a source.
    pub(crate) stage: &'a Arc<str>,
    /// What is done about it: `to the dead letters`, `trying again`.
    pub(crate) what: &'static str,
    /// Who must act, as a word.
    pub(crate) kind: &'static str,
    /// What went wrong, without its trace.
    pub(crate) message: &'a str,
    /// The number of the attempt, where there will be another.
    pub(crate) attempt: Option<u32>,
}

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    /// It is said whole; what is not news is counted with its like.
    pub(crate) is_news: bool,
    /// Nobody watches the minute yet, at whose end [`Repeats::say`] is called.
    pub(crate) to_watch: bool,
}

/// What the log of one run has said of late.
#[derive(Debug)]
pub(crate) struct Repeats {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    watched: bool,
    places: BTreeMap<(Arc<str>, Arc<str>), Said>,
}

/// What was said of one stage.
#[derive(Debug, Default)]
struct Said {
    failures: Vec<Counted>,
    /// Failures beyond the most that are told apart.
    others: u64,
}

#[derive(Debug)]
struct Counted {
    print: u64,
    line: String,
    again: u64,
}

impl Repeats {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            state: Mutex::new(State {
                since: clock.monotonic(),
                watched: false,
                places: BTreeMap::new(),
            }),
        }
    }

    /// Notes a failure, and says whether it is news.
    pub(crate) fn note(&self, failure: &Failure<'_>) -> Noted {
        let print = failure.print();
        let mut state = self.lock();
        let to_watch = !std::mem::replace(&mut state.watched, true);
        if to_watch {
            state.since = self.clock.monotonic();
        }
        let place = (Arc::clone(failure.pipeline), Arc::clone(failure.stage));
        let said = state.places.entry(place).or_default();
        if let Some(known) = said.failures.iter_mut().find(|known| known.print == print) {
            known.again += 1;
            if let Some(attempt) = failure.attempt.filter(|attempt| *attempt > FIRST_ATTEMPTS) {
                known.line = failure.line(Some(attempt));
            }
        } else if said.failures.len() < MOST {
            let line = failure.line(failure.attempt);
            let again = 0;
            said.failures.push(Counted { print, line, again });
            return Noted {
                is_news: true,
                to_watch,
            };
        } else {
            said.others += 1;
        }
        Noted {
            is_news: false,
            to_watch,
        }
    }

    /// Says what was counted since the last call, and forgets what did not come again: that is news the next time.
    /// False when nothing was counted: the minute need not be watched any longer.
    pub(crate) fn say(&self) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        let time = now - state.since;
        state.since = now;
        let mut told = Vec::new();
        state.places.retain(|(pipeline, stage), said| {
            said.failures.retain_mut(|known| {
                let again = std::mem::take(&mut known.again);
                if again > 0 {
                    let line = format!("of the same {}: {}", within(time), known.line);
                    told.push((Arc::clone(pipeline), Arc::clone(stage), again, line));
                }
                again > 0
            });
            let others = std::mem::take(&mut said.others);
            if others > 0 {
                let line = format!("failures with other messages {}", within(time));
                told.push((Arc::clone(pipeline), Arc::clone(stage), others, line));
            }
            !said.failures.is_empty()
        });
        state.watched = !told.is_empty();
        let goes_on = state.watched;
        drop(state);
        for (pipeline, stage, again, line) in told {
            let again = with_commas(again);
            tracing::warn!(%pipeline, %stage, "and {again} more {line}");
        }
        goes_on
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure<'_> {
    fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.what, self.kind).hash(&mut hasher);
        hash_without_places(self.message, &mut hasher);
        self.attempt
            .map(|attempt| attempt.min(FIRST_ATTEMPTS + 1))
            .hash(&mut hasher);
        hasher.finish()
    }

    /// Its first line, shortened.
    fn line(&self, attempt: Option<u32>) -> String {
        let first = self.message.lines().next().unwrap_or_default();
        let mut line: String = first.chars().take(SHOWN).collect();
        if line.len() < self.message.len() {
            line.push('…');
        }
        match attempt {
            Some(attempt) => format!("{}, attempt {attempt}: {line}", self.what),
            None => format!("{}: {line}", self.what),
        }
    }
}

/// Hashes a message without the places that it names in a text: the same fault is at another column each time.
fn hash_without_places(message: &str, hasher: &mut impl Hasher) {
    let mut names_a_place = false;
    for word in message.split(' ') {
        let number = word.trim_end_matches([',', '.', ':', ';', ')']);
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if !(names_a_place && is_number) {
            word.hash(hasher);
        }
        names_a_place = matches!(word, "line" | "column" | "position" | "byte" | "char");
    }
}

fn within(time: Duration) -> String {
    if time.as_secs() == EACH.as_secs() {
        return "in the last minute".to_owned();
    }
    let seconds = Duration::from_secs(time.as_secs().max(1));
    format!("in the last {}", format_duration(seconds))
}

/// A number as people read it: `1,204`.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_news(repeats: &Repeats, stage: &str, message: &str, attempt: Option<u32>) -> bool {
        let noted = repeats.note(&Failure {
            pipeline: &"p".into(),
            stage: &stage.into(),
            what: "skipped",
            kind: "data",
            message,
            attempt,
        });
        noted.is_news
    }

    #[test]
    fn the_first_of_a_kind_is_news_and_its_like_are_counted_until_a_minute_without_them() {
        let repeats = Repeats::new(&Clock::real());
        assert!(is_news(&repeats, "a", "bad", None));
        assert!(!repeats.say(), "nothing was counted");
        assert!(is_news(&repeats, "a", "bad", None));
        assert!(!is_news(&repeats, "a", "bad", None));
        assert!(!is_news(&repeats, "a", "bad", None));
        assert!(is_news(&repeats, "b", "bad", None));
        assert!(is_news(&repeats, "a", "worse", None));
        assert!(repeats.say());
        assert!(!is_news(&repeats, "a", "bad", None));
        assert!(is_news(&repeats, "a", "worse", None));
        assert!(repeats.say());
        assert!(!repeats.say());
        assert!(is_news(&repeats, "a", "bad", None));
    }

    #[test]
    fn the_same_fault_at_another_place_of_a_text_is_no_news() {
        let repeats = Repeats::new(&Clock::real());
        let news = |message: &str| is_news(&repeats, "a", message, None);
        assert!(news("expected value at line 1 column 13"));
        assert!(!news("expected value at line 2 column 1"));
        assert!(news("expected `,` at line 2 column 1"));
        assert!(news("answered 500") && news("answered 503"));
    }

    #[test]
    fn a_minute_is_watched_once() {
        let repeats = Repeats::new(&Clock::real());
        let stage = "s".into();
        let failure = Failure {
            pipeline: &stage,
            stage: &stage,
            what: "skipped",
            kind: "data",
            message: "bad",
            attempt: None,
        };
        let to_watch = || repeats.note(&failure).to_watch;
        assert!(to_watch() && !to_watch() && !to_watch());
        assert!(repeats.say() && !to_watch());
        assert!(repeats.say() && !repeats.say());
        assert!(to_watch());
    }

    #[test]
    fn failures_that_are_all_different_are_no_flood_either() {
        let repeats = Repeats::new(&Clock::real());
        let news = |number: usize| {
            let message = format!("cannot read `{number}`");
            is_news(&repeats, "a", &message, None)
        };
        assert_eq!((0..1000).filter(|number| news(*number)).count(), MOST);
    }

    #[test]
    fn each_of_the_first_attempts_is_said_and_later_ones_are_counted() {
        let repeats = Repeats::new(&Clock::real());
        let news = |attempt| is_news(&repeats, "a", "away", Some(attempt));
        let said: Vec<u32> = (1..100).filter(|attempt| news(*attempt)).collect();
        assert_eq!(said, (1..=11).collect::<Vec<u32>>());
    }

    #[test]
    fn a_line_is_short_and_numbers_have_commas() {
        let failure = |message| {
            let stage = "s".into();
            let failure = Failure {
                pipeline: &stage,
                stage: &stage,
                what: "trying again",
                kind: "data",
                message,
                attempt: Some(3),
            };
            failure.line(failure.attempt)
        };
        assert_eq!(failure("a\nb"), "trying again, attempt 3: a…");
        assert_eq!(failure("a"), "trying again, attempt 3: a");
        let long = "ä".repeat(500);
        assert_eq!(failure(&long).chars().count(), 25 + SHOWN + 1);
        let numbers = [7, 1204, 999, 1_000_000].map(with_commas);
        assert_eq!(numbers, ["7", "1,204", "999", "1,000,000"]);
    }
}
