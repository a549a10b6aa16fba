//! One attempt of a call: from the file that it writes to the result that it reads.

use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::charge::Activity;
use wiredflow_core::stage::Cx;
use wiredflow_core::units::format_duration;
use wiredflow_core::{Batch, Error, ErrorKind, Result};

use super::files::{Files, Left};
use super::job::{Job, State};
use super::{Inner, Known, Order};

/// How long a result may take to be seen here after its job has ended, and how often it is looked for.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The longest line of a log that is told in a message, in characters.
const LINE: usize = 300;

/// A call under way. Dropping it ends its job: nobody waits any more.
pub(super) struct Held {
    slurm: Arc<Inner>,
    id: String,
    cx: Cx,
    known: Known,
    files: Files,
    is_settled: bool,
}

impl Held {
    /// Takes up a call where its last attempt has left it.
    pub(super) fn take(slurm: &Arc<Inner>, order: Order<'_>) -> Self {
        let known = slurm.calls().remove(order.id).unwrap_or(Known {
            // An attempt of which nothing is kept may have handed it in.
            may_be_there: order.cx.attempt > 1,
            ..Known::default()
        });
        let name = match known.given_up {
            0 => order.id.to_owned(),
            times => format!("{}.{times}", order.id),
        };
        Self {
            files: Files::new(&slurm.config.folder, name),
            slurm: Arc::clone(slurm),
            id: order.id.to_owned(),
            cx: order.cx.clone(),
            known,
            is_settled: false,
        }
    }

    /// Has it done.
    pub(super) async fn have_done(mut self, order: Order<'_>) -> Result<Batch> {
        let made = self.make(order).await;
        self.is_settled = true;
        let is_open = |error: &Error| error.kind() == ErrorKind::Remote;
        if !made.as_ref().is_err_and(is_open) {
            self.files.remove().await;
            return made;
        }
        // The next attempt goes on with what is known.
        self.slurm.keep(&self.id, self.known);
        if self.known.job.is_none() && !self.known.may_be_there {
            self.files.remove().await;
            return made;
        }
        // No other place may be asked, also where this question has reached nobody: the job is there.
        made.map_err(Error::as_sent)
    }

    async fn make(&mut self, order: Order<'_>) -> Result<Batch> {
        if self.known.job.is_none() && self.known.may_be_there {
            if let Left::Result(made) = self.files.look().await? {
                return Ok(made);
            }
            let user = &self.slurm.config.user;
            let found = self.slurm.api.find(self.files.name(), user, &self.cx);
            self.known.job = found.await?;
        }
        let number = match self.known.job {
            Some(number) => number,
            None => self.submit(order).await?,
        };
        self.follow(number).await
    }

    async fn submit(&mut self, order: Order<'_>) -> Result<u64> {
        let call = order.document().to_string();
        let written = self.files.write(call).await;
        written.map_err(Error::as_unsent)?;
        let job = self.slurm.job(&self.files);
        self.known.may_be_there = true;
        let submitted = self.slurm.api.submit(&job, &self.cx).await;
        match &submitted {
            Ok(number) => self.known.job = Some(*number),
            Err(error) => {
                self.known.may_be_there = error.kind() == ErrorKind::Remote && !error.is_unsent();
            }
        }
        submitted
    }

    /// Waits until the job has ended, and gives what it made.
    async fn follow(&mut self, number: u64) -> Result<Batch> {
        let mut waits_since = None;
        loop {
            let Some(job) = self.slurm.api.job(number, &self.cx).await? else {
                return self.forgotten(number).await;
            };
            match &job.state {
                State::Done => return self.result(number).await,
                State::Failed(state) => return Err(self.failure(&job, state).await),
                State::Lost(state) => {
                    // Its name stays its own: the next one has another.
                    self.files.remove().await;
                    let given_up = self.known.given_up + 1;
                    self.known = Known {
                        given_up,
                        ..Known::default()
                    };
                    return Err(Error::remote(format!(
                        "the job {number} was lost: {state}{}",
                        because(&job)
                    )));
                }
                State::Running => waits_since = None,
                State::Waiting => {
                    let now = self.slurm.clock.monotonic();
                    let since = *waits_since.get_or_insert(now);
                    if now - since > self.slurm.config.queued {
                        // One that cannot be told begins some day, finds no call, and does nothing.
                        drop(self.slurm.api.cancel(number, &self.cx).await);
                        return Err(Error::data(format!(
                            "the job {number} has not started within {}{}: it was cancelled",
                            format_duration(self.slurm.config.queued),
                            because(&job)
                        )));
                    }
                }
            }
            self.sleep(self.slurm.config.poll).await;
        }
    }

    /// A job that Slurm does not know any more: it forgets those that have ended, after some minutes.
    async fn forgotten(&mut self, number: u64) -> Result<Batch> {
        if let Left::Result(made) = self.files.look().await? {
            return Ok(made);
        }
        self.known.job = None;
        Err(Error::remote(format!(
            "Slurm does not know the job {number} any more, and it has left no result"
        )))
    }

    /// What a job has made that has ended well. Network file systems show a new file late.
    async fn result(&self, number: u64) -> Result<Batch> {
        let begun = self.slurm.clock.monotonic();
        loop {
            if let Left::Result(made) = self.files.look().await? {
                return Ok(made);
            }
            if self.slurm.clock.monotonic() - begun > SEEN_WITHIN {
                return Err(Error::remote(format!(
                    "the job {number} has ended well, and its result is not to be seen here as {}: is `folder` shared?",
                    self.files.result().display()
                )));
            }
            self.sleep(LOOK_EVERY).await;
        }
    }

    async fn failure(&self, job: &Job, state: &str) -> Error {
        let log = self.files.log_end().await;
        let last = log.iter().rev().find(|line| !line.trim().is_empty());
        let last = last.map_or_else(String::new, |line| {
            let line: String = line.trim().chars().take(LINE).collect();
            format!(": {line}")
        });
        let number = job.number;
        let error = Error::data(format!(
            "the job {number} has failed: {state}{}{last}",
            because(job)
        ));
        match log.is_empty() {
            true => error,
            false => error.with_trace(log.join("\n")),
        }
    }

    async fn sleep(&self, time: Duration) {
        let sleep = self.slurm.clock.sleep(time);
        self.cx.spend(Activity::External, sleep).await;
    }
}

fn because(job: &Job) -> String {
    let reason = job.reason.as_ref();
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let known = self.known;
        self.slurm.keep(
            &self.id,
            Known {
                given_up: known.given_up + 1,
                ..Known::default()
            },
        );
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (slurm, files, cx) = (Arc::clone(&self.slurm), self.files.clone(), self.cx.clone());
        let tasks = slurm.tasks.clone();
        tasks.farewell(async move {
            // First, for a job that is on its way to Slurm and that nothing here knows of.
            files.withdraw().await;
            let number = match known.job {
                None if known.may_be_there => {
                    let found = slurm.api.find(files.name(), &slurm.config.user, &cx).await;
                    found.ok().flatten()
                }
                number => number,
            };
            if let Some(number) = number {
                // One that cannot be told goes on for nobody.
                drop(slurm.api.cancel(number, &cx).await);
            }
            files.remove().await;
        });
    }
}
