//! Why a stage is as slow as it is.

use crate::profile::{Profile, StageProfile};

use super::select::{Suspect, Why};
use super::{Cause, Shares, percent, time};

/// The share of a stage's work from which on a part of it is the reason.
const MOST: f64 = 0.5;
/// The share of memory in use, and the pages a second read back from a disk, from which on it is short.
const MEMORY_FULL: f64 = 0.9;
const MEMORY_FAULTS: f64 = 50.0;
/// The share of all cores that must work for the host to be full.
const HOST_BUSY: f64 = 0.9;
/// The share of the time with work to do on a core that must have passed in waiting for one.
const NO_CORE: f64 = 0.1;
/// The CPU of one process that is all it can have while Python runs one thread at a time.
const ONE_CORE: f64 = 0.75;
/// Answers "later", of all calls, from which on they are the limit.
const LIMITED: f64 = 0.1;
/// Batches that a source must have given to be one with work left.
const SEVERAL: u64 = 3;

/// The cause, and the figures that say so.
pub(super) fn of(profile: &Profile, suspect: &Suspect<'_>) -> (Cause, Vec<String>) {
    let Suspect { stage, shares, .. } = suspect;
    let mut evidence = vec![spent(shares)];
    if stage.service_ms.mean > 0.0 {
        evidence.push(format!(
            "a call takes {} on the mean, {} at the 99th percentile",
            time(stage.service_ms.mean / 1e3),
            time(stage.service_ms.p99 / 1e3)
        ));
    }
    let foreign = limit(profile, stage, shares)
        .or_else(|| memory(profile))
        .or_else(|| host(profile, stage, shares));
    if let Some((cause, words)) = foreign {
        evidence.push(words);
        return (cause, evidence);
    }
    let (own, words) = own_work(profile, suspect);
    evidence.extend(words);
    match suspect.why {
        // No period is long enough for a peer that is away.
        Why::TooTight(_) if own == Cause::ExternalLatency && fails(stage, shares) => {
            (own, evidence)
        }
        // A longer period or a shorter run mends it, whatever the run is spent on.
        Why::TooTight(_) => (Cause::ScheduleTooTight, evidence),
        Why::Waiting | Why::Finite => (own, evidence),
    }
}

/// Whether it is its failures that take the time: at least half of its calls fail, or it waits to try again and has not
/// been called in all this time.
pub(super) fn fails(stage: &StageProfile, shares: &Shares) -> bool {
    let failed = stage.errors.saturating_sub(stage.limited);
    let waits = shares.throttled >= MOST * shares.taken().max(f64::EPSILON);
    match stage.calls {
        0 => waits && stage.limited == 0 && stage.in_flight == 0,
        calls => failed > 0 && failed * 2 >= calls,
    }
}

fn spent(shares: &Shares) -> String {
    let parts = [
        ("compute", shares.compute),
        ("external", shares.external),
        ("throttled", shares.throttled),
        ("overhead", shares.overhead),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, share)| *share >= 0.01)
        .map(|(word, share)| format!("{word} {}", percent(*share)))
        .collect();
    format!(
        "it had work {} of the time: {}",
        percent(shares.taken()),
        if parts.is_empty() {
            "next to nothing".to_owned()
        } else {
            parts.join(", ")
        }
    )
}

/// A limit that somebody has set: more servers do not help.
fn limit(profile: &Profile, stage: &StageProfile, shares: &Shares) -> Option<(Cause, String)> {
    let work = shares.taken().max(f64::EPSILON);
    let throttled = shares.throttled / work;
    let limited = stage.limited as f64 / (stage.calls as f64).max(1.0);
    if stage.limited > 0 && (throttled >= MOST || limited >= LIMITED) {
        let words = format!(
            "{} of {} calls were answered with 429 or \"later\"; it waited {} of the time before it could try again",
            stage.limited,
            stage.calls,
            percent(shares.throttled)
        );
        return Some((Cause::ExternalLimit, words));
    }
    let rate = stage.rate_limit.filter(|_| !fails(stage, shares))?;
    let made = stage.calls as f64 / profile.seconds.max(f64::EPSILON);
    (throttled >= MOST).then(|| {
        let words = format!("its `rate_limit` allows {rate} calls a second, and it made {made:.1}");
        (Cause::ExternalLimit, words)
    })
}

fn memory(profile: &Profile) -> Option<(Cause, String)> {
    let host = &profile.host;
    (host.memory_used >= MEMORY_FULL && host.major_faults >= MEMORY_FAULTS).then(|| {
        let words = format!(
            "{} of the memory is in use, and {:.0} pages a second are read back from a disk",
            percent(host.memory_used),
            host.major_faults
        );
        (Cause::Memory, words)
    })
}

/// Ready, and no core free.
fn host(profile: &Profile, stage: &StageProfile, shares: &Shares) -> Option<(Cause, String)> {
    let host = &profile.host;
    if host.cpu_used < HOST_BUSY {
        return None;
    }
    let (cpu, delay) = cores_used(profile, stage);
    let on_core = cpu + delay;
    let wall = stage.seconds.wall.max(f64::EPSILON);
    let delayed = delay / on_core.max(f64::EPSILON);
    if shares.external > shares.compute + shares.overhead {
        return None;
    }
    // The work must want a core for most of its time: a stage that sleeps is not slow for want of one.
    let wants_cores = on_core / wall >= MOST * shares.taken() * stage.used_share();
    let fills_it = cpu >= HOST_BUSY * host.cores * profile.seconds;
    (wants_cores && (delayed >= NO_CORE || fills_it)).then(|| {
        let words = format!(
            "{} of the machine's {} cores worked ({} for this flow); its calls were ready and had no core for {} of \
             the {} that they wanted one",
            percent(host.cpu_used),
            host.cores,
            percent(host.cpu_own),
            time(delay),
            time(on_core),
        );
        (Cause::HostFull, words)
    })
}

/// The seconds that a stage's calls had a core, and that they waited for one; of a stage without processes of its own
/// those of all the flow, which it cannot have exceeded.
fn cores_used(profile: &Profile, stage: &StageProfile) -> (f64, f64) {
    let host = &profile.host;
    match stage.processes {
        0 if stage.cpu_seconds == 0.0 => (
            host.cpu_own * host.cores * profile.seconds,
            host.run_delay * profile.seconds,
        ),
        _ => (stage.cpu_seconds, stage.run_delay_seconds),
    }
}

impl StageProfile {
    /// The share of its calls at once that can be at work: those beyond its processes wait for one.
    fn used_share(&self) -> f64 {
        match self.processes {
            0 => 1.0,
            processes => (processes as f64 / self.replicas.max(1) as f64).min(1.0),
        }
    }
}

/// What the stage's own work is spent on.
fn own_work(profile: &Profile, suspect: &Suspect<'_>) -> (Cause, Vec<String>) {
    let (stage, shares) = (suspect.stage, &suspect.shares);
    let active = (stage.seconds.wall / stage.replicas.max(1) as f64).max(f64::EPSILON);
    let (cpu, delay) = cores_used(profile, stage);
    let cores = cpu / active;
    let used = format!(
        "{} used {cores:.2} of {} cores, of which {} were busy",
        if stage.processes > 0 {
            "its processes"
        } else {
            "the flow"
        },
        profile.host.cores,
        percent(profile.host.cpu_used)
    );
    let processes = stage.processes as f64;
    let at_once = (shares.taken() - shares.throttled) * stage.replicas as f64;
    if stage.processes > 0 && at_once > 1.5 * processes && cores >= ONE_CORE * processes {
        let words = format!(
            "{at_once:.1} calls at once share {} Python {}, which can use one core each",
            stage.processes,
            if stage.processes == 1 {
                "process"
            } else {
                "processes"
            }
        );
        return (Cause::Gil, vec![words, used]);
    }
    if let Some(share) = stage.hottest_key
        && stage.replicas > 1
        && share > 1.0 / stage.replicas as f64
        && share > MOST
    {
        let words = format!("one key has {} of the records", percent(share));
        return (Cause::Skew, vec![words, used]);
    }
    // A call that has not used a core has waited, whatever the engine took it for. Without processes of its own the
    // stage has used no more than all the flow has.
    let wall = stage.seconds.wall.max(f64::EPSILON);
    let inside = (shares.compute - (cpu + delay) / wall).max(0.0);
    // What waits outside and is throttled after failures: a peer that is away or slow.
    let waits = shares.external + shares.throttled + inside;
    // The engine's own work (reading, writing, handing over) is CPU too.
    // Calls that wait for a worker process wait for what the calls in it do.
    let no_process = (shares.taken() - shares.throttled) * (1.0 - stage.used_share());
    let works = shares.compute - inside + (shares.overhead - no_process).max(0.0);
    let waited = (inside >= 0.1).then(|| {
        format!(
            "its function waited {} of the time: it was in a call and used no core",
            percent(inside)
        )
    });
    let used: Vec<String> = waited.into_iter().chain([used]).collect();
    let failed = match stage.calls {
        0 if fails(stage, shares) => {
            Some("it waits to try again, and made no call in this time".to_owned())
        }
        _ => (stage.errors > 0).then(|| {
            format!(
                "{} of {} calls failed, {} were tried again",
                stage.errors, stage.calls, stage.retries
            )
        }),
    };
    if waits >= works {
        let is_source = suspect.is_first && suspect.why == Why::Finite;
        let gives_on = suspect.next.is_some_and(|next| next.calls >= SEVERAL);
        let cause = if is_source && gives_on {
            Cause::SourceBound
        } else {
            Cause::ExternalLatency
        };
        return (cause, failed.into_iter().chain(used).collect());
    }
    (Cause::Compute, failed.into_iter().chain(used).collect())
}
