//! Threads for the user's Rust functions, which may block or compute for as long as they like.
//!
//! They are not the runtime's: those are few, and a generator that waits for the next stage holds its
//! thread. A thread cannot be ended from outside, so a call that nobody waits for any more goes on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::oneshot;
use wiredflow_core::charge::{Probe, Used};
use wiredflow_core::{Error, Result};

use crate::clock::{Stopwatch, probe_of_thread};

/// How many calls that nobody waits for may still run.
const LEFT: usize = 64;

/// The threads of a flow's functions. One that has done its call waits for the next, of whichever function;
/// when the last clone is dropped the waiting ones end, and each other at the end of its call.
#[derive(Clone, Debug, Default)]
pub struct FunctionThreads(Arc<Idle>);

/// The calls of one function.
#[derive(Debug)]
pub(super) struct Threads {
    idle: Arc<Idle>,
    /// Calls that run.
    running: Arc<AtomicUsize>,
    /// Calls that somebody waits for.
    awaited: Arc<AtomicUsize>,
}

/// A call, and what measures it.
type OnThread = dyn FnOnce(&mut Stopwatch) + Send;

type Idle = Mutex<Vec<SyncSender<Work>>>;

/// A call, and the way to its thread, which comes back to the idle ones with it.
struct Work {
    call: Box<OnThread>,
    back: SyncSender<Work>,
}

/// The end of a call. Dropping it leaves the call to itself.
#[derive(Debug)]
pub(crate) struct Ending {
    end: oneshot::Receiver<(Result<()>, Used)>,
    used: Option<Used>,
    /// The number of its thread, once it has one.
    thread: Arc<AtomicU32>,
    _awaited: Counted,
}

/// One more, until it is dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Threads {
    /// Of one function, on threads that it shares with others.
    pub(super) fn of(threads: &FunctionThreads) -> Self {
        Self {
            idle: Arc::clone(&threads.0),
            running: Arc::default(),
            awaited: Arc::default(),
        }
    }

    /// Begins a call on a thread of its own.
    ///
    /// # Errors
    /// `Data` when too many calls of the function have been left to themselves and still run.
    pub(super) fn begin(
        &self,
        call: impl FnOnce(&mut Stopwatch) -> Result<()> + Send + 'static,
    ) -> Result<Ending> {
        let left = |running: usize| running.saturating_sub(self.awaited.load(Ordering::Acquire));
        if left(self.running.load(Ordering::Acquire)) >= LEFT {
            return Err(Error::data(format!(
                "{LEFT} earlier calls of the function that took too long still run; no further one is begun"
            )));
        }
        let (say, end) = oneshot::channel();
        let thread = Arc::<AtomicU32>::default();
        let ending = Ending {
            end,
            used: None,
            thread: Arc::clone(&thread),
            _awaited: Counted::new(&self.awaited),
        };
        let running = Counted::new(&self.running);
        let call = move |watch: &mut Stopwatch| {
            thread.store(Stopwatch::number(), Ordering::Relaxed);
            watch.begin();
            let result = catch_unwind(AssertUnwindSafe(|| call(watch)));
            let used = watch.end();
            drop(running);
            let result = result.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
            // Nobody may wait for it any more.
            drop(say.send((result, used)));
        };
        self.give(Box::new(call))?;
        Ok(ending)
    }

    fn give(&self, mut call: Box<OnThread>) -> Result<()> {
        loop {
            let idle = lock(&self.idle).pop();
            let Some(thread) = idle else { break };
            let back = thread.clone();
            match thread.send(Work { call, back }) {
                Ok(()) => return Ok(()),
                Err(unsent) => call = unsent.0.call,
            }
        }
        let (thread, works) = sync_channel::<Work>(1);
        let idle = Arc::downgrade(&self.idle);
        std::thread::Builder::new()
            .name("wf-function".to_owned())
            .spawn(move || {
                let mut watch = Stopwatch::default();
                while let Ok(work) = works.recv() {
                    (work.call)(&mut watch);
                    rest(&idle, work.back);
                }
            })
            .map_err(|error| Error::remote(format!("cannot start a thread: {error}")))?;
        let back = thread.clone();
        thread
            .send(Work { call, back })
            .map_err(|_| Error::bug("a thread ended before its first call"))
    }
}

fn rest(idle: &Weak<Idle>, thread: SyncSender<Work>) {
    if let Some(idle) = idle.upgrade() {
        lock(&idle).push(thread);
    }
}

fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, Vec<SyncSender<Work>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ending {
    /// Waits for the end of the call.
    pub(crate) async fn wait(&mut self) -> Result<()> {
        match (&mut self.end).await {
            Ok((result, used)) => {
                self.used = Some(used);
                result
            }
            Err(_) => Err(Error::bug("the function's thread ended without a word")),
        }
    }

    /// What tells what it uses while it runs.
    pub(crate) fn probe(&self) -> Probe {
        probe_of_thread(Arc::clone(&self.thread))
    }

    /// What the call has used, once it has ended.
    pub(crate) fn used(&self) -> Option<Used> {
        self.used
    }
}

/// What a function's panic is told as.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    Error::bug(format!(
        "the function panicked: {}",
        text.unwrap_or("no message")
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use wiredflow_core::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn a_thread_is_used_again() {
        let threads = Threads::of(&FunctionThreads::default());
        let mut ids = Vec::new();
        for _ in 0..50 {
            let (say, id) = oneshot::channel();
            let call = move |_: &mut Stopwatch| {
                say.send(std::thread::current().id()).unwrap();
                Ok(())
            };
            let mut ending = threads.begin(call).unwrap();
            ids.push(id.await.unwrap());
            ending.wait().await.unwrap();
            while lock(&threads.idle).is_empty() {
                std::thread::yield_now();
            }
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_told_and_costs_no_thread() {
        let threads = Threads::of(&FunctionThreads::default());
        let mut ending = threads.begin(|_| panic!("number {}", 7)).unwrap();
        let error = ending.wait().await.unwrap_err();
        assert_eq!(error.message(), "the function panicked: number 7");
        let mut ending = threads.begin(|_| Ok(())).unwrap();
        ending.wait().await.unwrap();
    }

    #[test]
    fn calls_that_are_left_to_themselves_do_not_grow_without_end() {
        let threads = Threads::of(&FunctionThreads::default());
        let (release, hold) = sync_channel::<()>(1);
        let hold = Arc::new(Mutex::new(hold));
        let begin = || {
            let hold = Arc::clone(&hold);
            threads.begin(move |_| {
                assert!(hold.lock().unwrap().recv().is_err(), "nothing is ever sent");
                Ok(())
            })
        };
        let awaited: Vec<_> = (0..LEFT + 3).map(|_| begin().unwrap()).collect();
        begin().unwrap();
        drop(awaited);
        assert_eq!(begin().unwrap_err().kind(), ErrorKind::Data);
        drop(release);
        while threads.running.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        begin().unwrap();
    }
}
