//! What every engine that carries work between processes must keep: each promise of `wiredflow_core::engine`, as a check.
//!
//! A check wants two engines of one place, as two processes have them. Those of one part run beside each other, each with
//! names of its own, for some wait until a lease has run out.

mod blobs;
mod leases;
mod questions;
mod queues;
mod shelves;
mod spent;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use wiredflow_core::{
    Error, ErrorKind,
    engine::{Engine, Name},
};

/// How long anything may take that should be there at once, on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(10);

/// Two engines of one place.
#[derive(Debug, Clone)]
pub struct EngineSuite {
    one: Arc<dyn Engine>,
    two: Arc<dyn Engine>,
}

impl EngineSuite {
    /// Has two engines made.
    pub async fn new(connect: impl AsyncFn() -> Arc<dyn Engine>) -> Self {
        Self {
            one: connect().await,
            two: connect().await,
        }
    }

    /// Queues: publishing, pulling, settling.
    pub async fn check_queues(&self) {
        queues::check(self).await;
    }

    /// What is given too often.
    pub async fn check_spent(&self) {
        spent::check(self).await;
    }

    /// Shelves: conditions, watching, presence.
    pub async fn check_shelves(&self) {
        shelves::check(self).await;
    }

    /// Leases: one holder, take-over, fences.
    pub async fn check_leases(&self) {
        leases::check(self).await;
    }

    /// Blobs, whole or not at all.
    pub async fn check_blobs(&self) {
        blobs::check(self).await;
    }

    /// Questions and answers.
    pub async fn check_questions(&self) {
        questions::check(self).await;
    }
}

/// A name that no other check has, also where the place is not a new one.
fn fresh(word: &str) -> Name {
    static COUNT: AtomicUsize = AtomicUsize::new(0);

    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let own = format!("{word}-{}-{count}", std::process::id());
    Name::new(["suite", &own]).unwrap()
}

/// Waits until something is there.
#[track_caller]
fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    until_within(what, SOON, look)
}

async fn until_within<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            begun.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[track_caller]
fn check_kind<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error
}
