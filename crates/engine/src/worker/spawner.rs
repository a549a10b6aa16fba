//! A thread that starts processes.
//!
//! A worker asks the kernel to end it when its parent dies, and to the kernel the parent is the *thread* that started
//! it. The runtime's threads come and go, so a thread of our own does it, which lives as long as the pool.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wiredflow_core::{Error, Result};

type Job = (Command, oneshot::Sender<io::Result<Child>>);

/// Starts processes. Its thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Spawner {
    jobs: SyncSender<Job>,
}

impl Spawner {
    /// Must be called inside a runtime, which then watches over the processes.
    pub(super) fn start(processes: usize) -> Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(processes);
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name("wf-spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in queue {
                    let entered = runtime.enter();
                    let started = command.spawn();
                    drop(entered);
                    // When nobody waits for the child any more, dropping it kills it.
                    drop(reply.send(started));
                }
            })
            .map_err(|error| Error::remote(format!("cannot start a thread: {error}")))?;
        Ok(Self { jobs })
    }

    /// Starts a process.
    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes has ended");
        // There is a place for each process of the pool, so this does not find the queue full.
        self.jobs.try_send((command, reply)).map_err(|_| gone())?;
        started.await.unwrap_or_else(|_| Err(gone()))
    }
}
