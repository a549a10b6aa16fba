//! The end of a node in good order.

use std::sync::Arc;
use std::time::Duration;

use crate::pool::Pool;
use crate::presence::Presence;

/// How long what runs may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long leaving what is left to others may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// Takes no more, waits for what runs, leaves the rest to others, and goes.
pub(crate) async fn drain(pool: &Arc<Pool>, presence: &Presence) {
    let clock = &pool.around.clock;
    pool.drains.cancel();
    let busy = pool.busy();
    if busy > 0 {
        tracing::info!(
            "ends when {busy} calls are done, in {} seconds at the latest",
            PATIENCE.as_secs()
        );
        presence.drains().await;
    }
    let finished = within(clock, PATIENCE, pool.runs.finished()).await;
    if !finished {
        tracing::info!("leaves {} calls to others", pool.busy());
        pool.leaves.cancel();
        within(clock, FAREWELL, pool.runs.finished()).await;
    }
    within(clock, FAREWELL, presence.end()).await;
    pool.shop.close().await;
}

/// Whether it ended within the time.
async fn within(
    clock: &wiredflow_engine::clock::Clock,
    time: Duration,
    work: impl Future<Output = ()>,
) -> bool {
    tokio::select! {
        biased;
        () = work => true,
        () = clock.sleep(time) => false,
    }
}
