//! Log lines: for people as text, for machines as JSON, always on standard error.

use std::fmt;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use wiredflow_api::logs::Recent;
use wiredflow_engine::clock::Clock;

use crate::paint::{Ink, Paint, printable, printable_lines};
use crate::screen::Screen;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Which log lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Starts logging for this process, panics included. A program that has a subscriber of its own keeps it.
/// `recent` keeps the newest lines for those who ask the flow that runs.
pub(crate) fn start(screen: &Arc<Screen>, recent: &Recent, level: LogLevel, format: LogFormat) {
    let layer = Lines {
        screen: Arc::clone(screen),
        recent: recent.clone(),
        clock: Clock::real(),
        format,
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(level.into())));
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("no message");
            let place = panic.location().map(ToString::to_string);
            tracing::error!(place, "panic: {message}");
        }));
    }
}

/// Our own words to the level that was asked for; the libraries below are heard in detail only at `trace`.
fn filter(level: LevelFilter) -> Targets {
    let others = match level {
        LevelFilter::DEBUG => LevelFilter::INFO,
        other => other,
    };
    let broker = if level == LevelFilter::TRACE {
        level
    } else {
        level.min(LevelFilter::WARN)
    };
    Targets::new()
        .with_default(others)
        .with_target("mqtt5", broker) // the broker inside the demo tells of each client
        .with_target("async_nats", broker) // each try of a connection; who uses it says what matters
        .with_target("async_nats", broker) // so does the client of NATS of each connection
        .with_target("wiredflow", level)
}

/// Writes each event as one line.
struct Lines {
    screen: Arc<Screen>,
    recent: Recent,
    clock: Clock,
    format: LogFormat,
}

/// The fields of an event or a span.
#[derive(Clone, Debug, Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().to_owned(), value);
    }

    /// Takes a field out and gives it as text.
    fn take(&mut self, name: &str) -> Option<String> {
        self.others.remove(name).map(|value| plain(&value))
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.set(field, Value::String(format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.set(field, value.into());
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.others.extend(outer.others.clone());
            }
        }
        event.record(&mut fields);
        let now = self.clock.now();
        let metadata = event.metadata();
        let word = metadata.level().as_str().to_lowercase();
        self.recent
            .push(now, &word, &fields.message, fields.others.clone());
        let line = match self.format {
            LogFormat::Text => {
                let time = now
                    .to_zoned(TimeZone::system())
                    .strftime("%F %T%.3f")
                    .to_string();
                text_line(&time, *metadata.level(), fields, self.screen.err().paint)
            }
            LogFormat::Json => json_line(
                &now.to_string(),
                *metadata.level(),
                metadata.target(),
                fields,
            ),
        };
        self.screen.tell(&line);
    }
}

/// A line that a running flow has given, as it looks here.
pub(crate) fn line_of(line: &Value, paint: Paint) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or_default();
    let time: Option<jiff::Timestamp> = text("time").parse().ok();
    let time = time.map(|time| time.to_zoned(TimeZone::system()));
    let time = time.map_or_else(String::new, |time| time.strftime("%F %T%.3f").to_string());
    let level = text("level").parse().unwrap_or(Level::INFO);
    let fields = Fields {
        message: text("message").to_owned(),
        others: line["fields"].as_object().cloned().unwrap_or_default(),
    };
    text_line(&time, level, fields, paint)
}

/// `time LEVEL pipeline/stage key=value … message`. A message of several lines keeps them, each marked, so
/// that what comes from outside cannot look like a log line of ours.
fn text_line(time: &str, level: Level, mut fields: Fields, paint: Paint) -> String {
    let ink = match level {
        Level::ERROR => Some(Ink::Red),
        Level::WARN => Some(Ink::Yellow),
        Level::INFO => Some(Ink::Green),
        _ => None,
    };
    let level = format!("{level:<5}");
    let level = ink.map_or(level.clone(), |ink| paint.with(ink, &level));
    let place: Vec<String> = ["pipeline", "stage"]
        .into_iter()
        .filter_map(|name| fields.take(name))
        .collect();
    let mut line = format!("{} {level}", paint.with(Ink::Dim, time));
    if !place.is_empty() {
        line.push(' ');
        line.push_str(&paint.with(Ink::Cyan, &printable(&place.join("/"))));
    }
    for (name, value) in &fields.others {
        line.push(' ');
        line.push_str(&paint.with(Ink::Dim, &format!("{name}={}", shown(value))));
    }
    line.push(' ');
    line.push_str(&printable_lines(&fields.message, "    | "));
    line.push('\n');
    line
}

fn json_line(time: &str, level: Level, target: &str, fields: Fields) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), time.into());
    object.insert("level".to_owned(), level.as_str().to_lowercase().into());
    object.insert("target".to_owned(), target.into());
    object.insert("message".to_owned(), fields.message.into());
    for (mut name, value) in fields.others {
        while object.contains_key(&name) {
            name.push('_');
        }
        object.insert(name, value);
    }
    let mut line = Value::Object(object).to_string();
    line.push('\n');
    line
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A field's value on one line, in quotes where it would run into what follows.
fn shown(value: &Value) -> String {
    let text = plain(value);
    let text = printable(&text);
    if text.is_empty() || text.contains([' ', '"', '=']) {
        format!("\"{}\"", text.replace('"', "\\\""))
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(message: &str, others: &[(&str, &str)]) -> Fields {
        let others = others
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()));
        Fields {
            message: message.to_owned(),
            others: others.collect(),
        }
    }

    #[test]
    fn h8_a_text_line_names_its_place_first_and_cannot_be_forged() {
        let given = [
            ("cause", "a b\n"),
            ("stage", "fetch\x1b[2J"),
            ("pipeline", "numbers"),
        ];
        let message = "refused: x\n2026-11-22 10:00:00.000 ERROR forged\x1b[31m";
        assert_eq!(
            text_line(
                "2026-11-22 10:04:05.123",
                Level::WARN,
                fields(message, &given),
                Paint::Plain
            ),
            "2026-11-22 10:04:05.123 WARN  numbers/fetch\\u{1b}[2J cause=\"a b\\n\" refused: x\n    | \
             2026-11-22 10:00:00.000 ERROR forged\\u{1b}[31m\n"
        );
    }

    #[test]
    fn h8_a_json_line_is_one_line_whatever_it_says() {
        let line = json_line(
            "2026-11-22T10:04:05Z",
            Level::INFO,
            "wiredflow",
            fields("a\nb\x1b", &[("level", "x"), ("pipeline", "p\"")]),
        );
        assert_eq!(line.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["message"], "a\nb\x1b");
        assert_eq!(
            (&read["level"], &read["level_"]),
            (&"info".into(), &"x".into())
        );
        assert_eq!(read["pipeline"], "p\"");
        assert!(!line.contains('\x1b'));
    }
}
