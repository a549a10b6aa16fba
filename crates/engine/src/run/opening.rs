//! Opens what a session of a pipeline works with, patiently, and ends what that has started.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::stage::{AnySource, BoxFuture};
use wiredflow_core::{Error, ErrorKind, Result};

use crate::observe::repeats;
use crate::plan::{PipelinePlan, TriggerPlan};
use crate::resources::Resources;

use super::policy::{REOPEN, backoff};
use super::stage::Component;
use super::{PipelineShared, Shared};

/// How long a component's own tasks may take to end.
const COMPONENT_GRACE: Duration = Duration::from_secs(5);

/// Ends what the components of a session have started.
pub(super) async fn close(
    pipeline: &PipelineShared,
    stop: &CancellationToken,
    resources: &Resources,
) {
    stop.cancel();
    let _working = pipeline.shared.clock.working();
    tokio::select! {
        () = resources.tasks.finished() => {}
        () = pipeline.shared.clock.sleep(COMPONENT_GRACE) => {}
    }
    pipeline.tasks.abort();
    pipeline.tasks.finished().await;
}

/// The stages in order, and the source where there is one.
type Opened = (Vec<Component>, Option<Arc<dyn AnySource>>);

/// Opens all stages, then the source. `None`: the flow ended meanwhile.
pub(super) async fn open(
    plan: &PipelinePlan,
    pipeline: &PipelineShared,
    resources: &Resources,
) -> Result<Option<Opened>> {
    let Some(stages) = open_stages(plan, pipeline, resources).await? else {
        return Ok(None);
    };
    let TriggerPlan::Source { kind, open } = &plan.trigger else {
        return Ok(Some((stages, None)));
    };
    let resources = Resources {
        stage: kind.as_str().into(),
        ..resources.clone()
    };
    let source = patiently(pipeline, kind.as_str().into(), || {
        (open.0)(resources.clone())
    })
    .await?;
    Ok(source.map(|source| (stages, Some(Arc::from(source)))))
}

/// Opens all stages. `None`: the flow ended meanwhile.
pub(super) async fn open_stages(
    plan: &PipelinePlan,
    pipeline: &PipelineShared,
    resources: &Resources,
) -> Result<Option<Vec<Component>>> {
    let mut stages = Vec::with_capacity(plan.stages.len());
    for stage in &plan.stages {
        let resources = Resources {
            stage: Arc::clone(&stage.name),
            workers: pipeline.shared.meters.workers(&plan.name, &stage.name),
            ..resources.clone()
        };
        if !stage.required {
            let (open, work) = (stage.open.clone(), stage.work);
            stages.push(Component::later(open, resources, work));
            continue;
        }
        let open = || (stage.open.0)(resources.clone());
        match patiently(pipeline, Arc::clone(&stage.name), open).await? {
            Some(stage) => stages.push(Component::Open(stage)),
            None => return Ok(None),
        }
    }
    Ok(Some(stages))
}

/// Opens a component, again and again while its peer is away. `None`: the flow ended meanwhile.
async fn patiently<T>(
    pipeline: &PipelineShared,
    name: Arc<str>,
    open: impl Fn() -> BoxFuture<'static, Result<T>>,
) -> Result<Option<T>> {
    let shared = &pipeline.shared;
    for failure in 1_u32.. {
        let working = shared.clock.working();
        let opened = tokio::select! {
            () = pipeline.stopping.intake_over() => return Ok(None),
            opened = open() => opened,
        };
        drop(working);
        let error = match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) => error.map_text(|text| shared.scrubber.scrub(text)),
        };
        if error.kind() != ErrorKind::Remote {
            return Err(error.context(format!("`{name}`")));
        }
        pipeline.meter.error(error.message());
        let wait = backoff(failure, REOPEN.0, REOPEN.1, &shared.dice);
        let place = (&pipeline.name, &name);
        tell_wait(
            shared,
            place,
            "cannot open; trying again",
            &error,
            (failure, wait),
        );
        tokio::select! {
            () = pipeline.stopping.intake_over() => return Ok(None),
            () = shared.clock.sleep(wait) => {}
        }
    }
    Ok(None)
}

/// Says that something is away and will be tried again, unless that was said just now.
pub(super) fn tell_wait(
    shared: &Arc<Shared>,
    (pipeline, stage): (&Arc<str>, &Arc<str>),
    what: &'static str,
    error: &Error,
    (attempt, wait): (u32, Duration),
) {
    let failure = repeats::Failure {
        pipeline,
        stage,
        what,
        kind: error.kind().word(),
        message: error.message(),
        attempt: Some(attempt),
    };
    let wait = wiredflow_core::units::format_duration(wait);
    if shared.is_news(&failure) {
        tracing::warn!(%pipeline, %stage, attempt, %wait, "{}; {what}", error.message());
    } else {
        tracing::debug!(%pipeline, %stage, attempt, %wait, "{}; {what}", error.message());
    }
}
