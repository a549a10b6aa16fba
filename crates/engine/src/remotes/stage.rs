//! A stage whose calls run at the first place of a list that can be reached.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OnceCell, Semaphore};
use wiredflow_core::charge::{Activity, FunctionTime};
use wiredflow_core::stage::{AnyStage, Cx, Emitter, Stage};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Result};

use super::{Calls, Errand, Member, Place, Remote, START_WITHIN, Underway, WHOLE_STAGE, Way};
use crate::catalogue::{OpenStage, Prepared};
use crate::observe::Workers;
use crate::resources::Resources;
use crate::worker::{Missed, Request, StageHost, Station};

/// A stage that `errand` describes and `prepared` opens here, with its calls run at these places.
pub(super) fn prepare(places: Vec<Place>, errand: Errand, prepared: Prepared) -> Prepared {
    let (work, required) = (prepared.work, prepared.required);
    let (places, errand): (Arc<[Place]>, _) = (places.into(), Arc::new(errand));
    let open_here = prepared.open;
    let open = move |resources: Resources| {
        let (places, errand, open_here) =
            (Arc::clone(&places), Arc::clone(&errand), open_here.clone());
        async move { RemoteStage::open(&places, &errand, &open_here, &resources).await }
    };
    Prepared::new(work, open).required(required)
}

/// See the module.
#[derive(Debug)]
struct RemoteStage {
    places: Vec<OpenPlace>,
    workers: Workers,
}

enum OpenPlace {
    Here(Box<Here>),
    There(Box<There>),
}

/// The stage in this process, opened when it is first needed.
struct Here {
    open: OpenStage,
    resources: Resources,
    opened: OnceCell<Box<dyn AnyStage>>,
}

struct There {
    name: Arc<str>,
    slots: Arc<Semaphore>,
    by: By,
}

/// How calls get there.
enum By {
    Station(Box<Station>),
    Calls(Box<Calls>),
    Pool(Box<Member>),
}

impl fmt::Debug for OpenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(_) => f.write_str("here"),
            Self::There(there) => write!(f, "at {}", there.name),
        }
    }
}

impl RemoteStage {
    /// Makes the first place ready that can be reached; the others wait until they are needed.
    async fn open(
        places: &[Place],
        errand: &Errand,
        open_here: &OpenStage,
        resources: &Resources,
    ) -> Result<Self> {
        let open = |place: &Place| {
            Ok(match place {
                Place::Here => OpenPlace::Here(Box::new(Here {
                    open: open_here.clone(),
                    resources: resources.clone(),
                    opened: OnceCell::new(),
                })),
                Place::There(remote) => {
                    OpenPlace::There(Box::new(There::new(remote, errand, resources)?))
                }
            })
        };
        let stage = Self {
            places: places.iter().map(open).collect::<Result<_>>()?,
            workers: resources.workers.clone(),
        };
        let mut away = None;
        for (index, place) in stage.places.iter().enumerate() {
            match place.ready().await {
                Ok(()) => {
                    stage.workers.run_at(place.name());
                    return Ok(stage);
                }
                Err(Missed::Failed(error)) => return Err(error),
                Err(Missed::Away(error)) => {
                    if index + 1 < stage.places.len() {
                        let (pipeline, stage) = (&resources.pipeline, &resources.stage);
                        tracing::warn!(%pipeline, %stage, "{error}; taking the next place of `remote`");
                    }
                    away = Some(error);
                }
            }
        }
        Err(away.unwrap_or_else(|| Error::bug("a stage without a place")))
    }
}

impl Stage for RemoteStage {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, cx: &Cx) -> Result<()> {
        let mut away = None;
        for (index, place) in self.places.iter().enumerate() {
            self.workers.run_at(place.name());
            let is_last = index + 1 == self.places.len();
            match place.run(batch, out, cx, is_last).await {
                Ok(()) => return Ok(()),
                Err(Missed::Failed(error)) => return Err(error),
                Err(Missed::Away(error)) => {
                    away.get_or_insert(error);
                }
            }
        }
        Err(away.unwrap_or_else(|| Error::bug("a stage without a place")))
    }
}

impl OpenPlace {
    fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Here(_) => None,
            Self::There(there) => Some(&there.name),
        }
    }

    async fn ready(&self) -> Result<(), Missed> {
        match self {
            Self::Here(here) => here.opened().await.map(drop).map_err(Missed::Failed),
            Self::There(there) => match &there.by {
                By::Station(station) => station.ready().await,
                By::Calls(_) => Ok(()),
                By::Pool(member) => member.joined().await.map(drop),
            },
        }
    }

    async fn run(
        &self,
        batch: &Batch,
        out: &mut Emitter<'_>,
        cx: &Cx,
        is_last: bool,
    ) -> Result<(), Missed> {
        match self {
            Self::Here(here) => {
                let stage = cx.spend(Activity::Overhead, here.opened()).await;
                let stage = stage.map_err(Missed::Failed)?;
                stage
                    .run_boxed(batch, out, cx)
                    .await
                    .map_err(Missed::Failed)
            }
            Self::There(there) => there.run(batch, out, cx, is_last).await,
        }
    }
}

impl Here {
    async fn opened(&self) -> Result<&Box<dyn AnyStage>> {
        let open = || (self.open.0)(self.resources.clone());
        self.opened.get_or_try_init(open).await
    }
}

impl There {
    fn new(remote: &Remote, errand: &Errand, resources: &Resources) -> Result<Self> {
        let Remote { name, slots, way } = remote;
        let by = match way {
            Way::Channel(launch) => {
                let launch = launch(resources)?;
                let start = errand.start(&resources.folder, launch.heartbeat())?;
                By::Station(Box::new(Station::new(
                    launch,
                    start,
                    START_WITHIN,
                    Arc::new(StageHost::new(resources)),
                    (resources.clock.outside(), resources.tasks.clone()),
                )?))
            }
            Way::Calls(open) => By::Calls(Box::new(Calls::new(
                open(resources)?,
                errand.params(),
                resources.dice.clone(),
            ))),
            Way::Pool(join) => By::Pool(Box::new(Member::new(join, errand, resources))),
        };
        Ok(Self {
            name: Arc::clone(name),
            slots: Arc::clone(slots),
            by,
        })
    }

    async fn run(
        &self,
        batch: &Batch,
        out: &mut Emitter<'_>,
        cx: &Cx,
        is_last: bool,
    ) -> Result<(), Missed> {
        let slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                let slot = cx.spend(Activity::Throttled, self.slots.acquire()).await;
                slot.map_err(|_| Missed::Failed(Error::bug("the slots are closed")))?
            }
        };
        let request = Request {
            function: WHOLE_STAGE,
            params: &cx.params,
            batch,
            attempt: cx.attempt,
            keys: cx.keys.as_deref(),
            epoch: cx.epoch,
            deadline: cx.deadline,
        };
        // What lies between here and there, and the start of what works there, is not the stage's own time.
        let mut called = match &self.by {
            By::Station(station) => {
                let called = cx.spend(Activity::Overhead, station.call(request));
                Underway::Station(called.await?)
            }
            By::Pool(member) => Underway::Pool(Box::new(member.call(request, !is_last, cx).await?)),
            By::Calls(calls) => {
                // Who does it says not what of the time was computing: to the flow all of it is waiting.
                let called = cx.spend(Activity::External, calls.call(batch, cx)).await;
                drop(slot);
                let output = called.map_err(|error| match error.is_unsent() {
                    true => Missed::Away(error),
                    false => Missed::Failed(error),
                })?;
                return out.emit(output).await.map_err(Missed::Failed);
            }
        };
        let time = FunctionTime::begin(&cx.charge);
        loop {
            let next = called.next().await;
            let Ok(Some(given)) = next else {
                if let Some(used) = called.used() {
                    time.ended(&used);
                }
                drop(slot);
                if let Some(passed) = called.passed() {
                    let receipt = |rows| CommitReceipt::issue(Arc::clone(&cx.stage), rows);
                    out.pass_over(passed.over, &passed.why);
                    out.pass(passed.confirmed.map(receipt));
                }
                return next.map(drop);
            };
            let emitted = match given.params {
                None => out.emit(given.batch).await,
                Some(params) => out.emit_params(batch.clone(), Arc::new(params)).await,
            };
            if let Err(closed) = emitted {
                called.close().await?;
                return Err(Missed::Failed(closed));
            }
        }
    }
}
