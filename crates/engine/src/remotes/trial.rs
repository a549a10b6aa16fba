//! Trying a remote out: reaching it, and some round trips of a call that does nothing.

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use wiredflow_core::frame::Level;
use wiredflow_core::stage::{BoxFuture, Cx};
use wiredflow_core::storage::{Epoch, Loaded, Query};
use wiredflow_core::{Batch, Error, Map, Result};

use super::{Errand, Joiner, Remote, START_WITHIN, WHOLE_STAGE, Way};
use crate::clock::Clock;
use crate::functions::Functions;
use crate::resources::Resources;
use crate::storages::StorageHandles;
use crate::tasks::Tasks;
use crate::worker::{Missed, Request, Station, WorkerHost};

/// How many round trips are made.
const TRIPS: usize = 200;

/// The bytes of a large record, and how often one is sent.
const LOAD: usize = 1 << 20;
const LOADS: usize = 5;

/// How long a trip at a pool may take, where a call may wait for its turn.
const TRIP_WITHIN: Duration = Duration::from_secs(60);

/// What a remote has shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// How long it took until the first call could be made.
    pub ready: Duration,
    /// What was said of the place meanwhile.
    pub said: Vec<String>,
    /// The round trips of calls that do nothing, the quickest first; none at one that cannot do nothing.
    pub trips: Vec<Duration>,
    /// How many bytes of records go there and come back in a second, counted once; zero where that was not tried.
    pub bytes_per_second: f64,
}

/// Listens to what is said.
#[derive(Debug, Default)]
struct Ear(Mutex<Vec<String>>);

impl WorkerHost for Ear {
    fn load<'a>(&'a self, _: &'a str, _: Query) -> BoxFuture<'a, Result<Loaded>> {
        Box::pin(async { Ok(Loaded::Nothing) })
    }

    fn save<'a>(&'a self, _: &'a str, _: Batch) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Err(Error::data("a trial saves nothing")) })
    }

    fn log(&self, _: Level, message: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(message.to_owned());
    }
}

impl Remote {
    /// The name under `remotes`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reaches it for a flow of this name in this folder, calls it and lets go of it.
    ///
    /// # Errors
    /// Why it cannot be reached or used: of kind `Config` where the user must change something.
    pub async fn try_out(&self, flow: &str, folder: &Path, clock: &Clock) -> Result<Shown> {
        let tasks = Tasks::default();
        let errand = Errand::that_does_nothing(flow);
        let resources = Resources::alone(
            [flow, "remotes", "test"],
            folder,
            &Functions::default(),
            StorageHandles::default(),
            (clock.clone(), tasks.clone()),
        );
        let ear = Arc::new(Ear::default());
        let launch = match &self.way {
            Way::Channel(launch) => launch,
            Way::Pool(join) => {
                let shown = try_pool(join, &errand, &resources, &ear).await;
                resources.tasks.abort();
                resources.tasks.finished().await;
                return shown;
            }
            Way::Calls(open) => {
                let begun = clock.monotonic();
                let said = open(&resources)?
                    .look(&Cx::alone([flow, "remotes", "test"]))
                    .await?;
                return Ok(Shown {
                    ready: clock.monotonic() - begun,
                    said: vec![said],
                    trips: Vec::new(),
                    bytes_per_second: 0.0,
                });
            }
        };
        let station = Station::new(
            launch(&resources)?,
            errand.start(folder, None)?,
            START_WITHIN,
            Arc::clone(&ear) as Arc<dyn WorkerHost>,
            (clock.clone(), tasks.clone()),
        )?;
        let begun = clock.monotonic();
        let missed = |missed| match missed {
            Missed::Away(error) | Missed::Failed(error) => error,
        };
        station.ready().await.map_err(missed)?;
        let ready = clock.monotonic() - begun;
        let trip = async |batch: &Batch| {
            let begun = clock.monotonic();
            let mut called = station.call(request(batch)).await.map_err(missed)?;
            while called.next().await.map_err(missed)?.is_some() {}
            Ok::<_, Error>(clock.monotonic() - begun)
        };
        let (trips, bytes_per_second) = trips(trip).await?;
        station.close().await;
        tasks.abort();
        let said = std::mem::take(&mut *ear.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Shown {
            ready,
            said,
            trips,
            bytes_per_second,
        })
    }
}

/// What a trial asks for.
fn request(batch: &Batch) -> Request<'_> {
    static NONE: LazyLock<Map> = LazyLock::new(Map::new);
    Request {
        function: WHOLE_STAGE,
        params: &NONE,
        batch,
        attempt: 1,
        epoch: Epoch::default(),
        keys: None,
        deadline: None,
    }
}

/// Some round trips, the quickest first, and how many bytes go there and come back in a second.
async fn trips(trip: impl AsyncFn(&Batch) -> Result<Duration>) -> Result<(Vec<Duration>, f64)> {
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        trips.push(trip(&Batch::default()).await?);
    }
    trips.sort_unstable();
    let large = Batch::of_document(serde_json::json!({"text": "x".repeat(LOAD)}));
    let mut quickest = Duration::MAX;
    for _ in 0..LOADS {
        quickest = quickest.min(trip(&large).await?);
    }
    Ok((trips, LOAD as f64 / quickest.as_secs_f64()))
}

/// The same at a pool: who is there, and calls of a stage that does nothing.
async fn try_pool(
    join: &Arc<Joiner>,
    errand: &Errand,
    resources: &Resources,
    ear: &Arc<Ear>,
) -> Result<Shown> {
    let clock = resources.clock.outside();
    let begun = clock.monotonic();
    let host = Arc::clone(ear) as Arc<dyn WorkerHost>;
    let pool = join(errand, resources, host).await?;
    let nodes = pool.nodes().await?;
    let mut said = vec![pool.engine().about().server.clone()];
    said.extend(pool.engine().about().weaknesses.iter().cloned());
    said.extend(nodes.iter().map(|(node, objection)| {
        let told = node.told();
        match objection {
            None => told,
            Some(objection) => format!("{told}; takes no calls of this pool: it {objection}"),
        }
    }));
    if nodes.iter().all(|(_, objection)| objection.is_some()) {
        let words = pool.objections(&nodes);
        return Err(Error::remote(format!(
            "{} is there, and nobody takes calls: {words}",
            said[0]
        )));
    }
    let missed = |missed| match missed {
        Missed::Away(error) | Missed::Failed(error) => error,
    };
    let trip = async |batch: &Batch| {
        let begun = clock.monotonic();
        let called = async {
            let mut called = pool.call(request(batch), false).await.map_err(missed)?;
            while called.next().await.map_err(missed)?.is_some() {}
            Ok(())
        };
        tokio::select! {
            called = called => called.map(|()| clock.monotonic() - begun),
            () = clock.sleep(TRIP_WITHIN) => Err(Error::remote(format!(
                "nobody has taken a call within {TRIP_WITHIN:?}: the nodes are busy, or cannot reach this flow"
            ))),
        }
    };
    trip(&Batch::default()).await?;
    let ready = clock.monotonic() - begun;
    // Each slot of a node has a process of its own, whose start is no part of the way.
    let slots: usize = nodes.iter().map(|(node, _)| node.slots).sum();
    for _ in 0..(4 * slots).min(TRIPS) {
        trip(&Batch::default()).await?;
    }
    let (trips, bytes_per_second) = trips(trip).await?;
    Ok(Shown {
        ready,
        said,
        trips,
        bytes_per_second,
    })
}
