//! Dead letters that are asked for, at work again: from the stage that failed on, beside the normal work.
//!
//! A letter's row in the state is its place in the queue; what is known here is only what is under way. So a crash
//! at any moment leaves a letter asked for, or done with. A replay is a delivery of its own: storages that know what
//! comes again do not know it. What fails is gathered, and written with the end of its replay.

mod book;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::delivery::{Parcel, Payload, Settle, Token};
use wiredflow_core::problem::possible;
use wiredflow_core::secret::Scrubber;
use wiredflow_core::{Batch, Error, ErrorKind, Map, Result, Value};

use crate::observe::StageMeter;
use crate::plan::{PipelinePlan, TriggerPlan};
use crate::state::{AskedLetter, Body, DeadLetter, ReplayOutcome, StoredDeadLetter};
use crate::tasks::Tasks;

use super::channel::WeakSender;
use super::policy::{BACKOFF, backoff};
use super::port::feed;
use super::stopping::Stopping;
use super::{Shared, source};

pub(crate) use book::{Desk, is_replay, keep};
pub(crate) use session::{all, take_up};

/// How often a running flow looks for letters that are asked for.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// How many letters are read from the queue at a time.
const MOST: usize = 64;

/// How many letters of a pipeline are under way at most.
const UNDER_WAY: usize = 64;

/// The pipelines of a run by name, with their places among its meters.
pub(crate) type Plans = BTreeMap<Arc<str>, (usize, Arc<PipelinePlan>)>;

/// The way into a stage's queue, as long as what is before that stage is open.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) queue: WeakSender,
    pub(crate) meter: Arc<StageMeter>,
}

/// The ways into all stages of an open pipeline.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) plan: Arc<PipelinePlan>,
    pub(crate) doors: Arc<[Door]>,
    pub(crate) stopping: Stopping,
    pub(crate) tasks: Tasks,
}

/// What becomes of a letter that is taken up.
enum Ready {
    /// It goes into the queue of the stage at this place.
    At(usize, Box<Parcel>),
    /// It cannot be replayed, or is unreadable still.
    Ended(ReplayOutcome),
}

/// Where a letter of a pipeline is replayed from.
///
/// # Errors
/// Why it cannot be, naming what there is.
pub fn place_of(plan: &crate::plan::Plan, letter: &StoredDeadLetter) -> Result<(), String> {
    let name = &letter.listed.pipeline;
    let mut names = plan.pipelines.iter();
    let Some(pipeline) = names.find(|pipeline| *pipeline.name == **name) else {
        let known = plan.pipelines.iter().map(|pipeline| &*pipeline.name);
        return Err(format!(
            "the flow has no pipeline `{name}`: {}",
            possible(name, known)
        ));
    };
    stage_of(pipeline, letter)?;
    restored(&plan.scrubber, letter).map(drop)
}

/// The place of the stage that a letter goes to; none for a payload, which is read first.
fn stage_of(plan: &PipelinePlan, letter: &StoredDeadLetter) -> Result<usize, String> {
    let (pipeline, stage) = (&plan.name, &letter.listed.stage);
    if matches!(letter.body, Body::Bytes(_)) {
        return match plan.trigger {
            TriggerPlan::Source { .. } => Ok(0),
            TriggerPlan::Schedule(..) | TriggerPlan::Once => Err(format!(
                "the pipeline `{pipeline}` has no `source` any more that would read the payload"
            )),
        };
    }
    if letter.too_deep {
        return Err("the record is nested too deep to be read again".to_owned());
    }
    let mut stages = plan.stages.iter();
    if plan.since
        && stages
            .clone()
            .next()
            .is_some_and(|first| *first.name == **stage)
    {
        return Err(
            "a `load` with `since: last_run` gives what is new in its next run by itself"
                .to_owned(),
        );
    }
    stages
        .position(|known| *known.name == **stage)
        .ok_or_else(|| {
            let known = plan.stages.iter().map(|stage| &*stage.name);
            format!(
                "the pipeline `{pipeline}` has no stage `{stage}`: {}",
                possible(stage, known)
            )
        })
}

/// Makes the parcel of a letter.
fn ready(shared: &Shared, doors: &Doors, letter: StoredDeadLetter, token: Token) -> Ready {
    let refused = |why: String| Ready::Ended(ReplayOutcome::Refused(why));
    let place = match stage_of(&doors.plan, &letter) {
        Ok(place) => place,
        Err(why) => return refused(why),
    };
    let params = match restored(&shared.scrubber, &letter) {
        Ok(params) => Arc::new(params),
        Err(why) => return refused(why),
    };
    let (values, is_list) = match letter.body {
        Body::Json(value) => (vec![value], false),
        // What a call has had as a list it gets as a list, though it is one record.
        Body::Batch(values) => {
            let is_list = values.len() == 1;
            (values, is_list)
        }
        Body::Bytes(bytes) => {
            let delivery = wiredflow_core::delivery::Delivery {
                token,
                identity: None,
                payload: Payload::Json(bytes),
                origin: letter.origin.as_deref().map(Into::into),
            };
            let delivery = match &doors.plan.shaping {
                Some(shaping) => shaping.shaped(delivery),
                None => delivery,
            };
            match source::read(delivery) {
                Ok(values) => (values.collect(), false),
                Err(unreadable) => {
                    let letter = DeadLetter {
                        pipeline: letter.listed.pipeline,
                        stage: letter.listed.stage,
                        kind: ErrorKind::Data,
                        reason: unreadable.reason,
                        trace: None,
                        time: shared.clock.now(),
                        delivery: letter.delivery,
                        again: false,
                        attempts: 1,
                        origin: letter.origin,
                        params: None,
                        secrets: None,
                        body: unreadable.body,
                    };
                    return Ready::Ended(ReplayOutcome::FailedAgain {
                        letters: vec![letter],
                        reason: None,
                    });
                }
            }
        }
    };
    let settle: Arc<dyn Settle> = Arc::clone(&shared.desk) as Arc<dyn Settle>;
    let mut parcel = Parcel::start(vec![(token, values)], &settle);
    let batch: Batch = std::mem::take(&mut parcel.batch);
    parcel.batch = batch.as_list(is_list);
    parcel.params = params;
    Ready::At(place, Box::new(parcel))
}

/// The params of a letter, with the secrets as the flow file gives them now.
fn restored(scrubber: &Scrubber, letter: &StoredDeadLetter) -> Result<Map, String> {
    let Some(params) = &letter.params else {
        return Ok(Map::new());
    };
    let restored = match &letter.secrets {
        Some(places) => scrubber.restore(params, places),
        None if letter.is_old && Value::from(params.clone()).to_string().contains("***") => Err(
            "hold `***` where a secret may have stood, which this older letter does not tell"
                .to_owned(),
        ),
        None => Ok(params.clone()),
    };
    restored.map_err(|why| format!("its params {why}"))
}

/// Feeds the letters of an open pipeline that are asked for, until there are no more or its intake is over.
///
/// # Errors
/// The state's, where waiting does not help.
async fn feed_all(shared: &Arc<Shared>, doors: &Doors) -> Result<()> {
    let name = &doors.plan.name;
    loop {
        let asked = || shared.state.asked_letters(Some(name), MOST + UNDER_WAY);
        let asked = shared.patiently(&doors.stopping, asked).await?;
        let mut fresh = 0;
        for letter in asked {
            if doors.stopping.is_intake_over() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = doors.stopping.intake_over() => return Ok(()),
                () = shared.desk.room(name, UNDER_WAY) => {}
            }
            if let Some(token) = shared.desk.begin(&letter) {
                fresh += 1;
                if !feed_one(shared, doors, &letter, token).await? {
                    return Ok(());
                }
            }
        }
        if fresh == 0 {
            return Ok(());
        }
    }
}

/// Feeds one letter; false when the pipeline is not open any more.
async fn feed_one(
    shared: &Arc<Shared>,
    doors: &Doors,
    letter: &AskedLetter,
    token: Token,
) -> Result<bool> {
    let desk = &shared.desk;
    let read = || shared.state.asked_letter(&letter.id);
    let stored = match shared.patiently(&doors.stopping, read).await {
        Ok(Some(stored)) => stored,
        // It was dropped just now, or its replay has ended between the list and here.
        Ok(None) => {
            desk.forget(token);
            return Ok(true);
        }
        Err(error) => {
            desk.forget(token);
            return Err(error);
        }
    };
    match ready(shared, doors, stored, token) {
        Ready::Ended(outcome) => desk.end(token, outcome),
        Ready::At(place, parcel) => {
            let door = &doors.doors[place];
            // The parcel is dropped then, which takes it off the desk.
            let Some(queue) = door.queue.upgrade() else {
                return Ok(false);
            };
            tokio::select! {
                biased;
                // What waits to enter is dropped with what is in the queue, and stays asked for.
                () = doors.stopping.failed() => {}
                () = doors.stopping.intake_over() => {}
                () = feed(&queue, &door.meter, None, *parcel) => {}
            }
        }
    }
    Ok(true)
}

/// Looks for letters that are asked for, now and each second, and has them replayed.
pub(crate) async fn look(shared: Arc<Shared>, plans: Plans) {
    let mut failure: u32 = 0;
    loop {
        let asked = shared.state.asked_letters(None, MOST + UNDER_WAY).await;
        let mut wait = LOOK_EACH;
        match asked {
            Ok(asked) => {
                failure = 0;
                dispatch(&shared, &plans, &asked);
            }
            Err(error) => {
                failure = failure.saturating_add(1);
                wait = wait.max(backoff(failure, BACKOFF.0, BACKOFF.1, &shared.dice));
                tracing::debug!("dead letters that are asked for cannot be read: {error}");
            }
        }
        tokio::select! {
            () = shared.stopping.intake_over() => return,
            () = shared.desk.opened() => {}
            () = shared.clock.pulse(wait) => {}
        }
    }
}

/// Gives each pipeline that has letters to replay a task that does it, unless one is at it.
fn dispatch(shared: &Arc<Shared>, plans: &Plans, asked: &[AskedLetter]) {
    for letter in asked {
        let Some((index, plan)) = plans.get(letter.pipeline.as_str()) else {
            if let Some(token) = shared.desk.begin(letter) {
                let why = format!(
                    "the flow that runs has no pipeline `{}`: {}",
                    letter.pipeline,
                    possible(&letter.pipeline, plans.keys().map(|name| &**name))
                );
                shared.desk.end(token, ReplayOutcome::Refused(why));
            }
            continue;
        };
        let Some((feeding, way)) = shared.desk.way(&plan.name) else {
            continue;
        };
        let shared_too = Arc::clone(shared);
        match way {
            book::Way::NotYet => {}
            book::Way::Open(doors) => {
                let tasks = doors.tasks.clone();
                tasks.spawn("replay", async move {
                    let _feeding = feeding;
                    book::ok_or_told(&doors.plan.name, feed_all(&shared_too, &doors).await);
                });
            }
            book::Way::Over => {
                let (index, plan) = (*index, Arc::clone(plan));
                shared.tasks.spawn("replay", async move {
                    let _feeding = feeding;
                    // It was told.
                    drop(take_up(plan, index, shared_too).await);
                });
            }
        }
    }
}

fn tell(pipeline: &str, error: &Error) {
    tracing::warn!(pipeline, "dead letters are not replayed now: {error}");
}
