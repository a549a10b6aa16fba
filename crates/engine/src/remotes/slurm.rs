//! `slurm`: a batch job of a Slurm cluster does the work of a stage, one for each call.
//!
//! Jobs are handed in and asked after by Slurm's REST API (`slurmrestd`); what they get and give are files in a folder that
//! this machine and the nodes share. A job has the call's name, so that one that was handed in though the answer was lost is
//! found again. Should it not be found, and be there twice, it is still done once: of jobs with one name Slurm runs one
//! after the other (`singleton`), and the later one sees the result and does nothing.

mod api;
mod files;
mod held;
mod job;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wiredflow_core::fields::{Pairs, Size};
use wiredflow_core::node::Node;
use wiredflow_core::secret::Secret;
use wiredflow_core::stage::{BoxFuture, Cx};
use wiredflow_core::{Batch, Map, Result, Value, config};

use super::{Caller, CallerKind, Order};
use crate::catalogue::CheckCx;
use crate::clock::{Clock, Dice};
use crate::http::Target;
use crate::resources::Resources;
use crate::tasks::Tasks;
use crate::tls::TlsKeys;

use api::Api;
use files::Files;
use held::Held;

/// The most calls of which it is kept what became of their last attempt.
const CALLS: usize = 4096;

/// The oldest version of the API that is known to take and give what is said here, and the first with other shapes.
const OLDEST: u32 = 36;
const NEW_SHAPES: u32 = 39;

/// Where a command is looked for, unless `env` says so: a job begins with no variables.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The properties of a job that are not the user's.
const OURS: [&str; 7] = [
    "name",
    "script",
    "dependency",
    "environment",
    "current_working_directory",
    "standard_output",
    "standard_error",
];

config! {
    /// A cluster with Slurm: each call is a batch job. Its command gets the call as JSON on standard input, and what it
    /// writes to standard output, a JSON document, is what the stage made.
    pub struct SlurmConfig {
        /// The address of Slurm's REST API, such as `http://head:6820`.
        url: String,
        /// The user whose jobs they are.
        user: String,
        /// The user's token, from `scontrol token`.
        token: Secret,
        /// The command and its arguments. It runs in `folder`.
        command: Vec<String>,
        /// A folder that this machine and the nodes share, with the same path. Calls and results are files there.
        folder: String,
        /// The partition; left out, that which Slurm takes.
        partition: Option<String>,
        /// How long a job may run, in whole minutes.
        time: Option<Duration>,
        /// The memory of a job, in whole MiB.
        memory: Option<Size>,
        /// The cores of a job.
        cpus: Option<usize>,
        /// Variables for the command.
        env: Pairs<String>,
        /// More properties of the job, as the API has them: `{account: ml, tres_per_node: "gres:gpu:1"}`.
        job: Pairs<Value>,
        /// The version of the API.
        api: String = "v0.0.38",
        /// Certificates: `{ca, cert, key}`; `{insecure: true}` takes any, for a trial.
        tls: Option<TlsKeys>,
        /// How often a job is asked how far it is.
        poll: Duration = "2s",
        /// How long a job may wait for its start.
        queued: Duration = "1h",
        /// Calls at once, of all stages together.
        slots: usize = "4",
    }
}

/// See [`SlurmConfig`].
#[derive(Debug)]
pub(crate) struct Slurm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    api: Api,
    config: SlurmConfig,
    clock: Clock,
    dice: Dice,
    tasks: Tasks,
    /// What is known of calls whose outcome is open, by their names.
    calls: Mutex<HashMap<String, Known>>,
}

/// What is known of a call.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// How many jobs were given up: the next one has another name, and is not mistaken for them.
    given_up: u32,
    /// Whether a job may be there whose number is not known.
    may_be_there: bool,
    /// Its job.
    job: Option<u64>,
}

impl CallerKind for Slurm {
    const NAME: &'static str = "slurm";
    const EXAMPLE: &'static str = r#"slurm: {url: "http://head:6820", user: ada, token: "${env:SLURM_JWT:-none}", command: [python3, score.py], folder: /shared/ada/calls}"#;
    type Config = SlurmConfig;

    fn check(config: &SlurmConfig, node: &Node, cx: &mut CheckCx<'_>) {
        target(config).check(node, cx);
        let mut wrong = |key: &str, message: &str| {
            let span = node.entry(key).map_or(node.span, |entry| entry.value.span);
            cx.reading.error(span, message);
        };
        let is_word =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_word(&config.user) {
            wrong("user", "`user` is the name of a user of the cluster");
        }
        if config
            .partition
            .as_deref()
            .is_some_and(|name| !is_word(name))
        {
            wrong("partition", "`partition` is the name of a partition");
        }
        if config.command.first().is_none_or(String::is_empty) {
            wrong("command", "`command` names a program and its arguments");
        }
        if config.command.iter().any(|word| word.contains('\0')) {
            wrong("command", "a word of a command cannot have a zero byte");
        }
        // Slurm writes other words for `%` and `\` in the names of its files.
        let odd = |letter: char| letter.is_control() || ['%', '\\'].contains(&letter);
        if !Path::new(&config.folder).is_absolute() {
            wrong(
                "folder",
                "`folder` is a path from `/` on, the same here and on the nodes",
            );
        } else if config.folder.contains(odd) {
            wrong(
                "folder",
                "`folder` cannot have `%`, `\\` or control characters",
            );
        }
        if version(&config.api).is_none_or(|version| version < OLDEST) {
            wrong(
                "api",
                "`api` is a version of the API such as `v0.0.38`; the oldest is `v0.0.36`",
            );
        }
        if config.time.is_some_and(|time| time.is_zero()) {
            wrong("time", "`time` must be longer than nothing");
        }
        if config.memory.is_some_and(|memory| memory.0 == 0) {
            wrong("memory", "`memory` must be more than nothing");
        }
        if config.cpus == Some(0) {
            wrong("cpus", "`cpus` must be at least 1");
        }
        for (name, value) in &config.env.0 {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                wrong("env", "`env` has names of variables, and their values");
            }
        }
        for (name, _) in &config.job.0 {
            if OURS.contains(&name.as_str()) {
                wrong(
                    "job",
                    &format!("`{name}` of a job is not to be set: each call has its own"),
                );
            }
        }
    }

    fn slots(config: &SlurmConfig) -> usize {
        config.slots
    }

    fn open(config: &SlurmConfig, resources: &Resources) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            api: Api::open(config, resources)?,
            config: config.clone(),
            clock: resources.clock.clone(),
            dice: resources.dice.clone(),
            tasks: resources.tasks.clone(),
            calls: Mutex::default(),
        })))
    }
}

fn target(config: &SlurmConfig) -> Target<'_> {
    Target::plain(&config.url, config.tls.as_ref())
}

/// The last number of `v0.0.N`.
fn version(text: &str) -> Option<u32> {
    let number = text.strip_prefix("v0.0.")?;
    number
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    number.parse().ok()
}

impl Caller for Slurm {
    fn call<'a>(&'a self, order: Order<'a>) -> BoxFuture<'a, Result<Batch>> {
        Box::pin(async move { Held::take(&self.0, order).have_done(order).await })
    }

    fn look<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let version = self.0.api.ping(cx).await?;
            let folder = &self.0.config.folder;
            files::try_folder(folder, self.0.dice.number()).await?;
            Ok(format!(
                "Slurm {version} answers, and {folder} can be written from here; no job was started"
            ))
        })
    }
}

impl Inner {
    fn calls(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the next attempt of a call has to know.
    fn keep(&self, id: &str, known: Known) {
        let mut calls = self.calls();
        if calls.len() >= CALLS {
            calls.clear();
        }
        calls.insert(id.to_owned(), known);
    }

    /// The job of a call, as the API takes it.
    fn job(&self, files: &Files) -> Value {
        let config = &self.config;
        let is_new = version(&config.api).is_some_and(|version| version >= NEW_SHAPES);
        let number = |number: u64| match is_new {
            true => serde_json::json!({"set": true, "infinite": false, "number": number}),
            false => Value::from(number),
        };
        let mut job: Map = config.job.0.iter().cloned().collect();
        let mut set = |key: &str, value: Value| job.insert(key.to_owned(), value);
        set("name", files.name().into());
        set("dependency", "singleton".into());
        set("current_working_directory", config.folder.as_str().into());
        set("standard_output", "/dev/null".into());
        set("standard_error", files.log().to_string_lossy().into());
        if let Some(partition) = &config.partition {
            set("partition", partition.as_str().into());
        }
        if let Some(time) = config.time {
            set("time_limit", number(time.as_secs().div_ceil(60).max(1)));
        }
        if let Some(memory) = config.memory {
            set("memory_per_node", number(memory.0.div_ceil(1 << 20)));
        }
        if let Some(cpus) = config.cpus {
            set("cpus_per_task", cpus.into());
        }
        let mut env = vec![("PATH", PATH)];
        let own = config.env.0.iter();
        env.extend(own.map(|(name, value)| (name.as_str(), value.as_str())));
        let env: Value = match is_new {
            true => env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            false => env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
                .collect::<Map>()
                .into(),
        };
        set("environment", env);
        serde_json::json!({"script": files.script(&config.command), "job": job})
    }
}
