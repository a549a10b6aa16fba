//! What the tests stand on: a model of an engine, a flow that calls, and nodes that do what the calls say.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wiredflow_core::frame::{Level, Payload, Start};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::storage::{Epoch, Loaded, Query};
use wiredflow_core::{Batch, Error, Map, Result};
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::pool::words::Setting;
use wiredflow_engine::pool::{Called, Coordinator, Order, Surroundings};
use wiredflow_engine::tasks::Tasks;
use wiredflow_engine::worker::{Given, Missed, Request, WorkerHost};
use wiredflow_node::{Contact, End, Job, KINDS, Machine, Options, Shop};
use wiredflow_testkit::Model;

/// What takes over from a worker that was killed: the promise.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(20);

/// What has happened, over all nodes.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The node of each begin of a call, by the call's number.
    pub(crate) begun: BTreeMap<u64, Vec<String>>,
    /// The calls that were dropped before their end.
    pub(crate) dropped: Vec<u64>,
    /// What was saved.
    pub(crate) saved: Vec<Value>,
    /// What was logged.
    pub(crate) lines: Vec<String>,
}

pub(crate) type Shared = Arc<Mutex<Ledger>>;

/// Does what the call says: `{n, outputs, each, saves, dies, fails}`.
struct Doer {
    node: String,
    ledger: Shared,
}

impl fmt::Debug for Doer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Doer({})", self.node)
    }
}

struct Dropped(Shared, Option<u64>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(n) = self.1 {
            self.0.lock().unwrap().dropped.push(n);
        }
    }
}

impl Shop for Doer {
    fn objection(&self, _: &str) -> Option<String> {
        None
    }

    fn work<'a>(
        &'a self,
        job: Job,
        out: mpsc::Sender<Given>,
        contact: Arc<Contact>,
    ) -> BoxFuture<'a, End> {
        Box::pin(async move {
            let Some(Payload::One(what)) = job.call.batch else {
                return End::Done {
                    passed: None,
                    used: None,
                };
            };
            let number = |key: &str| what[key].as_u64().unwrap_or_default();
            let n = number("n");
            self.ledger
                .lock()
                .unwrap()
                .begun
                .entry(n)
                .or_default()
                .push(self.node.clone());
            let mut dropped = Dropped(Arc::clone(&self.ledger), Some(n));
            for index in 0..number("outputs") {
                sleep(Duration::from_millis(number("each"))).await;
                contact.log(Level::Info, &format!("{n} at {index}"));
                let given = Given {
                    batch: Batch::of_document(json!({"n": n, "at": index})),
                    params: None,
                };
                if out.send(given).await.is_err() {
                    return End::Failed(Error::remote("not wanted"), None);
                }
            }
            if what["saves"] == true {
                let row = Batch::of_document(json!({"n": n}));
                if let Err(error) = contact.save("rows", row).await {
                    return End::Failed(error, None);
                }
            }
            dropped.1 = None;
            if what["dies"] == true {
                return End::Died(Error::data("exit status 139"));
            }
            if what["fails"] == true {
                return End::Failed(Error::data("no"), None);
            }
            End::Done {
                passed: None,
                used: None,
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// The flow's storages and log.
struct Home(Shared);

impl WorkerHost for Home {
    fn load<'a>(&'a self, _: &'a str, _: Query) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(async { Ok(Loaded::Nothing) })
    }

    fn save<'a>(&'a self, _: &'a str, rows: Batch) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // A commit takes its time.
            sleep(Duration::from_millis(20)).await;
            let mut ledger = self.0.lock().unwrap();
            ledger
                .saved
                .extend(rows.records().iter().map(|row| row.value().clone()));
            Ok(())
        })
    }

    fn log(&self, _: Level, message: &str) {
        self.0.lock().unwrap().lines.push(message.to_owned());
    }
}

/// A node that runs.
pub(crate) struct Runs {
    pub(crate) name: String,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    tasks: Tasks,
}

impl Runs {
    /// As `kill -9` would.
    pub(crate) fn kill(&self) {
        self.task.abort();
        self.tasks.abort();
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A flow and what it stands on.
pub(crate) struct Bench {
    pub(crate) model: Model,
    pub(crate) ledger: Shared,
    pub(crate) pool: Arc<Coordinator>,
    pub(crate) tasks: Tasks,
}

impl Bench {
    pub(crate) async fn new(seed: u64) -> Self {
        Self::with(Model::new(seed), &[]).await
    }

    pub(crate) async fn with(model: Model, labels: &[&str]) -> Self {
        let ledger = Shared::default();
        let tasks = Tasks::default();
        let dice = Dice::seeded(model.seed() ^ hash(labels));
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let order = Order {
            remote: "pool".to_owned(),
            labels,
            kind: "core_logic".to_owned(),
            label: "f/p/s".to_owned(),
            setting: setting(),
            pack: None,
        };
        let around = Surroundings {
            host: Arc::new(Home(Arc::clone(&ledger))),
            clock: Clock::real(),
            dice,
            tasks: tasks.clone(),
        };
        let engine = model.client("flow");
        let pool = Coordinator::open(engine, order, around).await.unwrap();
        Self {
            model,
            ledger,
            pool: Arc::new(pool),
            tasks,
        }
    }

    pub(crate) fn node(&self, name: &str) -> Runs {
        self.node_with(name, &[], &KINDS, 2)
    }

    pub(crate) fn node_with(
        &self,
        name: &str,
        labels: &[&str],
        kinds: &[&str],
        slots: usize,
    ) -> Runs {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        let options = Options {
            name: name.to_owned(),
            labels: owned(labels),
            kinds: owned(kinds),
            slots,
            machine: Machine::default(),
        };
        let tasks = Tasks::default();
        let around = wiredflow_node::Surroundings {
            clock: Clock::real(),
            dice: Dice::from_system(),
            tasks: tasks.clone(),
        };
        let shop = Arc::new(Doer {
            node: name.to_owned(),
            ledger: Arc::clone(&self.ledger),
        });
        let (engine, stop) = (self.model.client(name), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            // One that cannot reach the engine at its start is started again.
            loop {
                let run = wiredflow_node::run(
                    Arc::clone(&engine),
                    options.clone(),
                    Arc::clone(&shop) as Arc<dyn Shop>,
                    around.clone(),
                    stopped.clone(),
                );
                if run.await.is_ok() {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        Runs {
            name: name.to_owned(),
            stop,
            task,
            tasks,
        }
    }

    pub(crate) async fn call(&self, what: Value) -> Result<Called, Missed> {
        call(&self.pool, what).await
    }

    /// Calls, and gives what came of it: the numbers of the outputs.
    pub(crate) async fn whole(&self, what: Value) -> Result<Vec<u64>> {
        outputs(self.call(what).await.map_err(error)?).await
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// The nodes on which a call was begun.
    pub(crate) fn begun(&self, n: u64) -> Vec<String> {
        self.ledger().begun.get(&n).cloned().unwrap_or_default()
    }

    /// Waits until a call was begun so often.
    pub(crate) async fn until_begun(&self, n: u64, times: usize) {
        until(|| self.begun(n).len() >= times).await;
    }

    /// Waits until the queue is empty: what is done with is settled.
    pub(crate) async fn until_settled(&self) {
        until(|| self.model.messages() == 0).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// Two flows of one seed have names of their own.
fn hash(labels: &[&str]) -> u64 {
    labels.iter().map(|label| label.len() as u64).sum::<u64>() << 32
}

pub(crate) fn setting() -> Setting {
    Setting {
        start: Start {
            version: 1,
            functions: Vec::new(),
            folder: None,
            limit: 1 << 20,
            heartbeat: None,
            errand: None,
        },
        code: None,
        python: "python3".to_owned(),
        env: BTreeMap::new(),
    }
}

pub(crate) async fn call(pool: &Coordinator, what: Value) -> Result<Called, Missed> {
    let batch = Batch::of_document(what);
    let request = Request {
        function: "stage",
        params: &Map::new(),
        batch: &batch,
        attempt: 1,
        keys: None,
        epoch: Epoch::default(),
        deadline: None,
    };
    pool.call(request, false).await
}

pub(crate) fn error(missed: Missed) -> Error {
    match missed {
        Missed::Away(error) | Missed::Failed(error) => error,
    }
}

pub(crate) async fn outputs(mut called: Called) -> Result<Vec<u64>> {
    let mut outputs = Vec::new();
    while let Some(given) = called.next().await.map_err(error)? {
        outputs.push(given.batch.records()[0].value()["at"].as_u64().unwrap());
    }
    Ok(outputs)
}

/// Waits until it is so; an hour of paused time is over in a moment.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..360_000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come true within an hour");
}
