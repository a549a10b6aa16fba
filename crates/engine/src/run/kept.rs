//! What is measured goes into the state by the minute, so that yesterday can be compared with today.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wiredflow_scale::figures::FlowFigures;

use crate::clock::{Clock, Mark};
use crate::state::KeptProfile;

use super::Shared;

/// The stages of a part that are kept: those that were at work longest.
const MOST_STAGES: usize = 200;

/// What ends earlier after the last part is not kept: a run of seconds is not worth its sync.
const SHORTEST: f64 = 5.0;

/// What was not kept yet begins here: the moment, and what was counted until then.
#[derive(Debug)]
pub(super) struct Since(Mutex<(Mark, FlowFigures)>);

impl Since {
    pub(super) fn now(clock: &Clock, figures: FlowFigures) -> Self {
        Self(Mutex::new((clock.mark(), figures)))
    }

    fn lock(&self) -> MutexGuard<'_, (Mark, FlowFigures)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was measured since the last part, when that is at least `shortest` seconds, and something was done in it.
    fn part(&self, until: &Mark, now: &FlowFigures, shortest: f64) -> Option<KeptProfile> {
        let since = self.lock();
        let (mark, before) = &*since;
        let mut figures = now.since(before);
        if figures.seconds < shortest || figures.is_idle() {
            return None;
        }
        let left_out = figures.keep_busiest(MOST_STAGES);
        if left_out > 0 {
            tracing::debug!(
                left_out,
                "stages that did least are not kept in the profile of this minute"
            );
        }
        Some(KeptProfile {
            begin: mark.wall(),
            // A wall clock that was set back makes the part short, and not one that ends before it began.
            end: until.wall().max(mark.wall() + Duration::from_millis(1)),
            figures,
        })
    }
}

/// Keeps a part after each time of this length, until it is aborted.
pub(super) async fn keep(shared: Arc<Shared>, each: Duration) {
    // Real time passes also where a test turns the clock.
    let outside = shared.clock.outside();
    loop {
        outside.sleep(each).await;
        write(&shared, 0.0).await;
        match shared.state.thin_profiles(shared.clock.now()).await {
            Ok(0) => {}
            Ok(thinned) => tracing::debug!(thinned, "profiles of minutes became one of an hour"),
            Err(error) => tracing::debug!("old profiles could not be thinned: {error}"),
        }
    }
}

/// Keeps the last part.
pub(super) async fn keep_last(shared: &Shared) {
    write(shared, SHORTEST).await;
}

/// A part that cannot be written is a part of the next.
async fn write(shared: &Shared, shortest: f64) {
    let (mark, figures) = (shared.clock.mark(), shared.meters.figures());
    let Some(part) = shared.measured.part(&mark, &figures, shortest) else {
        return;
    };
    match shared.state.keep_profile(&part).await {
        Ok(()) => *shared.measured.lock() = (mark, figures),
        Err(error) => tracing::debug!("what was measured could not be kept: {error}"),
    }
}
