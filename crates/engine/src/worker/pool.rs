//! A stage's worker processes: a call goes to a free one, and what has crashed or hung is started anew.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use wiredflow_core::charge::Used;
use wiredflow_core::frame::Start;
use wiredflow_core::{Batch, Error, ErrorKind, Result};

use super::client::{Call, CallError, Loss};
use super::process::{Process, StartFailure, Yard};
use super::spawner::Spawner;
use super::{Launch, Request, WorkerHost};
use crate::clock::Clock;
use crate::tasks::Tasks;

/// How many processes in a row may die at their start before the next one has to wait.
const DEATHS: u32 = 5;

/// The first such wait; it doubles up to a minute.
const WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A call that runs into its deadline is ended this part of it earlier (at most `EARLY`): time to ask where it hangs.
const EARLY_PART: u32 = 20;
const EARLY: Duration = Duration::from_millis(250);

/// How long a generator that is closed may take to end.
const CLOSING: Duration = Duration::from_secs(5);

/// Worker processes for one kind of work. Dropping it ends them.
pub struct Pool {
    yard: Yard,
    places: Mutex<Vec<Place>>,
    free: Semaphore,
    spawner: Spawner,
}

/// Where a process is, or was, or will be.
#[derive(Debug, Default)]
struct Place {
    process: Option<Process>,
    /// Processes that died at their start, one after the other.
    deaths: u32,
}

impl Pool {
    /// Starts the first process, which shows that the functions can be loaded; the others, up to `processes`, come
    /// with the calls that need them.
    ///
    /// What keeps the first process from being ready is an error of kind `Config`: no interpreter, no such function,
    /// an exception while the file is imported (with its traceback), or no answer within `start_within`.
    pub async fn open(
        launch: Launch,
        start: Start,
        processes: usize,
        start_within: Duration,
        host: Arc<dyn WorkerHost>,
        (clock, tasks): (Clock, Tasks),
    ) -> Result<Self> {
        let processes = processes.max(1);
        let pool = Self {
            yard: Yard {
                launch,
                start,
                start_within,
                host,
                clock,
                tasks,
            },
            places: Mutex::new((0..processes).map(|_| Place::default()).collect()),
            free: Semaphore::new(processes),
            spawner: Spawner::start(processes)?,
        };
        let first = Process::start(&pool.yard, &pool.spawner).await;
        let first = first.map_err(|failure| match failure {
            StartFailure::Refused(error) => error,
            StartFailure::Died(error) | StartFailure::Parted(_, error) => as_config(error),
        })?;
        pool.lock()[0].process = Some(first);
        Ok(pool)
    }

    /// Begins a call, as soon as a process is free.
    ///
    /// An error of kind `Data` with a trace is the user's function's; a crash, a hang and a breach of the protocol
    /// are too, and the process is started anew for the next call. Dropping the future or the [`Running`] before its
    /// end stops the process that works on it.
    pub async fn call(&self, request: Request<'_>) -> Result<Running<'_>> {
        let Ok(permit) = self.free.acquire().await else {
            return Err(Error::bug("the pool of workers is closed"));
        };
        let place = self.lock().pop().unwrap_or_default();
        let mut running = Running {
            pool: self,
            place,
            call: None,
            deadline: None,
            used: None,
            _permit: permit,
        };
        running.begin(request).await?;
        // From here on: the wait for a process, and its start, are not the function's time.
        let since = self.yard.clock.monotonic();
        running.deadline = request.deadline.map(|deadline| {
            let early = EARLY.min(deadline / EARLY_PART);
            (since + deadline - early, deadline)
        });
        Ok(running)
    }

    /// Ends all processes in good order and waits until they are gone. Calls that run go on, and their processes end
    /// when they are dropped.
    pub async fn close(&self) {
        let places = std::mem::take(&mut *self.lock());
        let processes = places.into_iter().filter_map(|place| place.process);
        join_all(processes.map(Process::end)).await;
    }

    /// The numbers of the processes that wait for calls, for those who measure.
    pub fn idle_processes(&self) -> Vec<u32> {
        self.lock()
            .iter()
            .filter_map(|place| place.process.as_ref()?.id())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?})", self.yard.launch)
    }
}

/// A call on its way.
#[derive(Debug)]
pub struct Running<'a> {
    pool: &'a Pool,
    place: Place,
    call: Option<Call>,
    deadline: Option<(Instant, Duration)>,
    used: Option<Used>,
    _permit: SemaphorePermit<'a>,
}

impl Running<'_> {
    /// The next output; `None` when the call has ended well. Dropping the future loses nothing.
    ///
    /// After an error there is nothing more. An output of a function that gave nothing is an empty batch.
    pub async fn next(&mut self) -> Result<Option<Batch>> {
        let Some(call) = &mut self.call else {
            return Ok(None);
        };
        let deadline = self.deadline;
        let clock = &self.pool.yard.clock;
        let late = async {
            match deadline {
                Some((moment, _)) => clock.sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            next = call.next() => next,
            () = late => {
                let limit = deadline.map(|(_, limit)| limit).unwrap_or_default();
                return Err(self.stop(&format!("gave no answer within {limit:?} and was stopped")).await);
            }
        };
        match next {
            Ok(Some(given)) => Ok(Some(given.batch)),
            Ok(None) => {
                self.ends();
                Ok(None)
            }
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// What its function has used, once it has ended and where its worker knows.
    pub fn used(&self) -> Option<Used> {
        self.used
    }

    fn ends(&mut self) {
        self.used = self.call.take().and_then(|call| call.used());
    }

    /// Ends the call early and in good order: a generator is closed where it stands. One that takes longer than five
    /// seconds, or than its deadline, is stopped with its process, which is an error.
    pub async fn close(mut self) -> Result<()> {
        let Some(call) = &mut self.call else {
            return Ok(());
        };
        let clock = &self.pool.yard.clock;
        let ended = tokio::select! {
            biased;
            ended = call.cancel() => ended,
            () = clock.sleep(CLOSING) => {
                return Err(self.stop(&format!("did not end within {CLOSING:?} and was stopped")).await);
            }
        };
        match ended {
            Ok(()) => {
                self.ends();
                Ok(())
            }
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// The number of the process that works on it.
    pub fn process(&self) -> Option<u32> {
        self.place.process.as_ref().and_then(Process::id)
    }

    async fn begin(&mut self, request: Request<'_>) -> Result<()> {
        if self
            .place
            .process
            .as_ref()
            .is_none_or(|process| process.client().is_none())
        {
            self.start_anew().await?;
        }
        let Some(process) = &self.place.process else {
            return Err(Error::bug("a place without a process"));
        };
        let Some(client) = process.client() else {
            return Err(self
                .failed(CallError::Lost(Loss::Gone("it has gone".to_owned())))
                .await);
        };
        process.begin_call();
        match client.call(request).await {
            Ok(call) => self.call = Some(call),
            Err(error) => return Err(self.failed(error).await),
        }
        Ok(())
    }

    /// A process in the place of none, or of one that ended while nobody needed it.
    async fn start_anew(&mut self) -> Result<()> {
        self.place.process = None;
        let Pool { yard, spawner, .. } = self.pool;
        if self.place.deaths >= DEATHS {
            let doubled = 2u32.saturating_pow(self.place.deaths - DEATHS);
            yard.clock
                .sleep(WAIT.saturating_mul(doubled).min(LONGEST_WAIT))
                .await;
        }
        match Process::start(yard, spawner).await {
            Ok(process) => {
                self.place = Place {
                    process: Some(process),
                    deaths: 0,
                };
                Ok(())
            }
            Err(StartFailure::Refused(error)) => Err(error),
            Err(StartFailure::Died(error) | StartFailure::Parted(_, error)) => {
                self.place.deaths += 1;
                Err(error)
            }
        }
    }

    async fn failed(&mut self, error: CallError) -> Error {
        self.ends();
        match error {
            CallError::Failed(error) => error,
            CallError::Lost(loss) => match self.place.process.take() {
                Some(mut process) => process.post_mortem(&loss).await,
                None => Error::bug("a call without a process"),
            },
        }
    }

    async fn stop(&mut self, what: &str) -> Error {
        self.call = None;
        match self.place.process.take() {
            Some(mut process) => process.stopped(what).await,
            None => Error::bug("a call without a process"),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut place = std::mem::take(&mut self.place);
        if self.call.as_ref().is_some_and(|call| !call.has_ended())
            && let Some(process) = place.process.take()
        {
            process.abandon();
        }
        self.call = None;
        self.pool.lock().push(place);
    }
}

/// At the opening of a stage, a worker that does not start is for the user to mend.
pub(super) fn as_config(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Data => error.as_kind(ErrorKind::Config),
        _ => error,
    }
}
