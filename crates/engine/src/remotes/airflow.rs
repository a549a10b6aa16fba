//! `airflow`: a DAG of Apache Airflow does the work of a stage, a run of it for each call.
//!
//! The REST API is that of Airflow 3 (`/api/v2`) or 2 (`/api/v1`). A run has the call's name, so that one that was started
//! though its answer was lost is found again (409).

mod api;
mod log;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode};
use wiredflow_core::charge::Activity;
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::{BoxFuture, Cx};
use wiredflow_core::{Batch, Error, Result, Value, config, words};

use super::{Caller, CallerKind, Order};
use crate::catalogue::CheckCx;
use crate::clock::Clock;
use crate::http::{HttpClient, Request, Target};
use crate::resources::Resources;
use crate::tasks::Tasks;
use crate::tls::{TlsKeys, warn_if_insecure};

/// The longest answer, in bytes.
const MOST: usize = wiredflow_core::frame::FRAME_LIMIT;

words! {
    /// The version of Airflow's API.
    pub enum Version {
        /// Airflow 3.
        V2 = "v2",
        /// Airflow 2.
        V1 = "v1",
    }
}

config! {
    /// How to log in to Airflow.
    pub struct AirflowAuth {
        /// The user's name.
        username: Secret,
        /// The password.
        password: Secret,
    }
}

config! {
    /// A DAG of Apache Airflow: each call starts a run of it, with the call as `conf`, and what its task returns is what
    /// the stage made.
    pub struct AirflowConfig {
        /// The address of Airflow, such as `http://airflow:8080`.
        url: String,
        /// The DAG.
        dag: String,
        /// The task whose return value is taken; left out, that of the task which ended last.
        task: Option<String>,
        /// How to log in: `{username, password}`.
        auth: AirflowAuth,
        /// The version of its API: `v2` is that of Airflow 3, `v1` that of Airflow 2.
        api: Version = "v2",
        /// Certificates: `{ca, cert, key}`; `{insecure: true}` takes any, for a trial.
        tls: Option<TlsKeys>,
        /// How often a run is asked how far it is.
        poll: Duration = "2s",
        /// How long a run may wait for its start.
        queued: Duration = "10m",
        /// Calls at once, of all stages together.
        slots: usize = "4",
    }
}

/// See [`AirflowConfig`].
#[derive(Debug)]
pub(crate) struct Airflow(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: HttpClient,
    /// A request to its root, without a login.
    root: Request,
    config: AirflowConfig,
    /// What it is asked with, once it was given.
    login: Mutex<Option<HeaderValue>>,
    clock: Clock,
    tasks: Tasks,
}

impl CallerKind for Airflow {
    const NAME: &'static str = "airflow";
    const EXAMPLE: &'static str = r#"airflow: {url: "http://airflow:8080", dag: heavy_scoring, auth: {username: u, password: "${env:AIRFLOW:-none}"}}"#;
    type Config = AirflowConfig;

    fn check(config: &AirflowConfig, node: &Node, cx: &mut CheckCx<'_>) {
        target(config).check(node, cx);
        let plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        for (key, name) in [("dag", Some(&config.dag)), ("task", config.task.as_ref())] {
            if let Some(name) = name.filter(|name| !plain(name)) {
                let span = node.entry(key).map_or(node.span, |entry| entry.value.span);
                let message = format!("`{}` cannot be the id of a {key}", name.escape_debug());
                cx.reading.error(span, message);
            }
        }
    }

    fn slots(config: &AirflowConfig) -> usize {
        config.slots
    }

    fn open(config: &AirflowConfig, resources: &Resources) -> Result<Self> {
        let tls = config.tls.as_ref();
        let client = resources
            .http
            .open(tls, &resources.folder, &resources.clock)?;
        warn_if_insecure(tls, resources);
        Ok(Self(Arc::new(Inner {
            client,
            root: target(config).parts()?.request(Method::GET),
            config: config.clone(),
            login: Mutex::default(),
            clock: resources.clock.clone(),
            tasks: resources.tasks.clone(),
        })))
    }
}

fn target(config: &AirflowConfig) -> Target<'_> {
    Target::plain(&config.url, config.tls.as_ref())
}

impl Caller for Airflow {
    fn call<'a>(&'a self, order: Order<'a>) -> BoxFuture<'a, Result<Batch>> {
        Box::pin(self.have_done(order))
    }

    fn look<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let dag = &self.0.config.dag;
            let found = self
                .0
                .ask(Method::GET, &format!("dags/{dag}"), None, &[], cx)
                .await?;
            Ok(match found["is_paused"].as_bool() {
                Some(true) => {
                    format!("Airflow answers; the DAG `{dag}` is paused, and its runs will wait")
                }
                _ => format!("Airflow answers, and has the DAG `{dag}`; it was not run"),
            })
        })
    }
}

impl Airflow {
    async fn have_done(&self, order: Order<'_>) -> Result<Batch> {
        let inner = &self.0;
        let dag = &inner.config.dag;
        let mut run = serde_json::json!({"dag_run_id": order.id, "conf": order.document()});
        if inner.config.api == Version::V2 {
            run["logical_date"] = Value::Null;
        }
        let runs = format!("dags/{dag}/dagRuns");
        // 409: it was started by an attempt whose answer was lost.
        inner
            .ask(
                Method::POST,
                &runs,
                Some(&run),
                &[StatusCode::CONFLICT],
                order.cx,
            )
            .await?;
        let place = format!("{runs}/{}", order.id);
        let mut ends = Ends {
            airflow: Arc::clone(inner),
            place: place.clone(),
            cx: order.cx.clone(),
            is_over: false,
        };
        let ended = inner.follow(&place, order.cx).await;
        ends.is_over = match &ended {
            Ok(end) => *end != End::StillQueued,
            // A run of which nothing is known goes on: the next attempt asks for the same.
            Err(_) => true,
        };
        match ended.map_err(Error::as_sent)? {
            End::Success => {
                let made = inner.result(&place, order.cx).await;
                made.map_err(Error::as_sent)
            }
            End::Failed => Err(inner.failure(&place, order.cx).await),
            End::StillQueued => Err(Error::data(format!(
                "the run is still queued after {}: does Airflow's scheduler run, and is the DAG not paused?",
                wiredflow_core::units::format_duration(inner.config.queued)
            ))),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Success,
    Failed,
    /// It has not started in time.
    StillQueued,
}

impl Inner {
    /// Waits until a run has ended.
    async fn follow(&self, place: &str, cx: &Cx) -> Result<End> {
        let begun = self.clock.monotonic();
        let (mut has_started, mut heard) = (false, log::Heard::default());
        loop {
            cx.spend(Activity::External, self.clock.sleep(self.config.poll))
                .await;
            let run = self.ask(Method::GET, place, None, &[], cx).await?;
            let state = run["state"].as_str();
            if matches!(state, Some("running" | "success" | "failed")) {
                self.pass_on_logs(place, &mut heard, cx).await;
            }
            match state {
                Some("success") => return Ok(End::Success),
                Some("failed") => return Ok(End::Failed),
                Some("running") => has_started = true,
                // Also of a state that no version so far has.
                _ if !has_started && self.clock.monotonic() - begun > self.config.queued => {
                    return Ok(End::StillQueued);
                }
                _ => {}
            }
        }
    }

    /// Logs what the tasks' own code has said since the last look. What cannot be read is read the next time.
    async fn pass_on_logs(&self, place: &str, heard: &mut log::Heard, cx: &Cx) {
        if self.config.api == Version::V1 {
            return;
        }
        let (pipeline, stage) = (&*cx.pipeline, &*cx.stage);
        for task in self.tasks_of(place, cx).await.unwrap_or_default() {
            let (Some(name), Some(attempt)) =
                (task["task_id"].as_str(), task["try_number"].as_u64())
            else {
                continue;
            };
            let Ok(log) = self.log_of(place, name, attempt, cx).await else {
                continue;
            };
            for log::Line { level, text } in heard.news((name, attempt), &log["content"]) {
                match level.as_str() {
                    "warning" => tracing::warn!(pipeline, stage, "{text}"),
                    "error" | "critical" => tracing::error!(pipeline, stage, "{text}"),
                    "debug" => tracing::debug!(pipeline, stage, "{text}"),
                    _ => tracing::info!(pipeline, stage, "{text}"),
                }
            }
        }
    }

    async fn log_of(&self, place: &str, task: &str, attempt: u64, cx: &Cx) -> Result<Value> {
        let log = format!("{place}/taskInstances/{task}/logs/{attempt}");
        self.ask(Method::GET, &log, None, &[StatusCode::NOT_FOUND], cx)
            .await
    }

    /// What the task returned.
    async fn result(&self, place: &str, cx: &Cx) -> Result<Batch> {
        let task = match &self.config.task {
            Some(task) => task.clone(),
            None => {
                let tasks = self.tasks_of(place, cx).await?;
                let last = tasks
                    .iter()
                    .max_by_key(|task| task["end_date"].as_str().unwrap_or_default().to_owned());
                let name = last.and_then(|task| task["task_id"].as_str());
                name.ok_or_else(|| {
                    Error::data("the run has no task that could have returned something")
                })?
                .to_owned()
            }
        };
        let entry = format!("{place}/taskInstances/{task}/xcomEntries/return_value");
        let found = self
            .ask(Method::GET, &entry, None, &[StatusCode::NOT_FOUND], cx)
            .await?;
        Ok(match found.get("value").cloned() {
            // Airflow 2 gives the text of what Python would print, or JSON.
            Some(Value::String(text)) if self.config.api == Version::V1 => {
                Batch::of_document(serde_json::from_str(&text).unwrap_or(Value::String(text)))
            }
            Some(value) => Batch::of_document(value),
            None => Batch::default(),
        })
    }

    async fn tasks_of(&self, place: &str, cx: &Cx) -> Result<Vec<Value>> {
        let mut tasks = self
            .ask(
                Method::GET,
                &format!("{place}/taskInstances"),
                None,
                &[],
                cx,
            )
            .await?;
        match tasks["task_instances"].take() {
            Value::Array(tasks) => Ok(tasks),
            _ => Ok(Vec::new()),
        }
    }

    /// A run that has failed, with the end of its task's log.
    async fn failure(&self, place: &str, cx: &Cx) -> Error {
        let tasks = self.tasks_of(place, cx).await.unwrap_or_default();
        let failed = tasks.iter().find(|task| task["state"] == "failed");
        let Some((task, name)) = failed.and_then(|task| Some((task, task["task_id"].as_str()?)))
        else {
            return Error::data(format!(
                "the run of the DAG `{}` has failed",
                self.config.dag
            ));
        };
        let error = Error::data(format!(
            "the task `{name}` of the DAG `{}` has failed",
            self.config.dag
        ));
        let attempt = task["try_number"].as_u64().unwrap_or(1);
        let Ok(log) = self.log_of(place, name, attempt, cx).await else {
            return error;
        };
        let told = log::read(&log["content"]);
        let error = match told.exception {
            Some(exception) => Error::data(format!("{}: {exception}", error.message())),
            None => error,
        };
        match told.lines.is_empty() {
            true => error,
            false => error.with_trace(told.lines.join("\n")),
        }
    }
}

/// Ends a run that nobody waits for any more.
struct Ends {
    airflow: Arc<Inner>,
    place: String,
    cx: Cx,
    is_over: bool,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.is_over || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (airflow, place) = (Arc::clone(&self.airflow), std::mem::take(&mut self.place));
        let tasks = airflow.tasks.clone();
        let cx = self.cx.clone();
        tasks.farewell(async move {
            let failed = serde_json::json!({"state": "failed"});
            // One that cannot be told goes on for nobody.
            drop(
                airflow
                    .ask(Method::PATCH, &place, Some(&failed), &[], &cx)
                    .await,
            );
        });
    }
}
