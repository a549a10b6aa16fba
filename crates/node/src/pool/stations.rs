//! Calls in processes of their own: each call has one for itself, and it is kept for the next call of the same stage.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;
use wiredflow_core::frame::{Call, Level, Payload};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::storage::{Epoch, Loaded, Query};
use wiredflow_core::{Batch, Error, ErrorKind, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::tasks::Tasks;
use wiredflow_engine::worker::{Given, Launch, Missed, Request, Station, WorkerHost};
use wiredflow_far::Cache;

use super::code::{Ready, make_ready};
use super::contact::Contact;
use super::shop::{End, Job, Shop};

/// How long a process is kept that nothing is asked of.
const KEPT: Duration = Duration::from_secs(60);

/// How often those are looked for.
const LOOK_EACH: Duration = Duration::from_secs(10);

/// How long a stage may take to be opened.
const START_WITHIN: Duration = Duration::from_secs(120);

/// How long calls of a setting are not tried again that cannot be made ready here.
const UNFIT_FOR: Duration = Duration::from_secs(30);

/// How many settings are known at once.
const SETTINGS: usize = 256;

/// See the module.
pub struct Stations(Arc<Inner>);

struct Inner {
    cache: Cache,
    bringing: tokio::sync::Mutex<()>,
    clock: Clock,
    tasks: Tasks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    settings: HashMap<String, Arc<OnceCell<Ready>>>,
    unfit: HashMap<String, (Instant, String)>,
    idle: Vec<Idle>,
    looks: bool,
}

struct Idle {
    setting: String,
    since: Instant,
    process: Process,
}

/// A process, and whom its loads, saves and lines go to.
struct Process {
    station: Station,
    host: Arc<Host>,
}

/// The host of a process: the flow of the call at hand.
#[derive(Default)]
struct Host(Mutex<Option<Arc<Contact>>>);

impl Host {
    fn set(&self, contact: Option<Arc<Contact>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = contact;
    }

    fn contact(&self) -> Result<Arc<Contact>> {
        let contact = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || Error::data("a storage can be used only while a call is worked on");
        contact.clone().ok_or_else(none)
    }
}

impl WorkerHost for Host {
    fn load<'a>(&'a self, storage: &'a str, query: Query) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(async move { self.contact()?.load(storage, query).await })
    }

    fn save<'a>(&'a self, storage: &'a str, rows: Batch) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.contact()?.save(storage, rows).await })
    }

    fn log(&self, level: Level, message: &str) {
        match self.contact() {
            Ok(contact) => contact.log(level, message),
            Err(_) => tracing::debug!("a process between two calls: {message}"),
        }
    }
}

impl fmt::Debug for Stations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stations({})", self.0.state().idle.len())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, setting: &str) -> Option<Process> {
        let mut state = self.state();
        let place = state
            .idle
            .iter()
            .rposition(|idle| idle.setting == setting)?;
        Some(state.idle.remove(place).process)
    }

    /// Keeps a process for the next call, for a while.
    fn keep(self: &Arc<Self>, setting: String, process: Process) {
        let since = self.clock.monotonic();
        let mut state = self.state();
        state.idle.push(Idle {
            setting,
            since,
            process,
        });
        if std::mem::replace(&mut state.looks, true) {
            return;
        }
        drop(state);
        let inner = Arc::downgrade(self);
        let clock = self.clock.clone();
        self.tasks.spawn("node idle processes", async move {
            loop {
                clock.sleep(LOOK_EACH).await;
                let Some(inner) = inner.upgrade() else { return };
                let ended = inner.old(clock.monotonic());
                for idle in ended {
                    idle.process.station.close().await;
                }
            }
        });
    }

    /// Takes out those that nothing was asked of for long.
    fn old(&self, now: Instant) -> Vec<Idle> {
        let mut state = self.state();
        let old = |idle: &mut Idle| now - idle.since > KEPT;
        state.idle.extract_if(.., old).collect()
    }

    async fn ready<'a>(
        &self,
        cell: &'a OnceCell<Ready>,
        hash: &str,
        contact: &Contact,
    ) -> Result<&'a Ready> {
        let made = cell.get_or_try_init(|| {
            make_ready(hash, contact, (&self.cache, &self.bringing), &self.clock)
        });
        made.await
    }

    fn cell(&self, hash: &str) -> Arc<OnceCell<Ready>> {
        let mut state = self.state();
        if state.settings.len() >= SETTINGS && !state.settings.contains_key(hash) {
            state.settings.clear();
        }
        Arc::clone(state.settings.entry(hash.to_owned()).or_default())
    }

    fn start(&self, ready: &Ready, label: &str) -> Result<Process> {
        let mut start = ready.setting.start.clone();
        start.folder = Some(ready.folder.to_string_lossy().into_owned());
        let mut label = format!("pool:{label}");
        label.truncate(label.floor_char_boundary(200));
        let arguments = ["worker", "--stdio", "--label", &label].map(str::to_owned);
        let launch = Launch::own_program(&arguments, Vec::new(), format!("the process `{label}`"))?;
        let mut launch = launch.with_env(ready.env.clone());
        if let Some(beat) = start.heartbeat {
            launch = launch.beating(Duration::from_millis(beat));
        }
        let host = Arc::new(Host::default());
        let station = Station::new(
            launch,
            start,
            START_WITHIN,
            Arc::clone(&host) as Arc<dyn WorkerHost>,
            (self.clock.clone(), self.tasks.clone()),
        )?;
        Ok(Process { station, host })
    }

    async fn work(
        self: &Arc<Self>,
        job: Job,
        out: mpsc::Sender<Given>,
        contact: Arc<Contact>,
    ) -> End {
        let cell = self.cell(&job.setting);
        let ready = match self.ready(&cell, &job.setting, &contact).await {
            Ok(ready) => ready,
            Err(error) if error.kind() == ErrorKind::Config => {
                let until = self.clock.monotonic() + UNFIT_FOR;
                let words = error.message().to_owned();
                self.state().unfit.insert(job.setting, (until, words));
                return End::Unfit(error);
            }
            Err(error) => return End::Failed(error, None),
        };
        let process = match self.take(&job.setting) {
            Some(process) => process,
            None => match self.start(ready, &job.label) {
                Ok(process) => process,
                Err(error) => return End::Unfit(error),
            },
        };
        process.host.set(Some(contact));
        if let Err(Missed::Away(error) | Missed::Failed(error)) = process.station.ready().await {
            return End::Failed(error, None);
        }
        // Dropped before its end, as when nobody wants the call any more, the process ends with it.
        let end = call(&process.station, job.call, out).await;
        process.host.set(None);
        if process.station.stands().await {
            self.keep(job.setting, process);
            return end;
        }
        match end {
            End::Failed(error, _) => End::Died(error),
            end => end,
        }
    }
}

/// One call of a process.
async fn call(station: &Station, call: Call, out: mpsc::Sender<Given>) -> End {
    let keys: Option<Vec<Arc<str>>> = call
        .keys
        .map(|keys| keys.into_iter().map(Arc::from).collect());
    let list = matches!(call.batch, Some(Payload::Many(_)));
    let batch = Payload::into_batch(call.batch).as_list(list);
    let request = Request {
        function: &call.function,
        params: &call.params,
        batch: &batch,
        attempt: call.attempt,
        keys: keys.as_deref(),
        epoch: Epoch(call.epoch),
        deadline: call.deadline.map(Duration::from_millis),
    };
    let failed = |missed| match missed {
        Missed::Away(error) | Missed::Failed(error) => End::Failed(error, None),
    };
    let mut called = match station.call(request).await {
        Ok(called) => called,
        Err(missed) => return failed(missed),
    };
    loop {
        match called.next().await {
            Ok(Some(given)) => {
                if out.send(given).await.is_err() {
                    return End::Failed(Error::remote("its outputs are not wanted any more"), None);
                }
            }
            Ok(None) => {
                return End::Done {
                    passed: called.passed().cloned(),
                    used: called.used(),
                };
            }
            Err(Missed::Away(error) | Missed::Failed(error)) => {
                return End::Failed(error, called.used());
            }
        }
    }
}

impl Stations {
    /// Processes whose code lies in a cache. What they leave there for a month is taken away.
    pub fn new(cache: Cache, clock: Clock, tasks: Tasks) -> Self {
        cache.clean(&clock);
        Self(Arc::new(Inner {
            cache,
            bringing: tokio::sync::Mutex::default(),
            clock,
            tasks,
            state: Mutex::default(),
        }))
    }
}

impl Shop for Stations {
    fn objection(&self, setting: &str) -> Option<String> {
        let now = self.0.clock.monotonic();
        let mut state = self.0.state();
        state.unfit.retain(|_, (until, _)| *until > now);
        state.unfit.get(setting).map(|(_, words)| words.clone())
    }

    fn work<'a>(
        &'a self,
        job: Job,
        out: mpsc::Sender<Given>,
        contact: Arc<Contact>,
    ) -> BoxFuture<'a, End> {
        Box::pin(self.0.work(job, out, contact))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let idle = std::mem::take(&mut self.0.state().idle);
            let ending = Tasks::default();
            for idle in idle {
                let close = async move { idle.process.station.close().await };
                ending.spawn("node process", close);
            }
            ending.finished().await;
        })
    }
}
