//! What stands around a source or a sender: folders, resources, and the flow's part.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wiredflow_core::config::FlowConfig;
use wiredflow_core::config_reader::read_flow;
use wiredflow_core::delivery::{Delivery, Outcome, Payload, Settled, Token};
use wiredflow_core::fields::Reading;
use wiredflow_core::node::Node;
use wiredflow_core::stage::AnySource;
use wiredflow_core::storage::CommitReceipt;
use wiredflow_core::{Error, Result, yaml};
use wiredflow_engine::catalogue::CheckCx;
use wiredflow_engine::clock::Dice;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::resources::Resources;
use wiredflow_engine::senders::{AnySender, Message, SENDERS};
use wiredflow_engine::sources::SOURCES;

use crate::harness;

/// Longer than anything here should take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A flow's folders.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn resources(&self, stage: &str) -> Resources {
        Resources {
            pipeline: "numbers".into(),
            stage: stage.into(),
            dice: Dice::from_system(),
            ..harness::resources(self.folder())
        }
    }

    fn with_check<T>(
        &self,
        check: impl FnOnce(&mut CheckCx<'_>) -> Option<T>,
    ) -> Result<T, String> {
        let (checked, text) = self.checked(check);
        checked.ok_or(text)
    }

    /// What was checked, and what was said of it.
    fn checked<T>(&self, check: impl FnOnce(&mut CheckCx<'_>) -> Option<T>) -> (Option<T>, String) {
        let flow = flow();
        let mut reading = Reading::default();
        let checked = check(&mut CheckCx {
            reading: &mut reading,
            flow: &flow,
            pipeline: "numbers",
            folder: self.folder(),
            functions: &Functions::default(),
            storage_names: &[],
        });
        let failed = reading.failed();
        let mut text = String::new();
        for problem in reading.into_problems() {
            let help = problem.help.unwrap_or_default();
            writeln!(text, "{}: {} ({help})", problem.path, problem.message).unwrap();
        }
        (checked.filter(|_| !failed), text)
    }

    /// What `check` says against a source.
    pub(crate) fn source_problems(&self, config: &str) -> String {
        let prepare = SOURCES
            .iter()
            .find(|entry| entry.card.name == "mqtt")
            .unwrap()
            .prepare;
        let node = node(config);
        self.with_check(|cx| prepare(&node, cx))
            .err()
            .unwrap_or_default()
    }

    /// What `check` warns of in a source that has no problem.
    pub(crate) fn source_warnings(&self, config: &str) -> String {
        let prepare = SOURCES
            .iter()
            .find(|entry| entry.card.name == "mqtt")
            .unwrap()
            .prepare;
        let (checked, text) = self.checked(|cx| prepare(&node(config), cx));
        assert!(checked.is_some(), "{text}");
        text
    }

    /// What `check` says against a sender.
    pub(crate) fn sender_problems(&self, config: &str) -> String {
        let prepare = SENDERS
            .iter()
            .find(|entry| entry.card.name == "mqtt")
            .unwrap()
            .prepare;
        let node = node(config);
        self.with_check(|cx| prepare(&node, cx))
            .err()
            .unwrap_or_default()
    }

    /// Opens a source; `config` is the map after `mqtt:`.
    pub(crate) async fn try_source(&self, config: &str) -> Result<Flow> {
        let prepare = SOURCES
            .iter()
            .find(|entry| entry.card.name == "mqtt")
            .unwrap()
            .prepare;
        let node = node(config);
        let open = self
            .with_check(|cx| prepare(&node, cx))
            .unwrap_or_else(|problems| panic!("{problems}"));
        let opened = tokio::time::timeout(SOON, (open.0)(self.resources("mqtt")));
        Ok(Flow(
            opened.await.expect("the source opens or says why not")?,
        ))
    }

    pub(crate) async fn source(&self, config: &str) -> Flow {
        self.try_source(config).await.unwrap()
    }

    /// Opens a sender of the stage `send`.
    pub(crate) async fn try_sender(&self, config: &str) -> Result<Outgoing> {
        let prepare = SENDERS
            .iter()
            .find(|entry| entry.card.name == "mqtt")
            .unwrap()
            .prepare;
        let node = node(config);
        let open = self
            .with_check(|cx| prepare(&node, cx))
            .unwrap_or_else(|problems| panic!("{problems}"));
        let opened = tokio::time::timeout(SOON, (open.0)(self.resources("send")));
        Ok(Outgoing(
            opened.await.expect("the sender opens or says why not")?,
        ))
    }

    pub(crate) async fn sender(&self, config: &str) -> Outgoing {
        self.try_sender(config).await.unwrap()
    }
}

fn node(config: &str) -> Node {
    yaml::parse(config).unwrap()
}

fn flow() -> FlowConfig {
    let text = "name: flow\npipelines: {numbers: {once: true, stages: [{core_logic: {rust: x}}]}}";
    let mut reading = Reading::default();
    read_flow(&node(text), "flow", &mut reading).unwrap()
}

/// A message that the flow has.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) token: Token,
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// Why the source could not read it.
    pub(crate) unreadable: Option<String>,
}

impl Got {
    fn of(delivery: Delivery) -> Self {
        let (payload, unreadable) = match delivery.payload {
            Payload::Json(payload) => (payload, None),
            Payload::Unreadable { bytes, reason } => (bytes, Some(reason)),
            other => panic!("not a payload from outside: {other:?}"),
        };
        Self {
            token: delivery.token,
            topic: delivery.origin.unwrap().to_string(),
            payload,
            unreadable,
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// The flow's part: takes and settles.
pub(crate) struct Flow(pub(crate) Box<dyn AnySource>);

impl Flow {
    /// Takes exactly so many, within the usual deadline. A broker sends no more than its window
    /// (often 20) before the first are acknowledged.
    pub(crate) async fn take(&self, count: usize) -> Vec<Got> {
        let mut got = Vec::new();
        while got.len() < count {
            got.extend(self.next(got.len(), count).await);
        }
        got
    }

    /// Takes exactly so many, and commits them as they come.
    pub(crate) async fn take_and_commit(&self, count: usize) -> Vec<Got> {
        let mut got = Vec::new();
        while got.len() < count {
            let next = self.next(got.len(), count).await;
            self.commit(&next).await;
            got.extend(next);
        }
        got
    }

    async fn next(&self, have: usize, want: usize) -> Vec<Got> {
        let most = (want - have).min(256);
        let next = tokio::time::timeout(SOON, self.0.next_boxed(most)).await;
        let Ok(next) = next else {
            panic!("{have} of {want} messages came");
        };
        let next = next.unwrap();
        assert!(
            (1..=most).contains(&next.len()),
            "{} after {have} of {want}",
            next.len()
        );
        next.into_iter().map(Got::of).collect()
    }

    /// The error that the source ends with.
    pub(crate) async fn error(&self) -> Error {
        loop {
            let next = tokio::time::timeout(3 * SOON, self.0.next_boxed(100)).await;
            if let Err(error) = next.expect("the source fails in time") {
                return error;
            }
        }
    }

    pub(crate) async fn settle(&self, got: &[Got], outcome: Outcome) {
        let proof: Arc<[CommitReceipt]> = Arc::default();
        let settled = |got: &Got| Settled {
            token: got.token,
            outcome,
            proof: Arc::clone(&proof),
            reason: None,
            tally: wiredflow_core::delivery::Tally::default(),
        };
        let settled = got.iter().map(settled).collect();
        self.0.settle_boxed(settled).await.unwrap();
    }

    pub(crate) async fn commit(&self, got: &[Got]) {
        self.settle(got, Outcome::Committed).await;
    }

    /// Ends as the engine does: no more intake, then the source is dropped.
    pub(crate) async fn end(self) {
        self.0.close_boxed().await;
        assert!(self.0.next_boxed(10).await.unwrap().is_empty());
    }
}

pub(crate) fn texts(got: &[Got]) -> Vec<&str> {
    got.iter().map(Got::text).collect()
}

/// A sender and the flow's part of it.
pub(crate) struct Outgoing(Box<dyn AnySender>);

impl Outgoing {
    pub(crate) async fn send(&self, bodies: &[impl AsRef<[u8]>]) -> Result<CommitReceipt> {
        let message = |(record, body): (usize, &_)| Message {
            record: record + 10,
            body: Bytes::copy_from_slice(AsRef::<[u8]>::as_ref(body)),
            json: true,
        };
        let messages: Vec<Message> = bodies.iter().enumerate().map(message).collect();
        let (cx, _) = harness::cx(serde_json::Value::Null);
        tokio::time::timeout(SOON, self.0.send_boxed(&messages, &cx))
            .await
            .expect("the sender sends or says why not")
    }
}
