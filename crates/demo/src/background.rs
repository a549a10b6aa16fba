//! A thread with a small runtime of its own that runs one peer until it is told to stop.

use std::{future::Future, pin::Pin, sync::mpsc, thread, time::Duration};

use tokio::{runtime, sync::watch, time};

use crate::{Error, Result};

/// How long a peer may take to end what it is doing once it is told to stop.
const GRACE: Duration = Duration::from_millis(500);

/// One running peer. Dropping it stops the peer and waits for its thread, for `GRACE` and a moment at most.
#[derive(Debug)]
pub(crate) struct Background {
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The word to stop, as the peer hears it.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

/// What a peer does once it is set up: serves, until it has heard `Stop`.
pub(crate) type Serve = Pin<Box<dyn Future<Output = ()>>>;

impl Background {
    /// Starts a thread that sets the peer up and then serves. Returns what the set-up gave, or its error, when the
    /// set-up is done.
    pub(crate) fn start<T, F>(
        peer: &'static str,
        set_up: impl FnOnce(Stop) -> F + Send + 'static,
    ) -> Result<(Self, T)>
    where
        T: Send + 'static,
        F: Future<Output = Result<(T, Serve)>>,
    {
        let (stop, heard) = watch::channel(false);
        let (started, ready) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(peer.to_owned())
            .spawn(move || live(peer, &started, Stop(heard), set_up))
            .map_err(|error| Error::NotStarted {
                peer,
                reason: error.to_string(),
            })?;
        let background = Self {
            stop,
            thread: Some(thread),
        };
        match ready.recv() {
            Ok(outcome) => outcome.map(|value| (background, value)),
            Err(_) => Err(Error::NotStarted {
                peer,
                reason: "its thread ended".to_owned(),
            }),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a peer's thread ended in a panic");
        }
    }
}

impl Stop {
    /// Waits for the word to stop, or for the end of whoever would say it.
    pub(crate) async fn heard(mut self) {
        drop(self.0.wait_for(|stop| *stop).await);
    }
}

/// The life of the peer's thread.
fn live<T, F>(
    peer: &'static str,
    started: &mpsc::SyncSender<Result<T>>,
    stop: Stop,
    set_up: impl FnOnce(Stop) -> F,
) where
    F: Future<Output = Result<(T, Serve)>>,
{
    let tell = |outcome| drop(started.send(outcome)); // the caller waits for exactly this
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return tell(Err(Error::NotStarted {
                peer,
                reason: error.to_string(),
            }));
        }
    };
    runtime.block_on(async {
        match set_up(stop.clone()).await {
            Err(error) => tell(Err(error)),
            Ok((value, serve)) => {
                tell(Ok(value));
                tokio::select! {
                    () = serve => {}
                    () = async { stop.heard().await; time::sleep(GRACE).await } => {
                        tracing::debug!(peer, "did not end in time and is cut off");
                    }
                }
            }
        }
    });
    runtime.shutdown_background();
}
