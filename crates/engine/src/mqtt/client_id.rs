//! The name that a broker knows a client by: made once, kept, and kept apart from that of any other
//! flow of the same name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wiredflow_core::{Error, Result};

use super::packet_ids::Ids;
use crate::files::disk::{create_folders, sync_folder};
use crate::resources::Resources;

/// How much of each name goes into an id that is made here.
const MOST_NAME: usize = 32;

/// What is kept in `client_ids/` of the flow's state.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    client_id: String,
    /// What the broker was told to send to it.
    #[serde(default)]
    topics: Vec<String>,
    /// The number of the session that the broker keeps for us, drawn when it began.
    #[serde(default)]
    session: u64,
    /// What its packet ids tell.
    #[serde(default)]
    ids: Ids,
}

/// A client's id, and what is known of its session.
#[derive(Debug)]
pub(super) struct ClientId {
    /// Where it is kept; nowhere where there is no state: it is another one at each start.
    path: Option<PathBuf>,
    kept: Kept,
}

impl ClientId {
    /// The id of a pipeline's source: what the user says, else the one made before, else a new one.
    pub(super) fn of_source(resources: &Resources, given: Option<&str>) -> Result<Self> {
        let names = [&*resources.flow, &*resources.pipeline];
        let state = resources.state_folder.as_deref();
        Self::of(state, &resources.pipeline, &names, given)
    }

    /// The id of a sender.
    pub(super) fn of_sender(resources: &Resources, given: Option<&str>) -> Result<Self> {
        let names = [&*resources.flow, &*resources.pipeline, &*resources.stage];
        let file = format!("{}.{}", resources.pipeline, resources.stage);
        Self::of(resources.state_folder.as_deref(), &file, &names, given)
    }

    fn of(state: Option<&Path>, file: &str, names: &[&str], given: Option<&str>) -> Result<Self> {
        let path = state.map(|state| state.join("client_ids").join(format!("{file}.json")));
        let found = path.as_deref().map_or(Ok(None), read)?;
        let found = found.filter(|kept| given.is_none_or(|given| given == kept.client_id));
        let fresh = found.is_none();
        let kept = found.unwrap_or_else(|| Kept {
            client_id: given.map_or_else(|| made_of(names), str::to_owned),
            topics: Vec::new(),
            session: 0,
            ids: Ids::Unknown,
        });
        let client_id = Self { path, kept };
        if fresh {
            client_id.write()?;
        }
        Ok(client_id)
    }

    pub(super) fn text(&self) -> &str {
        &self.kept.client_id
    }

    /// The number of the session that the broker keeps for us.
    pub(super) fn session(&self) -> u64 {
        self.kept.session
    }

    /// What the session's packet ids tell.
    pub(super) fn ids(&self) -> Ids {
        self.kept.ids
    }

    /// Notes what the session's packet ids tell.
    pub(super) fn set_ids(&mut self, ids: Ids) -> Result<()> {
        self.kept.ids = ids;
        self.write()
    }

    /// The broker knows nothing of us: a session begins.
    pub(super) fn begin_session(&mut self) -> Result<()> {
        self.kept.session = rand::random();
        self.kept.ids = Ids::Unknown;
        self.write()
    }

    /// Whether an earlier run has subscribed under it.
    pub(super) fn was_used(&self) -> bool {
        !self.kept.topics.is_empty()
    }

    /// What an earlier run has subscribed to beside these.
    pub(super) fn topics_besides(&self, topics: &[String]) -> Vec<String> {
        let stale = |topic: &&String| !topics.contains(topic);
        self.kept.topics.iter().filter(stale).cloned().collect()
    }

    /// Notes what the broker has been told to send.
    pub(super) fn remember(&mut self, topics: &[String]) -> Result<()> {
        if self.kept.topics == topics {
            return Ok(());
        }
        self.kept.topics = topics.to_vec();
        self.write()
    }

    fn write(&self) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let failed = |error: io::Error| unusable(path, &error);
        let text = serde_json::to_vec_pretty(&self.kept)
            .map_err(|error| Error::bug(format!("a client id cannot be written: {error}")))?;
        create_folders(path).map_err(failed)?;
        // The name appears with the whole text or not at all, also when the power is cut: a lost id is a lost session.
        let new = path.with_extension("new");
        let mut file = File::create(&new).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&new, path).map_err(failed)?;
        sync_folder(path).map_err(failed)
    }
}

fn read(path: &Path) -> Result<Option<Kept>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| {
            Error::config(format!(
                "`{}` is damaged: restore it, or remove it and have a new client id made",
                path.display()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot keep a client id in `{}`: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => Error::config(message),
        _ => Error::remote(message),
    }
}

/// The names, cut, and what makes it the only one.
fn made_of(names: &[&str]) -> String {
    let mut text = String::new();
    for name in names {
        text.extend(name.chars().take(MOST_NAME));
        text.push('-');
    }
    text.push_str(&format!("{:08x}", rand::random::<u32>()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept_with_its_topics() {
        let folder = tempfile::tempdir().unwrap();
        let of = |given| ClientId::of(Some(folder.path()), "numbers", &["flow", "numbers"], given);
        let mut first = of(None).unwrap();
        assert!(first.text().starts_with("flow-numbers-") && !first.was_used());
        first.remember(&["a".to_owned(), "b".to_owned()]).unwrap();
        let second = of(None).unwrap();
        assert_eq!(second.text(), first.text());
        assert!(second.was_used());
        assert_eq!(second.topics_besides(&["b".to_owned()]), ["a"]);
        // Another id has another session.
        let given = of(Some("mine")).unwrap();
        assert_eq!((given.text(), given.was_used()), ("mine", false));
    }

    #[test]
    fn two_folders_have_two_ids_of_a_length_that_brokers_take() {
        let long = "x".repeat(64);
        let make = || {
            let folder = tempfile::tempdir().unwrap();
            let names = [&*long, &*long, &*long];
            let made = ClientId::of(Some(folder.path()), "p.s", &names, None).unwrap();
            made.text().to_owned()
        };
        assert_ne!(make(), make());
        assert!(make().len() <= 128);
    }

    #[test]
    fn a_damaged_file_is_told_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client_ids/p.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{\"client").unwrap();
        let error = ClientId::of(Some(folder.path()), "p", &["f", "p"], None).unwrap_err();
        assert!(error.message().contains("p.json") && error.message().contains("damaged"));
        assert_eq!(fs::read(&path).unwrap(), b"{\"client");
    }
}
