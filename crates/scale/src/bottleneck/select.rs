//! Which stage limits a pipeline.
//!
//! * A **stream** is limited where batches wait: the deepest stage with at least one before it and less than one
//!   behind it. That must agree with a walk down from what is held back: the first stage that is not blocked, and
//!   busy. The source is upstream of the first stage.
//! * A **schedule** is limited when a run takes longer than its period; then by the stage that has the greatest
//!   share of the run. Runs that overlap are a stream.
//! * A stage that **nothing waits for** (`required: false`) limits nobody. It is behind when it is busy all the time and its outbox grows.
//! * What runs **once** takes as long as its slowest stage: the queues say which where batches wait, else the
//!   greatest share of the run.

use crate::figures::Trigger;
use crate::profile::{PipelineProfile, Profile, StageProfile};

use super::{Shares, percent, stages_of, time};

/// Batches before a stage from which on it counts as having work waiting.
const WAITING: f64 = 1.0;
/// The share of the time from which on something is held back, and from which on a stage is busy.
const MOST: f64 = 0.5;
/// The share of the time that a stage that limits has work: it may run out of it for the rest.
const HAS_WORK: f64 = 0.75;
/// The same where only one reading says that it limits.
const NEARLY_ALWAYS: f64 = 0.95;
/// A stage with this part of the busiest one's time is as good as it.
const NEARLY_EQUAL: f64 = 0.9;
/// Seconds that something done once must have taken for its slowest stage to be worth a word.
const WORTH_A_WORD: f64 = 0.3;
/// The part of the measured time that something done once must have taken beside other pipelines, unless it goes on.
const STILL_MATTERS: f64 = 0.25;
/// Deliveries in an inbox from which on its pipeline is behind.
const BEHIND: u64 = 10;
/// Seconds after which a call that has not ended, beside none that has, counts as hung.
const HUNG: f64 = 5.0;

/// Why a stage was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Why {
    /// Work waits for it.
    Waiting,
    /// A run takes this many periods.
    TooTight(f64),
    /// It takes the greatest part of something finite.
    Finite,
}

/// A stage that limits its pipeline.
#[derive(Debug)]
pub(super) struct Suspect<'a> {
    pub(super) pipeline: &'a PipelineProfile,
    pub(super) stage: &'a StageProfile,
    /// The stage behind it.
    pub(super) next: Option<&'a StageProfile>,
    /// Whether no stage comes before it.
    pub(super) is_first: bool,
    pub(super) shares: Shares,
    pub(super) why: Why,
    /// How much it limits, to compare pipelines: what is done once comes after what should keep up.
    pub(super) pressure: f64,
    pub(super) certain: bool,
    pub(super) evidence: Vec<String>,
}

/// The stage that limits this pipeline, if one does.
pub(super) fn suspect<'a>(
    profile: &'a Profile,
    pipeline: &'a PipelineProfile,
) -> Option<Suspect<'a>> {
    let stages = stages_of(profile, pipeline);
    if stages.is_empty() || profile.seconds <= 0.0 {
        return None;
    }
    match pipeline.trigger {
        Trigger::Stream => View::new(pipeline, stages, profile.seconds)?.stream(),
        Trigger::Schedule { .. } if pipeline.under_way > 1 => {
            View::new(pipeline, stages, profile.seconds)?.stream()
        }
        Trigger::Schedule { period_seconds } => {
            View::new(pipeline, stages, profile.seconds)?.schedule(period_seconds?)
        }
        Trigger::Once => {
            let active = active(pipeline, profile.seconds);
            let is_over = pipeline.under_way == 0;
            // Beside what goes on; a flow that does nothing else is asked about just this.
            let has_other_work = profile
                .pipelines
                .iter()
                .any(|one| one.trigger != Trigger::Once);
            let is_long_ago = has_other_work && active < STILL_MATTERS * profile.seconds;
            if active < WORTH_A_WORD || is_over && is_long_ago {
                return None;
            }
            View::new(pipeline, stages, active)?.finite(profile.seconds / active)
        }
    }
}

/// The stages of this pipeline that nothing waits for, and that do not keep up.
pub(super) fn behind<'a>(
    profile: &'a Profile,
    pipeline: &'a PipelineProfile,
) -> impl Iterator<Item = Suspect<'a>> {
    let stages = profile.stages.iter().enumerate();
    let own = stages.filter(|(_, stage)| stage.pipeline == pipeline.pipeline);
    own.filter_map(|(index, stage)| {
        let outbox = stage.outbox?;
        let shares = Shares::of(stage, profile.seconds)?;
        let more = u64::try_from(outbox.growth).ok()?;
        let grows = outbox.waiting >= BEHIND && more >= BEHIND.max(stage.records_in / 10);
        (grows && shares.taken() >= NEARLY_ALWAYS).then(|| Suspect {
            pipeline,
            stage,
            next: None,
            is_first: index == 0,
            shares,
            why: Why::Waiting,
            // It comes after what holds others up.
            pressure: 0.0,
            certain: true,
            evidence: vec![format!(
                "{} records wait in its outbox, {more} more than at the beginning; nothing else waits for it",
                outbox.waiting
            )],
        })
    })
}

/// Seconds of the measured time in which the pipeline had a delivery.
fn active(pipeline: &PipelineProfile, seconds: f64) -> f64 {
    let ended = pipeline.run_seconds.mean * pipeline.runs as f64;
    let open = pipeline.oldest_run_seconds.min(seconds);
    (ended + open).min(seconds)
}

/// A pipeline's stages with the shares of the time in which it was at work.
struct View<'a> {
    pipeline: &'a PipelineProfile,
    stages: Vec<&'a StageProfile>,
    shares: Vec<Shares>,
    active: f64,
}

impl<'a> View<'a> {
    fn new(
        pipeline: &'a PipelineProfile,
        stages: Vec<&'a StageProfile>,
        active: f64,
    ) -> Option<Self> {
        let shares = stages.iter().map(|stage| Shares::of(stage, active));
        Some(Self {
            shares: shares.collect::<Option<_>>()?,
            pipeline,
            stages,
            active,
        })
    }

    fn stream(self) -> Option<Suspect<'a>> {
        let held = self.is_held();
        let walk = self.walk(held);
        // A queue before a stage that is itself held back most of the time belongs to the one that holds it, which may
        // have taken what waited before it into a group.
        let cliff = self.cliff(1.0).and_then(|cliff| {
            let is_held = self.shares[cliff].blocked > MOST;
            if is_held {
                walk.filter(|walk| *walk > cliff)
            } else {
                Some(cliff)
            }
        });
        let taken = |stage: usize| self.shares[stage].taken();
        let has_work = |stage: usize| taken(stage) + self.shares[stage].blocked >= HAS_WORK;
        let (chosen, agree) = match (cliff, walk) {
            (Some(cliff), Some(walk)) if cliff == walk => (cliff, true),
            (Some(cliff), Some(_)) if has_work(cliff) => (cliff, false),
            (Some(cliff), None) if taken(cliff) >= NEARLY_ALWAYS => (cliff, false),
            (_, Some(walk)) if taken(walk) >= HAS_WORK => (walk, false),
            _ => return self.hung(),
        };
        let mut evidence = self.queues(chosen, 1.0);
        evidence.extend(self.held_words());
        if !agree {
            let reading = |stage: Option<usize>, nothing: &str| {
                stage.map_or_else(
                    || nothing.to_owned(),
                    |stage| format!("`{}`", self.stages[stage].stage),
                )
            };
            evidence.push(format!(
                "two readings: the queues say {}, what is held back says {}",
                reading(cliff, "that no batch waits"),
                reading(walk, "that nothing is held for most of the time"),
            ));
        }
        Some(self.suspected(chosen, Why::Waiting, agree, 1.0, evidence))
    }

    fn schedule(self, period: f64) -> Option<Suspect<'a>> {
        let load = self.pipeline.load_with_open_runs(period);
        if load <= 1.0 {
            return None;
        }
        let run = load * period;
        let slowest = self.slowest()?;
        let mut evidence = vec![format!(
            "a run takes {}, and one is due each {}: load {load:.2}",
            time(run),
            time(period)
        )];
        if self.pipeline.ticks_skipped > 0 {
            let skipped = self.pipeline.ticks_skipped;
            evidence.push(format!(
                "{skipped} {} passed over while a run went on",
                if skipped == 1 {
                    "tick was"
                } else {
                    "ticks were"
                },
            ));
        }
        let all: f64 = self.shares.iter().map(Shares::taken).sum();
        if all > 0.0 && self.stages.len() > 1 {
            evidence.push(format!(
                "it has {} of a run's work",
                percent(self.shares[slowest].taken() / all)
            ));
        }
        Some(self.suspected(slowest, Why::TooTight(load), true, load, evidence))
    }

    /// `stretch`: how much longer than the pipeline's work the measured time is.
    fn finite(self, stretch: f64) -> Option<Suspect<'a>> {
        let slowest = self.slowest()?;
        let cliff = self
            .cliff(stretch)
            .filter(|stage| self.shares[*stage].taken() >= HAS_WORK);
        let chosen = cliff.unwrap_or(slowest);
        let agree = chosen == slowest;
        let mut evidence = vec![format!(
            "it was at work for {} of the {} that the pipeline took",
            percent(self.shares[chosen].taken()),
            time(self.active)
        )];
        if cliff.is_some() {
            evidence.extend(self.queues(chosen, stretch));
        }
        if !agree {
            evidence.push(format!(
                "two readings: the queues say `{}`, the work says `{}`",
                self.stages[chosen].stage, self.stages[slowest].stage
            ));
        }
        Some(self.suspected(chosen, Why::Finite, agree, 0.0, evidence))
    }

    /// A call that does not come back, though nothing waits yet.
    fn hung(self) -> Option<Suspect<'a>> {
        let stuck = (0..self.stages.len()).find(|index| {
            let stage = self.stages[*index];
            let usual = stage.service_ms.p99 / 1e3;
            let (all_stuck, oldest) = (
                stage.in_flight >= stage.replicas.max(1),
                stage.oldest_call_seconds,
            );
            match stage.calls.saturating_sub(stage.in_flight as u64) {
                0 => all_stuck && oldest >= HUNG && oldest >= 0.9 * self.active,
                _ => all_stuck && oldest >= (10.0 * usual).max(HUNG / 2.0),
            }
        })?;
        let oldest = self.stages[stuck].oldest_call_seconds;
        let evidence = vec![format!("a call has run for {} now", time(oldest))];
        Some(self.suspected(stuck, Why::Waiting, false, 0.5, evidence))
    }

    fn suspected(
        self,
        index: usize,
        why: Why,
        agree: bool,
        weight: f64,
        mut evidence: Vec<String>,
    ) -> Suspect<'a> {
        let taken = self.shares[index].taken();
        let mut certain = agree;
        let equals: Vec<String> = (0..self.stages.len())
            .filter(|other| *other != index && self.shares[*other].taken() >= NEARLY_EQUAL * taken)
            .map(|other| {
                let share = percent(self.shares[other].taken());
                format!("`{}` ({share} of the time)", self.stages[other].stage)
            })
            .collect();
        if !equals.is_empty() {
            certain = false;
            evidence.push(format!("the next is nearly as busy: {}", equals.join(", ")));
        }
        Suspect {
            pipeline: self.pipeline,
            stage: self.stages[index],
            next: self.stages.get(index + 1).copied(),
            is_first: index == 0,
            shares: self.shares[index],
            why,
            pressure: weight + taken,
            certain,
            evidence,
        }
    }

    /// Whether what is upstream of the first stage waits for it.
    fn is_held(&self) -> bool {
        let behind = self.pipeline.waiting >= BEHIND && self.shares[0].taken() >= HAS_WORK;
        self.pipeline.source_blocked > MOST || behind
    }

    fn held_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let (held, waiting) = (self.pipeline.source_blocked, self.pipeline.waiting);
        if held > 0.01 {
            words.push(format!(
                "the source waited for the first stage {} of the time",
                percent(held)
            ));
        }
        if waiting > 0 {
            words.push(format!("{waiting} deliveries wait in the inbox"));
        }
        for (stage, shares) in self.stages.iter().zip(&self.shares) {
            if shares.blocked > MOST {
                let share = percent(shares.blocked);
                words.push(format!("`{}` was held back {share} of it", stage.stage));
            }
        }
        words
    }

    /// The deepest stage with a batch waiting whose consumer has none; `stretch` as in [`Self::finite`].
    fn cliff(&self, stretch: f64) -> Option<usize> {
        let waits = |stage: Option<&&StageProfile>| {
            stage.is_some_and(|stage| stage.queue_before * stretch >= WAITING)
        };
        (0..self.stages.len())
            .rev()
            .find(|index| waits(self.stages.get(*index)) && !waits(self.stages.get(index + 1)))
    }

    /// From what is held back downwards: the first stage that is not, and busy.
    fn walk(&self, source_held: bool) -> Option<usize> {
        let begin = if source_held {
            0
        } else {
            self.shares.iter().position(|stage| stage.blocked > MOST)?
        };
        (begin..self.stages.len()).find(|index| {
            let shares = &self.shares[*index];
            shares.blocked < MOST && shares.taken() > MOST
        })
    }

    /// The stage with the most work; none where no stage had any. A stage that was never called has no speed.
    fn slowest(&self) -> Option<usize> {
        // One that waits to try again may not have been called in all this time.
        let has_worked = |index: &usize| {
            let (stage, shares) = (self.stages[*index], &self.shares[*index]);
            stage.calls > 0 || stage.in_flight > 0 || shares.throttled > 0.0
        };
        (0..self.stages.len())
            .filter(has_worked)
            .max_by(|left, right| {
                let taken = |index: &usize| self.shares[*index].taken();
                // Of equals the first: it holds the others up.
                taken(left).total_cmp(&taken(right)).then(right.cmp(left))
            })
    }

    fn queues(&self, index: usize, stretch: f64) -> Vec<String> {
        let stage = self.stages[index];
        let behind = match self.stages.get(index + 1) {
            Some(next) => format!(
                ", {:.1} before `{}`",
                next.queue_before * stretch,
                next.stage
            ),
            None => String::new(),
        };
        // A batch whose deliveries are called one by one waits as many calls: more than there is room for batches.
        let waited = stage.queue_before * stretch;
        let of_how_many = match stage.queue_room {
            room if waited <= room as f64 => format!("{waited:.1} of {room} batches"),
            _ => format!("the batches of {waited:.0} calls"),
        };
        let mut words = vec![format!(
            "{of_how_many} waited before it on the mean{behind}"
        )];
        if stage.oldest_call_seconds > HUNG.max(stage.service_ms.p99 / 1e3 * 10.0) {
            let oldest = time(stage.oldest_call_seconds);
            words.push(format!("a call has run for {oldest} now"));
        }
        words
    }
}
