//! What the flow's state remembers of a data file: how far it is committed, and where sources stood then.
//!
//! ```text
//! writer thread:  digest ─> line begins ─> write ─> fdatasync ─> wait for the line ─> receipt
//! state's thread:              └─> commit with its sync ───────────┘
//! ```
//!
//! The two syncs run side by side; a commit counts when both are done. After a crash the file's own bytes say
//! whether the commit of the line is on the disk. If not, the file is brought back to what it was before.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wiredflow_core::Result;
use wiredflow_core::storage::Cursor;

use super::DataFile;
use crate::state::{FileCommit, FileLine, FileLineOnItsWay, StateHandle};
use crate::storages::{Left, StoragePlace};

/// The bytes of a digest that are kept: it tells a write that reached the disk from one that did not.
const DIGEST: usize = 16;

/// The line of one file.
pub(crate) struct Ledger {
    state: StateHandle,
    name: String,
    /// Where sources stood at the last commit that counts.
    cursors: Vec<Cursor>,
    /// Where they stand with the commit that is under way.
    next: Vec<Cursor>,
}

/// What a line says of the file that was found.
enum Found {
    /// The line's commit is in it, and so much more.
    Committed { more: u64 },
    /// It is as it was before the line's commit, but for what of that has reached the disk.
    Before,
    /// Neither: another program has written it.
    Strange,
}

impl Ledger {
    /// The line of a storage's file; none where nothing is remembered.
    pub(super) fn of(place: &StoragePlace, path: &Path) -> Option<Self> {
        // Below the flow's folder, so that both can be moved together.
        let name = path.strip_prefix(&place.folder).unwrap_or(path);
        Some(Self {
            state: place.state.clone()?,
            name: name.to_string_lossy().into_owned(),
            cursors: Vec::new(),
            next: Vec::new(),
        })
    }

    /// Where a source stood.
    pub(super) fn cursor(&self, source: &str) -> Option<String> {
        let found = self.cursors.iter().find(|cursor| cursor.source == source);
        found.map(|cursor| cursor.position.clone())
    }

    /// Says where sources stand with the next commit.
    pub(super) fn set_next(&mut self, cursors: &[Cursor]) {
        self.next.clone_from(&self.cursors);
        for cursor in cursors {
            match self
                .next
                .iter_mut()
                .find(|other| other.source == cursor.source)
            {
                Some(other) => other.position.clone_from(&cursor.position),
                None => self.next.push(cursor.clone()),
            }
        }
    }

    /// Begins a commit that writes `bytes` from `from` on, over `old_end`.
    pub(super) fn begin_write(&self, from: u64, bytes: &[u8], old_end: &[u8]) -> FileLineOnItsWay {
        let body = bytes.strip_suffix(old_end).unwrap_or(bytes);
        let commit = FileCommit {
            from,
            length: from + bytes.len() as u64,
            digested: from + body.len() as u64,
            digest: digest(body),
            old_end: old_end.to_vec(),
            inode: None,
            cursors: self.next.clone(),
        };
        self.begin(commit, from + old_end.len() as u64)
    }

    /// Begins a commit that puts another file in this one's place.
    pub(super) fn begin_replace(
        &self,
        inode: u64,
        length: u64,
        length_before: u64,
    ) -> FileLineOnItsWay {
        let commit = FileCommit {
            length,
            inode: Some(inode),
            cursors: self.next.clone(),
            ..FileCommit::default()
        };
        self.begin(commit, length_before)
    }

    fn begin(&self, now: FileCommit, length_before: u64) -> FileLineOnItsWay {
        let line = FileLine {
            now,
            length_before,
            cursors_before: self.cursors.clone(),
        };
        self.state.keep_file_line(&self.name, line)
    }

    /// The commit counts.
    pub(super) fn counts(&mut self) {
        self.cursors.clone_from(&self.next);
    }

    /// Brings a file that has just been opened to what its line says.
    pub(super) fn recover(&mut self, file: &mut DataFile, left: Left) -> Result<()> {
        let Some(line) = self.state.file_line(&self.name)? else {
            return Ok(());
        };
        let found = look(file, &line)?;
        self.cursors.clone_from(match found {
            Found::Committed { .. } => &line.now.cursors,
            Found::Before | Found::Strange => &line.cursors_before,
        });
        self.next.clone_from(&self.cursors);
        let now = &line.now;
        match (found, left) {
            (Found::Committed { more: 0 }, _) => return Ok(()),
            (Found::Committed { more }, Left::Unknown) => {
                let close = match now.digested < now.length {
                    true => &now.old_end[..],
                    false => b"",
                };
                let end = if now.inode.is_some() {
                    now.length
                } else {
                    now.digested
                };
                let kept = file.cut(end, close, true)?;
                tell_cut(file, more, kept);
                return Ok(());
            }
            (Found::Before, Left::Unknown) if now.inode.is_none() => {
                let bytes = file.length() - now.from;
                if bytes != now.old_end.len() as u64
                    || file.read_range(now.from, now.old_end.len())? != now.old_end
                {
                    // More than the commit could have written is another's.
                    let kept = file.cut(now.from, &now.old_end, file.length() > now.length)?;
                    tell_cut(file, bytes, kept);
                }
                return Ok(());
            }
            (Found::Committed { .. } | Found::Before | Found::Strange, _) => {}
        }
        let length = file.length();
        // Another program has written it, whole: from here on it is ours as it is.
        let now = FileCommit {
            from: length,
            length,
            digested: length,
            digest: digest(b""),
            cursors: self.cursors.clone(),
            ..FileCommit::default()
        };
        self.begin(now, length).wait()
    }
}

fn tell_cut(file: &DataFile, bytes: u64, kept: Option<PathBuf>) {
    let file = file.path().display();
    match kept {
        Some(kept) => tracing::warn!(
            %file, bytes, kept = %kept.display(),
            "the file is longer than what was committed: it is cut back, and the rest is kept beside it"
        ),
        None => tracing::info!(
            %file, bytes,
            "the last write was not committed when the process ended: it is taken back, and its records come again"
        ),
    }
}

fn look(file: &DataFile, line: &FileLine) -> Result<Found> {
    let (now, length) = (&line.now, file.length());
    if let Some(inode) = now.inode {
        return Ok(match file.inode() {
            Some(found) if found == inode && length >= now.length => Found::Committed {
                more: length - now.length,
            },
            _ if length == line.length_before => Found::Before,
            _ => Found::Strange,
        });
    }
    if length >= now.digested && digest_of(file, now.from, now.digested)? == now.digest {
        return Ok(Found::Committed {
            more: length.saturating_sub(now.length),
        });
    }
    Ok(match length >= now.from {
        true => Found::Before,
        false => Found::Strange,
    })
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes)[..DIGEST].to_vec()
}

fn digest_of(file: &DataFile, from: u64, to: u64) -> Result<Vec<u8>> {
    let mut digest = Sha256::new();
    let mut reader = std::io::Read::take(file.reader(from), to.saturating_sub(from));
    std::io::copy(&mut reader, &mut digest).map_err(|error| file.failed("read", &error))?;
    Ok(digest.finalize()[..DIGEST].to_vec())
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({})", self.name)
    }
}
