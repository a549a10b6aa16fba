//! Runs a plan by a paused clock: whenever nothing is left to do, the clock goes to the next moment that
//! somebody waits for.

use std::pin::pin;
use std::time::Duration;

use wiredflow_core::Result;

use crate::clock::Clock;
use crate::plan::Plan;
use crate::run::{self, Ended, Figures, RunOptions};

/// How many times in a row everybody else must have been asked and had nothing to do. A message that
/// wakes a task that wakes a task takes one round each; between two calls, or two changes of who waits, such
/// chains are shorter than this.
const CALM: u32 = 24;

/// How long functions, threads and processes are left alone before they are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Runs a plan to its end. `options.clock` must be a paused one, and the runtime one of a single thread:
/// only there "nobody has anything to do" can be known.
///
/// # Errors
/// As [`run::start`].
pub async fn play(plan: &Plan, options: &RunOptions) -> Result<Ended> {
    let running = run::start(plan, options)?;
    let figures = running.figures();
    let mut ended = pin!(running.finished());
    loop {
        tokio::select! {
            biased;
            ended = &mut ended => return Ok(ended),
            () = calm(&options.clock, &figures) => {
                if !options.clock.turn() {
                    Clock::real().sleep(LOOK_AGAIN).await;
                }
            }
        }
    }
}

/// Waits until nobody works and nobody has anything to do.
async fn calm(clock: &Clock, figures: &Figures) {
    let mut rounds = 0;
    let changes = || (clock.changes(), figures.moved());
    let mut before = changes();
    while rounds < CALM {
        tokio::task::yield_now().await;
        if clock.is_working() || figures.is_working() {
            Clock::real().sleep(LOOK_AGAIN).await;
            rounds = 0;
        } else if changes() != before {
            before = changes();
            rounds = 0;
        } else {
            rounds += 1;
        }
    }
}
