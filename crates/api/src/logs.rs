//! The newest log lines, kept in memory for those who ask.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::answer::{Answer, ok};
use crate::question::Question;

/// How many lines are kept, and how many bytes of text.
const KEPT: (usize, usize) = (1000, 1 << 20);

/// The longest message that is kept whole.
const LONGEST: usize = 8 * 1024;

/// One log line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Counts up from 1.
    pub number: u64,
    /// When.
    pub time: Timestamp,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// What it says; secrets are taken out.
    pub message: String,
    /// What it says it of: `pipeline`, `stage` and others.
    pub fields: Map<String, Value>,
}

impl Line {
    fn size(&self) -> usize {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| name.len() + value.as_str().map_or(8, str::len));
        self.message.len() + fields.sum::<usize>()
    }

    fn is_of(&self, pipeline: &str) -> bool {
        self.fields.get("pipeline").and_then(Value::as_str) == Some(pipeline)
    }
}

/// The newest lines. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    newest: u64,
}

impl Recent {
    /// Keeps a line; the oldest give way.
    pub fn push(&self, time: Timestamp, level: &str, message: &str, fields: Map<String, Value>) {
        let mut ring = self.ring();
        ring.newest += 1;
        let mut end = message.len().min(LONGEST);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let mut message = message[..end].to_owned();
        if end == LONGEST {
            message.push('…');
        }
        let line = Line {
            number: ring.newest,
            time,
            level: level.to_owned(),
            message,
            fields,
        };
        ring.bytes += line.size();
        ring.lines.push_back(line);
        while ring.lines.len() > KEPT.0 || ring.bytes > KEPT.1 {
            let Some(oldest) = ring.lines.pop_front() else {
                return;
            };
            ring.bytes -= oldest.size();
        }
    }

    /// The newest `limit` lines after number `after`, oldest first: of one pipeline, or all.
    pub fn after(&self, after: u64, pipeline: Option<&str>, limit: usize) -> Vec<Line> {
        let ring = self.ring();
        let newest = ring.lines.iter().rev();
        let wanted = newest
            .take_while(|line| line.number > after)
            .filter(|line| pipeline.is_none_or(|pipeline| line.is_of(pipeline)));
        let mut lines: Vec<Line> = wanted.take(limit).cloned().collect();
        lines.reverse();
        lines
    }

    fn newest(&self) -> u64 {
        self.ring().newest
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /api/v1/logs`.
pub(crate) async fn show(question: Question) -> Result<Answer, Answer> {
    let live = question.live()?;
    let pipeline = question.pipeline(&live)?;
    let after = question.number("after", 0, (0, u64::MAX >> 11))?;
    let limit = question.number("limit", 100, (1, KEPT.0 as u64))?;
    let logs = &question.desk.logs;
    // Before the lines: one that comes in between is found by the next look.
    let newest = logs.newest();
    let limit = usize::try_from(limit).unwrap_or(KEPT.0);
    let mut lines = logs.after(after, pipeline, limit);
    // What the log says is free of secrets by its own care; here it is looked at once more.
    let scrubber = &live.plan.scrubber;
    for line in &mut lines {
        line.message = scrubber.scrub(&line.message);
        for value in line.fields.values_mut() {
            if let Value::String(text) = value {
                *text = scrubber.scrub(text);
            }
        }
    }
    let newest = lines.last().map_or(newest, |line| line.number.max(newest));
    Ok(ok(&json!({ "logs": lines, "newest": newest })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_within_their_number_and_their_bytes() {
        let recent = Recent::default();
        let push = |message: &str, pipeline: &str| {
            let fields = json!({ "pipeline": pipeline }).as_object().cloned();
            recent.push(Timestamp::UNIX_EPOCH, "info", message, fields.unwrap());
        };
        for number in 0..3000 {
            push(
                &format!("line {number}"),
                if number % 2 == 0 { "even" } else { "odd" },
            );
        }
        let all = recent.after(0, None, usize::MAX);
        assert_eq!(
            (all.len(), all[0].number, all[999].number),
            (1000, 2001, 3000)
        );
        let even = recent.after(2990, Some("even"), 3);
        let numbers: Vec<u64> = even.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [2995, 2997, 2999]);
        for _ in 0..3000 {
            push(&"ö".repeat(LONGEST), "big");
        }
        let bytes: usize = recent
            .after(0, None, usize::MAX)
            .iter()
            .map(Line::size)
            .sum();
        assert!(bytes <= KEPT.1, "{bytes}");
        assert_eq!(recent.ring().bytes, bytes);
    }
}
