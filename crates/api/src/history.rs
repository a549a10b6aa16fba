//! Runs and dead letters, read by the state's own readers.

use axum::http::StatusCode;
use serde_json::{Value, json};
use wiredflow_core::Error;
use wiredflow_engine::run::replayed_from;
use wiredflow_engine::state::{
    DeadLetterId, LetterEditor, RunOutcome, RunSelection, Selection, StateReader, StoredDeadLetter,
};

use crate::answer::{Answer, document, ok, refused};
use crate::desk::Live;
use crate::question::{Question, bad};
use crate::status::note;

type Answered = Result<Answer, Answer>;

/// How many rows are given when the query says nothing, and at most.
const LIMIT: (u64, (u64, u64)) = (100, (1, 1000));

fn reader(live: &Live) -> Result<StateReader, Error> {
    StateReader::open(&live.state, &live.plan.name)
}

fn limit(question: &Question) -> Result<Option<u32>, Answer> {
    let limit = question.number("limit", LIMIT.0, LIMIT.1)?;
    Ok(u32::try_from(limit).ok())
}

/// `GET /api/v1/runs`: newest first.
pub(crate) async fn runs(question: Question) -> Answered {
    let live = question.live()?;
    let pipeline = question.pipeline(&live)?.map(str::to_owned);
    let limit = limit(&question)?;
    let outcome = question.said("outcome").map(outcome).transpose()?;
    let asked = question.desk.ask_state(&live, move |live| {
        reader(live)?.chosen_runs(RunSelection {
            pipeline: pipeline.as_deref(),
            outcome,
            limit,
        })
    });
    let mut runs = asked.await?;
    if question.sees_no_payload() {
        runs.iter_mut().for_each(|run| run.error = None);
    }
    Ok(ok(&json!({ "runs": runs })))
}

fn outcome(word: &str) -> Result<RunOutcome, Answer> {
    use RunOutcome::{Committed, DeadLettered, Failed, Skipped};
    let mut known = [Committed, Failed, DeadLettered, Skipped].into_iter();
    let found = known.find(|known| known.word() == word);
    found.ok_or_else(|| bad("`outcome` is `committed`, `failed`, `dead_lettered` or `skipped`"))
}

/// `GET /api/v1/dead-letters`: newest first, without their bodies.
pub(crate) async fn letters(question: Question) -> Answered {
    let live = question.live()?;
    let pipeline = question.pipeline(&live)?.map(str::to_owned);
    let limit = limit(&question)?;
    let asked = question.desk.ask_state(&live, move |live| {
        reader(live)?.dead_letters(Selection {
            pipeline: pipeline.as_deref(),
            limit,
        })
    });
    let mut letters = json!(asked.await?);
    if question.sees_no_payload() {
        // The words of a reason may quote data.
        for letter in letters.as_array_mut().into_iter().flatten() {
            letter["reason"] = Value::Null;
        }
    }
    Ok(ok(&json!({ "dead_letters": letters })))
}

async fn stored(question: &Question) -> Result<StoredDeadLetter, Answer> {
    let live = question.live()?;
    let id = question.part.clone();
    let asked = question
        .desk
        .ask_state(&live, move |live| reader(live)?.dead_letter(&id));
    asked.await?.ok_or_else(|| {
        let why = format!("there is no dead letter `{}`", question.part.escape_debug());
        refused(StatusCode::NOT_FOUND, why)
    })
}

/// `GET /api/v1/dead-letters/{id}`: with its body.
pub(crate) async fn letter(question: Question) -> Answered {
    let letter = stored(&question).await?;
    note(&question, "show dead letter");
    Ok(ok(&letter))
}

/// `POST /api/v1/dead-letters/{id}/replay`: the flow takes it up within a second.
pub(crate) async fn replay(question: Question) -> Answered {
    let live = question.live()?;
    let letter = stored(&question).await?;
    if let Err(why) = replayed_from(&live.plan, &letter) {
        let why = format!("it cannot be replayed: {why}");
        return Err(refused(StatusCode::CONFLICT, why));
    }
    let (id, now) = (letter.listed.id.clone(), question.desk.clock.now());
    note(&question, "replay dead letter");
    edit(&question, id, move |editor, ids| editor.ask(ids, now)).await?;
    let body = json!({ "id": letter.listed.id, "asked": true });
    Ok(document(StatusCode::ACCEPTED, &body))
}

/// `DELETE /api/v1/dead-letters/{id}`: for good.
pub(crate) async fn remove(question: Question) -> Answered {
    let letter = stored(&question).await?;
    let id = letter.listed.id.clone();
    note(&question, "drop dead letter");
    edit(&question, id, LetterEditor::remove).await?;
    Ok(ok(&json!({ "dropped": [letter.listed.id] })))
}

async fn edit(
    question: &Question,
    id: DeadLetterId,
    edit: impl FnOnce(&mut LetterEditor, &[DeadLetterId]) -> Result<(), Error> + Send + 'static,
) -> Result<(), Answer> {
    let live = question.live()?;
    let edited = question.desk.ask_state(&live, move |live| {
        let mut editor = LetterEditor::open(&live.state, &live.plan.name)?;
        edit(&mut editor, &[id])
    });
    edited.await
}
