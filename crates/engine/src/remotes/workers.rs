//! `workers`: a pool of machines, of which any that is free takes a call, by the queues of an engine.

use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::fields::Pairs;
use wiredflow_core::node::Node;
use wiredflow_core::{Error, Result, config};

use super::Errand;
use crate::catalogue::CheckCx;
use crate::engines::{self, EngineAuth};
use crate::goods;
use crate::pack::Pack;
use crate::pool::words::{Setting, millis};
use crate::pool::{Coordinator, Order, Surroundings, odd_label};
use crate::resources::Resources;
use crate::tls::TlsKeys;
use crate::worker::WorkerHost;

/// How often what runs a stage at a node gives a sign of life there: one that is frozen must not hold its call for ever.
const BEAT: Duration = Duration::from_secs(2);

config! {
    /// A pool of machines: each runs `wiredflow node --engine URL`, and any that is free takes a call. NATS carries the calls; one that
    /// nobody works on any more is given to another machine within 20 seconds.
    pub struct WorkersConfig short engine {
        /// The address of NATS, such as `nats://10.0.0.1:4222`; a list for a cluster.
        engine: Vec<String>,
        /// What a machine must have, as it says with `--label`.
        labels: Vec<String>,
        /// Who we are there: `{user, password}`, or `token`, `seed`, or a file of `credentials`.
        auth: Option<EngineAuth>,
        /// Certificates: `{ca, cert, key}`; with an address `tls://…` and without this, the system's authorities.
        tls: Option<TlsKeys>,
        /// Takes an engine on another machine also without TLS or a login. For a trial.
        insecure: bool = "false",
        /// The Python there.
        python: String = "python3",
        /// Variables for the user's code there.
        env: Pairs<String>,
        /// Files and folders of the flow's folder that go along, beside its Python files: models, tables, programs.
        files: Vec<String>,
        /// Calls at once, of all stages together.
        slots: usize = "4",
    }
}

/// The word in the flow file.
pub(super) const NAME: &str = "workers";

/// A remote as it stands in a flow file.
pub(super) const EXAMPLE: &str =
    r#"workers: {engine: "nats://10.0.0.1:4222", labels: [gpu], insecure: true, slots: 4}"#;

/// Reports what the types alone cannot say. Pure.
pub(super) fn check(config: &WorkersConfig, node: &Node, cx: &mut CheckCx<'_>) {
    let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
    let (auth, tls) = (config.auth.as_ref(), config.tls.as_ref());
    engines::check_access(&config.engine, auth, tls, node, cx);
    for odd in config.labels.iter().filter_map(|label| odd_label(label)) {
        cx.reading.error(span("labels"), odd);
    }
    if config.python.is_empty() || config.python.starts_with('-') {
        cx.reading
            .error(span("python"), "`python` is a command or a path");
    }
    goods::check(&config.env, &config.files, node, cx);
}

/// Joins the pool for a stage.
///
/// # Errors
/// `Remote`, where the engine is away; `Config`, where it refuses us, or the flow's code cannot go along.
pub(super) async fn join(
    config: &WorkersConfig,
    name: &str,
    errand: &Errand,
    resources: &Resources,
    host: Arc<dyn WorkerHost>,
) -> Result<Coordinator> {
    let (auth, tls) = (config.auth.as_ref(), config.tls.as_ref());
    let folder = Arc::clone(&resources.folder);
    let access = engines::access(&config.engine, auth, tls, config.insecure, &folder);
    let engine = resources.engines.connect(&access).await?;
    let mut start = errand.start(&folder, Some(millis(BEAT)))?;
    // It is the node that knows where the code lies.
    start.folder = None;
    let files = config.files.clone();
    let pack = tokio::task::spawn_blocking(move || Pack::of(&folder, &files));
    let pack = pack
        .await
        .map_err(|error| Error::bug(format!("the code was not packed: {error}")))??;
    let order = Order {
        remote: name.to_owned(),
        labels: config.labels.clone(),
        kind: errand.kind().to_owned(),
        label: errand.label(),
        setting: Setting {
            start,
            code: (!pack.bytes().is_empty()).then(|| pack.hash().to_owned()),
            python: config.python.clone(),
            env: config.env.0.iter().cloned().collect(),
        },
        pack: Some(Arc::new(pack)),
    };
    let around = Surroundings {
        host,
        clock: resources.clock.outside(),
        dice: resources.dice.clone(),
        tasks: resources.tasks.clone(),
    };
    Coordinator::open(engine, order, around).await
}
