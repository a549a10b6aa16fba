//! What components there are: plain lists, from which `check`, the documentation and the tests read.
//!
//! A component is one file with a type that implements one of the `…Kind` traits below, and one line in
//! [`STAGES`](crate::stages::STAGES), [`SOURCES`](crate::sources::SOURCES), [`STORAGES`](crate::storages::STORAGES)
//! or [`SENDERS`](crate::senders::SENDERS). The step from the author's types to the engine's list of mixed
//! components is made here and nowhere else.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use wiredflow_core::Result;
use wiredflow_core::config::FlowConfig;
use wiredflow_core::fields::{Config, Field, Reading};
use wiredflow_core::node::Node;
use wiredflow_core::stage::{AnySource, AnyStage, BoxFuture, Source, Stage};
use wiredflow_core::storage::Storage;

use crate::functions::Functions;
use crate::resources::Resources;
use crate::senders::{AnySender, Sender};
pub use crate::storages::OpenStorage;
use crate::storages::StoragePlace;

/// What checking may look at. Nothing is opened, connected or started.
#[derive(Debug)]
pub struct CheckCx<'a> {
    /// Where problems go.
    pub reading: &'a mut Reading,
    /// The whole flow.
    pub flow: &'a FlowConfig,
    /// The pipeline that is checked; empty for a shared storage.
    pub pipeline: &'a str,
    /// The flow's folder.
    pub folder: &'a Path,
    /// The Rust functions that are linked in.
    pub functions: &'a Functions,
    /// The names of all storages: shared ones and the inline ones of each pipeline.
    pub storage_names: &'a [String],
}

/// What kind of work a stage does. It decides the defaults of `timeout` and `retry`, how a failed batch
/// is taken apart, and which clock a call's time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Talks to a peer: 30 s for an attempt, tried for ever while the peer is away.
    Peer,
    /// Runs the user's code: no time limit, called once. Called for each delivery by itself.
    Function,
    /// Commits records one by one, in any company: a batch of many deliveries stays whole.
    Sink,
    /// Sends records to a peer: a sink with a peer's time limit.
    PeerSink,
    /// Changes records without waiting for anything.
    Records,
}

impl Work {
    /// Whether a batch of several deliveries may be given to one call.
    pub fn takes_many_deliveries(self) -> bool {
        matches!(self, Self::Sink | Self::PeerSink | Self::Records)
    }
}

/// A kind of stage.
pub trait StageKind: Stage + Sized {
    /// The word in the flow file.
    const NAME: &'static str;
    /// A stage as it stands in a flow file; shown in the catalogue and read by the tests.
    const EXAMPLE: &'static str;
    /// What it does with its time.
    const WORK: Work;
    /// Its config, declared by `config!`.
    type Config: Config + Clone;

    /// Reports what the types alone cannot say. Pure but for looking at files of the flow's folder.
    fn check(_config: &Self::Config, _node: &Node, _cx: &mut CheckCx<'_>) {}

    /// Makes clients and connections. The engine tries again after a `Remote` error, and opens anew when
    /// a pipeline restarts.
    fn open(
        config: Self::Config,
        resources: &Resources,
    ) -> impl Future<Output = Result<Self>> + Send;
}

/// A kind of stream source.
pub trait SourceKind: Source + Sized {
    /// The word in the flow file.
    const NAME: &'static str;
    /// A source as it stands in a flow file.
    const EXAMPLE: &'static str;
    /// Its config.
    type Config: Config + Clone;

    /// See [`StageKind::check`].
    fn check(_config: &Self::Config, _node: &Node, _cx: &mut CheckCx<'_>) {}

    /// Connects and subscribes; returns when messages can arrive. See [`StageKind::open`].
    fn open(
        config: Self::Config,
        resources: &Resources,
    ) -> impl Future<Output = Result<Self>> + Send;
}

/// A kind of storage.
pub trait StorageKind: Storage + Sized + 'static {
    /// The word in the flow file.
    const NAME: &'static str;
    /// A storage as it stands in a flow file.
    const EXAMPLE: &'static str;
    /// Its config.
    type Config: Config + Clone;

    /// Whether it is a server elsewhere, whose silence must not hold up other storages.
    const IS_AWAY: bool = false;

    /// See [`StageKind::check`].
    fn check(_config: &Self::Config, _place: &StoragePlace, _node: &Node, _cx: &mut CheckCx<'_>) {}

    /// The file or table that it writes, in words: two storages with the same answer would write the same.
    fn writes(config: &Self::Config, place: &StoragePlace) -> String;

    /// Opens files or databases, and brings them back to their last commit. Runs on the owner's writer
    /// thread and may block; called again after a `Remote` error.
    fn open(config: Self::Config, place: &StoragePlace) -> Result<Self>;
}

/// A kind of receiver for `send`.
pub trait SenderKind: Sender + Sized {
    /// The word in the flow file.
    const NAME: &'static str;
    /// A stage that sends with it, as it stands in a flow file.
    const EXAMPLE: &'static str;
    /// Its config.
    type Config: Config + Clone;

    /// See [`StageKind::check`].
    fn check(_config: &Self::Config, _node: &Node, _cx: &mut CheckCx<'_>) {}

    /// See [`StageKind::open`].
    fn open(
        config: Self::Config,
        resources: &Resources,
    ) -> impl Future<Output = Result<Self>> + Send;
}

/// Opens a checked component, as often as needed.
pub type Opener<T> = Arc<dyn Fn(Resources) -> BoxFuture<'static, Result<T>> + Send + Sync>;

/// Opens a checked storage on its writer thread.
pub type StorageOpener = Arc<dyn Fn() -> Result<Box<dyn Storage>> + Send + Sync>;

/// What the catalogue tells of any component.
#[derive(Clone, Copy)]
pub struct Card {
    /// The word in the flow file.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// How it stands in a flow file.
    pub example: &'static str,
    /// The key that a bare value stands for.
    pub short: Option<&'static str>,
    /// Its keys.
    pub fields: fn() -> Vec<Field>,
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Card {
    /// What a config says of itself, under this name and with this example.
    pub const fn of<C: Config>(name: &'static str, example: &'static str) -> Self {
        Self {
            name,
            doc: C::DOC,
            example,
            short: C::SHORT,
            fields: C::fields,
        }
    }
}

/// A stage's line in the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct StageEntry {
    /// What is told of it.
    pub card: Card,
    /// What it does with its time.
    pub work: Work,
    /// Reads and checks its config.
    pub prepare: fn(&Node, &mut CheckCx<'_>) -> Option<Prepared>,
}

/// A checked stage.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What it does with its time.
    pub work: Work,
    /// Opens it.
    pub open: OpenStage,
    /// Whether its input is done with only when it is: else its records wait in a queue of their own.
    pub required: bool,
}

impl Prepared {
    /// A stage that `open` opens.
    pub fn new<S, F>(work: Work, open: impl Fn(Resources) -> F + Send + Sync + 'static) -> Self
    where
        S: Stage,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        let open = move |resources| {
            let opened = open(resources);
            let boxed = async move { Ok(Box::new(opened.await?) as Box<dyn AnyStage>) };
            Box::pin(boxed) as BoxFuture<'static, Result<Box<dyn AnyStage>>>
        };
        Self {
            work,
            open: OpenStage(Arc::new(open)),
            required: true,
        }
    }

    /// The stage with a word on whether something waits for it.
    #[must_use]
    pub fn required(self, required: bool) -> Self {
        Self { required, ..self }
    }
}

/// A source's line in the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct SourceEntry {
    /// What is told of it.
    pub card: Card,
    /// Reads and checks its config.
    pub prepare: fn(&Node, &mut CheckCx<'_>) -> Option<OpenSource>,
}

/// A storage's line in the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct StorageEntry {
    /// What is told of it.
    pub card: Card,
    /// Whether it is a server elsewhere: all others keep files on their machine.
    pub is_away: bool,
    /// Reads and checks its config.
    pub prepare: fn(&Node, StoragePlace, &mut CheckCx<'_>) -> Option<OpenStorage>,
}

/// A sender's line in the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct SenderEntry {
    /// What is told of it.
    pub card: Card,
    /// Reads and checks its config.
    pub prepare: fn(&Node, &mut CheckCx<'_>) -> Option<OpenSender>,
}

macro_rules! opener {
    ($(#[doc = $doc:literal])* $name:ident($inner:ty)) => {
        $(#[doc = $doc])*
        #[derive(Clone)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

opener! {
    /// Opens a checked stage.
    OpenStage(Opener<Box<dyn AnyStage>>)
}
opener! {
    /// Opens a checked source.
    OpenSource(Opener<Box<dyn AnySource>>)
}
opener! {
    /// Opens a checked sender.
    OpenSender(Opener<Box<dyn AnySender>>)
}

fn read<C: Config>(node: &Node, cx: &mut CheckCx<'_>) -> Option<C> {
    C::from_node(node, cx.reading)
}

impl StageEntry {
    /// The line of a kind.
    pub const fn of<K: StageKind>() -> Self {
        fn prepare<K: StageKind>(node: &Node, cx: &mut CheckCx<'_>) -> Option<Prepared> {
            let config: K::Config = read(node, cx)?;
            K::check(&config, node, cx);
            Some(Prepared::new(K::WORK, move |resources: Resources| {
                let config = config.clone();
                async move { K::open(config, &resources).await }
            }))
        }
        Self::with::<K::Config>(K::NAME, K::EXAMPLE, K::WORK, prepare::<K>)
    }

    /// The same line with words of its own, where several kinds have the same keys.
    #[must_use]
    pub const fn saying(mut self, doc: &'static str) -> Self {
        self.card.doc = doc;
        self
    }

    /// The line of a kind that reads its config in a way of its own; `C` documents its keys.
    pub const fn with<C: Config>(
        name: &'static str,
        example: &'static str,
        work: Work,
        prepare: fn(&Node, &mut CheckCx<'_>) -> Option<Prepared>,
    ) -> Self {
        Self {
            card: Card::of::<C>(name, example),
            work,
            prepare,
        }
    }
}

impl SourceEntry {
    /// The line of a kind.
    pub const fn of<K: SourceKind>() -> Self {
        fn prepare<K: SourceKind>(node: &Node, cx: &mut CheckCx<'_>) -> Option<OpenSource> {
            let config: K::Config = read(node, cx)?;
            K::check(&config, node, cx);
            Some(OpenSource(Arc::new(move |resources| {
                let config = config.clone();
                Box::pin(async move {
                    let source = K::open(config, &resources).await?;
                    Ok(Box::new(source) as Box<dyn AnySource>)
                })
            })))
        }
        Self {
            card: Card::of::<K::Config>(K::NAME, K::EXAMPLE),
            prepare: prepare::<K>,
        }
    }
}

impl SenderEntry {
    /// The line of a kind.
    pub const fn of<K: SenderKind>() -> Self {
        fn prepare<K: SenderKind>(node: &Node, cx: &mut CheckCx<'_>) -> Option<OpenSender> {
            let config: K::Config = read(node, cx)?;
            K::check(&config, node, cx);
            Some(OpenSender(Arc::new(move |resources| {
                let config = config.clone();
                Box::pin(async move {
                    let sender = K::open(config, &resources).await?;
                    Ok(Box::new(sender) as Box<dyn AnySender>)
                })
            })))
        }
        Self {
            card: Card::of::<K::Config>(K::NAME, K::EXAMPLE),
            prepare: prepare::<K>,
        }
    }
}

impl StorageEntry {
    /// The line of a kind.
    pub const fn of<K: StorageKind>() -> Self {
        fn prepare<K: StorageKind>(
            node: &Node,
            place: StoragePlace,
            cx: &mut CheckCx<'_>,
        ) -> Option<OpenStorage> {
            let config: K::Config = read(node, cx)?;
            K::check(&config, &place, node, cx);
            let writes = K::writes(&config, &place);
            let opened = OpenStorage::new(writes, move |left, state| {
                let place = StoragePlace {
                    left,
                    state,
                    ..place.clone()
                };
                let storage = K::open(config.clone(), &place)?;
                Ok(Box::new(storage) as Box<dyn Storage>)
            });
            Some(match K::IS_AWAY {
                true => opened.apart(),
                false => opened,
            })
        }
        Self {
            card: Card::of::<K::Config>(K::NAME, K::EXAMPLE),
            is_away: K::IS_AWAY,
            prepare: prepare::<K>,
        }
    }
}
