//! One pipeline's life: open, run, and what its failure leads to.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::config::{Ack, OnFailure};
use wiredflow_core::stage::AnySource;
use wiredflow_core::{Error, ErrorKind};

use crate::observe::{StageMeter, Workers};
use crate::plan::{PipelinePlan, TriggerPlan};
use crate::resources::Resources;
use crate::spans::Traced;
use crate::tasks::Tasks;

use super::book::Book;
use super::channel::{Receiver, Sender, channel};
use super::control::Phase;
use super::opening::{close, open, tell_wait};
use super::policy::{BACKOFF, REOPEN, backoff};
use super::port::Exit;
use super::queue::{Intake, announcements, forward};
use super::replay::{Door, Doors};
use super::source::Settler;
use super::stage::{Component, StageRun};
use super::trigger::Trigger;
use super::{PipelineShared, Shared, source};

/// A session that lasted this long makes the next failure count as the first.
const STEADY: Duration = Duration::from_secs(60);

/// How long, after the end of intake, peers that are away are waited for where an inbox keeps what is in flight.
const INBOX_GRACE: Duration = Duration::from_secs(2);

/// How long calls that run may take to end after a failure of their pipeline.
const CALL_GRACE: Duration = Duration::from_secs(10);

/// How one session of a pipeline ended.
enum End {
    /// Its trigger has nothing more, or intake is over; all that was in flight is settled.
    Finished,
    /// Its source is away: it is opened again, which is no failure.
    Away(Error),
    /// A delivery failed.
    Failed(Error),
}

/// Runs one pipeline until it ends for good. `once`: it has one session, whatever `on_failure` says.
pub(crate) async fn supervise(
    plan: Arc<PipelinePlan>,
    index: usize,
    shared: Arc<Shared>,
    once: bool,
) {
    let (meter, stages) = shared.meters.pipeline(index);
    let switch = shared.switches.named(&plan.name);
    // With an inbox the life of the part behind it counts.
    let is_now = |phase| {
        if !plan.is_receiving {
            switch.is_now(phase);
        }
    };
    let mut failures: u32 = 0;
    let mut first_session = true;
    loop {
        let started = shared.clock.monotonic();
        let pipeline = Arc::new(PipelineShared {
            name: Arc::clone(&plan.name),
            shared: Arc::clone(&shared),
            stopping: shared.stopping.child(),
            trigger: plan.trigger.clone(),
            switch: Arc::clone(&switch),
            meter: Arc::clone(&meter),
            first_stage: Arc::clone(&stages[0]),
            traced: traced(&plan, &shared),
            tasks: shared.tasks.child(),
        });
        let end = session(&plan, &pipeline, &stages, once, first_session).await;
        first_session = false;
        is_now(Phase::Waiting);
        if shared.clock.monotonic() - started > STEADY {
            failures = 0;
        }
        failures += 1;
        let (first, max) = match end {
            End::Away(_) => REOPEN,
            End::Finished | End::Failed(_) => BACKOFF,
        };
        let wait = backoff(failures, first, max, &shared.dice);
        let restarts = match end {
            End::Finished => break,
            End::Away(error) => {
                meter.error(error.message());
                let source = match &plan.trigger {
                    TriggerPlan::Source { kind, .. } => kind.as_str().into(),
                    TriggerPlan::Schedule(..) | TriggerPlan::Once => "source".into(),
                };
                tell_wait(
                    &shared,
                    (&plan.name, &source),
                    "opening it again",
                    &error,
                    (failures, wait),
                );
                0
            }
            End::Failed(error) => {
                meter.error(error.message());
                let stops = error.kind() == ErrorKind::Config || plan.on_failure == OnFailure::Stop;
                shared.tell_failure(&plan.name, &error);
                let error = error.context(format!("pipeline `{}`", plan.name));
                if stops || once || plan.on_failure == OnFailure::Isolate {
                    shared.note_failure(error);
                    if stops {
                        shared.stopping.end_intake();
                    }
                    break;
                }
                1
            }
        };
        tokio::select! {
            () = shared.stopping.intake_over() => break,
            () = shared.clock.sleep(wait) => {}
        }
        meter.restarts.fetch_add(restarts, Ordering::Relaxed);
    }
    is_now(Phase::Ended);
    if !plan.is_receiving {
        shared.first_round.one_is_through(&plan.name);
        shared.desk.is_over(&plan.name);
    }
}

/// What makes spans of a session. The part that only takes in has none: its deliveries are the other part's.
fn traced(plan: &PipelinePlan, shared: &Shared) -> Option<Arc<Traced>> {
    let spans = shared.spans.as_ref().filter(|_| !plan.is_receiving)?;
    let is_from_source = matches!(plan.trigger, TriggerPlan::Source { .. });
    let sources = (&shared.clock, &shared.dice);
    Some(Arc::new(Traced::new(
        spans,
        sources,
        &plan.name,
        is_from_source,
    )))
}

async fn session(
    plan: &Arc<PipelinePlan>,
    pipeline: &Arc<PipelineShared>,
    meters: &[Arc<StageMeter>],
    once: bool,
    first_session: bool,
) -> End {
    let stop = CancellationToken::new();
    let resources = pipeline.shared.resources(pipeline, &stop);
    let end = match open(plan, pipeline, &resources).await {
        Ok(Some((stages, source))) => tokio::select! {
            end = run(plan, pipeline, meters, stages, source, once, first_session) => end,
            never = give_back_to_inbox(plan, pipeline) => match never {},
        },
        Ok(None) => End::Finished,
        Err(error) => End::Failed(error),
    };
    close(pipeline, &stop, &resources).await;
    end
}

/// At a stop ends the waits of a pipeline that works off an inbox: what waits for a peer that is away waits there as well.
async fn give_back_to_inbox(plan: &PipelinePlan, pipeline: &PipelineShared) -> Infallible {
    if plan.ack == Ack::Inbox && !plan.is_receiving {
        pipeline.stopping.intake_over().await;
        pipeline.shared.clock.sleep(INBOX_GRACE).await;
        pipeline.stopping.end_waits();
    }
    std::future::pending().await
}

async fn run(
    plan: &Arc<PipelinePlan>,
    pipeline: &Arc<PipelineShared>,
    meters: &[Arc<StageMeter>],
    stages: Vec<Component>,
    source: Option<Arc<dyn AnySource>>,
    once: bool,
    first_session: bool,
) -> End {
    let book = Book::new(pipeline, (source.is_some(), !plan.is_receiving));
    let (queue, first) = channel(plan.stages[0].joins());
    let (work, doors) = join_stages(plan, pipeline, meters, stages, (&queue, first));
    if !plan.is_receiving {
        pipeline.shared.desk.is_open(doors);
        pipeline.switch.is_now(Phase::Open);
    }
    tracing::debug!(pipeline = %plan.name, "open");
    let intake = match source {
        None => {
            let clock = &pipeline.shared.clock;
            let trigger = Trigger {
                plan: Arc::clone(plan),
                pipeline: Arc::clone(pipeline),
                book: Arc::clone(&book),
                queue,
                once,
                first_session,
                started: clock.mark(),
                beginning: AtomicUsize::new(0),
            };
            trigger.run().await;
            finish(&work, pipeline).await;
            // Another pipeline may have what is left.
            tokio::select! {
                biased;
                () = book.all_settled() => {}
                () = pipeline.stopping.waits_over() => {}
            }
            Ok(())
        }
        Some(source) => {
            let settler = Settler::start(&source, &book, pipeline);
            let taken = source::take_in(source.as_ref(), &book, pipeline, queue).await;
            settler.close(finish(&work, pipeline)).await;
            taken
        }
    };
    let intake =
        intake.map_err(|error| error.map_text(|text| pipeline.shared.scrubber.scrub(text)));
    match (pipeline.stopping.failure(), intake) {
        (Some(error), _) => End::Failed(error),
        (None, Err(error)) if source::is_away(&error) => End::Away(error),
        (None, Err(error)) => End::Failed(error),
        (None, Ok(())) => End::Finished,
    }
}

/// Waits until all stages have worked off what they have; after a failure not for ever.
pub(super) async fn finish(work: &Tasks, pipeline: &PipelineShared) {
    tokio::select! {
        biased;
        () = work.finished() => return,
        () = pipeline.stopping.calls_over(&pipeline.shared.clock, CALL_GRACE) => {}
    }
    tracing::warn!(
        pipeline = %pipeline.name,
        "calls that still run after a failure are dropped",
    );
    work.abort();
    work.finished().await;
}

/// Starts the loops of all stages, each joined to the next by a bounded queue. The doors lead into those queues.
pub(super) fn join_stages(
    plan: &Arc<PipelinePlan>,
    pipeline: &Arc<PipelineShared>,
    meters: &[Arc<StageMeter>],
    stages: Vec<Component>,
    (queue, first): (&Sender, Receiver),
) -> (Tasks, Doors) {
    let flow = plan;
    let work = pipeline.tasks.child();
    let scheduled = !matches!(plan.trigger, TriggerPlan::Source { .. });
    let mut input = first;
    let mut doors = vec![Door {
        queue: queue.downgrade(),
        meter: Arc::clone(&meters[0]),
    }];
    for (index, (stage, plan)) in stages.into_iter().zip(&plan.stages).enumerate() {
        let meter = Arc::clone(&meters[index]);
        let next = meters.get(index + 1).map(Arc::clone);
        let (next, following) = match next {
            Some(next) => {
                let (sender, receiver) = channel(flow.stages[index + 1].joins());
                doors.push(Door {
                    queue: sender.downgrade(),
                    meter: Arc::clone(&next),
                });
                (Some((sender, next)), Some(receiver))
            }
            None => (None, None),
        };
        let brings_in = scheduled && index == 0;
        let exit = Exit::new(
            next,
            Arc::clone(&meter),
            Arc::clone(&pipeline.meter),
            brings_in,
        );
        let exit = match plan.required {
            true => exit,
            false => exit.uncounted(),
        };
        let mut ordered = None;
        if plan.policy.parallel > 1 && plan.policy.ordered && plan.required {
            let (announce, calls) = announcements(plan.policy.parallel);
            ordered = Some(announce);
            work.spawn("forward", forward(calls, exit.clone()));
        }
        let groups = (plan.policy.batch.clone(), plan.work.takes_many_deliveries());
        let clock = pipeline.shared.clock.clone();
        let intake = Intake::new(input, ordered, groups, exit, (clock, Arc::clone(&meter)));
        let run = StageRun::new(
            plan.clone(),
            stage,
            intake,
            Arc::clone(&meter),
            Arc::clone(pipeline),
        );
        if !plan.required {
            work.spawn("outbox", Arc::clone(&run).keep_all());
        }
        for replica in &meter.replicas {
            work.spawn("stage", Arc::clone(&run).replica(Arc::clone(replica)));
        }
        let Some(following) = following else { break };
        input = following;
    }
    let doors = Doors {
        plan: Arc::clone(flow),
        doors: doors.into(),
        stopping: pipeline.stopping.clone(),
        tasks: pipeline.tasks.clone(),
    };
    (work, doors)
}

impl Shared {
    pub(super) fn resources(
        &self,
        pipeline: &PipelineShared,
        stop: &CancellationToken,
    ) -> Resources {
        Resources {
            flow: Arc::clone(&self.flow),
            pipeline: Arc::clone(&pipeline.name),
            stage: Arc::clone(&pipeline.name),
            folder: Arc::clone(&self.folder),
            state_folder: Some(Arc::clone(&self.state_folder)),
            clock: self.clock.clone(),
            dice: self.dice.clone(),
            storages: self.storages.clone(),
            http: self.http.clone(),
            links: self.links.clone(),
            engines: self.engines.clone(),
            positions: self.positions(&pipeline.name),
            functions: self.functions.clone(),
            threads: self.threads.clone(),
            workers: Workers::default(),
            tasks: pipeline.tasks.child(),
            stop: stop.clone(),
        }
    }

    pub(super) fn tell_failure(&self, pipeline: &str, error: &Error) {
        tracing::error!(pipeline, "{}", error.told());
    }
}

#[cfg(test)]
mod tests {
    use wiredflow_core::delivery::Parcel;

    use super::*;

    /// The room that the future of an async function takes.
    fn room<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_pipeline_takes_little_room() {
        let most = |what: &str, room: usize, most: usize| {
            assert!(room <= most, "{what} takes {room} bytes, more than {most}");
        };
        most("a supervisor", room(supervise), 4096);
        let replica = |run: Arc<StageRun>, charge, (), ()| run.replica(charge);
        most("a stage", room(replica), 4096);
        most("a parcel", size_of::<Parcel>(), 96);
    }
}
