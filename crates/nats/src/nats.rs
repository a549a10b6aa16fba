//! The engine itself: each promise of the contract, handed to the room that keeps it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;
use wiredflow_core::engine::{
    ANSWER_WITHIN, About, Engine, Entry, If, Lease, Listener, Name, Published, QueueRules,
    Settlement, Shelf, Taken, TakenToken, Watch,
};
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};

use crate::access::Access;
use crate::failure::{self, OFF};
use crate::link::Link;
use crate::names::{Bucket, Names};
use crate::objects::{Objects, replicas_of};
use crate::version;

/// How much of a message's length headers of ours may take.
const HEADERS: usize = 2048;

/// A server of NATS, or a cluster of them, as an engine. The connection comes back by itself whenever it breaks.
#[derive(Debug)]
pub struct Nats {
    objects: Objects,
    about: About,
}

impl Nats {
    /// Connects, and makes what all engines of a namespace share. It tries once: who wants it tries again.
    ///
    /// # Errors
    /// `Config`, where the server refuses the login or the TLS of `access`, has no JetStream, is older than 2.9.10, or
    /// `access` itself cannot be used; `Remote`, where it is away.
    pub async fn connect(access: &Access, namespace: &str) -> Result<Arc<Self>> {
        let names = Names::new(namespace)?;
        let link = Link::connect(access, names.inbox()).await?;
        let info = link.client.server_info();
        let begun = async {
            let mut weaknesses = version::weaknesses(&info.version)?;
            let said = link.call("INFO", &Value::Null).await?;
            said.map_err(|refusal| match OFF.contains(&refusal.code) {
                true => Error::config(format!(
                    "its JetStream is off ({}): start it with `-js`, and allow it to the account",
                    refusal.text
                )),
                false => failure::refused(&refusal),
            })?;
            let objects = Objects::new(link.clone(), names);
            let (stream, _) = objects.bucket(Bucket::Shelf(Shelf::Kept)).await?;
            let told = objects.look(&stream).await?;
            let replicas = told.map_or(1, |told| replicas_of(&told.config));
            weaknesses.extend(of_replicas(replicas, info.cluster.is_some()));
            let about = About {
                server: format!("nats-server {}", info.version),
                replicas,
                longest: info.max_payload.saturating_sub(HEADERS),
                weaknesses,
            };
            Ok(Self { objects, about })
        };
        let begun: Result<Self> = begun.await;
        begun.map(Arc::new).map_err(|error| link.at(error))
    }

    /// An answer within the usual time, or an error that says whose it is.
    fn answered<'a, T: Send + 'a>(
        &'a self,
        work: impl Future<Output = Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            let late = || Error::remote(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
            let answered = timeout(ANSWER_WITHIN, work).await;
            self.told(answered.unwrap_or_else(|_| Err(late())))
        })
    }

    /// As [`Self::answered`], for what takes as long as it takes, or as its caller says.
    fn ended<'a, T: Send + 'a>(
        &'a self,
        work: impl Future<Output = Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move { self.told(work.await) })
    }

    fn told<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.objects.link.at(error))
    }

    /// # Errors
    /// `Data`, where it is longer than the server takes.
    fn fits(&self, body: &Bytes) -> Result<()> {
        let (length, longest) = (body.len(), self.about.longest);
        match length <= longest {
            true => Ok(()),
            false => Err(Error::data(format!(
                "{length} bytes are too long for a message: {longest} are the most, by `max_payload` of the server"
            ))),
        }
    }
}

fn of_replicas(replicas: usize, is_cluster: bool) -> Option<String> {
    match (replicas, is_cluster) {
        (2.., _) => None,
        (_, true) => Some(
            "one server alone keeps each message, though it has a cluster: give the cluster three servers".to_owned(),
        ),
        (_, false) => Some(
            "one server alone keeps each message, and by its default writes to its disk every two minutes: set \
             `sync_interval: always`, or make it a cluster of three"
                .to_owned(),
        ),
    }
}

impl Engine for Nats {
    fn about(&self) -> &About {
        &self.about
    }

    fn open_queue<'a>(&'a self, queue: &'a Name, rules: QueueRules) -> BoxFuture<'a, Result<()>> {
        self.answered(self.objects.open_queue(queue, rules))
    }

    fn publish<'a>(
        &'a self,
        queue: &'a Name,
        id: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Published>> {
        self.answered(async move {
            self.fits(&body)?;
            self.objects.publish(queue, id, body).await
        })
    }

    fn pull<'a>(
        &'a self,
        queue: &'a Name,
        most: usize,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>>> {
        self.ended(self.objects.pull(queue, most, within))
    }

    fn extend<'a>(&'a self, taken: &'a TakenToken) -> BoxFuture<'a, Result<()>> {
        self.answered(self.objects.extend(taken))
    }

    fn settle<'a>(&'a self, taken: &'a TakenToken, how: Settlement) -> BoxFuture<'a, Result<()>> {
        self.answered(self.objects.settle(taken, how))
    }

    fn spent<'a>(&'a self, queue: &'a Name, most: usize) -> BoxFuture<'a, Result<Vec<Taken>>> {
        self.ended(self.objects.spent_of(queue, most))
    }

    fn waiting<'a>(&'a self, queue: &'a Name) -> BoxFuture<'a, Result<u64>> {
        self.answered(self.objects.waiting(queue))
    }

    fn remove_queue<'a>(&'a self, queue: &'a Name) -> BoxFuture<'a, Result<()>> {
        self.answered(self.objects.remove_queue(queue))
    }

    fn get<'a>(&'a self, shelf: Shelf, name: &'a Name) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.answered(self.objects.get(Bucket::Shelf(shelf), name))
    }

    fn put<'a>(
        &'a self,
        shelf: Shelf,
        name: &'a Name,
        value: Bytes,
        condition: If,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        self.answered(async move {
            self.fits(&value)?;
            let bucket = Bucket::Shelf(shelf);
            self.objects
                .put_entry(bucket, name, &value, condition)
                .await
        })
    }

    fn remove<'a>(
        &'a self,
        shelf: Shelf,
        name: &'a Name,
        condition: If,
    ) -> BoxFuture<'a, Result<bool>> {
        self.answered(
            self.objects
                .remove_entry(Bucket::Shelf(shelf), name, condition),
        )
    }

    fn watch<'a>(
        &'a self,
        shelf: Shelf,
        below: Option<&'a Name>,
    ) -> BoxFuture<'a, Result<Box<dyn Watch>>> {
        self.answered(self.objects.watch(shelf, below))
    }

    fn acquire<'a>(
        &'a self,
        name: &'a Name,
        holder: &'a str,
    ) -> BoxFuture<'a, Result<Option<Lease>>> {
        self.answered(self.objects.acquire(name, holder))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Option<Lease>>> {
        self.answered(self.objects.renew(lease))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        self.answered(self.objects.release(lease))
    }

    fn holder<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Arc<str>>>> {
        self.answered(self.objects.holder(name))
    }

    fn put_blob<'a>(&'a self, name: &'a Name, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        self.ended(self.objects.put_blob(name, bytes, self.about.longest))
    }

    fn get_blob<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.ended(self.objects.get_blob(name))
    }

    fn remove_blob<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        self.ended(self.objects.remove_blob(name))
    }

    fn ask<'a>(
        &'a self,
        address: &'a Name,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'a, Result<Bytes>> {
        self.ended(async move {
            self.fits(&body)?;
            self.objects.ask(address, body, within).await
        })
    }

    fn listen<'a>(&'a self, address: &'a Name) -> BoxFuture<'a, Result<Box<dyn Listener>>> {
        self.answered(self.objects.listen(address))
    }
}
