//! What the tests share: servers, and engines on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wiredflow_core::engine::{Engine, Name, QueueRules};
use wiredflow_core::{Error, ErrorKind};
use wiredflow_nats::{Access, Nats};
use wiredflow_testkit::NatsVersion;

/// How long a server or a cluster may take to be itself again.
pub(crate) const BACK: Duration = Duration::from_secs(30);

pub(crate) const RULES: QueueRules = QueueRules {
    sign_within: Duration::from_secs(2),
    attempts: 100,
    holds: 10_000,
    taken: 1000,
};

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
    connected(&access([url])).await
}

pub(crate) async fn connected(access: &Access) -> Arc<dyn Engine> {
    // A cluster that has just begun does not answer all at once.
    done(async || Nats::connect(access, "test").await).await
}

/// Why no connection is made.
pub(crate) async fn refused(access: &Access) -> Error {
    let begun = Instant::now();
    let error = Nats::connect(access, "test").await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(7), "{error}");
    error
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.split('.')).unwrap()
}

/// Does it until it is done: only an engine that is away may stand against it.
pub(crate) async fn done<T>(mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
                assert!(begun.elapsed() < BACK, "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
