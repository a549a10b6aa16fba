//! One process that works on many calls at once: the near end of a place where a stage runs.
//!
//! It is started when it is first needed and anew when it has gone. Unlike a [`Pool`](super::Pool), whose processes
//! have one call each and are killed with it, it goes on when a call is given up: the far end ends that call alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;
use wiredflow_core::charge::Used;
use wiredflow_core::frame::{Passed, Start};
use wiredflow_core::{Error, ErrorKind, Result};

use super::client::{Call, CallError, Client, Given, Loss};
use super::pool::as_config;
use super::process::{Process, StartFailure, Yard};
use super::spawner::Spawner;
use super::{Launch, Parting, Request, WorkerHost};
use crate::clock::Clock;
use crate::tasks::Tasks;

/// How long a place that could not be reached is not asked again; it doubles up to `LONGEST_REST`.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How often in a row what works at the place may go during calls before that is the calls' fault.
const DEATHS: u32 = 3;

/// How long a call that is cancelled may take to end before its process is ended.
const CLOSING: Duration = Duration::from_secs(5);

/// A process and the calls that it works on. Dropping it ends the process.
pub struct Station {
    yard: Yard,
    spawner: Spawner,
    state: Mutex<State>,
    /// Ends of what works there during calls, one after the other.
    deaths: AtomicU32,
}

#[derive(Default)]
struct State {
    tenant: Option<Arc<Tenant>>,
    /// Until when it is not asked again, how often it was asked in vain, and what was said then.
    rest: Option<(Instant, u32, Error)>,
}

/// The process that stands there now.
#[derive(Debug)]
struct Tenant {
    client: Arc<Client>,
    process: Mutex<Option<Process>>,
    /// How it ended.
    end: OnceCell<Missed>,
}

/// Why there is no result.
#[derive(Clone, Debug)]
pub enum Missed {
    /// The place could not be reached, and nothing has run there: another place may take the call.
    Away(Error),
    /// The call has failed.
    Failed(Error),
}

impl Station {
    /// A place whose process `launch` starts, with the errand in `start`. Must be called inside a runtime.
    pub fn new(
        launch: Launch,
        start: Start,
        start_within: Duration,
        host: Arc<dyn WorkerHost>,
        (clock, tasks): (Clock, Tasks),
    ) -> Result<Self> {
        Ok(Self {
            yard: Yard {
                launch,
                start,
                start_within,
                host,
                clock,
                tasks,
            },
            spawner: Spawner::start(1)?,
            state: Mutex::default(),
            deaths: AtomicU32::new(0),
        })
    }

    /// Makes it ready for calls. What keeps it from that and will not pass is of kind `Config`.
    pub async fn ready(&self) -> Result<(), Missed> {
        match self.tenant().await {
            Ok(_) => Ok(()),
            Err(Missed::Failed(error)) => Err(Missed::Failed(as_config(error))),
            Err(away) => Err(away),
        }
    }

    /// Ends its process in good order and waits until it has gone.
    pub async fn close(&self) {
        let tenant = self.state.lock().await.tenant.take();
        if let Some(tenant) = tenant
            && let Some(process) = tenant.process.lock().await.take()
        {
            process.end().await;
        }
    }

    /// Whether the process that took the last call is still there.
    pub async fn stands(&self) -> bool {
        match &self.state.lock().await.tenant {
            Some(tenant) => tenant.is_alive().await,
            None => false,
        }
    }

    /// Begins a call. Dropping what it gives ends the call at the far end too.
    pub async fn call(&self, request: Request<'_>) -> Result<Called<'_>, Missed> {
        let tenant = self.tenant().await?;
        match tenant.client.call(request).await {
            Ok(call) => Ok(Called {
                station: self,
                tenant,
                call,
            }),
            Err(error) => Err(self.missed(&tenant, error).await),
        }
    }

    /// The process that takes calls, started if there is none.
    async fn tenant(&self) -> Result<Arc<Tenant>, Missed> {
        let mut state = self.state.lock().await;
        if let Some(tenant) = &state.tenant {
            if tenant.is_alive().await {
                return Ok(Arc::clone(tenant));
            }
            state.tenant = None;
        }
        let now = self.yard.clock.monotonic();
        if let Some((until, _, error)) = &state.rest
            && now < *until
        {
            return Err(Missed::Away(error.clone()));
        }
        match Process::start(&self.yard, &self.spawner).await {
            Ok(process) => {
                let tenant = Tenant::of(process)?;
                state.rest = None;
                state.tenant = Some(Arc::clone(&tenant));
                Ok(tenant)
            }
            Err(failure) => {
                let missed = at_start(failure);
                if let Missed::Away(error) = &missed {
                    let times = state.rest.as_ref().map_or(0, |(_, times, _)| *times);
                    let rest = REST.saturating_mul(2u32.saturating_pow(times));
                    let until = self.yard.clock.monotonic() + rest.min(LONGEST_REST);
                    state.rest = Some((until, times.saturating_add(1), error.clone()));
                }
                Err(missed)
            }
        }
    }

    async fn missed(&self, tenant: &Tenant, error: CallError) -> Missed {
        match error {
            CallError::Failed(error) => {
                self.deaths.store(0, Ordering::Relaxed);
                Missed::Failed(error)
            }
            CallError::Lost(loss) => {
                let end = tenant.end.get_or_init(|| self.autopsy(tenant, &loss));
                end.await.clone()
            }
        }
    }

    /// How a process ended that took calls. All of them are told the same.
    async fn autopsy(&self, tenant: &Tenant, loss: &Loss) -> Missed {
        let process = tenant.process.lock().await.take();
        let Some(mut process) = process else {
            return Missed::Failed(Error::remote("its process was ended"));
        };
        match process.parting(loss).await {
            // Calls may have run there, and are over: what works there ends without its near end.
            (Some(Parting::Away), error) => Missed::Failed(error),
            (Some(Parting::Gone), error) => {
                let deaths = self.deaths.fetch_add(1, Ordering::Relaxed) + 1;
                Missed::Failed(match deaths {
                    ..DEATHS => error,
                    _ => {
                        let times = format!(", {deaths} times in a row");
                        Error::data(format!("{}{times}", error.message()))
                    }
                })
            }
            (None, error) if !self.yard.launch.lingers().is_zero() => {
                // It said nothing, so that what works behind it does not know either.
                let again = self.yard.launch.lingers();
                Missed::Failed(error.as_kind(ErrorKind::Remote).with_retry_after(again))
            }
            (Some(Parting::Wrong) | None, error) => Missed::Failed(error),
        }
    }

    /// Ends the process because a call does not end.
    async fn stop(&self, tenant: &Tenant, what: &str) {
        let end = tenant
            .end
            .get_or_init(async || match tenant.process.lock().await.take() {
                Some(mut process) => Missed::Failed(process.stopped(what).await),
                None => Missed::Failed(Error::remote("its process was ended")),
            });
        end.await;
    }
}

impl fmt::Debug for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Station({:?})", self.yard.launch)
    }
}

impl Tenant {
    fn of(process: Process) -> Result<Arc<Self>, Missed> {
        let Some(client) = process.client().map(Arc::clone) else {
            let error = Error::remote("it ended as soon as it was ready");
            return Err(Missed::Failed(error));
        };
        Ok(Arc::new(Self {
            client,
            process: Mutex::new(Some(process)),
            end: OnceCell::new(),
        }))
    }

    async fn is_alive(&self) -> bool {
        let process = self.process.lock().await;
        process
            .as_ref()
            .is_some_and(|process| process.client().is_some())
    }
}

/// A call on its way.
pub struct Called<'a> {
    station: &'a Station,
    tenant: Arc<Tenant>,
    call: Call,
}

impl fmt::Debug for Called<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Called({:?})", self.station)
    }
}

impl Called<'_> {
    /// The next output; `None` when the call has ended well. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Given>, Missed> {
        match self.call.next().await {
            Ok(Some(given)) => Ok(Some(given)),
            Ok(None) => {
                self.station.deaths.store(0, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(self.station.missed(&self.tenant, error).await),
        }
    }

    /// Ends the call early and in good order. One that does not end is ended with its process.
    pub async fn close(mut self) -> Result<(), Missed> {
        let clock = &self.station.yard.clock;
        let ended = tokio::select! {
            biased;
            ended = self.call.cancel() => ended,
            () = clock.sleep(CLOSING) => {
                self.station.stop(&self.tenant, "did not end a call and was stopped").await;
                return Ok(());
            }
        };
        match ended {
            Ok(()) => Ok(()),
            Err(error) => Err(self.station.missed(&self.tenant, error).await),
        }
    }

    /// What became of its input, once it has ended and where the stage hands that on itself.
    pub fn passed(&self) -> Option<&Passed> {
        self.call.passed()
    }

    /// What the call has used, once it has ended and where the far end knows.
    pub fn used(&self) -> Option<Used> {
        self.call.used()
    }
}

/// A process that did not become ready.
fn at_start(failure: StartFailure) -> Missed {
    match failure {
        StartFailure::Parted(Parting::Away | Parting::Gone, error) => Missed::Away(error),
        StartFailure::Refused(error)
        | StartFailure::Died(error)
        | StartFailure::Parted(Parting::Wrong, error) => Missed::Failed(error),
    }
}
