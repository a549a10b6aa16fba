//! What all answers are made from: the flow that runs now, and what is known around it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::StatusCode;
use jiff::Timestamp;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use wiredflow_core::{Error, ErrorKind};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{Control, Figures, Refused};

use crate::answer::{Answer, later, refused};
use crate::events::Event;
use crate::limiter::Limiter;
use crate::logs::Recent;
use crate::tokens::Keys;

/// How many readers of the state there are at once: each opens the file.
const READERS: usize = 4;

/// A flow that runs.
#[derive(Debug)]
pub struct Live {
    /// What runs.
    pub plan: Plan,
    /// The folder of its state.
    pub state: PathBuf,
    /// Since when.
    pub started: Timestamp,
    /// Pauses, resumes and triggers its pipelines.
    pub control: Control,
    /// Reads its figures.
    pub figures: Figures,
}

/// What all answers are made from.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) live: RwLock<Option<Arc<Live>>>,
    pub(crate) keys: Keys,
    pub(crate) limiter: Limiter,
    pub(crate) clock: Clock,
    pub(crate) logs: Recent,
    pub(crate) events: broadcast::Sender<Arc<Event>>,
    /// A place for each reader of events.
    pub(crate) listeners: Arc<Semaphore>,
    pub(crate) readers: Arc<Semaphore>,
    /// Whether only this machine reaches it.
    pub(crate) is_loopback: bool,
    pub(crate) has_tls: bool,
    pub(crate) url: String,
    pub(crate) closing: CancellationToken,
}

impl Desk {
    pub(crate) fn readers() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(READERS))
    }

    /// The flow that runs now.
    pub(crate) fn live(&self) -> Result<Arc<Live>, Answer> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.clone()
            .filter(|live| live.control.pipelines().is_some())
            .ok_or_else(not_now)
    }

    /// Asks the state, which blocks on the disk, on a thread for that.
    pub(crate) async fn ask_state<T: Send + 'static>(
        &self,
        live: &Arc<Live>,
        ask: impl FnOnce(&Live) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Answer> {
        let Ok(place) = Arc::clone(&self.readers).acquire_owned().await else {
            return Err(not_now());
        };
        let live = Arc::clone(live);
        let asked = tokio::task::spawn_blocking(move || {
            let answer = ask(&live);
            drop(place);
            answer
        });
        match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(told(&error)),
            Err(error) => {
                tracing::error!("the API could not read the state: {error}");
                Err(refused(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the state cannot be read",
                ))
            }
        }
    }
}

fn told(error: &Error) -> Answer {
    match error.kind() {
        ErrorKind::Remote => later(StatusCode::SERVICE_UNAVAILABLE, 1, error.message()),
        ErrorKind::Data => refused(StatusCode::NOT_FOUND, error.message()),
        ErrorKind::Config | ErrorKind::Bug => {
            refused(StatusCode::INTERNAL_SERVER_ERROR, error.message())
        }
    }
}

/// No flow runs: it starts or has ended.
fn not_now() -> Answer {
    let why = "no flow runs just now: it starts, changes or has ended";
    later(StatusCode::SERVICE_UNAVAILABLE, 1, why)
}

/// Why a pipeline was not switched.
pub(crate) fn not_switched(why: &Refused) -> Answer {
    match why {
        Refused::Ended => not_now(),
        Refused::Unknown(why) => refused(StatusCode::NOT_FOUND, why),
        Refused::Conflict(why) => refused(StatusCode::CONFLICT, why),
        Refused::Failed(why) => later(StatusCode::SERVICE_UNAVAILABLE, 1, why),
    }
}
