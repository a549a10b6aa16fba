//! What limits a flow, and why: queues select the stage, the six clocks give the cause.

mod advice;
mod cause;
mod select;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::profile::{PipelineProfile, Profile, StageProfile};

/// Finds what limits the flow in the time that was measured; none where every stream and schedule keeps up.
///
/// The stage is chosen by what waits (see the module `select`), never by speed alone: a stage without input looks slow. Where
/// two ways to look disagree, or a second stage is nearly as busy, it is not certain, and the evidence says both.
pub fn find(profile: &Profile) -> Option<Bottleneck> {
    let mut suspects: Vec<select::Suspect<'_>> = profile
        .pipelines
        .iter()
        .flat_map(|pipeline| {
            let suspect = select::suspect(profile, pipeline);
            suspect.into_iter().chain(select::behind(profile, pipeline))
        })
        .collect();
    suspects.sort_by(|left, right| right.pressure.total_cmp(&left.pressure));
    let mut suspects = suspects.into_iter();
    let worst = suspects.next()?;
    let others: Vec<String> = suspects
        .map(|other| format!("`{}` / `{}`", other.stage.pipeline, other.stage.stage))
        .collect();
    let (cause, why) = cause::of(profile, &worst);
    let advice = advice::of(profile, &worst, cause);
    let mut evidence = worst.evidence;
    evidence.extend(why);
    if !others.is_empty() {
        evidence.push(format!("limited too: {}", others.join(", ")));
    }
    Some(Bottleneck {
        pipeline: worst.stage.pipeline.clone(),
        stage: worst.stage.stage.clone(),
        cause,
        certain: worst.certain,
        evidence,
        advice,
    })
}

/// Why a stage is as slow as it is: one vocabulary everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// One thread's CPU.
    Compute,
    /// Ready, but no core is free.
    HostFull,
    /// Waiting outside, sleep included.
    ExternalLatency,
    /// 429, `Retry-After`, or the stage's own `rate_limit`.
    ExternalLimit,
    /// One key has most of the work.
    Skew,
    /// Memory is short.
    Memory,
    /// Python threads wait for each other.
    Gil,
    /// A run takes longer than its period.
    ScheduleTooTight,
    /// A finite source with work left is slower than all the rest.
    SourceBound,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Compute,
        Self::HostFull,
        Self::ExternalLatency,
        Self::ExternalLimit,
        Self::Skew,
        Self::Memory,
        Self::Gil,
        Self::ScheduleTooTight,
        Self::SourceBound,
    ];

    /// The word in documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::HostFull => "host_full",
            Self::ExternalLatency => "external_latency",
            Self::ExternalLimit => "external_limit",
            Self::Skew => "skew",
            Self::Memory => "memory",
            Self::Gil => "gil",
            Self::ScheduleTooTight => "schedule_too_tight",
            Self::SourceBound => "source_bound",
        }
    }

    /// What it does to the stage, for a sentence that begins with the stage's name.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Compute => "computes all the time, on one core",
            Self::HostFull => "is ready to work and finds no free core",
            Self::ExternalLatency => "waits for something outside",
            Self::ExternalLimit => "is held by a limit",
            Self::Skew => "has most of its work under one key",
            Self::Memory => "is short of memory",
            Self::Gil => "has several calls and one Python process for them",
            Self::ScheduleTooTight => "makes a run take longer than its period",
            Self::SourceBound => "gives its records more slowly than all the rest takes them",
        }
    }
}

/// The stage that limits the flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bottleneck {
    /// Its pipeline.
    pub pipeline: String,
    /// Its name.
    pub stage: String,
    /// Why it is slow.
    pub cause: Cause,
    /// Whether all readings agree.
    pub certain: bool,
    /// The figures that say so.
    pub evidence: Vec<String>,
    /// What to do, the cheapest first.
    pub advice: Vec<String>,
}

impl Bottleneck {
    /// The verdict in one sentence.
    pub fn sentence(&self) -> String {
        let doubt = if self.certain { "" } else { " probably" };
        let Self {
            pipeline, stage, ..
        } = self;
        let (word, said) = (self.cause.word(), self.cause.sentence());
        format!("`{pipeline}` is{doubt} limited by `{stage}`, which {said} ({word})")
    }
}

/// Where a stage's time went while its pipeline was at work, as shares of the time of all its replicas.
#[derive(Clone, Copy, Debug, Default)]
struct Shares {
    compute: f64,
    external: f64,
    blocked: f64,
    throttled: f64,
    overhead: f64,
}

impl Shares {
    /// Of `active` seconds; none where the stage was not measured.
    fn of(stage: &StageProfile, active: f64) -> Option<Self> {
        let wall = active * stage.replicas.max(1) as f64;
        if wall <= 0.0 || stage.seconds.wall <= 0.0 {
            return None;
        }
        let share = |seconds: f64| (seconds / wall).clamp(0.0, 1.0);
        Some(Self {
            compute: share(stage.seconds.compute),
            external: share(stage.seconds.external),
            blocked: share(stage.seconds.blocked),
            throttled: share(stage.seconds.throttled),
            overhead: share(stage.seconds.overhead),
        })
    }

    /// In which it had work: with none of it could it have taken more.
    fn taken(&self) -> f64 {
        (self.compute + self.external + self.throttled + self.overhead).min(1.0)
    }
}

/// The stages of a pipeline that it waits for, in order.
fn stages_of<'a>(profile: &'a Profile, pipeline: &PipelineProfile) -> Vec<&'a StageProfile> {
    let is_waited_for = |stage: &&StageProfile| stage.outbox.is_none();
    let stages = profile.stages.iter();
    stages
        .filter(|stage| stage.pipeline == pipeline.pipeline)
        .filter(is_waited_for)
        .collect()
}

/// A share, for people.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "0 %".to_owned(),
        _ if percent < 1.0 => "under 1 %".to_owned(),
        _ => format!("{percent:.0} %"),
    }
}

/// A time, for people.
fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 10.0 => format!("{seconds:.0} s"),
        _ if seconds >= 1.0 => format!("{seconds:.1} s"),
        _ if seconds >= 0.01 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{:.2} ms", seconds * 1e3),
    }
}
