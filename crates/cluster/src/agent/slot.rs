//! The parts of one node, each with a task of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use wiredflow_core::engine::{Engine, If, Shelf};
use wiredflow_core::storage::Epoch;
use wiredflow_core::{Error, ErrorKind, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::tasks::Tasks;

use crate::decide::PartName;
use crate::documents::{Assignment, FORMAT, Phase, Report, Wish};
use crate::host::{Host, Part, PartEnd, PartPhase, PartStart};
use crate::shelf::{Key, read, write};

/// How soon a report that could not be written is written again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The first wait before a part is started again that could not be, and the longest.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Parts that use less are not told of.
const LEAST_LOAD: f64 = 0.05;

/// How many parts are told of at most: a card is one message.
const MOST_TOLD: usize = 64;

/// What is wanted of a part: its assignment, with its epoch.
type Wanted = (Assignment, u64);

/// The parts of a node. A cheap clone.
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Shelved>);

#[derive(Default)]
struct Shelved {
    slots: Mutex<BTreeMap<PartName, Kept>>,
    changed: Notify,
}

/// What is known of a slot from outside.
struct Kept {
    wanted: watch::Sender<Wanted>,
    state: Arc<Mutex<State>>,
    tasks: Tasks,
}

/// What a slot's task tells.
#[derive(Debug, Default)]
struct State {
    /// Whether the part runs, or is about to.
    runs: bool,
    cores: f64,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slots")
    }
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartName, Kept>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a part what is wanted of it now; `slot` makes one that is not there.
    pub(super) fn assign(
        &self,
        name: PartName,
        wanted: Wanted,
        slot: impl FnOnce(PartName, watch::Receiver<Wanted>) -> Slot,
    ) {
        let mut slots = self.lock();
        if let Some(kept) = slots.get(&name) {
            kept.wanted.send_if_modified(|known| {
                let is_news = known.1 < wanted.1;
                if is_news {
                    *known = wanted;
                }
                is_news
            });
            return;
        }
        let (sender, receiver) = watch::channel(wanted);
        let (state, tasks) = (Arc::<Mutex<State>>::default(), Tasks::default());
        let slot = slot(name.clone(), receiver);
        let running = slot.work(Arc::clone(&state), Arc::clone(&self.0));
        tasks.spawn("part", running);
        let kept = Kept {
            wanted: sender,
            state,
            tasks,
        };
        slots.insert(name, kept);
    }

    /// Ends a part at once: it is another's, or nobody's.
    pub(super) fn remove(&self, name: &PartName) {
        let removed = self.lock().remove(name);
        drop(removed);
        self.0.changed.notify_waiters();
    }

    /// Ends all parts at once that are not among these.
    pub(super) fn retain(&self, is_known: impl Fn(&PartName) -> bool) {
        let names: Vec<PartName> = self
            .lock()
            .keys()
            .filter(|name| !is_known(name))
            .cloned()
            .collect();
        names.iter().for_each(|name| self.remove(name));
    }

    /// Ends all parts at once.
    pub(super) fn drop_all(&self) {
        self.retain(|_| false);
    }

    /// Waits until no part runs that another node could go on with.
    pub(super) async fn only_pinned(&self) {
        loop {
            let changed = self.0.changed.notified();
            let is_left = |kept: &Kept| !kept.wanted.borrow().0.pinned && lock(&kept.state).runs;
            if !self.lock().values().any(is_left) {
                return;
            }
            changed.await;
        }
    }

    /// Ends all parts in good order.
    pub(super) async fn end_all(&self) {
        for kept in self.lock().values() {
            kept.wanted
                .send_modify(|(assignment, _)| assignment.wish = Wish::Leave);
        }
        loop {
            let changed = self.0.changed.notified();
            if !self.lock().values().any(|kept| lock(&kept.state).runs) {
                return;
            }
            changed.await;
        }
    }

    /// The cores that the busiest parts use, by `FLOW/PART`.
    pub(super) fn load(&self) -> BTreeMap<String, f64> {
        let slots = self.lock();
        let load = slots
            .iter()
            .map(|((flow, part), kept)| (format!("{flow}/{part}"), lock(&kept.state).cores));
        let mut load: Vec<(String, f64)> = load.filter(|(_, cores)| *cores >= LEAST_LOAD).collect();
        load.sort_by(|one, other| other.1.total_cmp(&one.1));
        load.truncate(MOST_TOLD);
        load.into_iter().collect()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One part.
pub(super) struct Slot {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) host: Arc<dyn Host>,
    pub(super) clock: Clock,
    pub(super) node: String,
    pub(super) name: PartName,
    pub(super) wanted: watch::Receiver<Wanted>,
}

/// Says that nothing runs, also when its task is dropped.
struct Runs {
    state: Arc<Mutex<State>>,
    shelved: Arc<Shelved>,
}

impl Drop for Runs {
    fn drop(&mut self) {
        *lock(&self.state) = State::default();
        self.shelved.changed.notify_waiters();
    }
}

impl Slot {
    /// Does what is wanted of the part, for ever.
    async fn work(mut self, state: Arc<Mutex<State>>, shelved: Arc<Shelved>) {
        loop {
            let (assignment, epoch) = self.wanted.borrow_and_update().clone();
            let phase = match assignment.wish {
                Wish::Leave => Phase::Left,
                Wish::Run => {
                    lock(&state).runs = true;
                    let runs = Runs {
                        state: Arc::clone(&state),
                        shelved: Arc::clone(&shelved),
                    };
                    let ended = self.run(&assignment, epoch, &state).await;
                    drop(runs);
                    match ended {
                        Some(phase) => phase,
                        // Something else is wanted.
                        None => continue,
                    }
                }
            };
            self.report(&assignment, epoch, phase).await;
            if self.wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// Runs the part until it ends by itself, or something else is wanted.
    async fn run(
        &mut self,
        assignment: &Assignment,
        epoch: u64,
        state: &Mutex<State>,
    ) -> Option<Phase> {
        let mut rest = REST.0;
        loop {
            self.report(assignment, epoch, Phase::Opening(None)).await;
            let start = PartStart {
                flow: self.name.0.clone(),
                part: self.name.1.clone(),
                pipelines: assignment.pipelines.clone(),
                version: assignment.version.clone(),
                epoch: Epoch(epoch),
            };
            let started = tokio::select! {
                started = self.host.start(start) => started,
                _ = self.wanted.changed() => return None,
            };
            let error = match started {
                Ok(part) => return self.see_through(part, assignment, epoch, state).await,
                Err(error) => error,
            };
            let (flow, part) = &self.name;
            if error.kind() != ErrorKind::Remote {
                tracing::error!(%flow, %part, "it cannot run here: {error}");
                return Some(Phase::Failed(error.message().to_owned()));
            }
            tracing::warn!(%flow, %part, "it cannot start yet: {error}; trying again");
            let waits = Phase::Opening(Some(error.message().to_owned()));
            self.report(assignment, epoch, waits).await;
            tokio::select! {
                () = self.clock.sleep(rest) => rest = (2 * rest).min(REST.1),
                _ = self.wanted.changed() => return None,
            }
        }
    }

    async fn see_through(
        &mut self,
        mut part: Box<dyn Part>,
        assignment: &Assignment,
        epoch: u64,
        state: &Mutex<State>,
    ) -> Option<Phase> {
        let mut phases = part.phase();
        let mut said = PartPhase::Opening;
        let mut is_stopped = false;
        loop {
            lock(state).cores = part.cores();
            let phase = phases.borrow_and_update().clone();
            if phase != said && !is_stopped {
                said = phase.clone();
                let phase = match phase {
                    PartPhase::Opening => Phase::Opening(None),
                    PartPhase::Waiting(what) => Phase::Opening(Some(what)),
                    PartPhase::Open => Phase::Open,
                };
                // The end of the part must not wait for a report.
                let mut wanted = self.wanted.clone();
                tokio::select! {
                    () = self.report(assignment, epoch, phase) => {}
                    changed = wanted.changed() => {
                        changed.ok()?;
                        part.stop();
                        is_stopped = true;
                    }
                }
                continue;
            }
            tokio::select! {
                end = part.ended() => return match end {
                    _ if is_stopped => None,
                    PartEnd::Well => Some(Phase::Done),
                    PartEnd::Failed(why) => Some(Phase::Failed(why)),
                    PartEnd::Fenced => {
                        let (flow, part) = &self.name;
                        tracing::warn!(%flow, %part, "another owns it now: it is ended here");
                        Some(Phase::Left)
                    }
                },
                changed = self.wanted.changed(), if !is_stopped => {
                    changed.ok()?;
                    part.stop();
                    is_stopped = true;
                }
                Ok(()) = phases.changed() => {}
                () = self.clock.sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// Writes a report, unless a later owner has; tries again until it is written.
    async fn report(&self, assignment: &Assignment, epoch: u64, phase: Phase) {
        let report = Report {
            format: FORMAT,
            node: self.node.clone(),
            epoch,
            version: assignment.version.clone(),
            phase,
            since: self.clock.now(),
        };
        while let Err(error) = self.write(&report).await {
            if error.kind() != ErrorKind::Remote {
                tracing::error!("a report is not written: {error}");
                return;
            }
            self.clock.sleep(TRY_AGAIN).await;
        }
    }

    async fn write(&self, report: &Report) -> Result<()> {
        let name = Key::Report(self.name.0.clone(), self.name.1.clone()).name()?;
        for _ in 0..10 {
            let known = self.engine.get(Shelf::Kept, &name).await?;
            let condition = match &known {
                None => If::Absent,
                Some(entry) => {
                    let is_later =
                        read::<Report>(&name, entry).is_ok_and(|known| known.epoch > report.epoch);
                    if is_later {
                        return Ok(());
                    }
                    If::Revision(entry.revision)
                }
            };
            if self
                .engine
                .put(Shelf::Kept, &name, write(report)?, condition)
                .await?
                .is_some()
            {
                return Ok(());
            }
        }
        Err(Error::remote("others write the same report"))
    }
}
