//! The tasks of a coordinator: who works on each, and whose words count. No waiting and no IO.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use wiredflow_core::charge::Used;
use wiredflow_core::engine::{LEASE, Name};
use wiredflow_core::frame::{Ended, Output, Payload};
use wiredflow_core::{Error, Result};

use super::MOST_STARTS;
use super::words::Word;
use crate::worker::Given;

/// When a task is published again that nobody has begun, though nothing says that it was lost; it doubles.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The same, when the queue holds fewer messages than there should be.
const MISSED_AFTER: Duration = Duration::from_secs(20);

/// What has happened in a pool, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts that were begun.
    pub begun: u64,
    /// Attempts whose worker was lost.
    pub lost: u64,
    /// Words that were late or foreign, and were not used.
    pub unwanted: u64,
    /// Tasks that were published again since there was no sign of life.
    pub again: u64,
}

/// What a call is told.
#[derive(Debug)]
pub(super) enum Event {
    Output(Given),
    Done(Box<Ended>),
    Failed(Error, Option<Used>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    open: HashMap<Arc<str>, Open>,
    pub(super) counts: Counts,
}

/// A task whose result is not there.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) attempt: u32,
    pub(super) token: String,
    /// How often it was begun, without those that are nobody's fault.
    starts: u32,
    phase: Phase,
    /// How many outputs of it were taken.
    outputs: u64,
    pub(super) events: mpsc::Sender<Event>,
    /// Until it is begun for the first time.
    began: Option<DropGuard>,
    /// The frame of the call.
    pub(super) call: Bytes,
    /// What became of the saves of this attempt, by their numbers: one that is asked for again is not done again.
    saves: HashMap<u64, Arc<OnceCell<Result<()>>>>,
    /// What is to be removed at the end.
    pub(super) blobs: Vec<Name>,
}

#[derive(Debug)]
enum Phase {
    /// Nobody has begun it.
    Waiting {
        /// When it was published, if it was.
        sent: Option<Instant>,
        /// How often it was published again.
        times: u32,
    },
    Running {
        by: String,
        node: String,
        address: Name,
        heard: Instant,
    },
}

/// Where a task that is not wanted any more runs.
#[derive(Debug)]
pub(super) struct RunsAt {
    pub(super) address: Name,
    pub(super) token: String,
}

/// What is to be published.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) task: Arc<str>,
    pub(super) attempt: u32,
    /// How often this attempt was published before: an engine knows an id again though its message has gone.
    pub(super) times: u32,
    pub(super) token: String,
    pub(super) call: Bytes,
}

/// The word is late, or of somebody else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unwanted;

impl Open {
    pub(super) fn new(
        token: String,
        call: Bytes,
        events: mpsc::Sender<Event>,
        began: DropGuard,
    ) -> Self {
        Self {
            attempt: 1,
            token,
            starts: 0,
            phase: Phase::Waiting {
                sent: None,
                times: 0,
            },
            outputs: 0,
            events,
            began: Some(began),
            call,
            saves: HashMap::new(),
            blobs: Vec::new(),
        }
    }

    /// How many outputs may have come in all: one place is kept for the end.
    pub(super) fn credit(&self) -> u64 {
        self.outputs + self.events.capacity().saturating_sub(1) as u64
    }

    /// How many outputs were taken.
    pub(super) fn outputs(&self) -> u64 {
        self.outputs
    }

    /// Takes an output, unless it was taken before.
    ///
    /// # Errors
    /// What it does wrong.
    pub(super) fn take(&mut self, output: Output) -> Result<(), String> {
        if output.seq < self.outputs {
            return Ok(());
        }
        if output.seq > self.outputs {
            let due = self.outputs;
            return Err(format!("it gave output {} where {due} was due", output.seq));
        }
        if output.seq >= self.credit() {
            return Err("it gave more outputs than were asked for".to_owned());
        }
        self.outputs += 1;
        let given = Given {
            batch: Payload::into_batch(output.batch),
            params: output.params,
        };
        // There is room; and nobody may wait for the call any more.
        drop(self.events.try_send(Event::Output(given)));
        Ok(())
    }

    /// What became of a save, to be found out once.
    pub(super) fn save(&mut self, id: u64) -> Arc<OnceCell<Result<()>>> {
        Arc::clone(self.saves.entry(id).or_default())
    }

    pub(super) fn runs_at(&self) -> Option<RunsAt> {
        match &self.phase {
            Phase::Waiting { .. } => None,
            Phase::Running { address, .. } => Some(RunsAt {
                address: address.clone(),
                token: self.token.clone(),
            }),
        }
    }

    fn is_of(&self, word: &Word) -> bool {
        self.attempt == word.attempt && self.token == word.token
    }
}

impl Book {
    pub(super) fn add(&mut self, task: Arc<str>, open: Open) {
        self.open.insert(task, open);
    }

    /// Takes a task out: its result is there, or not wanted any more.
    pub(super) fn remove(&mut self, task: &str) -> Option<Open> {
        self.open.remove(task)
    }

    /// An attempt wants to begin. The first one of it that asks is welcome; it is counted before it starts.
    pub(super) fn begin(
        &mut self,
        word: &Word,
        address: Name,
        now: Instant,
    ) -> Result<u64, Unwanted> {
        let open = self.open.get_mut(&*word.task);
        let Some(open) = open.filter(|open| open.is_of(word)) else {
            return Err(self.unwanted());
        };
        match &mut open.phase {
            Phase::Waiting { .. } => {
                open.starts += 1;
                self.counts.begun += 1;
                open.phase = Phase::Running {
                    by: word.by.clone(),
                    node: word.node.clone(),
                    address,
                    heard: now,
                };
                // Its end is what is waited for.
                open.began = None;
            }
            // Its answer was lost.
            Phase::Running { by, heard, .. } if *by == word.by => *heard = now,
            Phase::Running { .. } => return Err(self.unwanted()),
        }
        Ok(open.credit())
    }

    /// A word of the one that works on a task.
    pub(super) fn heard(&mut self, word: &Word, now: Instant) -> Result<&mut Open, Unwanted> {
        let is_its = |open: &Open| {
            let its = matches!(&open.phase, Phase::Running { by, .. } if *by == word.by);
            its && open.is_of(word)
        };
        if !self.open.get(&*word.task).is_some_and(is_its) {
            return Err(self.unwanted());
        }
        match self.open.get_mut(&*word.task) {
            Some(open) => {
                if let Phase::Running { heard, .. } = &mut open.phase {
                    *heard = now;
                }
                Ok(open)
            }
            None => Err(Unwanted),
        }
    }

    /// As [`Book::heard`], without counting a word whose task has ended just now.
    pub(super) fn heard_quietly(&mut self, word: &Word, now: Instant) -> Option<&mut Open> {
        let before = self.counts.unwanted;
        if self.heard(word, now).is_err() {
            self.counts.unwanted = before;
            return None;
        }
        self.open.get_mut(&*word.task)
    }

    /// Whether a word is of an attempt that is open, whoever says it.
    pub(super) fn knows(&mut self, word: &Word) -> Result<(), Unwanted> {
        match self.open.get(&*word.task) {
            Some(open) if open.is_of(word) => Ok(()),
            _ => Err(self.unwanted()),
        }
    }

    fn unwanted(&mut self) -> Unwanted {
        self.counts.unwanted += 1;
        Unwanted
    }

    /// The worker of a task is lost: another may have it, unless something of it was handed on, or it has ended
    /// [`MOST_STARTS`] of them. `counts` where that may be its fault. The call is told when it is over, and what was it is given back.
    pub(super) fn again(
        &mut self,
        task: &str,
        why: &str,
        counts: bool,
        token: String,
    ) -> Option<Open> {
        let open = self.open.get_mut(task)?;
        self.counts.lost += 1;
        if !counts {
            open.starts = open.starts.saturating_sub(1);
        }
        let node = match &open.phase {
            Phase::Running { node, .. } => node.clone(),
            Phase::Waiting { .. } => String::new(),
        };
        let failed = if open.outputs > 0 {
            let message = format!("the worker `{node}` {why}, in the middle of what it gave");
            Some(Error::remote(message))
        } else if counts && open.starts >= MOST_STARTS {
            let times = open.starts;
            Some(Error::data(format!(
                "it has ended {times} workers, the last one `{node}` ({why}): look at what it is given"
            )))
        } else {
            None
        };
        if let Some(error) = failed {
            // Nobody may wait for it any more.
            drop(open.events.try_send(Event::Failed(error, None)));
            return self.open.remove(task);
        }
        open.attempt += 1;
        open.token = token;
        open.saves.clear();
        open.phase = Phase::Waiting {
            sent: None,
            times: 0,
        };
        None
    }

    /// The tasks whose workers were silent for longer than their lease. `there_since` is since when the engine answers: before
    /// that nobody could be heard. True beside those whose silence began while it did.
    pub(super) fn silent(&self, now: Instant, there_since: Instant) -> Vec<(Arc<str>, bool)> {
        let silent = self
            .open
            .iter()
            .filter_map(|(task, open)| match open.phase {
                Phase::Running { heard, .. } if now - heard.max(there_since) > LEASE => {
                    Some((Arc::clone(task), heard >= there_since))
                }
                _ => None,
            });
        silent.collect()
    }

    /// How many messages the queue should hold, and how many of them nobody has begun.
    pub(super) fn expected(&self) -> (u64, u64) {
        let sent = |open: &&Open| !matches!(open.phase, Phase::Waiting { sent: None, .. });
        let waiting = |open: &&Open| matches!(open.phase, Phase::Waiting { sent: Some(_), .. });
        let count =
            |of: &dyn Fn(&&Open) -> bool| self.open.values().filter(|open| of(open)).count();
        (count(&sent) as u64, count(&waiting) as u64)
    }

    /// What is to be published, when the queue holds so many messages: what never was, and what seems lost. It counts as
    /// published from now on.
    pub(super) fn due(&mut self, held: u64, now: Instant) -> Vec<Due> {
        let (expected, _) = self.expected();
        let mut due = Vec::new();
        for (task, open) in &mut self.open {
            let Phase::Waiting { sent, times } = &mut open.phase else {
                continue;
            };
            match sent {
                None => {}
                Some(at) => {
                    let wait = match held {
                        0 => Duration::ZERO,
                        held if held < expected => MISSED_AFTER,
                        _ => AGAIN_AFTER,
                    };
                    if now - *at < wait * 2_u32.saturating_pow((*times).min(8)) {
                        continue;
                    }
                    *times += 1;
                    self.counts.again += 1;
                }
            }
            *sent = Some(now);
            due.push(Due {
                task: Arc::clone(task),
                attempt: open.attempt,
                times: *times,
                token: open.token.clone(),
                call: open.call.clone(),
            });
        }
        due
    }

    /// What is published of a new task.
    pub(super) fn first(&mut self, task: &Arc<str>, now: Instant) -> Option<Due> {
        let open = self.open.get_mut(task)?;
        if let Phase::Waiting { sent, .. } = &mut open.phase {
            *sent = Some(now);
        }
        Some(Due {
            task: Arc::clone(task),
            attempt: open.attempt,
            times: 0,
            token: open.token.clone(),
            call: open.call.clone(),
        })
    }

    /// A publication that may not have come to pass.
    pub(super) fn unsent(&mut self, task: &str, attempt: u32) {
        if let Some(open) = self.open.get_mut(task)
            && open.attempt == attempt
            && let Phase::Waiting { sent, .. } = &mut open.phase
        {
            *sent = None;
        }
    }

    /// A blob that goes with the task; given back where the task has gone.
    pub(super) fn keep(&mut self, task: &str, blob: Name) -> Option<Name> {
        match self.open.get_mut(task) {
            Some(open) if open.blobs.contains(&blob) => None,
            Some(open) => {
                open.blobs.push(blob);
                None
            }
            None => Some(blob),
        }
    }

    /// Since when the task waits that has waited longest since it was published.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let since = self.open.values().filter_map(|open| match open.phase {
            Phase::Waiting { sent, .. } => sent,
            Phase::Running { .. } => None,
        });
        since.min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
