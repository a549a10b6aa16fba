//! What is under way of replays, and which pipelines are open for them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wiredflow_core::delivery::{Outcome, Parcel, Settle, Settled, Token};
use wiredflow_core::{ErrorKind, Result};

use crate::clock::Clock;
use crate::state::{AskedLetter, DeadLetter, DeadLetterId, ReplayEnd, ReplayOutcome};

use super::super::Shared;
use super::super::policy::{BACKOFF, backoff};
use super::Doors;

/// The epoch of the tokens of replays: no source counts so many connections.
const EPOCH: u64 = u64::MAX;

/// How many parts of a letter may fail before it is kept as a whole again.
const MOST_PARTS: usize = 4096;

/// Whether a parcel is of a replay. One that is holds that delivery alone, from its beginning to its end.
pub(crate) fn is_replay(parcel: &Parcel) -> bool {
    token_of(parcel).is_some()
}

fn token_of(parcel: &Parcel) -> Option<Token> {
    let token = parcel.lineage.tokens().next();
    token.filter(|token| token.epoch == EPOCH)
}

/// How a pipeline can be reached by replays.
#[derive(Clone)]
pub(crate) enum Way {
    /// It is being opened.
    NotYet,
    /// It is open.
    Open(Doors),
    /// It has ended: replays open its stages for themselves.
    Over,
}

/// The desk where replays are handed in and come back. The module above says more.
pub(crate) struct Desk {
    clock: Clock,
    page: Mutex<Page>,
    /// A replay has ended, or a pipeline's way has changed.
    changed: Notify,
    /// A pipeline has opened or ended.
    opened: Notify,
    closed: CancellationToken,
}

#[derive(Default)]
struct Page {
    ways: HashMap<Arc<str>, Way>,
    next: u64,
    under_way: BTreeMap<u64, UnderWay>,
    /// The letters that are under way, or have ended and are not written yet.
    letters: HashSet<DeadLetterId>,
    /// Pipelines whose letters are being fed.
    feeding: HashSet<Arc<str>>,
    ended: Vec<ReplayEnd>,
}

struct UnderWay {
    letter: AskedLetter,
    failed: Vec<DeadLetter>,
    /// Whether more has failed than is gathered.
    too_many: bool,
}

/// That a task feeds the letters of a pipeline, until it is dropped.
pub(crate) struct Feeding {
    desk: Arc<Desk>,
    pipeline: Arc<str>,
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.desk.lock().feeding.remove(&self.pipeline);
    }
}

impl Desk {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            page: Mutex::default(),
            changed: Notify::new(),
            opened: Notify::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Says that a pipeline is open, as long as somebody holds its queues.
    pub(crate) fn is_open(&self, doors: Doors) {
        let pipeline = Arc::clone(&doors.plan.name);
        self.set(&pipeline, Way::Open(doors));
    }

    /// Says that a pipeline has ended for good.
    pub(crate) fn is_over(&self, pipeline: &Arc<str>) {
        self.set(pipeline, Way::Over);
    }

    fn set(&self, pipeline: &Arc<str>, way: Way) {
        let old = self.lock().ways.insert(Arc::clone(pipeline), way);
        drop(old);
        self.opened.notify_one();
        self.changed.notify_waiters();
    }

    /// Waits until a pipeline has opened or ended.
    pub(crate) async fn opened(&self) {
        self.opened.notified().await;
    }

    /// How a pipeline can be reached, for the one task that feeds its letters; none while there is one.
    pub(crate) fn way(self: &Arc<Self>, pipeline: &Arc<str>) -> Option<(Feeding, Way)> {
        let mut page = self.lock();
        if !page.feeding.insert(Arc::clone(pipeline)) {
            return None;
        }
        let way = page.ways.get(pipeline).cloned().unwrap_or(Way::NotYet);
        let feeding = Feeding {
            desk: Arc::clone(self),
            pipeline: Arc::clone(pipeline),
        };
        drop(page);
        Some((feeding, way))
    }

    /// Begins a replay; none where that letter is under way.
    pub(crate) fn begin(&self, letter: &AskedLetter) -> Option<Token> {
        let mut page = self.lock();
        if !page.letters.insert(letter.id.clone()) {
            return None;
        }
        let id = page.next;
        page.next += 1;
        let under_way = UnderWay {
            letter: letter.clone(),
            failed: Vec::new(),
            too_many: false,
        };
        page.under_way.insert(id, under_way);
        Some(Token { epoch: EPOCH, id })
    }

    /// Forgets a replay: its letter stays as the state has it.
    pub(crate) fn forget(&self, token: Token) {
        let mut page = self.lock();
        if let Some(gone) = page.under_way.remove(&token.id) {
            page.letters.remove(&gone.letter.id);
        }
        drop(page);
        self.changed.notify_waiters();
    }

    /// Ends a replay; it is written a moment later.
    pub(crate) fn end(&self, token: Token, outcome: ReplayOutcome) {
        let mut page = self.lock();
        if let Some(gone) = page.under_way.remove(&token.id) {
            page.ended.push(ReplayEnd {
                letter: gone.letter.id,
                ended: self.clock.now(),
                outcome,
            });
        }
        drop(page);
        self.changed.notify_waiters();
    }

    /// Notes what has failed of a replay.
    pub(crate) fn failed(&self, parcel: &Parcel, letter: DeadLetter) {
        let mut page = self.lock();
        let token = token_of(parcel);
        if let Some(under_way) = token.and_then(|token| page.under_way.get_mut(&token.id)) {
            if under_way.failed.len() < MOST_PARTS {
                under_way.failed.push(letter);
            } else {
                under_way.too_many = true;
            }
        }
    }

    /// Waits until fewer than `most` letters of a pipeline are under way.
    pub(crate) async fn room(&self, pipeline: &str, most: usize) {
        loop {
            let changed = self.changed.notified();
            if self.under_way(pipeline) < most {
                return;
            }
            changed.await;
        }
    }

    /// Waits until no letter of a pipeline is under way, and what has become of all is written.
    pub(crate) async fn all_ended(&self, pipeline: &str) {
        loop {
            let changed = self.changed.notified();
            let written = self.lock().ended.is_empty();
            if written && self.under_way(pipeline) == 0 {
                return;
            }
            changed.await;
        }
    }

    fn under_way(&self, pipeline: &str) -> usize {
        let page = self.lock();
        let all = page.under_way.values();
        all.filter(|one| one.letter.pipeline == pipeline).count()
    }

    /// Lets [`keep`] write what is left, and end.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.changed.notify_waiters();
    }

    /// The ends that are to be written: they stay noted until [`Desk::written`].
    async fn next(&self) -> Option<Arc<[ReplayEnd]>> {
        loop {
            let changed = self.changed.notified();
            {
                let page = self.lock();
                if !page.ended.is_empty() {
                    return Some(page.ended.clone().into());
                }
            }
            if self.closed.is_cancelled() {
                return None;
            }
            changed.await;
        }
    }

    /// The oldest of the ends that were noted are done with.
    fn written(&self, ends: &[ReplayEnd]) {
        let mut page = self.lock();
        page.ended.drain(..ends.len());
        for end in ends {
            page.letters.remove(&end.letter);
        }
        drop(page);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settle for Desk {
    fn settled(&self, ended: Vec<Settled>) {
        for one in ended {
            let mut page = self.lock();
            let (failed, too_many) = match page.under_way.get_mut(&one.token.id) {
                Some(under_way) => (std::mem::take(&mut under_way.failed), under_way.too_many),
                None => continue,
            };
            drop(page);
            let reason = one.reason.as_deref().map(str::to_owned);
            let outcome = match one.outcome {
                // It stays asked for: what has failed of it fails again with the rest.
                Outcome::Lost => {
                    self.forget(one.token);
                    continue;
                }
                _ if too_many => ReplayOutcome::FailedAgain {
                    letters: Vec::new(),
                    reason: Some(format!(
                        "more than {MOST_PARTS} of its parts have failed, so it is kept as a whole: {}",
                        reason.unwrap_or_default()
                    )),
                },
                Outcome::DeadLettered => ReplayOutcome::FailedAgain {
                    letters: failed,
                    reason,
                },
                // What else it carried was dropped with it: all of it is kept.
                Outcome::Failed => ReplayOutcome::FailedAgain {
                    letters: Vec::new(),
                    reason,
                },
                Outcome::Committed => ReplayOutcome::Committed,
                Outcome::Skipped => ReplayOutcome::Skipped,
            };
            self.end(one.token, outcome);
        }
    }
}

/// Writes how replays have ended, until the desk is closed and nothing is left.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut failure: u32 = 0;
    while let Some(ends) = shared.desk.next().await {
        let working = shared.clock.working();
        let written = shared.state.end_replays(Arc::clone(&ends)).await;
        drop(working);
        let Err(error) = written else {
            failure = 0;
            shared.desk.written(&ends);
            continue;
        };
        if error.kind() != ErrorKind::Remote || shared.desk.closed.is_cancelled() {
            tracing::warn!(
                "what became of replayed dead letters is not written, so they are replayed again: {error}"
            );
            if error.kind() == ErrorKind::Config {
                shared.note_failure(error);
                shared.stopping.end_intake();
            }
            shared.desk.written(&ends);
            continue;
        }
        failure = failure.saturating_add(1);
        if failure.is_power_of_two() {
            tracing::warn!("the state cannot be written: {error}; trying again");
        }
        tokio::select! {
            biased;
            () = shared.desk.closed.cancelled() => {}
            () = shared.clock.sleep(backoff(failure, BACKOFF.0, BACKOFF.1, &shared.dice)) => {}
        }
    }
}

/// The check of a result whose error is only told.
pub(super) fn ok_or_told(pipeline: &str, result: Result<()>) {
    if let Err(error) = result {
        super::tell(pipeline, &error);
    }
}
