//! Remotes: named places where a stage can run, and the stage that has its calls run there.
//!
//! A remote says how its near end is started: a process that speaks the worker protocol, and at whose far end the
//! stage itself is opened from an [`Errand`]. All else is the same for all of them: fallbacks, slots, restarts.

mod airflow;
mod caller;
mod errand;
mod http;
mod member;
mod process;
mod slurm;
mod ssh;
mod stage;
mod trial;
mod workers;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wiredflow_core::config::{FlowConfig, Isolation, LOCAL, RemoteConfig, RemoteName, StageConfig};
use wiredflow_core::config_reader::not_built_yet;
use wiredflow_core::fields::{Config, FromNode, Reading};
use wiredflow_core::node::Node;
use wiredflow_core::problem::possible;
use wiredflow_core::stage::{BoxFuture, Cx, Emitter, Stage};
use wiredflow_core::{Batch, Error, Result, Value, config};

use crate::catalogue::{Card, CheckCx, Prepared, Work};
use crate::check::unknown;
use crate::logic;
use crate::pool::Coordinator;
use crate::resources::Resources;
use crate::worker::{Launch, WorkerHost};

use caller::Calls;
pub(crate) use caller::{Caller, Order};
pub use errand::{Errand, Held, Opened};
use member::{Member, Underway};
pub use ssh::Host;
pub use trial::Shown;

/// All remotes.
pub const REMOTES: &[RemoteEntry] = &[
    RemoteEntry::calls::<airflow::Airflow>(),
    RemoteEntry::calls::<http::Http>(),
    RemoteEntry::of::<process::Process>(),
    RemoteEntry::calls::<slurm::Slurm>(),
    RemoteEntry::of::<ssh::Ssh>(),
    RemoteEntry::workers(),
];

/// The stages that can run elsewhere.
const MOVABLE: [&str; 4] = ["core_logic", "configuration", "http", "send"];

/// How long a place may take to become ready: the first time a program and code are copied there, and packages installed.
/// Each of these steps has a limit of its own.
const START_WITHIN: Duration = Duration::from_secs(30 * 60);

/// The name of what is called: the whole stage.
const WHOLE_STAGE: &str = "stage";

/// A kind of remote.
pub trait RemoteKind: Sized + Send + Sync + 'static {
    /// The word in the flow file.
    const NAME: &'static str;
    /// A remote as it stands in a flow file.
    const EXAMPLE: &'static str;
    /// Its config.
    type Config: Config + Clone + Send + Sync;

    /// Reports what the types alone cannot say. Pure.
    fn check(_config: &Self::Config, _node: &Node, _cx: &mut CheckCx<'_>) {}

    /// How many calls it works on at once.
    fn slots(config: &Self::Config) -> usize;

    /// What starts its near end for a stage: a process that speaks the worker protocol.
    ///
    /// # Errors
    /// `Config` and `Remote`, as when a stage is opened.
    fn launch(config: &Self::Config, name: &str, resources: &Resources) -> Result<Launch>;
}

/// A kind of remote that has code of its own: it takes whole calls.
pub(crate) trait CallerKind: Caller + Sized {
    /// See [`RemoteKind::NAME`].
    const NAME: &'static str;
    /// See [`RemoteKind::EXAMPLE`].
    const EXAMPLE: &'static str;
    /// See [`RemoteKind::Config`].
    type Config: Config + Clone + Send + Sync;

    /// See [`RemoteKind::check`].
    fn check(_config: &Self::Config, _node: &Node, _cx: &mut CheckCx<'_>) {}

    /// See [`RemoteKind::slots`].
    fn slots(config: &Self::Config) -> usize;

    /// What has calls of a stage done. Connects nowhere.
    ///
    /// # Errors
    /// `Config`, as when a stage is opened.
    fn open(config: &Self::Config, resources: &Resources) -> Result<Self>;
}

/// A remote's line in the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct RemoteEntry {
    /// What is told of it.
    pub card: Card,
    prepare: fn(&RemoteConfig, &mut CheckCx<'_>) -> Option<Remote>,
}

impl RemoteEntry {
    /// The line of a kind.
    pub const fn of<K: RemoteKind>() -> Self {
        fn prepare<K: RemoteKind>(remote: &RemoteConfig, cx: &mut CheckCx<'_>) -> Option<Remote> {
            let config = K::Config::from_node(&remote.config, cx.reading)?;
            K::check(&config, &remote.config, cx);
            let slots = K::slots(&config);
            let name = remote.name.clone();
            let launch = move |resources: &Resources| K::launch(&config, &name, resources);
            Remote::new(remote, slots, Way::Channel(Arc::new(launch)), cx)
        }
        Self {
            card: Card::of::<K::Config>(K::NAME, K::EXAMPLE),
            prepare: prepare::<K>,
        }
    }

    /// The line of a kind that has code of its own.
    pub(crate) const fn calls<K: CallerKind>() -> Self {
        fn prepare<K: CallerKind>(remote: &RemoteConfig, cx: &mut CheckCx<'_>) -> Option<Remote> {
            let config = K::Config::from_node(&remote.config, cx.reading)?;
            K::check(&config, &remote.config, cx);
            let slots = K::slots(&config);
            let open = move |resources: &Resources| {
                let caller = K::open(&config, resources)?;
                Ok(Box::new(caller) as Box<dyn Caller>)
            };
            Remote::new(remote, slots, Way::Calls(Arc::new(open)), cx)
        }
        Self {
            card: Card::of::<K::Config>(K::NAME, K::EXAMPLE),
            prepare: prepare::<K>,
        }
    }
}

impl RemoteEntry {
    /// The line of the pool.
    const fn workers() -> Self {
        fn prepare(remote: &RemoteConfig, cx: &mut CheckCx<'_>) -> Option<Remote> {
            let config = workers::WorkersConfig::from_node(&remote.config, cx.reading)?;
            workers::check(&config, &remote.config, cx);
            let (slots, name, config) = (config.slots, remote.name.clone(), Arc::new(config));
            let join = move |errand: &Errand, resources: &Resources, host| {
                let (config, name) = (Arc::clone(&config), name.clone());
                let (errand, resources) = (errand.clone(), resources.clone());
                let join =
                    async move { workers::join(&config, &name, &errand, &resources, host).await };
                Box::pin(join) as BoxFuture<'static, Result<Coordinator>>
            };
            Remote::new(remote, slots, Way::Pool(Arc::new(join)), cx)
        }
        Self {
            card: Card::of::<workers::WorkersConfig>(workers::NAME, workers::EXAMPLE),
            prepare,
        }
    }
}

/// A checked remote, shared by all stages that name it. A cheap clone.
#[derive(Clone)]
pub struct Remote {
    name: Arc<str>,
    /// The calls that it takes at once, of all stages together.
    slots: Arc<Semaphore>,
    way: Way,
}

/// How calls get there.
#[derive(Clone)]
enum Way {
    /// By a process that speaks the worker protocol: the stage runs at its far end.
    Channel(Arc<Launcher>),
    /// As a whole: it has code of its own.
    Calls(Arc<Opener>),
    /// By the queue of a pool: the stage runs at whoever takes the call.
    Pool(Arc<Joiner>),
}

/// What starts a remote's near end for a stage.
type Launcher = dyn Fn(&Resources) -> Result<Launch> + Send + Sync;

/// What opens what has calls of a stage done.
type Opener = dyn Fn(&Resources) -> Result<Box<dyn Caller>> + Send + Sync;

/// What joins a pool for a stage, with what its loads, saves and log lines go to.
type Joiner = dyn Fn(&Errand, &Resources, Arc<dyn WorkerHost>) -> BoxFuture<'static, Result<Coordinator>>
    + Send
    + Sync;

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.name)
    }
}

impl Remote {
    fn new(config: &RemoteConfig, slots: usize, way: Way, cx: &mut CheckCx<'_>) -> Option<Self> {
        if !(1..=1024).contains(&slots) {
            let entry = config.config.entry("slots");
            let span = entry.map_or(config.span, |entry| entry.span);
            cx.reading
                .error(span, "expected a whole number from 1 to 1024");
            return None;
        }
        Some(Self {
            name: config.name.as_str().into(),
            slots: Arc::new(Semaphore::new(slots)),
            way,
        })
    }

    fn has_own_code(&self) -> bool {
        matches!(self.way, Way::Calls(_))
    }
}

/// Where a stage may run, in the order of preference.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In this process.
    Here,
    /// At a remote.
    There(Remote),
}

/// The remotes of a flow by name.
pub(crate) type Remotes = BTreeMap<String, Remote>;

/// Reads and checks a remote; the reading stands at its name.
pub(crate) fn prepare(remote: &RemoteConfig, cx: &mut CheckCx<'_>) -> Option<Remote> {
    let Some(entry) = REMOTES.iter().find(|entry| entry.card.name == remote.kind) else {
        let names = REMOTES.iter().map(|entry| entry.card.name);
        unknown(&remote.kind, "remote", remote.kind_span, names, &[], cx);
        return None;
    };
    crate::check::inside(&remote.kind, cx, |cx| (entry.prepare)(remote, cx))
}

/// The stage with its calls run where its `remote` says; where it says nothing, as the pipeline's `isolation` says: as it
/// was, or in a process of its own.
pub(crate) fn place(
    config: &StageConfig,
    prepared: Prepared,
    (remotes, isolation): (&Remotes, Isolation),
    cx: &mut CheckCx<'_>,
) -> Option<Prepared> {
    let named = &config.policy.remote;
    let Some(first) = named.first() else {
        if isolation == Isolation::Task || !runs_inside(config) {
            return Some(prepared);
        }
        let errand = Errand::of(config, cx);
        let places = vec![Place::There(process::of_its_own())];
        return Some(stage::prepare(places, errand, prepared));
    };
    if let [only] = named.as_slice()
        && only.name == LOCAL
    {
        return Some(prepared);
    }
    let kind = config.kind.as_str();
    if !MOVABLE.contains(&kind) {
        cx.reading.error_with_help(
            first.span,
            format!("`{kind}` runs where its flow runs"),
            "`remote` goes with `core_logic`, `configuration`, `http` and `send`",
        );
        return None;
    }
    let places = places(named, cx.flow, remotes, cx.reading)?;
    let with_code = |place: &Place| matches!(place, Place::There(remote) if remote.has_own_code());
    if kind != "core_logic" && places.iter().any(with_code) {
        let what = format!("{kind}` at a remote that has code of its own");
        cx.reading.error(
            first.span,
            not_built_yet(&what).replace("own` is", "own is"),
        );
        return None;
    }
    let errand = Errand::of(config, cx);
    Some(stage::prepare(places, errand, prepared))
}

/// Whether a stage's work is done in the flow's own process, and can do harm there.
fn runs_inside(config: &StageConfig) -> bool {
    let has_process = |word: &&str| config.config.entry(word).is_some();
    MOVABLE.contains(&config.kind.as_str()) && !["python", "program"].iter().any(has_process)
}

/// A stage all of whose places have code of their own, and that names no function: its `params` are its calls'.
pub(crate) fn without_function(
    config: &StageConfig,
    remotes: &Remotes,
    cx: &mut CheckCx<'_>,
) -> Option<Prepared> {
    let named = &config.policy.remote;
    let own = |place: &RemoteName| remotes.get(&place.name).is_some_and(Remote::has_own_code);
    let needs_none = config.kind == "core_logic"
        && !named.is_empty()
        && named.iter().all(own)
        && !logic::is_function(&config.config);
    if !needs_none {
        return None;
    }
    let elsewhere = |_: Resources| async {
        Err::<Nothing, _>(Error::bug("a stage without a function was opened here"))
    };
    WithoutFunction::from_node(&config.config, cx.reading)?;
    Some(Prepared::new(Work::Function, elsewhere))
}

config! {
    /// The keys of a core logic that a remote does by code of its own.
    struct WithoutFunction {
        /// Arguments, by name.
        params: Option<Value>,
    }
}

/// No stage.
#[derive(Debug)]
struct Nothing;

impl Stage for Nothing {
    async fn run(&self, _: &Batch, _: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        Err(Error::bug("a stage without a function was called here"))
    }
}

fn places(
    named: &[RemoteName],
    flow: &FlowConfig,
    remotes: &Remotes,
    reading: &mut Reading,
) -> Option<Vec<Place>> {
    let mut places = Vec::with_capacity(named.len());
    let mut complete = true;
    for (index, remote) in named.iter().enumerate() {
        let name = remote.name.as_str();
        if named[..index].iter().any(|before| before.name == name) {
            reading.error(remote.span, format!("`{name}` stands here twice"));
            complete = false;
        } else if name == LOCAL {
            places.push(Place::Here);
        } else if let Some(remote) = remotes.get(name) {
            places.push(Place::There(remote.clone()));
        } else {
            complete = false;
            // One that stands there and has a problem of its own is told of there.
            if !flow.remotes.iter().any(|known| known.name == name) {
                let known = flow.remotes.iter().map(|known| known.name.as_str());
                let help = possible(name, known.chain([LOCAL]));
                let message = format!("there is no remote `{name}` under `remotes`");
                reading.error_with_help(remote.span, message, help);
            }
        }
    }
    complete.then_some(places)
}
