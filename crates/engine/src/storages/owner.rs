//! The owner of storages: a few writer threads, group commit, and handles that anyone may hold.
//!
//! Files and embedded databases block, so their calls run on threads of their own. All waiting commits
//! of a storage are made safe by one call: one fsync or COMMIT for many batches.

mod ownership;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use wiredflow_core::delivery::Mark;
use wiredflow_core::storage::{CommitReceipt, Cursor, Loaded, Query, SqlView, Storage};
use wiredflow_core::{Batch, Error, ErrorKind, Result, Value};

use crate::catalogue::StorageOpener;
use crate::clock::Clock;

use seen::Seen;

pub use ownership::Ownership;

/// How many threads write at most; each storage stays on one of them.
const THREADS: usize = 4;

/// How many calls may wait for a thread before callers wait.
const QUEUE: usize = 64;

/// How long the end waits for a server that does not answer. What it was sent and has not committed, it forgets.
const FAREWELL: Duration = Duration::from_secs(2);

/// The most rows of one group commit.
const GROUP_ROWS: usize = 8192;

enum Job {
    Open {
        storage: usize,
        reply: oneshot::Sender<Result<()>>,
    },
    Commit {
        storage: usize,
        commit: Commit,
    },
    Load {
        storage: usize,
        query: Query,
        reply: oneshot::Sender<Result<Loaded>>,
    },
    View {
        storage: usize,
        reply: oneshot::Sender<Result<SqlView>>,
    },
    /// Closes all storages and ends the thread.
    Close,
}

struct Commit {
    batch: Batch,
    from: RowsOf,
    reply: oneshot::Sender<Result<CommitReceipt>>,
}

/// Whose rows a commit brings.
#[derive(Clone, Debug, Default)]
pub struct RowsOf {
    /// The pipeline; empty where they are of none.
    pub pipeline: Arc<str>,
    /// The stage, where it numbers its deliveries by itself.
    pub stage: Option<Arc<str>>,
    /// Its deliveries by their places in the batch, where the source can tell one that comes again: what was stored
    /// of it is not stored twice.
    pub marks: Option<Arc<[Mark]>>,
}

impl RowsOf {
    /// The name by which its deliveries are remembered.
    fn deliveries(&self) -> Arc<str> {
        match &self.stage {
            None => Arc::clone(&self.pipeline),
            Some(stage) => format!("{}/{stage}", self.pipeline).into(),
        }
    }
}

/// A storage that is given in care.
#[derive(Clone)]
pub struct Entrusted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Opens it, when it is first used and after an error that leaves it in doubt.
    pub opener: StorageOpener,
    /// Whether it has a thread of its own.
    pub apart: bool,
}

impl fmt::Debug for Entrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entrusted({})", self.name)
    }
}

/// The writer threads of a flow. Dropped, they end when the last handle is gone.
pub struct Writers {
    threads: Vec<Thread>,
}

struct Thread {
    jobs: mpsc::Sender<Job>,
    closed: oneshot::Receiver<()>,
    apart: bool,
}

impl Writers {
    /// Takes storages in care for their owner and starts the threads. Each storage stays on one thread for good.
    ///
    /// # Errors
    /// `Remote` when the system gives no thread.
    pub fn start<'a>(
        storages: impl IntoIterator<Item = Entrusted<'a>>,
        owner: &Ownership,
    ) -> Result<(Self, Vec<StorageHandle>)> {
        let storages: Vec<Entrusted<'_>> = storages.into_iter().collect();
        let mut shelves: Vec<Shelf> = Vec::new();
        let shared = storages.iter().filter(|storage| !storage.apart).count();
        let shared = shared.min(THREADS);
        shelves.resize_with(shared, Shelf::default);
        let mut places = Vec::with_capacity(storages.len());
        for (index, storage) in storages.into_iter().enumerate() {
            let thread = match storage.apart {
                true => {
                    shelves.push(Shelf::default());
                    shelves.len() - 1
                }
                false => index % shared,
            };
            places.push((storage.name, thread, index));
            shelves[thread].insert(index, Owned::new(storage, owner));
        }
        let threads = shelves.into_iter().enumerate();
        let threads = threads.map(|(number, shelf)| start_thread(shelf, number >= shared));
        let threads = threads.collect::<Result<Vec<_>>>()?;
        let handle = |(name, thread, index): (&str, usize, usize)| StorageHandle {
            name: name.into(),
            index,
            jobs: threads[thread].jobs.clone(),
        };
        let handles = places.into_iter().map(handle).collect();
        Ok((Self { threads }, handles))
    }

    /// Waits until everything queued is done and all storages are closed, but not for long for one that is a server
    /// elsewhere. Handles that are left, in
    /// the hands of a function that does not end, answer with an error from then on.
    pub async fn close(self, clock: &Clock) {
        for Thread {
            jobs,
            closed,
            apart,
        } in self.threads
        {
            let close = async {
                // An error means that the thread is gone already.
                drop(jobs.send(Job::Close).await);
                drop(closed.await);
            };
            match apart {
                false => close.await,
                true => tokio::select! {
                    () = close => {}
                    () = clock.sleep(FAREWELL) => {}
                },
            }
        }
    }
}

fn start_thread(shelf: Shelf, apart: bool) -> Result<Thread> {
    let (jobs, queue) = mpsc::channel(QUEUE);
    let (closed, close) = oneshot::channel();
    std::thread::Builder::new()
        .name("wf-writer".to_owned())
        .spawn(move || {
            write(queue, shelf);
            // Nobody waits for it where the flow was dropped instead of ended.
            closed.send(()).unwrap_or_default();
        })
        .map_err(|error| Error::remote(format!("cannot start a writer thread: {error}")))?;
    Ok(Thread {
        jobs,
        closed: close,
        apart,
    })
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writers({})", self.threads.len())
    }
}

/// A way to one storage. A cheap clone.
#[derive(Clone)]
pub struct StorageHandle {
    name: Arc<str>,
    index: usize,
    jobs: mpsc::Sender<Job>,
}

impl fmt::Debug for StorageHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageHandle({})", self.name)
    }
}

impl StorageHandle {
    /// The storage's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Opens it now, unless it is open, for one who will write to it: an earlier owner writes no more from then on.
    pub async fn open(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let storage = self.index;
        let sent = self.jobs.send(Job::Open { storage, reply }).await;
        sent.map_err(|_| self.gone())?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Makes the rows safe, in the name of the storages' owner; see [`Storage::commit`]. Waits while the disk is behind.
    /// Dropping the future does not undo the commit.
    pub async fn commit(&self, batch: Batch, from: RowsOf) -> Result<CommitReceipt> {
        let (reply, answer) = oneshot::channel();
        let commit = Commit { batch, from, reply };
        let storage = self.index;
        let sent = self.jobs.send(Job::Commit { storage, commit }).await;
        sent.map_err(|_| self.gone())?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Reads what is committed; see [`Storage::load`].
    pub async fn load(&self, query: Query) -> Result<Loaded> {
        let (job, answer) = self.load_job(query);
        self.jobs.send(job).await.map_err(|_| self.gone())?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// The blocking twin of [`StorageHandle::load`], for the user's Rust functions. Panics where a
    /// task of the runtime calls it.
    pub fn load_blocking(&self, query: Query) -> Result<Loaded> {
        let (job, answer) = self.load_job(query);
        self.jobs.blocking_send(job).map_err(|_| self.gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.gone()))
    }

    /// How a query in SQL reads it, once it is open. Panics where a task of the runtime calls it.
    pub fn sql_view_blocking(&self) -> Result<SqlView> {
        let (reply, answer) = oneshot::channel();
        let storage = self.index;
        let job = Job::View { storage, reply };
        self.jobs.blocking_send(job).map_err(|_| self.gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.gone()))
    }

    fn load_job(&self, query: Query) -> (Job, oneshot::Receiver<Result<Loaded>>) {
        let (reply, answer) = oneshot::channel();
        let storage = self.index;
        let job = Job::Load {
            storage,
            query,
            reply,
        };
        (job, answer)
    }

    fn gone(&self) -> Error {
        Error::bug(format!("the writer of storage `{}` has ended", self.name))
    }
}

/// The storages of a flow by name. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct StorageHandles(Arc<BTreeMap<String, StorageHandle>>);

impl StorageHandles {
    /// These storages.
    pub fn new(handles: impl IntoIterator<Item = StorageHandle>) -> Self {
        Self(Arc::new(
            handles
                .into_iter()
                .map(|handle| (handle.name.to_string(), handle))
                .collect(),
        ))
    }

    /// The storage of that name.
    pub fn find(&self, name: &str) -> Option<&StorageHandle> {
        self.0.get(name)
    }

    /// The storage of that name, or an error that lists what there is.
    pub fn named(&self, name: &str) -> Result<&StorageHandle> {
        self.find(name).ok_or_else(|| {
            let help = wiredflow_core::problem::possible(name, self.names());
            Error::data(format!("there is no storage `{name}`: {help}"))
        })
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn write(mut queue: mpsc::Receiver<Job>, mut shelf: Shelf) {
    let mut open = true;
    while open && let Some(first) = queue.blocking_recv() {
        let mut commits: BTreeMap<usize, Vec<Commit>> = BTreeMap::new();
        let mut loads = Vec::new();
        let mut rows = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Open { storage, reply } => {
                    let opened = shelf.get_mut(&storage).map(Owned::open_to_write);
                    // The caller may have gone.
                    drop(opened.map(|opened| reply.send(opened)));
                }
                Job::Commit { storage, commit } => {
                    rows += commit.batch.len();
                    commits.entry(storage).or_default().push(commit);
                }
                Job::Load {
                    storage,
                    query,
                    reply,
                } => loads.push((storage, query, reply)),
                Job::View { storage, reply } => {
                    let owned = shelf.get_mut(&storage);
                    let view = owned.map(|owned| owned.with(|storage| Ok(storage.sql_view())));
                    // The caller may have gone.
                    drop(view.map(|view| reply.send(view)));
                }
                Job::Close => {
                    open = false;
                    queue.close();
                }
            }
            next = if rows < GROUP_ROWS {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        for (storage, commits) in commits {
            if let Some(owned) = shelf.get_mut(&storage) {
                owned.commit_group(commits);
            }
        }
        for (storage, query, reply) in loads {
            if let Some(owned) = shelf.get_mut(&storage) {
                let loaded = owned.with(|storage| storage.load(&query));
                // The caller may have gone; what it asked for was only read.
                drop(reply.send(loaded));
            }
        }
    }
}

struct Owned {
    name: Arc<str>,
    opener: StorageOpener,
    open: Option<Box<dyn Storage>>,
    owner: Ownership,
    /// Whether the open storage knows who owns it.
    is_taken_over: bool,
    /// What the open storage has of each pipeline's last deliveries.
    seen: BTreeMap<Arc<str>, Seen>,
    /// How many rows have just come again that it has already.
    passed_over: usize,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.tell_passed_over();
    }
}

type Shelf = BTreeMap<usize, Owned>;

impl Owned {
    fn new(storage: Entrusted<'_>, owner: &Ownership) -> Self {
        Self {
            name: storage.name.into(),
            opener: storage.opener,
            open: None,
            owner: owner.clone(),
            is_taken_over: false,
            seen: BTreeMap::new(),
            passed_over: 0,
        }
    }

    /// One call for all waiting commits; each by itself when that fails, so that one bad row costs only
    /// its own batch, or when the rows of one replace those of another.
    fn commit_group(&mut self, commits: Vec<Commit>) {
        // One that cannot be opened says so to each of them, below.
        let joins = self.with(|storage| Ok(storage.joins_commits())) == Ok(true);
        let together = commits.len() > 1 && joins;
        if together && let Ok(receipt) = self.commit(&commits, joins) {
            for commit in commits {
                drop(commit.reply.send(Ok(receipt.clone())));
            }
            return;
        }
        for commit in commits {
            let result = self.commit(std::slice::from_ref(&commit), joins);
            // The caller may have gone; what it asked for is done all the same.
            drop(commit.reply.send(result));
        }
    }

    /// Opens it for one who writes.
    fn open_to_write(&mut self) -> Result<()> {
        self.with(|storage| storage.load(&Query::newest(0)))?;
        self.take_over()
    }

    /// Keeps earlier owners out. What is read of their cursors later is all that they will ever have written.
    fn take_over(&mut self) -> Result<()> {
        if self.open.is_some() && self.is_taken_over {
            return Ok(());
        }
        let fence = self.owner.fence();
        if !fence.of.is_empty() {
            self.with(|storage| storage.take_over(&fence))?;
        }
        self.is_taken_over = true;
        Ok(())
    }

    /// Makes the rows of commits safe, but for those that the storage has already, with the note that it has them.
    /// `joins`: see [`Storage::joins_commits`].
    fn commit(&mut self, commits: &[Commit], joins: bool) -> Result<CommitReceipt> {
        self.take_over()?;
        let mut touched: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut rows: Vec<&Value> = Vec::new();
        // The places of the rows in the first commit: what an error names when there is no other.
        let mut places = None;
        let mut passed_over = 0;
        for commit in commits {
            let fresh = match &commit.from.marks {
                None => None,
                Some(marks) => {
                    let deliveries = commit.from.deliveries();
                    touched.insert(Arc::clone(&deliveries));
                    match self.seen(&deliveries) {
                        Ok(seen) => fresh(seen, marks, &commit.batch),
                        Err(error) => {
                            self.end_seen(&touched, false);
                            return Err(error);
                        }
                    }
                }
            };
            // Where a commit replaces the one before, a part of it would replace the whole.
            let whole = |places: &Vec<usize>| places.is_empty() || joins;
            match fresh.filter(whole) {
                None => rows.extend(commit.batch.values()),
                Some(left) => {
                    let records = commit.batch.records();
                    passed_over += records.len() - left.len();
                    rows.extend(left.iter().map(|place| records[*place].value()));
                    places.get_or_insert(left);
                }
            }
        }
        if passed_over == 0 {
            self.tell_passed_over();
        }
        self.passed_over += passed_over;
        if passed_over > 0 && rows.is_empty() {
            self.end_seen(&touched, true);
            return Ok(CommitReceipt::issue(Arc::clone(&self.name), passed_over));
        }
        let seen = touched
            .iter()
            .filter_map(|pipeline| Some((pipeline, self.seen.get(pipeline)?)));
        let cursors: Vec<Cursor> = seen
            .flat_map(|(pipeline, seen)| {
                let cursor = |(segment, position)| Cursor {
                    source: source_of(pipeline, segment),
                    position,
                };
                seen.texts().map(cursor)
            })
            .collect();
        let pipelines = commits.iter().map(|commit| &commit.from.pipeline);
        let fence = self.owner.fence_of(pipelines);
        let committed = self.with(|storage| storage.commit(&rows, &cursors, &fence));
        self.end_seen(&touched, committed.is_ok());
        match committed {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(match (error.record(), places) {
                (Some(row), Some(places)) if row < places.len() => error.at_record(places[row]),
                _ => error,
            }),
        }
    }

    /// Says how many rows have come again, once they have all come.
    fn tell_passed_over(&mut self) {
        let rows = std::mem::take(&mut self.passed_over);
        if rows > 0 {
            tracing::info!(
                storage = %self.name,
                rows,
                "delivered again after a crash or a lost connection, and stored already: passed over"
            );
        }
    }

    /// What the storage has of a pipeline's last deliveries.
    fn seen(&mut self, pipeline: &Arc<str>) -> Result<&mut Seen> {
        if !self.seen.contains_key(pipeline) {
            let texts = self.with(|storage| {
                let segments = 0..seen::SEGMENTS;
                let texts = segments.map(|segment| storage.cursor(&source_of(pipeline, segment)));
                texts.collect::<Result<Vec<_>>>()
            })?;
            let seen = Seen::read(texts.iter().flatten().map(String::as_str))?;
            self.seen.insert(Arc::clone(pipeline), seen);
        }
        let found = self.seen.get_mut(pipeline);
        found.ok_or_else(|| Error::bug("what was put in is not there"))
    }

    /// Keeps what a commit has noted, or takes it back.
    fn end_seen(&mut self, pipelines: &BTreeSet<Arc<str>>, counts: bool) {
        for pipeline in pipelines {
            match self.seen.get_mut(pipeline) {
                Some(seen) if counts => seen.keep(),
                Some(seen) => seen.undo(),
                None => {}
            }
        }
    }

    /// Calls the storage, opening it first where needed; it is closed after an error that may have
    /// left it in a state nobody knows, and by a panic.
    fn with<T>(&mut self, call: impl FnOnce(&mut dyn Storage) -> Result<T>) -> Result<T> {
        let open = self.open.take();
        self.is_taken_over &= open.is_some();
        let work = || {
            let mut storage = match open {
                Some(storage) => storage,
                None => (self.opener)()?,
            };
            let result = call(storage.as_mut());
            let doubt = |error: &Error| error.kind() != ErrorKind::Data;
            let keep = !result.as_ref().is_err_and(doubt);
            Ok((result, keep.then_some(storage)))
        };
        let called = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(Error::bug("the storage panicked")));
        let (result, storage) = called.unwrap_or_else(|error| (Err(error), None));
        self.open = storage;
        if let Err(error) = &result {
            self.owner.note(error);
        }
        result
    }
}

/// The cursor that tells what a storage has of a segment of a pipeline's deliveries.
fn source_of(pipeline: &str, segment: u64) -> String {
    format!("{pipeline}/deliveries/{segment}")
}

/// The places of the rows that the storage has not got yet; none when it has none of them.
fn fresh(seen: &mut Seen, marks: &[Mark], batch: &Batch) -> Option<Vec<usize>> {
    let only = (marks.len() == 1).then_some(0);
    let deliveries = batch.records().iter();
    seen.fresh(marks, deliveries.map(|record| record.delivery().or(only)))
}
