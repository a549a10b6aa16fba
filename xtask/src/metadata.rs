//! What cargo knows of the workspace and of its dependencies (`cargo metadata --locked`).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

use crate::{Result, tree};

/// The answer of `cargo metadata`, as far as it is used here.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    /// Every package of the lock file that any target uses.
    pub(crate) packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

/// One version of one crate.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The licence expression of its manifest.
    pub(crate) license: Option<String>,
    /// Where it comes from; `None` for a path.
    pub(crate) source: Option<String>,
    /// What its manifest asks for.
    pub(crate) dependencies: Vec<Dependency>,
    id: String,
}

/// One line of a manifest's dependencies.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) source: Option<String>,
    /// `None` for an ordinary one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

impl Metadata {
    /// Asks cargo; fails when the lock file does not fit the manifests.
    pub(crate) fn load() -> Result<Self> {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(tree::root())
            .output()
            .map_err(|err| format!("cannot run `cargo metadata`: {err}"))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`cargo metadata` failed: {}", reason.trim()));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|err| format!("cannot read the answer of `cargo metadata`: {err}"))
    }

    /// The packages of this workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The packages from elsewhere.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| !self.workspace_members.contains(&package.id))
    }

    /// The names of all crates that the ordinary build of `member` links, on any target, itself
    /// not among them.
    pub(crate) fn closure(&self, member: &str) -> BTreeSet<&str> {
        let names: BTreeMap<&str, &str> = self
            .packages
            .iter()
            .map(|package| (&*package.id, &*package.name))
            .collect();
        let nodes: BTreeMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|node| (&*node.id, node))
            .collect();
        let start = self.members().find(|package| package.name == member);
        let mut open: Vec<&str> = start.into_iter().map(|package| &*package.id).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            let edges = nodes.get(id).map_or(&[][..], |node| &node.deps);
            for edge in edges {
                let linked = edge.dep_kinds.iter().any(|dep| dep.kind.is_none());
                if linked && seen.insert(&*edge.pkg) {
                    open.push(&edge.pkg);
                }
            }
        }
        seen.into_iter()
            .filter_map(|id| names.get(id).copied())
            .collect()
    }
}
