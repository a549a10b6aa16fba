//! A lease that is held for as long as it can be renewed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wiredflow_core::Result;
use wiredflow_core::engine::{ANSWER_WITHIN, Engine, GIVE_UP_AFTER, Lease, Name, RENEW_EACH};

use crate::clock::Clock;
use crate::tasks::Tasks;

/// How soon a renewal that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A lease, renewed in the background. It ends by itself before another can have it; dropping it stops the renewals and
/// lets it run out.
#[derive(Debug)]
pub struct Held {
    lost: CancellationToken,
    release: CancellationToken,
    tasks: Tasks,
}

impl Held {
    /// Takes a lease, unless another holds it.
    ///
    /// # Errors
    /// As [`Engine::acquire`].
    pub async fn take(
        engine: &Arc<dyn Engine>,
        name: &Name,
        holder: &str,
        clock: &Clock,
    ) -> Result<Option<Self>> {
        let before = clock.monotonic();
        let Some(lease) = engine.acquire(name, holder).await? else {
            return Ok(None);
        };
        let held = Self {
            lost: CancellationToken::new(),
            release: CancellationToken::new(),
            tasks: Tasks::default(),
        };
        let keeping = Keeping {
            engine: Arc::clone(engine),
            clock: clock.clone(),
            lost: held.lost.clone(),
            good_until: before + GIVE_UP_AFTER,
            lease,
        };
        let release = held.release.clone();
        held.tasks.spawn("lease", keeping.keep(release));
        Ok(Some(held))
    }

    /// Fires when it is lost, or given back.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives it back, so that nobody has to wait.
    pub async fn release(self) {
        self.lost.cancel();
        self.release.cancel();
        self.tasks.finished().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lost.cancel();
        if !self.release.is_cancelled() {
            self.tasks.abort();
        }
    }
}

struct Keeping {
    engine: Arc<dyn Engine>,
    clock: Clock,
    lost: CancellationToken,
    lease: Lease,
    /// Counted from before the last renewal that succeeded was sent.
    good_until: Instant,
}

impl Keeping {
    async fn keep(mut self, release: CancellationToken) {
        tokio::select! {
            biased;
            () = release.cancelled() => {}
            () = self.renew_for_ever() => {
                self.lost.cancel();
                return;
            }
        }
        tokio::select! {
            released = self.engine.release(&self.lease) => if let Err(error) = released {
                tracing::debug!(lease = %self.lease.name, "not given back, it runs out: {error}");
            },
            () = self.clock.sleep(ANSWER_WITHIN) => {}
        }
    }

    /// Ends when it is lost.
    async fn renew_for_ever(&mut self) {
        let mut wait = RENEW_EACH;
        loop {
            self.clock.sleep(wait).await;
            let before = self.clock.monotonic();
            let renewed = tokio::select! {
                biased;
                () = self.clock.sleep_until(self.good_until) => {
                    tracing::warn!(lease = %self.lease.name, "it could not be renewed in time and is given up");
                    return;
                }
                renewed = self.engine.renew(&self.lease) => renewed,
            };
            // After a freeze all of it may be long ago.
            if self.clock.monotonic() >= self.good_until {
                tracing::warn!(lease = %self.lease.name, "it was renewed too late and is given up");
                return;
            }
            match renewed {
                Ok(Some(lease)) => {
                    self.lease = lease;
                    self.good_until = before + GIVE_UP_AFTER;
                    wait = RENEW_EACH;
                }
                Ok(None) => {
                    tracing::warn!(lease = %self.lease.name, "another has it now");
                    return;
                }
                Err(error) => {
                    tracing::debug!(lease = %self.lease.name, "not renewed: {error}");
                    wait = TRY_AGAIN;
                }
            }
        }
    }
}
