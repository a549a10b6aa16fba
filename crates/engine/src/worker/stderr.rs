//! A worker's standard error: lines for the log and the last of them for error messages, whatever its size.

use std::collections::VecDeque;
use std::io::BufRead;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use wiredflow_core::frame::Level;

use super::Parting;
use super::WorkerHost;
use super::gate::Gate;

/// The longest line, in bytes; the rest of it is cut.
const LINE: usize = 4 << 10;

/// How many lines are kept for messages.
const LAST: usize = 40;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// What a worker said last on its standard error.
#[derive(Debug)]
pub(super) struct Stderr {
    last: Mutex<VecDeque<String>>,
    ended: watch::Sender<bool>,
    gate: Gate,
}

impl Stderr {
    pub(super) fn new(host: std::sync::Arc<dyn WorkerHost>) -> Self {
        Self {
            last: Mutex::default(),
            ended: watch::Sender::new(false),
            gate: Gate::new(host),
        }
    }

    /// Reads to the end; never more than a line and a chunk is in memory.
    pub(super) async fn read(&self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK];
        let mut line = Line::default();
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            let mut rest = &chunk[..count];
            while !rest.is_empty() {
                let (before, length) = (rest, rest.skip_until(b'\n').unwrap_or(rest.len()));
                match before[..length].strip_suffix(b"\n") {
                    Some(end) => {
                        line.add(end);
                        self.take(line.end());
                    }
                    None => line.add(&before[..length]),
                }
            }
        }
        if !line.bytes.is_empty() {
            self.take(line.end());
        }
        self.gate.open();
        self.ended.send_replace(true);
    }

    fn take(&self, line: String) {
        // The last words of one of our own are told by its host.
        if !line.starts_with(Parting::MARK) {
            self.gate.log(Level::Info, &line);
        }
        let mut last = self.lock();
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(line);
    }

    /// A call begins: what was said before is not about it.
    pub(super) fn begin_call(&self) {
        self.lock().clear();
        self.gate.open();
    }

    /// Waits until everything is read.
    pub(super) async fn ended(&self) {
        // The sender is ours, so that this cannot fail.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
    }

    /// The last lines, or nothing. Where Python says where it was, our own frames are left out.
    pub(super) fn last_lines(&self) -> Option<String> {
        let last = self.lock();
        let lines: Vec<&str> = last
            .iter()
            .map(String::as_str)
            .filter(|line| !line.starts_with("  File \"<"))
            .collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line that is coming in.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    cut: usize,
}

impl Line {
    fn add(&mut self, piece: &[u8]) {
        let fits = piece.len().min(LINE - self.bytes.len());
        self.bytes.extend_from_slice(&piece[..fits]);
        self.cut += piece.len() - fits;
    }

    fn end(&mut self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut > 0 {
            text.push_str(&format!(" … ({} bytes cut)", self.cut));
        }
        self.bytes.clear();
        self.cut = 0;
        text
    }
}
