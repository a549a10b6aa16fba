//! A node's folder of deployed flows, and the host that runs parts from there.
//!
//! ```text
//! STATE/code/VERSION       bundles, as they came
//! STATE/flows/FLOW/files/  where the flow runs: its code, and the files of its storages
//! STATE/flows/FLOW/parts/PART/state.db
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wiredflow_cluster::{Deployed, Host, Key, Part, PartStart, read};
use wiredflow_core::engine::{Engine, Shelf};
use wiredflow_core::node::{Node, NodeKind};
use wiredflow_core::problem::Severity;
use wiredflow_core::stage::BoxFuture;
use wiredflow_core::{Error, Result};
use wiredflow_engine::check::{Checked, SystemLookup, check_text};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::functions::Functions;
use wiredflow_engine::outline::Outline;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::RunOptions;

use crate::bundle::Bundle;
use crate::running::RunningPart;

/// The file that says which of a flow's files are code, and of which version.
const MARK: &str = ".version";

/// Which kinds of users' code a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed(BTreeSet<String>);

impl Allowed {
    /// The words that there are.
    pub const WORDS: [&'static str; 4] = ["python", "program", "rust", "sql"];

    /// These alone.
    ///
    /// # Errors
    /// `Config`, for a word that is none.
    pub fn only<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self> {
        let mut allowed = BTreeSet::new();
        for word in words {
            if !Self::WORDS.contains(&word) {
                let help = wiredflow_core::problem::possible(word, Self::WORDS);
                return Err(Error::config(format!(
                    "there is no kind of code `{word}`: {help}"
                )));
            }
            allowed.insert(word.to_owned());
        }
        Ok(Self(allowed))
    }

    /// Whether it is among them.
    pub fn has(&self, word: &str) -> bool {
        self.0.contains(word)
    }
}

impl Default for Allowed {
    /// All of them.
    fn default() -> Self {
        Self(Self::WORDS.iter().map(|word| (*word).to_owned()).collect())
    }
}

/// Runs parts on this machine.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where code comes from.
    pub engine: Arc<dyn Engine>,
    /// The node's folder.
    pub state: PathBuf,
    /// The Rust functions that are linked in.
    pub functions: Functions,
    /// What it runs of others' code.
    pub allowed: Allowed,
    /// The one clock.
    pub clock: Clock,
    /// One flow's files are brought up to date at a time.
    pub bringing: Arc<Mutex<()>>,
}

impl Site {
    fn bundle_file(&self, version: &str) -> PathBuf {
        self.state.join("code").join(version)
    }

    fn files(&self, flow: &str) -> PathBuf {
        self.state.join("flows").join(flow).join("files")
    }

    /// The bundle of a version: from the disk, or from the engine.
    async fn bundle(&self, version: &str) -> Result<Bundle> {
        let _one = self.bringing.lock().await;
        let name = Bundle::blob(version)?;
        let file = self.bundle_file(version);
        if let Ok(bytes) = tokio::fs::read(&file).await
            && let Ok(bundle) = Bundle::read(bytes.into(), version)
        {
            return Ok(bundle);
        }
        let Some(bytes) = self.engine.get_blob(&name).await? else {
            return Err(Error::remote(
                "the engine does not have the code of this version (yet)",
            ));
        };
        let bundle = Bundle::read(bytes, version)?;
        keep(&file, bundle.bytes()).map_err(|error| on_disk(&file, &error))?;
        Ok(bundle)
    }

    /// Brings the files of a flow to a version, unless another one is deployed by now.
    async fn bring(&self, flow: &str, bundle: &Bundle) -> Result<PathBuf> {
        let _one = self.bringing.lock().await;
        let files = self.files(flow);
        if Mark::read(&files).is_some_and(|mark| mark.version == bundle.version()) {
            return Ok(files);
        }
        let name = Key::Flow(flow.to_owned()).name()?;
        let Some(entry) = self.engine.get(Shelf::Kept, &name).await? else {
            return Err(Error::remote("the flow is not deployed any more"));
        };
        let deployed: Deployed = read(&name, &entry)?;
        if deployed.version != bundle.version() {
            return Err(Error::remote("another version is deployed by now"));
        }
        let fresh = files.with_file_name("fresh");
        drop(fs::remove_dir_all(&fresh));
        fs::create_dir_all(&files).map_err(|error| on_disk(&files, &error))?;
        bundle.unpack(&fresh)?;
        let taken = take_over(&fresh, &files, bundle.version());
        taken.map_err(|error| on_disk(&files, &error))?;
        drop(fs::remove_dir_all(&fresh));
        Ok(files)
    }

    /// The plan of a part: what of the flow this node is to run.
    fn plan(&self, part: &PartStart, bundle: &Bundle, files: &Path) -> Result<Plan> {
        let lookup = SystemLookup::new(files);
        let Checked {
            plan,
            flow,
            problems,
        } = check_text(
            bundle.text(),
            bundle.default_name(),
            files,
            &self.functions,
            &lookup,
        );
        let Some(mut plan) = plan else {
            let first = problems
                .iter()
                .find(|problem| problem.severity == Severity::Error);
            let first = first.map_or("it has problems", |problem| problem.message.as_str());
            return Err(Error::config(format!("on this node: {first}")));
        };
        let is_here = |name: &str| part.pipelines.iter().any(|pipeline| pipeline == name);
        plan.pipelines.retain(|pipeline| is_here(&pipeline.name));
        plan.links.retain(|link| {
            is_here(&link.receiver) || link.senders.iter().any(|sender| is_here(sender))
        });
        // A file has one owner: what another part keeps is not opened here.
        let outline = flow
            .as_ref()
            .map(|flow| Outline::of(flow, files, &plan.scrubber));
        let uses = |name: &str| {
            let storages = outline.iter().flat_map(|outline| &outline.storages);
            let mut places = storages
                .filter(|storage| storage.name == name)
                .flat_map(|storage| storage.writers.iter().chain(&storage.readers));
            places.any(|place| {
                flow.iter()
                    .any(|flow| is_here(&flow.pipelines[place.pipeline].name))
            })
        };
        plan.storages
            .retain(|storage| storage.open.is_apart() || uses(&storage.name));
        if plan.pipelines.len() != part.pipelines.len() {
            return Err(Error::config("the flow has other pipelines than the part"));
        }
        let config = flow.iter().flat_map(|flow| &flow.pipelines);
        for pipeline in config.filter(|pipeline| is_here(&pipeline.name)) {
            for stage in &pipeline.stages {
                if let Some(language) = refused(&stage.config, &self.allowed) {
                    return Err(Error::config(format!(
                        "this node runs no `{language}` (its `--allow`), which stage `{}` of pipeline `{}` is",
                        stage.name, pipeline.name
                    )));
                }
            }
        }
        Ok(plan)
    }
}

impl Host for Site {
    fn start(&self, part: PartStart) -> BoxFuture<'_, Result<Box<dyn Part>>> {
        Box::pin(async move {
            let bundle = self.bundle(&part.version).await?;
            let files = self.bring(&part.flow, &bundle).await?;
            let plan = self.plan(&part, &bundle, &files)?;
            let state = self
                .state
                .join("flows")
                .join(&part.flow)
                .join("parts")
                .join(&part.part);
            fs::create_dir_all(&state).map_err(|error| on_disk(&state, &error))?;
            let options = RunOptions {
                state: Some(state),
                epoch: part.epoch,
                engine: Some(Arc::clone(&self.engine)),
                clock: self.clock.clone(),
                ..RunOptions::default()
            };
            let running = RunningPart::start(&plan, &options)?;
            Ok(Box::new(running) as Box<dyn Part>)
        })
    }

    fn give_back<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let name = Bundle::blob(version)?;
            let Ok(bytes) = tokio::fs::read(self.bundle_file(version)).await else {
                return Ok(());
            };
            if self.engine.get_blob(&name).await?.is_none() {
                self.engine.put_blob(&name, Bytes::from(bytes)).await?;
            }
            Ok(())
        })
    }
}

fn on_disk(path: &Path, error: &io::Error) -> Error {
    Error::remote(format!("`{}`: {error}", path.display()))
}

/// Writes a file, whole or not at all.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)
}

/// What of a flow's files is code, and of which version.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    version: String,
    files: BTreeSet<PathBuf>,
}

impl Mark {
    fn read(files: &Path) -> Option<Self> {
        let text = fs::read(files.join(MARK)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn keep(&self, files: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        keep(&files.join(MARK), &text)
    }
}

/// The files of a folder and all below it, relative to it.
fn list(folder: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => list(folder, &path, found)?,
            false => drop(found.insert(path)),
        }
    }
    Ok(())
}

/// Moves code into a flow's folder, and takes away what an earlier version has brought and this one has not.
fn take_over(fresh: &Path, files: &Path, version: &str) -> io::Result<()> {
    let mut new = BTreeSet::new();
    list(fresh, Path::new(""), &mut new)?;
    let old = Mark::read(files).map(|mark| mark.files).unwrap_or_default();
    // What a crash leaves in between is brought again.
    let between = Mark {
        version: String::new(),
        files: old.union(&new).cloned().collect(),
    };
    between.keep(files)?;
    for path in &new {
        let to = files.join(path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(fresh.join(path), to)?;
    }
    for path in old.difference(&new) {
        drop(fs::remove_file(files.join(path)));
    }
    let mark = Mark {
        version: version.to_owned(),
        files: new,
    };
    mark.keep(files)
}

/// The first language that a stage's config uses and that is not allowed.
fn refused<'n>(node: &'n Node, allowed: &Allowed) -> Option<&'n str> {
    /// Keys under which stand the user's own data.
    const DATA: [&str; 6] = ["params", "headers", "json", "body", "query", "set"];
    match &node.kind {
        NodeKind::Map(entries) => entries.iter().find_map(|entry| {
            let key = entry.key.as_str();
            if Allowed::WORDS.contains(&key) {
                return (!allowed.has(key)).then_some(key);
            }
            let inner = (!DATA.contains(&key)).then_some(&entry.value)?;
            refused(inner, allowed)
        }),
        NodeKind::List(items) => items.iter().find_map(|item| refused(item, allowed)),
        _ => None,
    }
}
