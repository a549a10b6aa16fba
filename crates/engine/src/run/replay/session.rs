//! A pipeline that is opened for replays alone: its stages, without its trigger.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wiredflow_core::Error;

use crate::observe::StageMeter;
use crate::plan::PipelinePlan;
use crate::state::ReplayOutcome;

use super::super::channel::channel;
use super::super::opening;
use super::super::pipeline;
use super::super::stage::Component;
use super::super::{PipelineShared, Shared};
use super::book::ok_or_told;
use super::feed_all;

/// How many letters are refused at a time where their pipeline cannot be opened.
const REFUSED: usize = 1024;

/// Replays the letters of one pipeline, and ends the run where that fails: what `dead-letters replay` does where no
/// flow runs.
pub(crate) async fn all(plan: Arc<PipelinePlan>, index: usize, shared: Arc<Shared>) {
    let name = Arc::clone(&plan.name);
    if let Some(error) = take_up(plan, index, Arc::clone(&shared)).await {
        shared.note_failure(error.context(format!("pipeline `{name}`")));
    }
}

/// Opens a pipeline's stages, replays its letters that are asked for, and closes them. Gives why it failed.
pub(crate) async fn take_up(
    plan: Arc<PipelinePlan>,
    index: usize,
    shared: Arc<Shared>,
) -> Option<Error> {
    let (meter, stages) = shared.meters.pipeline(index);
    let pipeline = Arc::new(PipelineShared {
        name: Arc::clone(&plan.name),
        shared: Arc::clone(&shared),
        stopping: shared.stopping.child(),
        switch: shared.switches.named(&plan.name),
        trigger: plan.trigger.clone(),
        meter,
        first_stage: Arc::clone(&stages[0]),
        // A replay's deliveries are not known from the start.
        traced: None,
        tasks: shared.tasks.child(),
    });
    let stop = CancellationToken::new();
    let resources = shared.resources(&pipeline, &stop);
    let failure = match opening::open_stages(&plan, &pipeline, &resources).await {
        Ok(Some(opened)) => work(&plan, &pipeline, &stages, opened).await,
        Ok(None) => None,
        Err(error) => {
            refuse_all(&shared, &plan, &error).await;
            Some(error)
        }
    };
    opening::close(&pipeline, &stop, &resources).await;
    if let Some(error) = &failure {
        shared.tell_failure(&plan.name, error);
    }
    failure
}

async fn work(
    plan: &Arc<PipelinePlan>,
    pipeline: &Arc<PipelineShared>,
    meters: &[Arc<StageMeter>],
    stages: Vec<Component>,
) -> Option<Error> {
    let desk = &pipeline.shared.desk;
    let (queue, first) = channel(plan.stages[0].joins());
    let (work, doors) = pipeline::join_stages(plan, pipeline, meters, stages, (&queue, first));
    desk.is_open(doors.clone());
    ok_or_told(&plan.name, feed_all(&pipeline.shared, &doors).await);
    tokio::select! {
        biased;
        () = pipeline.stopping.failed() => {}
        () = pipeline.stopping.intake_over() => {}
        () = desk.all_ended(&plan.name) => {}
    }
    drop(queue);
    pipeline::finish(&work, pipeline).await;
    desk.is_over(&plan.name);
    desk.all_ended(&plan.name).await;
    pipeline.stopping.failure()
}

/// Says of each letter that is asked for why it cannot be replayed now.
async fn refuse_all(shared: &Arc<Shared>, plan: &PipelinePlan, error: &Error) {
    loop {
        let asked = shared.state.asked_letters(Some(&plan.name), REFUSED).await;
        let begun = asked.iter().flatten();
        let begun: Vec<_> = begun
            .filter_map(|letter| shared.desk.begin(letter))
            .collect();
        if begun.is_empty() {
            break;
        }
        for token in begun {
            let why = format!("the pipeline cannot be opened: {}", error.message());
            shared.desk.end(token, ReplayOutcome::Refused(why));
        }
        shared.desk.all_ended(&plan.name).await;
    }
}
