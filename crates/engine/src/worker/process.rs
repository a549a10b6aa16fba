//! A worker that is a child process: started, watched, and ended with all that it has started.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use wiredflow_core::Error;
use wiredflow_core::frame::Start;

use super::client::{Client, Link, Loss, StartError};
use super::group::{GRACE, Group, described};
use super::launch::Parting;
use super::spawner::Spawner;
use super::stderr::Stderr;
use super::{Launch, WorkerHost};
use crate::clock::Clock;
use crate::observe::Worker;
use crate::tasks::Tasks;

/// How long a process that is no longer needed may take to end by itself after its input has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long what a process has said last may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What processes are started with.
#[derive(Clone)]
pub(super) struct Yard {
    pub(super) launch: Launch,
    pub(super) start: Start,
    pub(super) start_within: Duration,
    pub(super) host: Arc<dyn WorkerHost>,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
}

/// A running worker process. Dropping it closes its input, which ends it; what has not ended a second later, it or
/// others of its process group, gets SIGTERM, and after two more seconds SIGKILL.
#[derive(Debug)]
pub(super) struct Process {
    client: Option<Arc<Client>>,
    /// Counts what it uses.
    worker: Option<Worker>,
    stderr: Arc<Stderr>,
    group: Option<Group>,
    clock: Clock,
    tasks: Tasks,
    noun: String,
    is_own: bool,
}

/// Why a process did not become a worker.
#[derive(Debug)]
pub(super) enum StartFailure {
    /// The user must change something: the interpreter, the file, the function.
    Refused(Error),
    /// It ended or hung before it was ready.
    Died(Error),
    /// It said itself, as one of our own, why it ended.
    Parted(Parting, Error),
}

impl Process {
    /// Starts a process and waits until it is ready for calls. Dropping the future ends it.
    pub(super) async fn start(yard: &Yard, spawner: &Spawner) -> Result<Self, StartFailure> {
        let Yard {
            launch,
            clock,
            tasks,
            host,
            ..
        } = yard;
        let child = spawner.spawn(launch.command()).await;
        let mut child = child.map_err(|error| StartFailure::Refused(launch.failed(&error)))?;
        let stderr = Arc::new(Stderr::new(Arc::clone(host)));
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(StartFailure::Died(Error::bug(
                "a child without its streams",
            )));
        };
        let last = match launch.is_own() {
            true => Signal::TERM,
            false => Signal::KILL,
        };
        let group = Group::of(child, clock.clone()).dropped_with(last);
        tasks.spawn("worker stderr", {
            let stderr = Arc::clone(&stderr);
            let exited = group.exited();
            let clock = clock.clone();
            async move {
                // What outlives the group (a daemon that a function has started) may keep the stream open for ever.
                let too_long = async {
                    exited.await;
                    clock.sleep(GRACE).await;
                };
                tokio::select! {
                    () = stderr.read(errors) => {}
                    () = too_long => {}
                }
            }
        });
        let link = Link {
            clock: clock.clone(),
            tasks: tasks.clone(),
            preamble: launch.preamble(),
            ended: Box::pin(group.exited()),
        };
        let mut process = Self {
            client: None,
            worker: None,
            stderr,
            group: Some(group),
            clock: clock.clone(),
            tasks: tasks.clone(),
            noun: launch.noun().to_owned(),
            is_own: launch.is_own(),
        };
        let connect = Client::connect(output, input, &yard.start, Arc::clone(host), link);
        let connected = tokio::select! {
            biased;
            connected = connect => connected,
            () = clock.sleep(yard.start_within) => {
                let waited = format!("was not ready within {:?}", yard.start_within);
                return Err(StartFailure::Died(process.stopped(&waited).await));
            }
        };
        match connected {
            Ok(client) => {
                process.client = Some(Arc::new(client));
                process.worker = process.id().map(|id| launch.workers().works(id));
            }
            Err(StartError::Refused(error)) => return Err(StartFailure::Refused(error)),
            Err(StartError::Lost(loss)) => {
                let (parting, error) = process.parting(&loss).await;
                if let Some(parting) = parting {
                    return Err(StartFailure::Parted(parting, error));
                }
                // What a program says last, before it gives up, is mostly the reason.
                let said = error.trace().and_then(|trace| trace.lines().last());
                let place = match said {
                    Some(said) => format!("at its start (`{said}`)"),
                    None => "at its start".to_owned(),
                };
                return Err(StartFailure::Died(error.context(place)));
            }
        }
        Ok(process)
    }

    /// The way to the worker; `None` when it takes no more calls. The process itself is looked at, because the end of
    /// its stream may not have been read yet.
    pub(super) fn client(&self) -> Option<&Arc<Client>> {
        let running = self.group.as_ref().is_some_and(|group| !group.has_ended());
        self.client
            .as_ref()
            .filter(|client| running && client.is_alive())
    }

    /// The process's number.
    pub(super) fn id(&self) -> Option<u32> {
        self.group.as_ref().and_then(|group| group.id())
    }

    /// A call begins: the last lines of standard error are about it from now on.
    pub(super) fn begin_call(&self) {
        self.stderr.begin_call();
    }

    /// Finds out how a process ended that is lost, and makes an error of it.
    pub(super) async fn post_mortem(&mut self, loss: &Loss) -> Error {
        self.parting(loss).await.1
    }

    /// The same, with what one of our own says of it.
    pub(super) async fn parting(&mut self, loss: &Loss) -> (Option<Parting>, Error) {
        let reason = match loss {
            Loss::Broke(reason) => {
                let what = format!("broke the worker protocol: {reason}");
                return (None, self.stopped(&what).await);
            }
            Loss::Gone(reason) => reason,
        };
        let Some(group) = self.group.take() else {
            return (None, Error::bug("a process that is ended twice"));
        };
        let by_itself = group.exits_within(FAREWELL).await;
        let status = group.end(Duration::ZERO).await;
        self.client = None;
        let what = match status {
            Some(status) if by_itself => {
                let parting = status.code().filter(|_| self.is_own).and_then(Parting::of);
                if let Some(parting) = parting {
                    return (Some(parting), self.last_words(parting).await);
                }
                described(status)
            }
            _ => format!("was stopped: {reason}"),
        };
        (None, self.error(&what).await)
    }

    /// What one of our own said last, as an error of the kind that it says.
    async fn last_words(&self, parting: Parting) -> Error {
        self.hear_out().await;
        let lines = self.stderr.last_lines().unwrap_or_default();
        let last = lines
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(Parting::MARK));
        let last = last.unwrap_or("it did not say why");
        let message = format!("{}: {last}", self.noun);
        match parting {
            Parting::Away | Parting::Gone => Error::remote(message),
            Parting::Wrong => Error::config(message),
        }
    }

    /// Ends the process because of what it did, and makes an error of it: `noun what`. A Python function that hangs
    /// says where.
    pub(super) async fn stopped(&mut self, what: &str) -> Error {
        if let Some(group) = self.group.take() {
            self.worker = None;
            group.end(Duration::ZERO).await;
        }
        self.client = None;
        self.error(what).await
    }

    /// Lets the process end by itself, which it does when its input ends; waits until it is gone.
    pub(super) async fn end(mut self) {
        (self.client, self.worker) = (None, None);
        if let Some(group) = self.group.take() {
            group.end(FAREWELL).await;
        }
    }

    /// As dropping it, but at once: it works on what nobody waits for any more.
    pub(super) fn abandon(mut self) {
        self.leave(Duration::ZERO);
    }

    fn leave(&mut self, patience: Duration) {
        (self.client, self.worker) = (None, None);
        if let Some(group) = self.group.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            // Outside a runtime, or when it ends, dropping the group kills it at once.
            self.tasks.spawn("worker end", async move {
                group.end(patience).await;
            });
        }
    }

    /// Waits for what it has said last.
    async fn hear_out(&self) {
        tokio::select! {
            biased;
            () = self.stderr.ended() => {}
            () = self.clock.sleep(LAST_WORDS) => {}
        }
    }

    async fn error(&self, what: &str) -> Error {
        self.hear_out().await;
        let error = Error::data(format!("{} {what}", self.noun));
        match self.stderr.last_lines() {
            Some(lines) => error.with_trace(lines),
            None => error,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.leave(FAREWELL);
    }
}
