//! What to do about a cause, the cheapest first.

use crate::profile::{Profile, StageProfile};

use super::Cause;
use super::cause::fails;
use super::select::{Suspect, Why};

/// One failure in so many calls is worth a look before anything else.
const WORTH_A_LOOK: u64 = 20;

/// What to do.
pub(super) fn of(profile: &Profile, suspect: &Suspect<'_>, cause: Cause) -> Vec<String> {
    let stage = suspect.stage;
    let name = &stage.stage;
    let say = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    match cause {
        Cause::Compute => compute(profile, stage),
        Cause::HostFull if profile.host.cpu_used - profile.host.cpu_own > 0.25 => say(&[
            "stop what else works on this machine, or run the flow at another time",
            "run the flow, or this stage, on a machine with free cores",
            "spend less CPU in the function: profile it alone",
        ]),
        Cause::HostFull => say(&[
            "spend less CPU in the function: profile it alone",
            "run the stage that gains most for the bytes it moves on another machine",
            "a machine with more cores; more calls at once on this one do not help",
        ]),
        Cause::ExternalLatency if fails(stage, &suspect.shares) => say(&[
            "see why its calls fail: `wiredflow status` and the log have the reason",
            "if its peer is away or refuses, that is what to mend: no setting here makes it faster",
            "`retry: {max: 5s}` asks again soon once the peer is back; without it the pauses grow to a minute",
        ]),
        Cause::ExternalLatency => external(stage),
        Cause::ExternalLimit if stage.limited > 0 => vec![
            "ask less often: a longer period, fewer pages, or a cache for what rarely changes"
                .to_owned(),
            format!(
                "ask for more at once, and set `rate_limit` on `{name}` a little below what the peer allows"
            ),
            "ask the peer's owner for a higher limit; more servers will not help".to_owned(),
        ],
        Cause::ExternalLimit => vec![
            format!("raise `rate_limit` on `{name}`, if the peer allows it"),
            format!(
                "give each call more records: `batch: {{max: {}, within: 1s}}`",
                larger_batch(stage)
            ),
            "more servers will not help".to_owned(),
        ],
        Cause::Skew => say(&[
            "choose a key that spreads the records more evenly",
            "sum up by a finer key first, and by this one after it",
            "more replicas than 1 / (the hottest key's share) do not help",
        ]),
        Cause::Memory => say(&[
            "smaller batches: `batch: {max: 100, within: 1s}`, or `limit` where records are loaded",
            "a generator (`yield`) in place of a list of everything",
            "a machine with more memory",
        ]),
        Cause::Gil => vec![
            format!(
                "`processes: {}` beside `parallel` on `{name}`, if its calls do not depend on each other: each process \
                 has a core of its own",
                free_cores(profile).max(2).min(stage.replicas.max(2))
            ),
            "move the hot loop into a library that works outside Python (numpy, polars)".to_owned(),
        ],
        Cause::ScheduleTooTight => schedule(profile, suspect),
        Cause::SourceBound => vec![
            format!(
                "`{name}` decides how long it takes: let it read several things at once, or larger pieces"
            ),
            "nothing is gained by making the other stages faster, or by more servers".to_owned(),
        ],
    }
}

fn compute(profile: &Profile, stage: &StageProfile) -> Vec<String> {
    let free = free_cores(profile);
    let mut advice = Vec::new();
    if stage.batch.mean < 2.0 && stage.batch.mean > 0.0 && stage.service_ms.mean < 5.0 {
        advice.push(
            "give each call more records: `batch: {max: 100, within: 100ms}` gives it a list of them, which may wait a \
             tenth of a second for each other"
                .to_owned(),
        );
    }
    if free > 0 {
        let calls = stage.replicas.max(1) + free;
        let how = match stage.processes {
            0 => format!("`parallel: {calls}`"),
            _ => format!("`parallel: {calls}` with `processes: {calls}`"),
        };
        advice.push(format!(
            "{how} on `{}`, if its calls do not depend on each other: {free} of {} cores {} free",
            stage.stage,
            profile.host.cores,
            if free == 1 { "is" } else { "are" }
        ));
    }
    advice.push("split it into two stages, which then work at the same time".to_owned());
    advice.push("spend less CPU in it: profile the function alone".to_owned());
    advice
}

fn external(stage: &StageProfile) -> Vec<String> {
    let at_once = match stage.processes {
        0 => stage.replicas,
        processes => processes.min(stage.replicas),
    };
    let calls = (at_once.max(1) * 4).clamp(4, 64);
    let name = &stage.stage;
    let mut advice = vec![match stage.processes {
        0 => format!("wait for several at once: `parallel: {calls}` on `{name}`"),
        _ => format!(
            "wait for several at once: `parallel: {calls}` with `processes: {calls}` on `{name}`, if its calls do not \
             depend on each other"
        ),
    }];
    if stage.errors * WORTH_A_LOOK >= stage.calls.max(1) {
        advice.insert(
            0,
            "see why its calls fail: the log has the reasons".to_owned(),
        );
    }
    advice.push(format!(
        "ask for, or send, more in each call: `batch: {{max: {}, within: 1s}}` gives it a list of records, which may wait \
         a second for each other",
        larger_batch(stage)
    ));
    advice.push("more machines do not help while it waits".to_owned());
    advice
}

fn schedule(profile: &Profile, suspect: &Suspect<'_>) -> Vec<String> {
    let Why::TooTight(load) = suspect.why else {
        return Vec::new();
    };
    let mut advice = Vec::new();
    if let Some(period) = suspect.pipeline.period_seconds {
        let wanted = period * load / 0.7;
        let wanted = if wanted < 1.0 {
            format!("{:.0}ms", (wanted * 1e3).ceil())
        } else {
            format!("{:.0}s", wanted.ceil())
        };
        advice.push(format!(
            "a longer period: `every: {wanted}` leaves a run time to end"
        ));
    }
    let shares = &suspect.shares;
    if shares.external > shares.compute {
        advice.extend(external(suspect.stage).into_iter().take(1));
    } else {
        advice.extend(compute(profile, suspect.stage).into_iter().take(1));
    }
    advice.push("`overlap: allow`, if runs do not depend on each other".to_owned());
    advice
}

/// Cores that nobody used.
fn free_cores(profile: &Profile) -> usize {
    let free = profile.host.cores * (1.0 - profile.host.cpu_used);
    (free + 0.25).floor().max(0.0) as usize
}

fn larger_batch(stage: &StageProfile) -> u64 {
    let mean = stage.batch.mean.max(1.0);
    ((mean * 10.0).ceil() as u64).clamp(10, 1000)
}
