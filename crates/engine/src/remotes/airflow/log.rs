//! What the log of a task tells: of its failure, and of what its own code says while it runs.

use std::collections::HashMap;

use wiredflow_core::Value;

/// How many lines are told.
const LINES: usize = 40;

/// The end of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The exception, as Python would print its last line.
    pub(super) exception: Option<String>,
    /// The last lines.
    pub(super) lines: Vec<String>,
}

/// Reads the `content` of an answer: entries in Airflow 3, one text in Airflow 2.
pub(super) fn read(content: &Value) -> Told {
    let mut told = Told::default();
    match content {
        Value::String(text) => told.lines.extend(text.lines().map(str::to_owned)),
        Value::Array(entries) => {
            for entry in entries {
                let event = entry["event"].as_str().unwrap_or_default();
                // Marks by which Airflow's page folds lines.
                if !event.starts_with("::") {
                    told.lines.push(event.to_owned());
                }
                for error in entry["error_detail"].as_array().into_iter().flatten() {
                    told.lines.extend(traceback(error));
                    told.exception = told.lines.last().cloned();
                }
            }
        }
        _ => {}
    }
    let surplus = told.lines.len().saturating_sub(LINES);
    told.lines.drain(..surplus);
    told
}

/// How many lines of one look are passed on.
const AT_ONCE: usize = 100;

/// A line that a task's own code has printed or logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// `warning`, `error` or `critical`; anything else is told as it comes.
    pub(super) level: String,
    /// What it says.
    pub(super) text: String,
}

/// How many entries of each task's log were passed on.
#[derive(Debug, Default)]
pub(super) struct Heard(HashMap<(String, u64), usize>);

impl Heard {
    /// The lines of the task's own code that were not there before, from the `content` of an answer. The log of another
    /// attempt is another log.
    ///
    /// Only entries say who speaks: of the one text that Airflow 2 answers with there are none.
    pub(super) fn news(&mut self, (task, attempt): (&str, u64), content: &Value) -> Vec<Line> {
        let Some(entries) = content.as_array() else {
            return Vec::new();
        };
        let heard = self.0.entry((task.to_owned(), attempt)).or_default();
        let fresh = entries.get(*heard..).unwrap_or_default();
        *heard = entries.len().max(*heard);
        let mut lines: Vec<Line> = fresh.iter().filter_map(own).collect();
        let surplus = lines.len().saturating_sub(AT_ONCE);
        if surplus > 0 {
            lines.truncate(AT_ONCE);
            lines.push(Line {
                level: String::new(),
                text: format!("{surplus} lines more are in Airflow's log"),
            });
        }
        lines
    }
}

/// What an entry says, if it is not Airflow itself who speaks.
fn own(entry: &Value) -> Option<Line> {
    let speaker = entry["logger"].as_str()?;
    let (text, level) = (entry["event"].as_str()?, entry["level"].as_str());
    if speaker == "task" || speaker.starts_with("airflow.") || text.starts_with("::") {
        return None;
    }
    Some(Line {
        level: level.unwrap_or_default().to_owned(),
        text: text.to_owned(),
    })
}

/// An exception in Python's words, without the frames that are Airflow's own.
fn traceback(error: &Value) -> Vec<String> {
    let frames = error["frames"].as_array().into_iter().flatten();
    let own = frames.filter(|frame| {
        let file = frame["filename"].as_str().unwrap_or_default();
        !file.contains("/site-packages/airflow/")
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines: Vec<String> = own
        .map(|frame| {
            let (file, name) = (text(&frame["filename"]), text(&frame["name"]));
            format!("  File \"{file}\", line {}, in {name}", frame["lineno"])
        })
        .collect();
    lines.push(format!(
        "{}: {}",
        text(&error["exc_type"]),
        text(&error["exc_value"])
    ));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_tasks_own_code_says_is_told_once() {
        let entry =
            |logger: &str, event: &str| json!({"logger": logger, "event": event, "level": "info"});
        let mut entries = vec![
            json!({"event": "::group::Log message source details"}),
            entry("task", "Worker startup parse complete"),
            entry("airflow.task.operators", "Done. Returned value was: 1"),
            entry("task.stdout", "at work"),
        ];
        let mut heard = Heard::default();
        let mut news = |attempt, entries: &[Value]| {
            let lines = heard.news(("score", attempt), &json!(entries));
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        assert_eq!(news(1, &entries), ["at work"]);
        assert!(news(1, &entries).is_empty());
        entries.push(entry("root", "logged"));
        assert_eq!(news(1, &entries), ["logged"]);
        assert_eq!(news(2, &entries), ["at work", "logged"]);
        // A log that has become shorter is not told again.
        assert!(news(1, &entries[..2]).is_empty() && news(1, &entries).is_empty());
        let many = vec![entry("task.stdout", "x"); 250];
        let lines = news(3, &many);
        assert_eq!(
            (lines.len(), &*lines[100]),
            (101, "150 lines more are in Airflow's log")
        );
    }

    #[test]
    fn an_exception_is_told_with_the_frames_of_the_dag() {
        let content = json!([
            {"event": "::group::Pre Execute", "level": "info"},
            {"event": "at work with 1", "logger": "task.stdout"},
            {"event": "Task failed with exception", "error_detail": [{
                "exc_type": "ValueError", "exc_value": "one is no number", "frames": [
                    {"filename": "/v/lib/python3.12/site-packages/airflow/sdk/task_runner.py", "lineno": 1579, "name": "run"},
                    {"filename": "/dags/odd.py", "lineno": 9, "name": "work"},
                ],
            }]},
            {"event": "::endgroup::"},
        ]);
        let told = read(&content);
        assert_eq!(
            told.exception.as_deref(),
            Some("ValueError: one is no number")
        );
        assert_eq!(
            told.lines,
            [
                "at work with 1",
                "Task failed with exception",
                "  File \"/dags/odd.py\", line 9, in work",
                "ValueError: one is no number"
            ]
        );
        assert_eq!(read(&json!("a\nb")).lines, ["a", "b"]);
        assert_eq!(read(&Value::Null), Told::default());
    }
}
