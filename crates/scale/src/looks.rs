//! Looks at the figures of one run, and what they say together: the profile of all of it, judged without its
//! warm-up.

use crate::bottleneck::Bottleneck;
use crate::figures::{FlowFigures, Trigger};
use crate::profile::Profile;

/// Seconds of a run from which on its beginning is left out of the verdict: connecting, loading, first calls.
const WARM_UP_MATTERS: f64 = 4.0;
/// The part of such a run that is left out, within these seconds.
const WARM_UP: f64 = 0.1;
const WARM_UP_WITHIN: (f64, f64) = (1.0, 10.0);
/// The newest seconds that are looked at for themselves.
const NEWEST: f64 = 10.0;
/// A time that is too short to say anything.
const TOO_SHORT: f64 = 1.5;
/// Looks that are kept; when there are more, every other one of the older ones goes.
const KEPT: usize = 96;

/// Looks at one run, a bounded number of them.
#[derive(Debug, Default)]
pub struct Looks {
    looks: Vec<FlowFigures>,
    /// Seconds since the start after which intake was over.
    intake_until: Option<f64>,
    /// Whether the first look is the beginning, of a run that goes on for longer.
    from_first: bool,
}

impl Looks {
    /// Looks at a run whose intake ends by itself after so many seconds: what comes later is finishing, and is
    /// not judged.
    pub fn until(intake_until: Option<f64>) -> Self {
        Self {
            looks: Vec::new(),
            intake_until,
            from_first: false,
        }
    }

    /// Looks at a run that has begun before: only what comes after the first of them counts, and all of that is judged.
    pub fn from_now() -> Self {
        Self {
            from_first: true,
            ..Self::default()
        }
    }

    /// Keeps a look; they come in the order of time. Of those after intake only the newest stays.
    pub fn note(&mut self, figures: FlowFigures) {
        let end = self.intake_until.unwrap_or(f64::INFINITY);
        if self.looks.last().is_some_and(|last| last.seconds > end) {
            self.looks.pop();
        }
        self.looks.push(figures);
        if self.looks.len() > KEPT {
            let old = self.looks.len() / 2;
            let mut place = 0;
            self.looks.retain(|_| {
                place += 1;
                place > old || place % 2 == 1
            });
        }
    }

    /// Intake is over since the last look.
    pub fn intake_is_over(&mut self) {
        let last = self.looks.last().map(|look| look.seconds);
        self.intake_until = match (self.intake_until, last) {
            (Some(until), Some(last)) => Some(until.min(last)),
            (until, last) => until.or(last),
        };
    }

    /// The newest seconds, as they are shown while it runs.
    pub fn newest(&self) -> Option<Profile> {
        let now = self.looks.last()?;
        let begin = self.at_or_before(now.seconds - NEWEST);
        let begin = begin.or(self.first()?);
        Some(Profile::between(begin, now))
    }

    /// The look from which on all counts: none where that is the start. `None` while there is no time after it.
    #[expect(
        clippy::option_option,
        reason = "it is the argument of `Profile::between`, or there is none to make"
    )]
    fn first(&self) -> Option<Option<&FlowFigures>> {
        match (self.from_first, &self.looks[..]) {
            (false, _) => Some(None),
            (true, [first, _, ..]) => Some(Some(first)),
            (true, _) => None,
        }
    }

    /// All of the run. What limits it is judged from the end of its warm-up to the end of intake; a run of nothing but
    /// `once` pipelines is judged whole. Where another stage limits by now, that one is named, as not certain.
    pub fn whole(&self) -> Option<Profile> {
        let now = self.looks.last()?;
        let first = self.first()?;
        let whole = Profile::between(first, now);
        let finite = |trigger: &Trigger| matches!(trigger, Trigger::Once);
        if whole.pipelines.iter().all(|one| finite(&one.trigger)) {
            return Some(whole);
        }
        let end = self.intake_until.unwrap_or(f64::INFINITY);
        let judged = self.looks.iter().rev().find(|look| look.seconds <= end);
        let end = judged.unwrap_or(now);
        let begin = match end.seconds >= WARM_UP_MATTERS {
            _ if first.is_some() => first,
            true => {
                let (least, most) = WARM_UP_WITHIN;
                let warm = (end.seconds * WARM_UP).clamp(least, most);
                self.looks.iter().find(|look| look.seconds >= warm)
            }
            false => None,
        };
        let begun = begin.map_or(0.0, |look| look.seconds);
        let judged = Profile::between(begin.filter(|look| look.seconds < end.seconds), end);
        let latest = ((end.seconds - begun) / 3.0).min(NEWEST);
        let latest = self.at_or_before(end.seconds - latest);
        let latest = latest.filter(|look| {
            (begun..end.seconds - TOO_SHORT).contains(&look.seconds) && look.seconds > 0.0
        });
        let latest = latest.map(|begin| Profile::between(Some(begin), end));
        Some(Profile {
            bottleneck: settled(&judged, latest.as_ref()),
            ..whole
        })
    }

    fn at_or_before(&self, seconds: f64) -> Option<&FlowFigures> {
        self.looks.iter().rev().find(|look| look.seconds <= seconds)
    }
}

/// What all of the time and its last part say together.
fn settled(all: &Profile, latest: Option<&Profile>) -> Option<Bottleneck> {
    let Some(latest) = latest else {
        return all.bottleneck.clone();
    };
    let same = |one: &Bottleneck, other: &Bottleneck| {
        one.pipeline == other.pipeline && one.stage == other.stage
    };
    match (&all.bottleneck, &latest.bottleneck) {
        (Some(before), Some(now)) if !same(before, now) => {
            let mut moved = now.clone();
            moved.certain = false;
            moved.evidence.push(format!(
                "that is so for the last {:.0} s; over all of the time it was `{}` of `{}` ({})",
                latest.seconds,
                before.stage,
                before.pipeline,
                before.cause.word()
            ));
            Some(moved)
        }
        (Some(before), None) => {
            let mut past = before.clone();
            past.certain = false;
            let seconds = latest.seconds;
            past.evidence
                .push(format!("not any more in the last {seconds:.0} s"));
            Some(past)
        }
        (None, Some(now)) => {
            // A short burst at the end is none; something that held the source all the time and moved is.
            let mut pipelines = all.pipelines.iter();
            let held = pipelines.find(|one| one.pipeline == now.pipeline);
            held.filter(|one| one.source_blocked > 0.5).map(|_| {
                let mut moved = now.clone();
                moved.certain = false;
                let seconds = latest.seconds;
                moved.evidence.push(format!(
                    "that is so for the last {seconds:.0} s; before, no stage limited it for most of the time"
                ));
                moved
            })
        }
        (before, _) => before.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{HostFigures, PipelineFigures, StageFigures};
    use crate::profile::Seconds;

    /// A stream of two stages at a time; `busy` are the seconds that each has worked, with the source held.
    fn look(seconds: f64, busy: [f64; 2], held: f64) -> FlowFigures {
        let stage = |index: usize| StageFigures {
            pipeline: "p".to_owned(),
            stage: ["a", "b"][index].to_owned(),
            replicas: 1,
            calls: (busy[index] * 10.0) as u64,
            queue_room: 2,
            seconds: Seconds {
                wall: seconds,
                external: busy[index],
                blocked: if index == 0 { busy[1] } else { 0.0 },
                starved: seconds - busy[index] - if index == 0 { busy[1] } else { 0.0 },
                ..Seconds::default()
            },
            queue_seconds: match index {
                0 => held * 2.0,
                _ => busy[1] * 2.0,
            },
            ..StageFigures::default()
        };
        FlowFigures {
            flow: "f".to_owned(),
            seconds,
            host: HostFigures {
                cores: 2.0,
                ..HostFigures::default()
            },
            stages: vec![stage(0), stage(1)],
            pipelines: vec![PipelineFigures {
                pipeline: "p".to_owned(),
                trigger: Trigger::Stream,
                source_blocked_seconds: held,
                ..PipelineFigures::default()
            }],
        }
    }

    /// What each stage does in each second of a run.
    fn run(seconds: usize, work: impl Fn(usize) -> ([f64; 2], f64)) -> Looks {
        let mut looks = Looks::until(Some(seconds as f64));
        let (mut busy, mut held) = ([0.0, 0.0], 0.0);
        for second in 0..seconds {
            let (more, wait) = work(second);
            busy = [busy[0] + more[0], busy[1] + more[1]];
            held += wait;
            looks.note(look(second as f64 + 1.0, busy, held));
        }
        looks
    }

    #[test]
    fn the_warm_up_is_in_the_figures_and_not_in_the_verdict() {
        let looks = run(10, |second| match second {
            0 => ([1.0, 0.0], 1.0),
            _ => ([0.2, 0.0], 0.0),
        });
        let whole = looks.whole().unwrap();
        assert_eq!((whole.seconds, whole.bottleneck), (10.0, None));
        assert!((whole.stages[0].seconds.external - 2.8).abs() < 1e-9);
    }

    #[test]
    fn one_that_moves_is_named_where_it_is_now() {
        let looks = run(12, |second| match second {
            0..7 => ([1.0, 0.0], 1.0),
            _ => ([0.0, 1.0], 1.0),
        });
        let found = looks.whole().unwrap().bottleneck.unwrap();
        assert_eq!((&*found.stage, found.certain), ("b", false));
    }

    #[test]
    fn what_is_finished_after_intake_is_not_judged() {
        let mut looks = run(10, |_| ([1.0, 0.0], 1.0));
        for second in 11..500 {
            looks.note(look(f64::from(second), [10.0, 0.0], 10.0));
        }
        assert_eq!(looks.looks.len(), 11);
        let found = looks.whole().unwrap().bottleneck.unwrap();
        assert_eq!((&*found.stage, found.certain), ("a", true));
    }

    #[test]
    fn a_burst_at_the_end_is_no_bottleneck() {
        let looks = run(12, |second| match second {
            0..9 => ([0.1, 0.0], 0.0),
            _ => ([1.0, 0.0], 1.0),
        });
        assert_eq!(looks.whole().unwrap().bottleneck, None);
    }

    #[test]
    fn a_day_of_looks_takes_little_room() {
        let looks = run(5_000, |_| ([1.0, 0.0], 1.0));
        assert!(looks.looks.len() <= KEPT);
        assert!(looks.looks[0].seconds < 2.0, "the first stays");
        assert!(looks.newest().unwrap().seconds <= NEWEST + 0.1);
    }
}
