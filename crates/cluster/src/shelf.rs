//! The names of entries in the engine, and how their documents are read.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wiredflow_core::engine::{Entry, Name};
use wiredflow_core::{Error, Result};

use crate::documents::FORMAT;

/// What an entry is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A deployed flow.
    Flow(String),
    /// Where a part stands.
    Assignment(String, String),
    /// How a part is.
    Report(String, String),
    /// A node that is there.
    Node(String),
    /// The node that has the files of a part.
    Home(String, String),
}

impl Key {
    /// The entries of one sort begin so: that of all flows, assignments and so on.
    pub const FLOWS: &'static str = "flows";
    /// See [`Key::FLOWS`].
    pub const ASSIGNMENTS: &'static str = "assignments";
    /// See [`Key::FLOWS`].
    pub const REPORTS: &'static str = "reports";
    /// See [`Key::FLOWS`].
    pub const NODES: &'static str = "nodes";
    /// See [`Key::FLOWS`].
    pub const HOMES: &'static str = "homes";

    /// The name in the engine.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn name(&self) -> Result<Name> {
        match self {
            Self::Flow(flow) => Name::new([Self::FLOWS, flow]),
            Self::Assignment(flow, part) => Name::new([Self::ASSIGNMENTS, flow, part]),
            Self::Report(flow, part) => Name::new([Self::REPORTS, flow, part]),
            Self::Node(node) => Name::new([Self::NODES, node]),
            Self::Home(flow, part) => Name::new([Self::HOMES, flow, part]),
        }
    }

    /// What a name is of; none for what somebody else has put there.
    pub fn of(name: &Name) -> Option<Self> {
        let parts: Vec<&str> = name.parts().collect();
        let text = str::to_owned;
        match parts[..] {
            [Self::FLOWS, flow] => Some(Self::Flow(text(flow))),
            [Self::ASSIGNMENTS, flow, part] => Some(Self::Assignment(text(flow), text(part))),
            [Self::REPORTS, flow, part] => Some(Self::Report(text(flow), text(part))),
            [Self::NODES, node] => Some(Self::Node(text(node))),
            [Self::HOMES, flow, part] => Some(Self::Home(text(flow), text(part))),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Reads a document.
///
/// # Errors
/// `Config`, where it is of another format than this program knows, or is none.
pub fn read<T: DeserializeOwned>(name: &Name, entry: &Entry) -> Result<T> {
    let wrong = |what: String| Error::config(format!("the entry `{name}` of the engine {what}"));
    let known: Format = serde_json::from_slice(&entry.value)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if known.format != FORMAT {
        return Err(wrong(format!(
            "has format {} and this program knows {FORMAT}: run the same version of Wiredflow on all machines",
            known.format
        )));
    }
    serde_json::from_slice(&entry.value).map_err(|error| wrong(format!("cannot be read: {error}")))
}

/// Writes a document.
///
/// # Errors
/// `Bug`: all of them can be written.
pub(crate) fn write<T: Serialize>(document: &T) -> Result<bytes::Bytes> {
    let text = serde_json::to_vec(document);
    let text =
        text.map_err(|error| Error::bug(format!("a document cannot be written: {error}")))?;
    Ok(text.into())
}
