//! Where a stage at the far end hands on what it makes: frames to the host, as many as it takes.

use std::sync::Arc;

use wiredflow_core::charge::{Activity, Charge};
use wiredflow_core::frame::{Passed, PayloadRef};
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
    /// What became of the input, where the stage hands it on itself.
    pub(crate) passed: Option<Passed>,
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

    fn pass(&mut self, receipt: Option<CommitReceipt>) {
        let passed = self.passed.get_or_insert_default();
        passed.confirmed = receipt.map(|receipt| receipt.rows());
    }

    fn pass_over(&mut self, records: usize, why: &str) {
        let passed = self.passed.get_or_insert_default();
        (passed.over, passed.why) = (records, why.to_owned());
    }
}
