//! What happens, as it happens: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast};
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, later, text, with};
use crate::desk::{Desk, Live};
use crate::question::Question;

/// How often figures are told.
const EACH: Duration = Duration::from_secs(1);

/// How many events a reader may be behind before it is let go.
pub(crate) const BEHIND: usize = 256;

/// How many readers there may be.
pub(crate) const READERS: usize = 64;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    name: &'static str,
    body: Value,
    /// What only those see who may see data.
    words: Option<String>,
}

impl Event {
    /// As it is sent. Its JSON has no line ends, so that no data can look like an event.
    fn written(&self, sees_no_payload: bool) -> String {
        let mut body = self.body.clone();
        if let Some(words) = &self.words {
            body["error"] = match sees_no_payload {
                true => Value::Null,
                false => words.as_str().into(),
            };
        }
        format!("event: {}\ndata: {body}\n\n", self.name)
    }
}

/// `GET /api/v1/events`.
pub(crate) async fn show(question: Question) -> Result<Answer, Answer> {
    let live = question.live()?;
    let Ok(place) = Arc::clone(&question.desk.listeners).try_acquire_owned() else {
        let why = "there are too many readers of events";
        return Err(later(StatusCode::SERVICE_UNAVAILABLE, 5, why));
    };
    let sees_no_payload = question.sees_no_payload();
    let events = question.desk.events.subscribe();
    // What is so now; what changes from here on is among the events.
    let mut watch = Watch::default();
    let now = watch.look(&live);
    let now: String = now
        .iter()
        .map(|event| event.written(sees_no_payload))
        .collect();
    let reader = Reader {
        events,
        closing: question.desk.closing.clone(),
        sees_no_payload,
        is_over: false,
        _place: place,
    };
    let first = stream::once(async { Ok(now) });
    let rest = stream::unfold(reader, |mut reader| async {
        let next = reader.next().await?;
        Some((Ok::<_, Infallible>(next), reader))
    });
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    let answer = text(StatusCode::OK, "text/event-stream", body);
    // Proxies hold small pieces back otherwise.
    let name = header::HeaderName::from_static("x-accel-buffering");
    Ok(with(answer, name, HeaderValue::from_static("no")))
}

struct Reader {
    events: broadcast::Receiver<Arc<Event>>,
    closing: CancellationToken,
    sees_no_payload: bool,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// The next piece; none at the end.
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        let received = tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(RecvError::Closed),
            received = self.events.recv() => received,
        };
        match received {
            Ok(event) => Some(event.written(self.sees_no_payload)),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                self.is_over = true;
                Some(format!("event: dropped\ndata: {{\"missed\":{missed}}}\n\n"))
            }
        }
    }
}

/// Tells what happens to all readers, until the API is closed.
pub(crate) async fn tell(desk: Arc<Desk>) {
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            () = desk.closing.cancelled() => return,
            () = desk.clock.sleep(EACH) => {}
        }
        let Ok(live) = desk.live() else { continue };
        if desk.events.receiver_count() == 0 {
            // What happens while nobody looks is in the first look of whoever comes.
            continue;
        }
        for event in watch.look(&live) {
            // Nobody may be left.
            drop(desk.events.send(Arc::new(event)));
        }
    }
}

/// What was seen last.
#[derive(Debug, Default)]
struct Watch {
    states: Map<String, Value>,
    errors: Map<String, Value>,
}

impl Watch {
    /// What has changed since the last look, and the figures.
    fn look(&mut self, live: &Live) -> Vec<Event> {
        let mut events = Vec::new();
        let (Some(states), Some(report)) = (live.control.pipelines(), live.control.report()) else {
            return events;
        };
        for state in states {
            let body = json!({
                "pipeline": &*state.name, "state": state.phase, "paused": state.paused.is_some(),
            });
            if self.states.get(&*state.name) != Some(&body) {
                self.states.insert(state.name.to_string(), body.clone());
                events.push(Event {
                    name: "state",
                    body,
                    words: None,
                });
            }
        }
        let mut figures = Map::new();
        for (name, pipeline) in &report.pipelines {
            if let Some(error) = &pipeline.last_error {
                let known = self.errors.insert(name.clone(), error.as_str().into());
                if known.as_ref().and_then(Value::as_str) != Some(error) {
                    events.push(Event {
                        name: "error",
                        body: json!({ "pipeline": name, "error": null }),
                        words: Some(error.clone()),
                    });
                }
            }
            let stages = report.stages.iter().filter(|stage| stage.pipeline == *name);
            let (mut errors, mut queued) = (0, 0.0);
            for stage in stages {
                errors += stage.errors;
                queued += stage.queue_before;
            }
            figures.insert(
                name.clone(),
                json!({
                    "deliveries": pipeline.deliveries,
                    "records_in": pipeline.records_in,
                    "records_out": pipeline.records_out,
                    "errors": errors,
                    "queued": queued,
                }),
            );
        }
        events.push(Event {
            name: "figures",
            body: json!({ "seconds": report.seconds, "pipelines": figures }),
            words: None,
        });
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_and_let_go() {
        let (sender, events) = broadcast::channel(BEHIND);
        let places = Arc::new(tokio::sync::Semaphore::new(1));
        let mut reader = Reader {
            events,
            closing: CancellationToken::new(),
            sees_no_payload: true,
            is_over: false,
            _place: Arc::clone(&places).try_acquire_owned().unwrap(),
        };
        let event = |number: usize| {
            Arc::new(Event {
                name: "figures",
                body: json!({ "number": number }),
                words: None,
            })
        };
        sender.send(event(0)).unwrap();
        assert!(reader.next().await.unwrap().contains("\"number\":0"));
        for number in 0..BEHIND + 7 {
            sender.send(event(number)).unwrap();
        }
        let told = reader.next().await.unwrap();
        assert_eq!(told, "event: dropped\ndata: {\"missed\":7}\n\n");
        assert_eq!(reader.next().await, None);
        drop(reader);
        assert_eq!(places.available_permits(), 1);
    }

    #[test]
    fn h7_no_data_can_look_like_an_event_and_viewers_see_no_words() {
        let event = Event {
            name: "error",
            body: json!({"pipeline": "p", "error": null}),
            words: Some("x\n\nevent: forged\ndata: {}\r\n\r\n".to_owned()),
        };
        for sees_no_payload in [false, true] {
            let written = event.written(sees_no_payload);
            assert_eq!(written.lines().count(), 3, "{written:?}");
            assert!(!written.contains('\r'));
            assert_eq!(written.contains("forged"), !sees_no_payload);
        }
    }
}
