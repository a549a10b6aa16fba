//! The owner of storages: a few writer threads, group commit, and handles that anyone may hold.
//!
//! Files and embedded databases block, so their calls run on threads of their own. All waiting commits
//! of a storage are made safe by one call: one fsync or COMMIT for many batches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use wiredflow_core::storage::{CommitReceipt, Cursor, Epoch, Loaded, Query, Storage};
use wiredflow_core::{Batch, Error, ErrorKind, Result, Value};

use crate::catalogue::StorageOpener;

/// How many threads write at most; each storage stays on one of them.
const THREADS: usize = 4;

/// How many calls may wait for a thread before callers wait.
const QUEUE: usize = 64;

/// The most rows of one group commit.
const GROUP_ROWS: usize = 8192;

enum Job {
    Commit {
        storage: usize,
        batch: Batch,
        cursor: Option<Cursor>,
        epoch: Epoch,
        reply: oneshot::Sender<Result<CommitReceipt>>,
    },
    Load {
        storage: usize,
        query: Query,
        reply: oneshot::Sender<Result<Loaded>>,
    },
}

struct Owned {
    opener: StorageOpener,
    open: Option<Box<dyn Storage>>,
}

type Shelf = Arc<Mutex<BTreeMap<usize, Owned>>>;

/// The writer threads of a flow. Dropping the last handle ends them, after what is queued is done.
pub struct Writers {
    threads: Vec<(SyncSender<Job>, Shelf)>,
    joins: Vec<std::thread::JoinHandle<()>>,
}

impl Writers {
    /// Starts the threads for storages of this number.
    ///
    /// # Errors
    /// `Remote` when the system gives no thread.
    pub fn start(storages: usize) -> Result<Self> {
        let mut writers = Self {
            threads: Vec::new(),
            joins: Vec::new(),
        };
        for _ in 0..storages.clamp(1, THREADS) {
            let (jobs, queue) = sync_channel(QUEUE);
            let shelf = Shelf::default();
            let owned = Arc::clone(&shelf);
            let join = std::thread::Builder::new()
                .name("wf-writer".to_owned())
                .spawn(move || write(&queue, &owned))
                .map_err(|error| Error::remote(format!("cannot start a writer thread: {error}")))?;
            writers.threads.push((jobs, shelf));
            writers.joins.push(join);
        }
        Ok(writers)
    }

    /// Takes a storage in care. Storage number `index` stays on one thread for good.
    pub fn own(&self, index: usize, name: &str, opener: StorageOpener) -> StorageHandle {
        let (jobs, shelf) = &self.threads[index % self.threads.len()];
        let owned = Owned { opener, open: None };
        shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(index, owned);
        StorageHandle {
            name: name.into(),
            index,
            jobs: jobs.clone(),
        }
    }

    /// Waits until everything queued is done and all storages are closed. All handles must be dropped.
    pub async fn close(self) {
        drop(self.threads);
        let joins = self.joins;
        let join_all = move || {
            for join in joins {
                // A panic on the thread has been reported by its callers' replies.
                drop(join.join());
            }
        };
        drop(tokio::task::spawn_blocking(join_all).await);
    }
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writers({})", self.joins.len())
    }
}

/// A way to one storage. A cheap clone.
#[derive(Clone)]
pub struct StorageHandle {
    name: Arc<str>,
    index: usize,
    jobs: SyncSender<Job>,
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

    /// Makes the rows safe; see [`Storage::commit`]. Dropping the future does not undo the commit.
    pub async fn commit(
        &self,
        batch: Batch,
        cursor: Option<Cursor>,
        epoch: Epoch,
    ) -> Result<CommitReceipt> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Commit {
            storage: self.index,
            batch,
            cursor,
            epoch,
            reply,
        })
        .await?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Reads what is committed; see [`Storage::load`].
    pub async fn load(&self, query: Query) -> Result<Loaded> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Load {
            storage: self.index,
            query,
            reply,
        })
        .await?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// The blocking twin of [`StorageHandle::load`], for the user's Rust functions.
    pub fn load_blocking(&self, query: Query) -> Result<Loaded> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Load {
            storage: self.index,
            query,
            reply,
        };
        self.jobs.send(job).map_err(|_| self.gone())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.gone()))
    }

    /// Queues a job. The queue is bounded: when the disk is behind, the caller's thread hands its other
    /// tasks over and waits.
    async fn submit(&self, job: Job) -> Result<()> {
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(std::sync::mpsc::TrySendError::Full(job)) => {
                let jobs = self.jobs.clone();
                let sent = tokio::task::spawn_blocking(move || jobs.send(job).is_ok()).await;
                if sent.unwrap_or(false) {
                    Ok(())
                } else {
                    Err(self.gone())
                }
            }
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => Err(self.gone()),
        }
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

fn write(queue: &Receiver<Job>, shelf: &Shelf) {
    while let Ok(first) = queue.recv() {
        let mut commits: BTreeMap<usize, Vec<Commit>> = BTreeMap::new();
        let mut loads = Vec::new();
        let mut rows = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Commit {
                    storage,
                    batch,
                    cursor,
                    epoch,
                    reply,
                } => {
                    rows += batch.len();
                    commits.entry(storage).or_default().push(Commit {
                        batch,
                        cursor,
                        epoch,
                        reply,
                    });
                }
                Job::Load {
                    storage,
                    query,
                    reply,
                } => loads.push((storage, query, reply)),
            }
            next = if rows < GROUP_ROWS {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        for (storage, commits) in commits {
            if let Some(owned) = shelf.get_mut(&storage) {
                commit_group(owned, commits);
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

struct Commit {
    batch: Batch,
    cursor: Option<Cursor>,
    epoch: Epoch,
    reply: oneshot::Sender<Result<CommitReceipt>>,
}

/// One call for all waiting commits; each by itself when that fails, so that one bad row costs only
/// its own batch, or when they carry cursors.
fn commit_group(owned: &mut Owned, commits: Vec<Commit>) {
    let together = commits.len() > 1
        && commits
            .iter()
            .all(|commit| commit.cursor.is_none() && commit.epoch == commits[0].epoch)
        && owned.with(|storage| Ok(storage.joins_commits())) == Ok(true);
    if together {
        let rows: Vec<&Value> = commits
            .iter()
            .flat_map(|commit| commit.batch.values())
            .collect();
        if let Ok(receipt) = owned.with(|storage| storage.commit(&rows, None, commits[0].epoch)) {
            for commit in commits {
                drop(commit.reply.send(Ok(receipt.clone())));
            }
            return;
        }
    }
    for Commit {
        batch,
        cursor,
        epoch,
        reply,
    } in commits
    {
        let rows: Vec<&Value> = batch.values().collect();
        let result = owned.with(|storage| storage.commit(&rows, cursor.as_ref(), epoch));
        drop(batch);
        drop(reply.send(result));
    }
}

impl Owned {
    /// Calls the storage, opening it first where needed; it is closed after an error that may have
    /// left it in a state nobody knows, and by a panic.
    fn with<T>(&mut self, call: impl FnOnce(&mut dyn Storage) -> Result<T>) -> Result<T> {
        let mut storage = match self.open.take() {
            Some(storage) => storage,
            None => (self.opener)()?,
        };
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(storage.as_mut())));
        let result = result.unwrap_or_else(|_| Err(Error::bug("the storage panicked")));
        let keep = match &result {
            Ok(_) => true,
            Err(error) => matches!(error.kind(), ErrorKind::Data),
        };
        if keep {
            self.open = Some(storage);
        }
        result
    }
}
