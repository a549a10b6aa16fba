//! `node`: this machine works for flows elsewhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wiredflow_core::ErrorKind;
use wiredflow_core::engine::Engine;
use wiredflow_core::secret::Secret;
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::engines::{Access, Engines, Login, TlsFiles};
use wiredflow_engine::pool::odd_label;
use wiredflow_engine::tasks::Tasks;
use wiredflow_far::Cache;
use wiredflow_node::{KINDS, Machine, Options, Stations, Surroundings};

use crate::exit::{Exit, Failure, Outcome};
use crate::service::{self, Signals};
use crate::tool::Tool;

/// How long is waited for an engine that is away at the start; it doubles.
const WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long what was left may take to let go.
const LAST_MOMENTS: Duration = Duration::from_secs(4);

/// Work for flows elsewhere: take calls of their stages from the queues of an engine
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A flow with `remotes: {pool: {workers: {engine: URL, labels: [gpu]}}}` and `remote: pool` at a stage has its calls done by
the nodes of that engine that have these labels. Each call runs in a process of its own; the flow's code comes by itself. What
a flow may have done here is what its stages may do: a node runs the code of everybody who may log in at the engine.

SIGTERM and ^C let it take no more, finish what runs within 10 seconds, and leave the rest to others.

Examples:
  wiredflow node --engine nats://127.0.0.1:4222
  wiredflow node --engine tls://nats.internal:4222 --credentials node.creds --label gpu --slots 2
  wiredflow node --engine nats://127.0.0.1:4222 --allow http,send"
)]
pub(crate) struct Node {
    /// The address of NATS: nats://HOST:PORT or tls://HOST:PORT; several for a cluster
    #[arg(long, value_name = "URL", required = true, value_delimiter = ',')]
    engine: Vec<String>,

    /// What this machine has, such as gpu; may be given several times
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,

    /// Calls at once; as many as there are cores when left out
    #[arg(long, value_name = "N")]
    slots: Option<usize>,

    /// The kinds of stages that it takes: core_logic, configuration, http, send; all when left out
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    allow: Vec<String>,

    /// Its name in the pool; that of the machine, and a number, when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// The file of the credentials for the engine, as `nsc` writes them
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,

    /// The user at the engine; the password is in the variable WIREDFLOW_ENGINE_PASSWORD
    #[arg(long, value_name = "USER", conflicts_with = "credentials")]
    user: Option<String>,

    /// A PEM file of the authority of the engine's certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// A PEM file of this machine's own certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The PEM file of that certificate's key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Take an engine on another machine also without TLS or a login: for a trial
    #[arg(long)]
    insecure: bool,
}

impl Node {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        if tool.global.state.is_some() {
            return Err(Failure::wrong("`--state` of a node is not built yet"));
        }
        let clock = Clock::real();
        let dice = Dice::from_system();
        let options = self.options(&clock, &dice)?;
        let access = self.access()?;
        let cache = Cache::of_user()
            .map_err(|error| Failure::failed(format!("there is no folder for code: {error}")))?;
        let runtime = service::runtime()?;
        let ended = runtime.block_on(async {
            let mut signals = Signals::listen()?;
            let engine = tokio::select! {
                engine = connect(&access, &clock) => engine?,
                () = signals.next() => return Ok(Exit::Done),
            };
            let tasks = Tasks::default();
            let shop = Stations::new(cache, clock.clone(), tasks.clone());
            let around = Surroundings {
                clock: clock.clone(),
                dice,
                tasks: tasks.clone(),
            };
            tell(&options, &*engine);
            let stop = CancellationToken::new();
            let run = wiredflow_node::run(engine, options, Arc::new(shop), around, stop.clone());
            tokio::pin!(run);
            let ended = tokio::select! {
                ended = &mut run => ended,
                () = signals.next() => {
                    stop.cancel();
                    tokio::select! {
                        ended = run => ended,
                        () = signals.next() => {
                            tasks.abort();
                            return Ok(Exit::Interrupted);
                        }
                    }
                }
            };
            tasks.abort();
            ended.map_err(|error| Failure::failed(error.message()))?;
            tracing::info!("the node has ended");
            Ok(Exit::Done)
        });
        runtime.shutdown_timeout(LAST_MOMENTS);
        ended
    }

    fn options(&self, clock: &Clock, dice: &Dice) -> Result<Options, Failure> {
        if let Some(odd) = self.labels.iter().find_map(|label| odd_label(label)) {
            return Err(Failure::wrong(odd));
        }
        for kind in &self.allow {
            if !KINDS.contains(&kind.as_str()) {
                let help = wiredflow_core::problem::possible(kind, KINDS);
                return Err(Failure::wrong(format!(
                    "`{kind}` is no kind of stage that a pool brings: {help}"
                )));
            }
        }
        if self.slots == Some(0) {
            return Err(Failure::wrong("`--slots` must be at least 1"));
        }
        let machine = Machine::own(clock);
        let own = || format!("{}-{:04x}", Machine::host_name(), dice.number() & 0xffff);
        let name = self.name.clone().unwrap_or_else(own);
        if let Err(error) = wiredflow_core::engine::Name::new([name.as_str()]) {
            return Err(Failure::wrong(error.message()));
        }
        let kinds = match self.allow.is_empty() {
            true => KINDS.map(str::to_owned).to_vec(),
            false => self.allow.clone(),
        };
        Ok(Options {
            name,
            labels: self.labels.clone(),
            kinds,
            slots: self.slots.unwrap_or(machine.cores),
            machine,
        })
    }

    fn access(&self) -> Result<Access, Failure> {
        let login = match (&self.credentials, &self.user) {
            (Some(file), _) => Some(Login::Credentials(file.clone())),
            (None, Some(user)) => {
                let password = std::env::var("WIREDFLOW_ENGINE_PASSWORD");
                let missing = |_| {
                    Failure::wrong(
                        "`--user` wants the password in the variable WIREDFLOW_ENGINE_PASSWORD",
                    )
                };
                Some(Login::Password {
                    user: user.clone(),
                    password: Secret::new(password.map_err(missing)?),
                })
            }
            (None, None) => None,
        };
        let files = TlsFiles {
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
        };
        let tls = (self.ca.is_some() || self.cert.is_some()).then_some(files);
        Ok(Access {
            urls: self.engine.clone(),
            login,
            tls,
            insecure: self.insecure,
        })
    }
}

/// Connects, and waits for an engine that is away.
async fn connect(access: &Access, clock: &Clock) -> Result<Arc<dyn Engine>, Failure> {
    let engines = Engines::default();
    let mut wait = WAIT;
    loop {
        match engines.connect(access).await {
            Ok(engine) => return Ok(engine),
            Err(error) if error.kind() == ErrorKind::Remote => {
                tracing::warn!("the engine cannot be reached: {error}; tried again in {wait:?}");
                clock.sleep(wait).await;
                wait = (2 * wait).min(LONGEST_WAIT);
            }
            Err(error) => return Err(Failure::failed(error.message())),
        }
    }
}

fn tell(options: &Options, engine: &dyn Engine) {
    let Options {
        name,
        labels,
        kinds,
        slots,
        ..
    } = options;
    let labels = match labels.is_empty() {
        true => "no labels".to_owned(),
        false => labels.join(", "),
    };
    let server = &engine.about().server;
    let kinds = kinds.join(", ");
    tracing::info!("node `{name}` at {server}: {labels}, {slots} slots, takes {kinds}");
}
