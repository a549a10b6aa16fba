//! A place that is a pool, and a call on its way, wherever it is.

use std::fmt;
use std::sync::Arc;

use tokio::sync::OnceCell;
use wiredflow_core::charge::{Activity, Used};
use wiredflow_core::frame::Passed;
use wiredflow_core::stage::Cx;
use wiredflow_core::{Error, ErrorKind, Result};

use super::{Errand, Joiner};
use crate::pool::{self, Coordinator};
use crate::resources::Resources;
use crate::worker::{self, Given, Missed, Request, StageHost};

/// A pool that a stage has its calls done by, joined when it is first needed.
pub(super) struct Member {
    join: Arc<Joiner>,
    errand: Errand,
    resources: Resources,
    joined: OnceCell<Coordinator>,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Member")
    }
}

impl Member {
    pub(super) fn new(join: &Arc<Joiner>, errand: &Errand, resources: &Resources) -> Self {
        Self {
            join: Arc::clone(join),
            errand: errand.clone(),
            resources: resources.clone(),
            joined: OnceCell::new(),
        }
    }

    /// The pool, joined.
    pub(super) async fn joined(&self) -> Result<&Coordinator, Missed> {
        let join = || {
            let host = Arc::new(StageHost::new(&self.resources));
            (self.join)(&self.errand, &self.resources, host)
        };
        let joined = self.joined.get_or_try_init(join).await;
        joined.map_err(|error: Error| match error.kind() {
            // Nothing was published.
            ErrorKind::Remote => Missed::Away(error),
            _ => Missed::Failed(error),
        })
    }

    /// Has a call done, and comes back when somebody has begun it; another place may take it where `can_go_elsewhere`.
    pub(super) async fn call(
        &self,
        request: Request<'_>,
        can_go_elsewhere: bool,
        cx: &Cx,
    ) -> Result<pool::Called, Missed> {
        let publish = async { self.joined().await?.call(request, can_go_elsewhere).await };
        let called = cx.spend(Activity::Overhead, publish).await?;
        cx.spend(Activity::Throttled, called.begun()).await;
        Ok(called)
    }
}

/// A call on its way.
pub(super) enum Underway<'a> {
    Station(worker::Called<'a>),
    Pool(Box<pool::Called>),
}

impl Underway<'_> {
    /// The next output; `None` when the call has ended well.
    pub(super) async fn next(&mut self) -> Result<Option<Given>, Missed> {
        match self {
            Self::Station(called) => called.next().await,
            Self::Pool(called) => called.next().await,
        }
    }

    /// What the call has used, once it has ended.
    pub(super) fn used(&self) -> Option<Used> {
        match self {
            Self::Station(called) => called.used(),
            Self::Pool(called) => called.used(),
        }
    }

    /// What became of its input, once it has ended.
    pub(super) fn passed(&self) -> Option<&Passed> {
        match self {
            Self::Station(called) => called.passed(),
            Self::Pool(called) => called.passed(),
        }
    }

    /// Ends the call early.
    pub(super) async fn close(self) -> Result<(), Missed> {
        match self {
            Self::Station(called) => called.close().await,
            // Whoever works on it is told, and waited for by nobody.
            Self::Pool(called) => {
                drop(called);
                Ok(())
            }
        }
    }
}
