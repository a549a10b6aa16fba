//! The one thread that writes `state.db`.
//!
//! Callers put jobs into a bounded queue. The thread takes all that wait, runs them in one
//! transaction, commits, and only then answers: a thousand callers share a handful of syncs, and an
//! answer means that the disk has it. While a commit is under way the next group gathers, so groups
//! grow with the load and a lone caller waits for nobody.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use wiredflow_core::{Error, Result};

use super::failure::Failure;
use super::lock::FolderLock;

/// How many jobs may wait; a caller beyond that waits for room.
const QUEUE: usize = 1024;

/// How many jobs share a transaction at most, so that no caller waits for an endless one.
const GROUP: usize = 1024;

/// How long an orderly end waits for readers of the file.
const PATIENCE_AT_END: Duration = Duration::from_millis(500);

/// What the writer has done since the state was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSnapshot {
    /// Calls that were carried out and answered.
    pub calls: u64,
    /// Transactions that they took.
    pub transactions: u64,
    /// Rows that they wrote.
    pub rows: u64,
}

/// A cheap clone to the writer's queue.
#[derive(Clone, Debug)]
pub(super) struct WriterHandle {
    queue: mpsc::Sender<Message>,
    path: Arc<Path>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    transactions: AtomicU64,
    rows: AtomicU64,
}

enum Message {
    Job(Box<dyn Job>),
    Stop(oneshot::Sender<Result<(), Failure>>),
}

/// A call on its way: its work, then its answer.
trait Job: Send {
    /// Does the work inside the group's transaction and keeps the result; again where the group is done again.
    fn work(&mut self, connection: &Connection) -> Result<(), Failure>;

    /// Answers the caller, after the group was committed or failed as a whole.
    fn answer(self: Box<Self>, group: &Result<(), Failure>);
}

struct Call<F, T> {
    work: F,
    result: Option<Result<T, Failure>>,
    caller: oneshot::Sender<Result<T, Failure>>,
}

impl<F, T> Call<F, T> {
    /// A call, and what its answer comes by.
    fn of(work: F) -> (Box<Self>, oneshot::Receiver<Result<T, Failure>>) {
        let (caller, answer) = oneshot::channel();
        let call = Self {
            work,
            result: None,
            caller,
        };
        (Box::new(call), answer)
    }
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&Connection) -> Result<T, Failure> + Send,
    T: Send,
{
    fn work(&mut self, connection: &Connection) -> Result<(), Failure> {
        let result = (self.work)(connection);
        let told = result.as_ref().map(|_| ()).map_err(Clone::clone);
        self.result = Some(result);
        told
    }

    fn answer(self: Box<Self>, group: &Result<(), Failure>) {
        let answer = match (group, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(Error::bug("a call of the state was passed over").into()),
            (Err(failure), _) => Err(failure.clone()),
        };
        // A caller that went away has given up its answer; what it asked for is done all the same.
        drop(self.caller.send(answer));
    }
}

impl WriterHandle {
    /// Runs `work` in the writer's next transaction and gives its result after the COMMIT. It runs again where
    /// another's failure has undone the transaction.
    ///
    /// Dropping the future before it ends does not tell whether the work is done.
    pub(super) async fn call<F, T>(&self, work: F) -> Result<T>
    where
        F: FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
        T: Send + 'static,
    {
        let (job, answer) = Call::of(work);
        let sent = self.queue.send(Message::Job(job)).await;
        self.answered(sent.is_ok(), answer).await
    }

    /// As `call`, for threads that may block: gives what the answer comes by.
    pub(super) fn call_blocking<F, T>(&self, work: F) -> oneshot::Receiver<Result<T, Failure>>
    where
        F: FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
        T: Send + 'static,
    {
        let (job, answer) = Call::of(work);
        // A writer that has ended drops the job, which answers it.
        drop(self.queue.blocking_send(Message::Job(job)));
        answer
    }

    /// Waits for the answer of `call_blocking`.
    pub(super) fn answered_blocking<T>(
        &self,
        answer: oneshot::Receiver<Result<T, Failure>>,
    ) -> Result<T> {
        self.told(answer.blocking_recv().ok())
    }

    /// Waits for all that was sent before, folds the log into the file and closes it.
    pub(super) async fn stop(&self) -> Result<()> {
        let (caller, answer) = oneshot::channel();
        let sent = self.queue.send(Message::Stop(caller)).await;
        self.answered(sent.is_ok(), answer).await
    }

    /// What the writer has done so far.
    pub(super) fn snapshot(&self) -> StateSnapshot {
        StateSnapshot {
            calls: self.counts.calls.load(Ordering::Relaxed),
            transactions: self.counts.transactions.load(Ordering::Relaxed),
            rows: self.counts.rows.load(Ordering::Relaxed),
        }
    }

    async fn answered<T>(
        &self,
        sent: bool,
        answer: oneshot::Receiver<Result<T, Failure>>,
    ) -> Result<T> {
        self.told(if sent { answer.await.ok() } else { None })
    }

    fn told<T>(&self, answer: Option<Result<T, Failure>>) -> Result<T> {
        let answer =
            answer.unwrap_or_else(|| Err(Error::bug("it was used after it was closed").into()));
        answer.map_err(|failure| failure.into_error(&self.path))
    }
}

/// Starts the thread; it owns the connection and the lock until it is stopped or the last handle is
/// gone.
pub(super) fn start(
    connection: Connection,
    path: PathBuf,
    lock: FolderLock,
) -> Result<WriterHandle, Failure> {
    let (queue, jobs) = mpsc::channel(QUEUE);
    let counts = Arc::new(Counts::default());
    let handle = WriterHandle {
        queue,
        path: path.as_path().into(),
        counts: Arc::clone(&counts),
    };
    let writer = Writer {
        inode: inode(&path)?,
        connection,
        path,
        counts,
    };
    thread::Builder::new()
        .name("wf-state".to_owned())
        .spawn(move || writer.run(jobs, lock))?;
    Ok(handle)
}

struct Writer {
    connection: Connection,
    path: PathBuf,
    inode: (u64, u64),
    counts: Arc<Counts>,
}

impl Writer {
    fn run(self, mut jobs: mpsc::Receiver<Message>, lock: FolderLock) {
        let mut group = Vec::with_capacity(GROUP);
        let mut stopping = None;
        while let Some(message) = jobs.blocking_recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => group.push(job),
                    Message::Stop(caller) => {
                        jobs.close();
                        stopping = Some(caller);
                    }
                }
                next = if group.len() < GROUP {
                    jobs.try_recv().ok()
                } else {
                    None
                };
            }
            self.commit(&mut group);
        }
        let ended = self.end(lock);
        if let Some(caller) = stopping {
            drop(caller.send(ended));
        }
    }

    /// Commits a group and answers its callers, whatever came of it.
    fn commit(&self, group: &mut Vec<Box<dyn Job>>) {
        if group.is_empty() {
            return;
        }
        let rows = self.connection.total_changes();
        let outcome = self.transaction(group);
        let rows = self.connection.total_changes() - rows;
        self.counts.rows.fetch_add(rows, Ordering::Relaxed);
        self.counts.transactions.fetch_add(1, Ordering::Relaxed);
        self.counts
            .calls
            .fetch_add(group.len() as u64, Ordering::Relaxed);
        for job in group.drain(..) {
            job.answer(&outcome);
        }
    }

    fn transaction(&self, group: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        self.still_there()?;
        self.roll_back()?;
        self.execute("BEGIN IMMEDIATE")?;
        if self.together(group) {
            return self.commit_or_undo(Ok(()));
        }
        // One has failed: all of it again, each with a way back of its own.
        self.roll_back()?;
        self.execute("BEGIN IMMEDIATE")?;
        self.commit_or_undo(self.one_by_one(group))
    }

    fn commit_or_undo(&self, worked: Result<(), Failure>) -> Result<(), Failure> {
        let outcome = worked.and_then(|()| self.execute("COMMIT"));
        if outcome.is_err() {
            self.roll_back()?;
        }
        outcome
    }

    /// Does the work of all, without the copies of pages that a savepoint makes for each; false when one fails.
    fn together(&self, group: &mut [Box<dyn Job>]) -> bool {
        let mut jobs = group.iter_mut();
        jobs.all(|job| job.work(&self.connection).is_ok())
    }

    /// Ends a transaction that a failure has left open, the last group's too.
    fn roll_back(&self) -> Result<(), Failure> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.execute("ROLLBACK")
    }

    /// Does each job's work; one that fails undoes its own part and not that of the others.
    fn one_by_one(&self, group: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        for job in group {
            self.execute("SAVEPOINT job")?;
            if let Err(failure) = job.work(&self.connection) {
                if self.connection.is_autocommit() {
                    // SQLite has rolled back the whole transaction, as it does on a full disk.
                    return Err(failure);
                }
                self.execute("ROLLBACK TO job")?;
            }
            self.execute("RELEASE job")?;
        }
        Ok(())
    }

    /// Refuses to write into a file that no longer has a name: it would be gone with the process.
    fn still_there(&self) -> Result<(), Failure> {
        if inode(&self.path).ok() == Some(self.inode) {
            return Ok(());
        }
        Err(Failure::from(Error::config(
            "the file was removed or replaced while the flow ran; stop the flow and start it again",
        )))
    }

    fn execute(&self, statement: &str) -> Result<(), Failure> {
        self.connection.prepare_cached(statement)?.execute(())?;
        Ok(())
    }

    fn end(self, lock: FolderLock) -> Result<(), Failure> {
        // A reader may hold the log back; the next start folds it in then.
        self.connection.busy_timeout(PATIENCE_AT_END)?;
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
        self.connection.close().map_err(|(_, error)| error)?;
        lock.release()?;
        Ok(())
    }
}

fn inode(path: &Path) -> std::io::Result<(u64, u64)> {
    let file = fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}
