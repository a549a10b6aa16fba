//! What is logged at the far end, said to the host: under the name of the stage it stands in the flow's own log.

use std::fmt;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use wiredflow_core::frame::{self, Frame, Level, Log};

/// The longest line, in bytes.
const LINE: usize = 4 << 10;

/// Turns log lines of this process into frames.
struct Voice {
    frames: mpsc::Sender<Vec<u8>>,
}

/// Says what this process logs from now on, until its end, to the host. What a full queue has no room for is left out.
pub(crate) fn speak(frames: mpsc::Sender<Vec<u8>>) {
    let voice = Voice { frames }.with_filter(LevelFilter::INFO);
    // One process serves one host, and nobody else has set one.
    drop(tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(voice),
    ));
}

impl<S: Subscriber> Layer<S> for Voice {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
        };
        say(&self.frames, level, message.0);
    }
}

/// Says what is printed, line by line, to its end; a line that is too long is cut.
pub(crate) async fn pass_on(prints: pipe::Receiver, frames: mpsc::Sender<Vec<u8>>) {
    let mut prints = BufReader::new(prints);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut prints).take(LINE as u64);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                say(&frames, Level::Info, text.trim_end().to_owned());
            }
        }
    }
}

/// One line for the host's log.
pub(crate) fn say(frames: &mpsc::Sender<Vec<u8>>, level: Level, mut message: String) {
    if message.len() > LINE {
        message.truncate(message.floor_char_boundary(LINE));
    }
    let log = Frame::Log(Log {
        level,
        message,
        id: None,
    });
    if let Ok(bytes) = frame::encode(&log, usize::MAX) {
        drop(frames.try_send(bytes));
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
