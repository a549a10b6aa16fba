//! What the flow's state remembers of a data file: how far it is committed, and where sources stood then.
//!
//! ```text
//! writer thread:  digest ─> line begins ─> write ─> fdatasync ─> wait for the line ─> receipt
//! state's thread:              └─> commit with its sync ───────────┘
//! ```
//!
//! The two syncs run side by side; a commit counts when both are done. After a crash the file's own bytes say
//! whether the commit of the line is on the disk. If not, the file is brought back to what it was before.

use std::collections::{BTreeMap, BTreeSet};
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
    cursors: BTreeMap<String, String>,
    /// Where those stand that the commit under way moves.
    next: BTreeMap<String, String>,
    /// Those that a line has told to be on their way since the last commit that counts, with that one: the
    /// next line must tell where they stand.
    told: BTreeSet<String>,
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
            cursors: BTreeMap::new(),
            next: BTreeMap::new(),
            told: BTreeSet::new(),
        })
    }

    /// Where a source stood.
    pub(super) fn cursor(&self, source: &str) -> Option<String> {
        self.cursors.get(source).cloned()
    }

    /// Says where sources stand with the next commit.
    pub(super) fn set_next(&mut self, cursors: &[Cursor]) {
        self.next.clear();
        let moved = cursors.iter().cloned();
        self.next
            .extend(moved.map(|cursor| (cursor.source, cursor.position)));
    }

    /// Begins a commit that writes `bytes` from `from` on, over `old_end`.
    pub(super) fn begin_write(
        &mut self,
        from: u64,
        bytes: &[u8],
        old_end: &[u8],
    ) -> FileLineOnItsWay {
        let body = bytes.strip_suffix(old_end).unwrap_or(bytes);
        let commit = FileCommit {
            from,
            length: from + bytes.len() as u64,
            digested: from + body.len() as u64,
            digest: digest(body),
            old_end: old_end.to_vec(),
            inode: None,
            cursors: Vec::new(),
        };
        self.begin(commit, from + old_end.len() as u64)
    }

    /// Begins a commit that puts another file in this one's place.
    pub(super) fn begin_replace(
        &mut self,
        inode: u64,
        length: u64,
        length_before: u64,
    ) -> FileLineOnItsWay {
        let commit = FileCommit {
            length,
            inode: Some(inode),
            ..FileCommit::default()
        };
        self.begin(commit, length_before)
    }

    /// Tells of a commit, and where sources stand with it, as far as that differs from what is remembered.
    fn begin(&mut self, mut now: FileCommit, length_before: u64) -> FileLineOnItsWay {
        self.told.extend(self.next.keys().cloned());
        let mut cursors_before = Vec::new();
        for source in &self.told {
            let before = self.cursors.get(source);
            let position = self.next.get(source).or(before).cloned();
            let cursor = |position: String| Cursor {
                source: source.clone(),
                position,
            };
            now.cursors.extend(position.map(cursor));
            cursors_before.extend(before.cloned().map(cursor));
        }
        let line = FileLine {
            now,
            length_before,
            cursors_before,
        };
        self.state.keep_file_line(&self.name, line)
    }

    /// The commit counts.
    pub(super) fn counts(&mut self) {
        self.told = self.next.keys().cloned().collect();
        self.cursors.append(&mut self.next);
    }

    /// Brings a file that has just been opened to what its line says.
    pub(super) fn recover(&mut self, file: &mut DataFile, left: Left) -> Result<()> {
        let Some(line) = self.state.file_line(&self.name)? else {
            return Ok(());
        };
        let found = look(file, &line)?;
        let now = &line.now;
        let stand = match found {
            Found::Committed { .. } => &now.cursors,
            Found::Before | Found::Strange => &line.cursors_before,
        };
        let stand = stand.iter().cloned();
        self.cursors = stand
            .map(|cursor| (cursor.source, cursor.position))
            .collect();
        let on_their_way = now.cursors.iter().cloned();
        self.told = on_their_way.map(|cursor| cursor.source).collect();
        self.next.clear();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::state::State;

    use super::*;

    /// One commit: the sources that it moves, and whether it counts in the end.
    fn commits() -> impl Strategy<Value = Vec<(BTreeSet<u8>, bool)>> {
        let sources = prop::collection::btree_set(0..5_u8, 0..4);
        prop::collection::vec((sources, any::<bool>()), 1..12)
    }

    fn sorted(cursors: Vec<Cursor>) -> BTreeMap<String, String> {
        let cursors = cursors.into_iter();
        cursors
            .map(|cursor| (cursor.source, cursor.position))
            .collect()
    }

    #[test]
    fn the_line_tells_where_each_source_stands_with_its_commit_and_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-11-23T00:00:00Z".parse().unwrap();
        let (state, _) = State::open(folder.path(), "sensors", now).unwrap();
        let files = std::cell::Cell::new(0);
        proptest!(ProptestConfig::with_cases(40), |(commits in commits())| {
            files.set(files.get() + 1);
            let mut ledger = Ledger {
                state: state.handle(),
                name: format!("{}.jsonl", files.get()),
                cursors: BTreeMap::new(),
                next: BTreeMap::new(),
                told: BTreeSet::new(),
            };
            let mut stand = BTreeMap::new();
            for (number, (sources, counts)) in commits.into_iter().enumerate() {
                let cursors: Vec<Cursor> = sources
                    .iter()
                    .map(|source| Cursor { source: source.to_string(), position: number.to_string() })
                    .collect();
                let mut with = stand.clone();
                with.extend(sorted(cursors.clone()));
                ledger.set_next(&cursors);
                ledger.begin_write(0, b"row\n", b"").wait().unwrap();
                let line = ledger.state.file_line(&ledger.name).unwrap().unwrap();
                prop_assert_eq!(sorted(line.now.cursors), with.clone());
                prop_assert_eq!(sorted(line.cursors_before), stand.clone());
                if counts {
                    ledger.counts();
                    stand = with;
                }
            }
        });
    }
}
