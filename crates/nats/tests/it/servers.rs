//! What the tests share: servers, and engines on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wiredflow_core::engine::Engine;
use wiredflow_nats::{Access, Nats};
use wiredflow_testkit::NatsVersion;

/// The program of a version. A new one is installed where builds are, and found again there.
pub(crate) fn program(version: NatsVersion) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    version.program(folder).expect("nats-server can be had")
}

pub(crate) fn access(urls: impl IntoIterator<Item = String>) -> Access {
    Access {
        urls: urls.into_iter().collect(),
        ..Access::default()
    }
}

pub(crate) async fn engine(url: String) -> Arc<dyn Engine> {
    Nats::connect(&access([url]), "test").await.unwrap()
}
