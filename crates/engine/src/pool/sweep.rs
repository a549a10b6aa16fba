//! The sweep: what shows no sign of life is published again.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use wiredflow_core::engine::RENEW_EACH;
use wiredflow_core::{ErrorKind, Result};

use super::RULES;
use super::coordinator::Shared;

/// How long a task waits before it is looked for who could take it.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// How long a look at a queue with messages that nobody works on lasts.
const SPENT_EACH: u32 = 20;

/// What was told of the pool last.
#[derive(Default)]
struct Told {
    /// The engine is away.
    away: bool,
    /// Nobody could take what waits.
    nobody: bool,
    rounds: u32,
}

impl Shared {
    /// Looks at each renewal, and when something is to be published.
    pub(super) async fn sweep_always(&self) {
        let mut told = Told::default();
        loop {
            tokio::select! {
                () = self.around.clock.sleep(RENEW_EACH) => {}
                () = self.kick.notified() => {}
            }
            let swept = self.sweep(&mut told).await;
            self.note(swept.as_ref().err().map(|error| error.message()), &mut told);
        }
    }

    /// Notes whether the engine answers.
    fn note(&self, failure: Option<&str>, told: &mut Told) {
        let now = self.around.clock.monotonic();
        let remote = &self.order.remote;
        let mut since = self
            .there_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(reason) => {
                *since = None;
                if !std::mem::replace(&mut told.away, true) {
                    tracing::warn!("the pool `{remote}` cannot be reached: {reason}; calls wait");
                }
            }
            None => {
                since.get_or_insert(now);
                if std::mem::replace(&mut told.away, false) {
                    tracing::info!("the pool `{remote}` can be reached again");
                }
            }
        }
    }

    async fn sweep(&self, told: &mut Told) -> Result<()> {
        self.announce().await?;
        let now = self.around.clock.monotonic();
        self.take_over(now);
        if self.book().is_empty() {
            return Ok(());
        }
        let held = match self.engine.waiting(&self.queue).await {
            Ok(held) => held,
            // A queue that was lost is opened anew; it holds nothing.
            Err(error) if error.kind() == ErrorKind::Remote => {
                self.engine.open_queue(&self.queue, RULES).await?;
                self.engine.waiting(&self.queue).await?
            }
            Err(error) => return Err(error),
        };
        let due = self.book().due(held, self.around.clock.monotonic());
        for due in due {
            let published = self.publish(due).await;
            if let Err(error) = published
                && error.kind() == ErrorKind::Remote
            {
                return Err(error);
            }
        }
        told.rounds = told.rounds.wrapping_add(1);
        if told.rounds.is_multiple_of(SPENT_EACH) {
            // What was given so often has no coordinator; one that has keeps it and publishes it again.
            drop(self.engine.spent(&self.queue, 64).await?);
        }
        self.look_for_nodes(told).await
    }

    /// Gives away what silent workers have.
    fn take_over(&self, now: Instant) {
        let Some(there_since) = self.there_since() else {
            return;
        };
        let silent = self.book().silent(now, there_since);
        for (task, counts) in silent {
            self.lose(&task, "gave no sign of life", counts);
        }
    }

    /// Says so when nobody could take what waits.
    async fn look_for_nodes(&self, told: &mut Told) -> Result<()> {
        let now = self.around.clock.monotonic();
        let since = self.book().waits_since();
        if since.is_none_or(|since| now - since <= LOOK_AFTER) {
            told.nobody &= since.is_some();
            return Ok(());
        }
        let nodes = self.nodes().await?;
        let nobody = nodes.iter().all(|(_, objection)| objection.is_some());
        if nobody && !told.nobody {
            let remote = &self.order.remote;
            let words = self.objections(&nodes);
            tracing::warn!("nobody takes the calls of the pool `{remote}`: {words}; they wait");
        }
        told.nobody = nobody;
        Ok(())
    }

    /// Why none of these nodes takes calls, and what to do.
    pub(super) fn objections(&self, nodes: &[(super::words::Node, Option<String>)]) -> String {
        let labels = &self.order.labels;
        let with: String = labels
            .iter()
            .map(|label| format!(" --label {label}"))
            .collect();
        let start = format!("start `wiredflow node --engine …{with}` on a machine");
        if nodes.is_empty() {
            return format!("there is no node; {start}");
        }
        let each = nodes.iter().map(|(node, objection)| {
            let objection = objection.as_deref().unwrap_or("takes calls");
            format!("`{}` {objection}", node.name)
        });
        let each: Vec<_> = each.take(5).collect();
        format!("{}; {start}", each.join(", "))
    }
}
