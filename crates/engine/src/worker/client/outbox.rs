//! The way out to a worker: a call is written by its caller where the stream takes it at once, which spares the way to
//! another task; the writer's task does all the rest.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};

use super::{Loss, Shared};

/// The stream to one worker.
pub(super) struct Outbox {
    sink: Mutex<Sink>,
    /// Whether a frame waits for the writer's task, or may do so in a moment: no other may overtake it.
    behind: AtomicBool,
}

struct Sink {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    /// What must be written before anything else: the end of a frame whose beginning the stream has taken.
    rest: Vec<u8>,
}

impl Outbox {
    /// Over a stream, on which `first` comes first.
    pub(super) fn new(stream: impl AsyncWrite + Send + Unpin + 'static, first: Vec<u8>) -> Self {
        Self {
            sink: Mutex::new(Sink {
                stream: Box::new(stream),
                rest: first,
            }),
            behind: AtomicBool::new(true),
        }
    }

    /// Writes a frame if that is possible without waiting. What it gives back is for the place in the queue of the
    /// writer's task that the caller holds already: the frame, or nothing but a word that there is a rest.
    pub(super) fn try_write(&self, frame: Vec<u8>, shared: &Shared) -> Option<Vec<u8>> {
        let left = match self.sink.try_lock() {
            Ok(mut sink) if !self.behind.load(Ordering::SeqCst) => sink.try_write(frame, shared),
            _ => Some(frame),
        };
        if left.is_some() {
            self.behind.store(true, Ordering::SeqCst);
        }
        left
    }

    /// Writes what is in the queue until the client is dropped. An error is no news: the reader sees the end too.
    pub(super) async fn work_off(&self, mut queue: mpsc::Receiver<Vec<u8>>, shared: &Shared) {
        let mut next = Some(Vec::new());
        while let Some(frame) = next {
            let mut sink = self.sink.lock().await;
            if let Err(error) = sink.write(&frame).await {
                return shared.lose(gone(&error));
            }
            // In this order: who has taken a place and missed the lock says so himself after this, or is seen here.
            self.behind.swap(false, Ordering::SeqCst);
            if queue.capacity() < queue.max_capacity() {
                self.behind.store(true, Ordering::SeqCst);
            }
            drop(sink);
            next = queue.recv().await;
        }
    }
}

impl Sink {
    fn try_write(&mut self, frame: Vec<u8>, shared: &Shared) -> Option<Vec<u8>> {
        match self.stream.write(&frame).now_or_never() {
            None | Some(Ok(0)) => Some(frame),
            Some(Ok(written)) => {
                self.rest.extend_from_slice(&frame[written..]);
                let flushed = matches!(self.stream.flush().now_or_never(), Some(Ok(())));
                (!self.rest.is_empty() || !flushed).then(Vec::new)
            }
            Some(Err(error)) => {
                shared.lose(gone(&error));
                None
            }
        }
    }

    async fn write(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        self.stream.write_all(&rest).await?;
        self.stream.write_all(frame).await?;
        self.stream.flush().await
    }
}

fn gone(error: &std::io::Error) -> Loss {
    Loss::Gone(format!("it takes no frames: {error}"))
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
