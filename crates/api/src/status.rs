//! The flow and its pipelines now, and what may be done to them.

use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use wiredflow_engine::run::{Phase, PipelineState};
use wiredflow_scale::profile::Profile;

use crate::answer::{Answer, document, later, ok, refused};
use crate::desk::{Live, not_switched};
use crate::question::Question;

type Answered = Result<Answer, Answer>;

/// For how many seconds a profile may be taken.
const SECONDS: (u64, u64) = (1, 60);

/// Says that the process answers, and nothing else.
pub(crate) async fn health(_: Question) -> Answered {
    Ok(ok(&json!({ "status": "ok" })))
}

/// Says whether every pipeline is open or has ended well.
pub(crate) async fn ready(question: Question) -> Answered {
    let live = question.live().ok();
    let states = live.as_ref().and_then(|live| live.control.pipelines());
    let is_there = |state: &PipelineState| matches!(state.phase, Phase::Open | Phase::Ended);
    let is_stopping = live.is_some_and(|live| live.control.is_stopping());
    match states {
        Some(states) if !is_stopping && states.iter().all(is_there) => {
            Ok(ok(&json!({ "status": "ready" })))
        }
        _ => Ok(document(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "status": "not ready" }),
        )),
    }
}

/// `GET /api/v1/status`.
pub(crate) async fn show(question: Question) -> Answered {
    let live = question.live()?;
    let (Some(states), Some(report)) = (live.control.pipelines(), live.control.report()) else {
        return Err(question.live().err().unwrap_or_else(ended));
    };
    let mut counts: Map<String, Value> = Map::new();
    for phase in [Phase::Opening, Phase::Open, Phase::Waiting, Phase::Ended] {
        let number = states.iter().filter(|state| state.phase == phase).count();
        counts.insert(phase.word().to_owned(), number.into());
    }
    let paused = states.iter().filter(|state| state.paused.is_some()).count();
    counts.insert("paused".to_owned(), paused.into());
    let error = report.error.filter(|_| !question.sees_no_payload());
    Ok(ok(&json!({
        "flow": report.flow,
        "version": env!("CARGO_PKG_VERSION"),
        "state": if live.control.is_stopping() { "stopping" } else { "running" },
        "ok": report.ok,
        "error": error,
        "started": live.started,
        "seconds": report.seconds,
        "states": counts,
        "url": question.desk.url,
        "role": question.caller.role,
    })))
}

fn ended() -> Answer {
    later(StatusCode::SERVICE_UNAVAILABLE, 1, "the flow has ended")
}

/// What a pipeline's document says.
#[derive(Debug, Serialize)]
pub(crate) struct PipelineDocument {
    pipeline: String,
    trigger: String,
    scheduled: bool,
    state: &'static str,
    paused: bool,
    paused_since: Option<jiff::Timestamp>,
    #[serde(flatten)]
    report: Map<String, Value>,
}

/// The documents of all pipelines, by name.
pub(crate) fn documents(live: &Live, sees_no_payload: bool) -> Option<Vec<PipelineDocument>> {
    let states = live.control.pipelines()?;
    let mut reports = live.control.report()?.pipelines;
    let document = |state: PipelineState| {
        let report = reports.remove(&*state.name);
        let report = report.and_then(|report| serde_json::to_value(report).ok());
        let mut report = match report {
            Some(Value::Object(report)) => report,
            _ => Map::new(),
        };
        if sees_no_payload {
            // The words of an error may quote data.
            report.insert("last_error".to_owned(), Value::Null);
        }
        PipelineDocument {
            pipeline: state.name.to_string(),
            trigger: state.trigger,
            scheduled: state.is_scheduled,
            state: state.phase.word(),
            paused: state.paused.is_some(),
            paused_since: state.paused,
            report,
        }
    };
    Some(states.into_iter().map(document).collect())
}

/// `GET /api/v1/pipelines`.
pub(crate) async fn pipelines(question: Question) -> Answered {
    let live = question.live()?;
    let documents = documents(&live, question.sees_no_payload()).ok_or_else(ended)?;
    Ok(ok(&json!({ "pipelines": documents })))
}

/// `GET /api/v1/pipelines/{pipeline}`.
pub(crate) async fn pipeline(question: Question) -> Answered {
    let live = question.live()?;
    let documents = documents(&live, question.sees_no_payload()).ok_or_else(ended)?;
    let mut documents = documents.into_iter();
    match documents.find(|document| document.pipeline == question.part) {
        Some(document) => Ok(ok(&document)),
        None => {
            let why = format!("there is no pipeline `{}`", question.part.escape_debug());
            Err(refused(StatusCode::NOT_FOUND, why))
        }
    }
}

/// `GET /api/v1/stages`: the figures of the stages since the start.
pub(crate) async fn stages(question: Question) -> Answered {
    let live = question.live()?;
    let only = question.pipeline(&live)?;
    let mut stages = live.control.report().ok_or_else(ended)?.stages;
    stages.retain(|stage| only.is_none_or(|only| stage.pipeline == only));
    Ok(ok(&json!({ "stages": stages })))
}

/// `GET /api/v1/profile`: since the start, or of the next seconds.
pub(crate) async fn profile(question: Question) -> Answered {
    let live = question.live()?;
    let figures = || live.figures.figures().ok_or_else(ended);
    let before = match question.said("seconds") {
        None => None,
        Some(_) => {
            let seconds = question.number("seconds", 1, SECONDS)?;
            let before = figures()?;
            tokio::select! {
                () = question.desk.closing.cancelled() => return Err(ended()),
                () = question.desk.clock.sleep(Duration::from_secs(seconds)) => {}
            }
            Some(before)
        }
    };
    Ok(ok(&Profile::between(before.as_ref(), &figures()?)))
}

/// `GET /api/v1/figures`: all that is counted since the start, which profiles are made of.
pub(crate) async fn figures(question: Question) -> Answered {
    let live = question.live()?;
    Ok(ok(&live.figures.figures().ok_or_else(ended)?))
}

/// `POST /api/v1/pipelines/{pipeline}/pause`.
pub(crate) async fn pause(question: Question) -> Answered {
    let live = question.live()?;
    note(&question, "pause");
    let done = live.control.pause(&question.part).await;
    switched(&question, &live, done)
}

/// `POST /api/v1/pipelines/{pipeline}/resume`.
pub(crate) async fn resume(question: Question) -> Answered {
    let live = question.live()?;
    note(&question, "resume");
    let done = live.control.resume(&question.part).await;
    switched(&question, &live, done)
}

fn switched(
    question: &Question,
    live: &Live,
    done: Result<(), wiredflow_engine::run::Refused>,
) -> Answered {
    done.map_err(|why| not_switched(&why))?;
    let states = live.control.pipelines().ok_or_else(ended)?;
    let state = states.iter().find(|state| *state.name == *question.part);
    Ok(ok(&json!({
        "pipeline": question.part,
        "paused": state.is_some_and(|state| state.paused.is_some()),
    })))
}

/// `POST /api/v1/pipelines/{pipeline}/trigger`.
pub(crate) async fn trigger(question: Question) -> Answered {
    let live = question.live()?;
    note(&question, "trigger");
    let done = live.control.trigger(&question.part).await;
    done.map_err(|why| not_switched(&why))?;
    let body = json!({ "pipeline": question.part, "triggered": true });
    Ok(document(StatusCode::ACCEPTED, &body))
}

/// Whoever asks for a change leaves a trace, before it is made.
pub(crate) fn note(question: &Question, what: &str) {
    let role = question.caller.role.word();
    let from = question.caller.peer.ip();
    tracing::info!(role, %from, "asked by the API: {what} `{}`", question.part.escape_debug());
}
