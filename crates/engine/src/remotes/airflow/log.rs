//! What the log of a task tells of its failure.

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
