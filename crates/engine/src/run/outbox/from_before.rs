//! What an earlier session has left in the outbox of a sender: it is sent before anything new is taken.

use std::collections::VecDeque;

use tokio::sync::MutexGuard;
use wiredflow_core::Result;

use super::{Outbox, Part, READ, Together};

/// What waits from before, to be worked off by one.
pub(in crate::run) struct FromBefore<'a> {
    outbox: &'a Outbox,
    is_over: MutexGuard<'a, bool>,
    /// The number of the next row to be read.
    from: u64,
}

impl Outbox {
    /// Opens it. The first gets a hold on what waits from before, and works it off; those who come second wait until
    /// that is done.
    pub(in crate::run) async fn begin(&self) -> Result<Option<FromBefore<'_>>> {
        let is_over = self.from_before.lock().await;
        if *is_over {
            return Ok(None);
        }
        // One that has given up has left it open.
        if self.lock().is_none() {
            self.open().await?;
        }
        Ok(Some(FromBefore {
            outbox: self,
            is_over,
            from: 0,
        }))
    }
}

impl FromBefore<'_> {
    /// The next parts of it; none when all is worked off.
    pub(in crate::run) async fn next(
        &mut self,
        together: Together,
    ) -> Result<Option<VecDeque<Part>>> {
        let Some((parts, next)) = self.outbox.read(self.from, READ, together).await? else {
            self.outbox.tell_taken().await;
            *self.is_over = true;
            return Ok(None);
        };
        self.from = next;
        Ok(Some(parts))
    }
}
