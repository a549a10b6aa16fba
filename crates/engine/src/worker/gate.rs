//! A gate in front of the log: what a worker says is logged, what floods is counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use wiredflow_core::frame::Level;

use super::WorkerHost;

/// How many lines pass between one call or output and the next.
const LINES: u32 = 1000;

/// Lets a worker's lines through to the log, so many for each call and output; a word says how many more there were.
pub(super) struct Gate {
    host: Arc<dyn WorkerHost>,
    left: AtomicU32,
    dropped: AtomicU64,
}

impl Gate {
    pub(super) fn new(host: Arc<dyn WorkerHost>) -> Self {
        Self {
            host,
            left: AtomicU32::new(LINES),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn log(&self, level: Level, message: &str) {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if taken.is_ok() {
            self.host.log(level, message);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call has begun, ended or given an output: its lines are worth reading again.
    pub(super) fn open(&self) {
        if self.left.load(Ordering::Relaxed) < LINES {
            self.left.store(LINES, Ordering::Relaxed);
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let message = format!("{dropped} more lines were not logged");
                self.host.log(Level::Warn, &message);
            }
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
