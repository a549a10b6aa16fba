//! `source: {link: …}`: what another pipeline hands over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wiredflow_core::delivery::{Delivery, Payload, Settled, Token};
use wiredflow_core::stage::Source;
use wiredflow_core::{Result, config};

use crate::catalogue::SourceKind;
use crate::links::{self, Item};
use crate::resources::Resources;

config! {
    /// What other pipelines hand over by the stage `link: NAME`: each of their deliveries is one here. Theirs are done when
    /// these are; what failed here is given again when this pipeline is opened anew. At a stop it ends after them.
    pub(crate) struct LinkSourceConfig short name {
        /// The link's name.
        name: String,
    }
}

/// The receiver's side of a link.
#[derive(Debug)]
pub(crate) struct LinkSource {
    link: Arc<links::Link>,
    origin: Arc<str>,
    session: u64,
    /// What was given and is not dealt with, by its number.
    given: Mutex<BTreeMap<u64, Item>>,
}

impl SourceKind for LinkSource {
    const NAME: &'static str = "link";
    const EXAMPLE: &'static str = "link: {name: to_store}";
    type Config = LinkSourceConfig;

    async fn open(config: LinkSourceConfig, resources: &Resources) -> Result<Self> {
        let link = resources.links.named(&config.name)?;
        Ok(Self {
            origin: format!("link {}", link.name).into(),
            session: link.open(),
            given: Mutex::default(),
            link,
        })
    }
}

impl LinkSource {
    fn given(&self) -> MutexGuard<'_, BTreeMap<u64, Item>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token of an item: in another session it has another, so that what comes again can be told from more of the same.
    fn delivery(&self, item: &Item) -> Delivery {
        let (batch, params) = (item.parcel.batch.clone(), item.parcel.params.clone());
        Delivery {
            token: Token {
                epoch: self.session,
                id: item.number,
            },
            identity: item.identity,
            payload: Payload::Handed(batch, params),
            origin: Some(Arc::clone(&self.origin)),
        }
    }
}

impl Source for LinkSource {
    async fn next(&self, most: usize) -> Result<Vec<Delivery>> {
        let items = self.link.take(most).await;
        let deliveries = items.iter().map(|item| self.delivery(item)).collect();
        let numbered = items.into_iter().map(|item| (item.number, item));
        self.given().extend(numbered);
        Ok(deliveries)
    }

    async fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        for one in settled {
            if !one.outcome.is_acknowledged() {
                // It stays here, and is given again with the next session.
                continue;
            }
            let item = self.given().remove(&one.token.id);
            let Some(Item { mut parcel, .. }) = item else {
                continue;
            };
            for receipt in one.proof.iter() {
                parcel.lineage.add_receipt(receipt.clone());
            }
            if let Some(reason) = &one.reason {
                parcel.lineage.explain(reason);
            }
            parcel.lineage.close(one.outcome);
        }
        Ok(())
    }

    async fn close(&self) {}

    fn outlives_intake(&self) -> bool {
        true
    }
}

impl Drop for LinkSource {
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.given());
        self.link.put_back(left.into_values());
    }
}
