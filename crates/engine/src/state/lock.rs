//! The lock that keeps a state folder to one process, and what the folder remembers of itself.
//!
//! The lock is the operating system's (`flock`), so it ends with the process that held it, however
//! that ended. The file's text only says who holds it and since when there has been a database; that
//! text outlives the database, so a deleted `state.db` is noticed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wiredflow_core::{Error, Result};

use super::failure::Failure;

/// What stands in the lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LockNote {
    /// The process that holds the lock; none after an orderly end.
    pub(super) pid: Option<u32>,
    /// The flow that it runs.
    pub(super) flow: Option<String>,
    /// Since when the folder has had a `state.db`.
    pub(super) state_since: Option<Timestamp>,
}

/// A held lock; dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    note: LockNote,
}

impl FolderLock {
    /// Takes the lock of `folder` for `flow`, and gives what the folder remembers.
    ///
    /// # Errors
    /// `Config` when another process holds it: the text names that process.
    pub(super) fn take(folder: &Path, flow: &str) -> Result<Self> {
        let path = folder.join("lock");
        let told = |error: io::Error| Failure::from(error).into_error(&path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(told)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(folder, flow, &mut file)),
            Err(TryLockError::Error(error)) => return Err(told(error)),
        }
        let state_since = read(&mut file).state_since;
        let mut lock = Self {
            file,
            note: LockNote {
                pid: Some(std::process::id()),
                flow: Some(flow.to_owned()),
                state_since,
            },
        };
        lock.write().map_err(told)?;
        Ok(lock)
    }

    /// Since when the folder has had a database, if it ever had one.
    pub(super) fn state_since(&self) -> Option<Timestamp> {
        self.note.state_since
    }

    /// Remembers that the folder has had a database since `since`.
    pub(super) fn remember(&mut self, since: Timestamp) -> io::Result<()> {
        self.note.state_since = Some(since);
        self.write()
    }

    /// Releases the lock in good order, so that no process is named any longer.
    pub(super) fn release(mut self) -> io::Result<()> {
        self.note.pid = None;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        let mut text = serde_json::to_vec(&self.note)?;
        text.push(b'\n');
        // Over the old text first, cut afterwards: on a full disk the old note stays readable.
        self.file.rewind()?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)
    }
}

/// Whether a process that lives holds the folder, as far as its note says. Takes no lock: a start of the flow in
/// that moment would be refused.
pub(super) fn is_held(folder: &Path) -> bool {
    let note = File::open(folder.join("lock")).map(|mut file| read(&mut file));
    let pid = note.ok().and_then(|note| note.pid);
    pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

/// Whether a process holds the folder: a flow runs there. Exact, but for a moment in which it takes the lock itself,
/// where a process of that number lives that is another: a start of the flow in that moment would be refused.
pub fn is_locked(folder: &Path) -> bool {
    if !is_held(folder) {
        return false;
    }
    let file = OpenOptions::new().read(true).open(folder.join("lock"));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// The flow that runs from the folder, or ran there last.
pub fn flow_of(folder: &Path) -> Option<String> {
    let mut file = File::open(folder.join("lock")).ok()?;
    read(&mut file).flow
}

/// Makes the state folder, readable by this user alone; one that is there keeps its mode.
///
/// # Errors
/// `Config` when it cannot be made at this place, `Remote` when the disk is full.
pub fn create_folder(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    made.map_err(|error| Failure::from(error).into_error(folder))
}

fn read(file: &mut File) -> LockNote {
    let mut text = String::new();
    // A note cut short by a crash says nothing; the lock itself does not depend on it.
    match file.rewind().and_then(|()| file.read_to_string(&mut text)) {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => LockNote::default(),
    }
}

fn held(folder: &Path, flow: &str, file: &mut File) -> Error {
    let note = read(file);
    let folder = folder.display();
    let process = match note.pid {
        Some(pid) if pid == std::process::id() => format!("this very process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    };
    Error::config(match note.flow {
        Some(other) if other != flow => format!(
            "the state folder `{folder}` is in use by {process}, which runs the flow `{other}`; \
             {own}",
            own = own_folder(flow)
        ),
        _ => format!(
            "the state folder `{folder}` is in use by {process}; stop that one first, or set \
             `state:` to another folder"
        ),
    })
}

/// The advice for a flow whose folder is another flow's.
pub(super) fn own_folder(flow: &str) -> String {
    format!(
        "give `{flow}` a folder of its own: the line `state: .wiredflow-{flow}` in its file, or \
         `--state .wiredflow-{flow}`"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_holder_is_told_who_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path(), "sensors").unwrap();
        let refused = FolderLock::take(folder.path(), "sensors").unwrap_err();
        let pid = std::process::id().to_string();
        assert!(refused.message().contains(&pid), "{refused}");
        let refused = FolderLock::take(folder.path(), "other").unwrap_err();
        assert!(refused.message().contains("`sensors`"), "{refused}");
        assert!(
            refused.message().contains("state: .wiredflow-other"),
            "{refused}"
        );
        lock.release().unwrap();
        FolderLock::take(folder.path(), "other").unwrap();
    }

    #[test]
    fn the_folder_remembers_its_database_and_survives_a_torn_note() {
        let folder = tempfile::tempdir().unwrap();
        let since = Timestamp::from_second(1_700_000_000).unwrap();
        let mut lock = FolderLock::take(folder.path(), "sensors").unwrap();
        assert_eq!(lock.state_since(), None);
        lock.remember(since).unwrap();
        drop(lock);
        let lock = FolderLock::take(folder.path(), "sensors").unwrap();
        assert_eq!(lock.state_since(), Some(since));
        drop(lock);
        fs::write(folder.path().join("lock"), "{\"pid\": 1").unwrap();
        let lock = FolderLock::take(folder.path(), "sensors").unwrap();
        assert_eq!(lock.state_since(), None);
    }

    #[test]
    fn the_folder_and_the_lock_are_this_users_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/.wiredflow");
        create_folder(&folder).unwrap();
        create_folder(&folder).unwrap();
        let _lock = FolderLock::take(&folder, "sensors").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("lock")), 0o600);
    }
}
