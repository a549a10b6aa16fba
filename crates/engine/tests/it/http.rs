//! The `http` stage and the HTTP senders against real sockets.

mod answers;
mod flows;
mod limits;
mod names;
mod proxy;
mod reach;
mod redirects;
mod requests;
mod senders;
mod statuses;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use wiredflow_core::{Batch, Error, Result};
use wiredflow_engine::http::{HttpClient, HttpClients, Limits};
use wiredflow_engine::resources::Resources;

use crate::harness::{Collected, cx, open_stage, resources, run};

/// Short limits, so that no test waits long for nothing to happen.
const BRIEF: Limits = Limits {
    connect: Duration::from_millis(500),
    idle: Duration::from_millis(500),
};

/// A flow's folder, and what its components may use.
struct Flow {
    resources: Resources,
    folder: TempDir,
    /// Keeps connections from one component to the next.
    _client: HttpClient,
}

impl Flow {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn brief() -> Self {
        Self::with_limits(BRIEF)
    }

    fn with_limits(limits: Limits) -> Self {
        Self::of(HttpClients::with_limits(limits))
    }

    /// With short limits, where hosts are found so.
    fn finding(
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self::of(HttpClients::with_limits(BRIEF).with_lookup(Arc::new(lookup)))
    }

    fn of(http: HttpClients) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut resources = resources(folder.path());
        resources.http = http;
        let client = resources.http.open(None, folder.path(), &resources.clock);
        Self {
            resources,
            folder,
            _client: client.unwrap(),
        }
    }

    /// Opens the stage, and asks once with these params.
    async fn ask_with(&self, stage: &str, params: Value) -> (Result<()>, Collected) {
        let stage = open_stage(stage, &self.resources).await.unwrap();
        run(&*stage, &Batch::default(), &cx(params).0).await
    }

    /// What the answer brings.
    async fn values(&self, stage: &str) -> Vec<Value> {
        self.values_with(stage, Value::Null).await
    }

    async fn values_with(&self, stage: &str, params: Value) -> Vec<Value> {
        let (result, collected) = self.ask_with(stage, params).await;
        result.unwrap();
        assert_eq!(collected.batches.len(), 1, "one answer is one batch");
        collected.values()
    }

    /// How asking fails; nothing is handed on then.
    async fn error(&self, stage: &str) -> Error {
        self.error_with(stage, Value::Null).await
    }

    async fn error_with(&self, stage: &str, params: Value) -> Error {
        let (result, collected) = self.ask_with(stage, params).await;
        assert!(collected.batches.is_empty());
        result.unwrap_err()
    }
}

/// Connects to a listener that accepts nobody, until nobody else gets through.
async fn fill_the_queue(address: std::net::SocketAddr) -> Vec<tokio::net::TcpStream> {
    let (mut queue, mut silent) = (Vec::new(), 0);
    // One that is slow on a machine with much to do is no sign of a full queue; several in a row are.
    while silent < 3 {
        let connecting = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(std::time::Duration::from_millis(300), connecting).await {
            Ok(connected) => {
                queue.push(connected.unwrap());
                silent = 0;
            }
            Err(_) => silent += 1,
        }
        assert!(queue.len() < 100, "the queue is never full");
    }
    queue
}

#[track_caller]
fn contains(error: &Error, parts: &[&str]) {
    for part in parts {
        assert!(
            error.message().contains(part),
            "{part:?} is not in {error:?}"
        );
    }
}
