//! Where a stage at the far end hands on what it makes: frames to the host, as many as it takes.

use std::sync::Arc;

use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::frame::PayloadRef;
use wiredflow_core::stage::{BoxFuture, Outlet};
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Batch, Error, Map, Params, Result};
use wiredflow_engine::observe::ReplicaClock;

use crate::desk::{Desk, OpenCall};

/// The outputs of one call.
pub(crate) struct FarOutlet {
    pub(crate) desk: Desk,
    pub(crate) id: u64,
    pub(crate) call: OpenCall,
    pub(crate) charge: Arc<ReplicaClock>,
    /// The number of the next output.
    pub(crate) next: u64,
}

/// A [`wiredflow_core::frame::Output`] whose parts are borrowed.
#[derive(serde::Serialize)]
#[serde(tag = "type", rename = "output")]
struct OutputRef<'a> {
    id: u64,
    seq: u64,
    batch: Option<PayloadRef<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Map>,
}

impl FarOutlet {
    async fn hand_on(&mut self, batch: Batch, params: Option<Params>) -> Result<()> {
        let before = self.charge.enter(Activity::Blocked);
        let credit = tokio::select! {
            biased;
            () = self.call.closing.cancelled() => None,
            credit = self.call.credit.acquire() => credit.ok(),
        };
        self.charge.enter(before);
        let Some(credit) = credit else {
            return Err(Error::remote("the output is not wanted any more"));
        };
        credit.forget();
        let output = OutputRef {
            id: self.id,
            seq: self.next,
            // Params come with the call's own batch, which the host has.
            batch: PayloadRef::of(&batch).filter(|_| params.is_none()),
            params: params.as_deref(),
        };
        self.next += 1;
        self.desk.say(&output).await
    }
}

impl Outlet for FarOutlet {
    fn emit(&mut self, batch: Batch, params: Option<Params>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.hand_on(batch, params))
    }

    /// Only sinks and steps over records hand on their input, and those run where their flow runs.
    fn pass(&mut self, _receipt: Option<CommitReceipt>) {
        tracing::error!("a stage that hands on its input runs elsewhere");
    }
}
