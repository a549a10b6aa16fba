//! `node`: this machine takes part in a cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wiredflow_cluster::{Agent, FORMAT, Memory, NodeCard};
use wiredflow_core::ErrorKind;
use wiredflow_core::engine::{Engine, Name};
use wiredflow_deploy::{Allowed, Site};
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::engines::{Access, Engines};
use wiredflow_engine::pool::odd_label;
use wiredflow_engine::tasks::Tasks;
use wiredflow_far::Cache;
use wiredflow_node::{KINDS, Machine, Options, Stations, Surroundings};

use crate::engine::EngineArguments;
use crate::exit::{Exit, Failure, Outcome};
use crate::service::{self, Signals};
use crate::tool::Tool;

/// How long is waited for an engine that is away at the start; it doubles.
const WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long what was left may take to let go.
const LAST_MOMENTS: Duration = Duration::from_secs(4);

/// Join a cluster: run pipelines of deployed flows, and calls of stages for flows elsewhere
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`wiredflow run FILE --engine URL` brings a flow to the nodes: they share its pipelines, and go on with those of a node that is gone.
A flow with `remotes: {pool: {workers: {engine: URL, labels: [gpu]}}}` and `remote: pool` at a stage has its calls done by the nodes
that have these labels. The flow's code comes by itself; `${env:…}` in it are filled in from this process's environment. A node runs
the code of everybody who may log in at the engine; `--allow` narrows what.

SIGTERM and ^C let it take no more, hand over what others can go on with, finish what runs within 10 seconds, and leave the rest.

Examples:
  wiredflow node --engine nats://127.0.0.1:4222
  wiredflow node --engine tls://nats.internal:4222 --engine-credentials node.creds --label gpu --slots 2 --state /var/lib/wiredflow
  wiredflow node --engine nats://127.0.0.1:4222 --allow python,sql"
)]
pub(crate) struct Node {
    #[command(flatten)]
    engine: EngineArguments,

    /// What this machine has, such as gpu; may be given several times
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,

    /// Calls of stages at once, for flows elsewhere; as many as there are cores when left out
    #[arg(long, value_name = "N")]
    slots: Option<usize>,

    /// What it runs for others: code of deployed pipelines by its language (python, program, rust, sql), and stages for pools by
    /// their kind (core_logic, configuration, http, send); all when left out, else nothing that is not named
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    allow: Vec<String>,

    /// Its name in the cluster; kept in the state folder, and made of the machine's and a number when left out at first
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Node {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        if !self.engine.is_given() {
            return Err(Failure::wrong(
                "`--engine URL` is missing: the servers of NATS JetStream, like `nats://10.0.0.1:4222`",
            ));
        }
        let clock = Clock::real();
        let dice = Dice::from_system();
        let home = Home::open(tool.global.state.as_deref(), self.name.as_deref(), &dice)?;
        let options = self.options(&home.name, &clock)?;
        let allowed = self.allowed()?;
        let access = self.engine.access()?;
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
            let agent = Agent {
                card: card(&options, &clock),
                node: options.name.clone(),
                instance: format!("{}-{:016x}", options.name, around.dice.number()),
                place: self.engine.engine.join(","),
                memory: Arc::new(home.memory()),
                host: Arc::new(Site {
                    engine: Arc::clone(&engine),
                    state: home.folder.clone(),
                    functions: tool.functions(),
                    allowed,
                    clock: clock.clone(),
                    bringing: Arc::default(),
                }),
                engine: Arc::clone(&engine),
                began: clock.mark(),
                clock: clock.clone(),
            };
            let run = async {
                let pool =
                    wiredflow_node::run(engine, options, Arc::new(shop), around, stop.clone());
                let (agent, pool) = tokio::join!(agent.run(stop.clone()), pool);
                agent.and(pool)
            };
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

    fn options(&self, name: &str, clock: &Clock) -> Result<Options, Failure> {
        if let Some(odd) = self.labels.iter().find_map(|label| odd_label(label)) {
            return Err(Failure::wrong(odd));
        }
        if self.slots == Some(0) {
            return Err(Failure::wrong("`--slots` must be at least 1"));
        }
        let machine = Machine::own(clock);
        let named =
            |kind: &&&str| self.allow.is_empty() || self.allow.iter().any(|word| word == **kind);
        let kinds = KINDS
            .iter()
            .filter(named)
            .map(|kind| (*kind).to_owned())
            .collect();
        Ok(Options {
            name: name.to_owned(),
            labels: self.labels.clone(),
            kinds,
            slots: self.slots.unwrap_or(machine.cores),
            machine,
        })
    }

    fn allowed(&self) -> Result<Allowed, Failure> {
        if self.allow.is_empty() {
            return Ok(Allowed::default());
        }
        let known = || Allowed::WORDS.into_iter().chain(KINDS);
        if let Some(odd) = self
            .allow
            .iter()
            .find(|word| known().all(|known| known != *word))
        {
            let help = wiredflow_core::problem::possible(odd, known());
            return Err(Failure::wrong(format!(
                "there is no kind of code or stage `{odd}`: {help}"
            )));
        }
        let languages = self
            .allow
            .iter()
            .map(String::as_str)
            .filter(|word| Allowed::WORDS.contains(word));
        Allowed::only(languages).map_err(|error| Failure::wrong(error.message()))
    }
}

/// A node's folder.
struct Home {
    folder: PathBuf,
    name: String,
    /// Held as long as the node is there.
    _lock: File,
}

impl Home {
    /// Opens the folder, and finds the node's name there, or keeps it.
    fn open(state: Option<&Path>, name: Option<&str>, dice: &Dice) -> Result<Self, Failure> {
        let (folder, lock) = match state {
            Some(folder) => {
                let lock = lock(folder)?;
                let lock = lock.ok_or_else(|| {
                    let folder = folder.display();
                    Failure::failed(format!(
                        "another node runs in `{folder}`: give each a `--state` of its own"
                    ))
                })?;
                (folder.to_owned(), lock)
            }
            None => usual(name)?,
        };
        let cannot =
            |error: std::io::Error| Failure::failed(format!("`{}`: {error}", folder.display()));
        let file = folder.join("name");
        let known = std::fs::read_to_string(&file).ok();
        let known = known
            .as_deref()
            .map(str::trim)
            .filter(|known| !known.is_empty());
        let own = || format!("{}-{:04x}", Machine::host_name(), dice.number() & 0xffff);
        let name = match (name, known) {
            (Some(name), Some(known)) if name != known => {
                return Err(Failure::wrong(format!(
                    "the folder `{}` is that of node `{known}`: another name wants another `--state`",
                    folder.display()
                )));
            }
            (Some(name), _) => name.to_owned(),
            (None, Some(known)) => known.to_owned(),
            (None, None) => own(),
        };
        if let Err(error) = Name::new([name.as_str()]) {
            return Err(Failure::wrong(error.message()));
        }
        std::fs::write(&file, &name).map_err(cannot)?;
        Ok(Self {
            folder,
            name,
            _lock: lock,
        })
    }

    fn memory(&self) -> FileMemory {
        FileMemory(self.folder.join("cluster.json"))
    }
}

/// A folder that no other node is in, below `$XDG_STATE_HOME/wiredflow` or `~/.local/state/wiredflow`: `nodes/NAME`, and for a
/// node without a name the first of `node`, `node-2` … that is free.
fn usual(name: Option<&str>) -> Result<(PathBuf, File), Failure> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".local/state"));
    let none = || Failure::wrong("there is no home folder: say where with `--state DIR`");
    let below = state.or_else(home).ok_or_else(none)?.join("wiredflow");
    if let Some(name) = name {
        Name::new([name]).map_err(|error| Failure::wrong(error.message()))?;
        let folder = below.join("nodes").join(name);
        let taken = || Failure::failed(format!("a node `{name}` runs on this machine already"));
        let lock = lock(&folder)?.ok_or_else(taken)?;
        return Ok((folder, lock));
    }
    for number in 1..=MOST {
        let folder = below.join(match number {
            1 => "node".to_owned(),
            number => format!("node-{number}"),
        });
        if let Some(lock) = lock(&folder)? {
            return Ok((folder, lock));
        }
    }
    Err(Failure::failed(format!(
        "{MOST} nodes run on this machine already"
    )))
}

/// How many nodes without names run on a machine at most.
const MOST: usize = 100;

/// Makes a folder and locks it; none where another process has it.
fn lock(folder: &Path) -> Result<Option<File>, Failure> {
    let cannot =
        |error: std::io::Error| Failure::failed(format!("`{}`: {error}", folder.display()));
    wiredflow_engine::pack::make(folder).map_err(cannot)?;
    let file = File::create(folder.join("lock")).map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(cannot(error)),
    }
}

/// What a node remembers of its cluster, in a file.
#[derive(Debug)]
struct FileMemory(PathBuf);

impl Memory for FileMemory {
    fn recall(&self) -> Option<Bytes> {
        std::fs::read(&self.0).ok().map(Bytes::from)
    }

    fn keep(&self, bytes: Bytes) {
        let new = self.0.with_extension("new");
        let kept = std::fs::write(&new, &bytes).and_then(|()| std::fs::rename(&new, &self.0));
        if let Err(error) = kept {
            tracing::error!("`{}` cannot be written: {error}", self.0.display());
        }
    }
}

/// The speed that counts as 1: MiB of SHA-256 in a second of one core.
const REFERENCE: f64 = 1000.0;

/// What the node says of itself.
fn card(options: &Options, clock: &Clock) -> NodeCard {
    let machine = &options.machine;
    NodeCard {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        labels: options.labels.iter().cloned().collect(),
        cores: machine.cores,
        memory_mib: machine.memory >> 20,
        speed: machine.speed / REFERENCE,
        load: BTreeMap::new(),
        since: clock.now(),
        drains: false,
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
