//! Where a running flow is reached: a note in its state folder, for the verbs that ask it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::tokens::write_private;

/// Where a flow listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// `http://127.0.0.1:8420`.
    pub url: String,
    /// The file of the certificate that callers are shown.
    pub cert: Option<PathBuf>,
    /// The process.
    pub pid: u32,
}

fn place(state: &Path) -> PathBuf {
    state.join("listen")
}

/// Reads the note of a state folder; none where no flow has left one. One that was killed leaves it: whether a flow
/// runs is another question.
pub fn note(state: &Path) -> Option<Note> {
    let text = fs::read_to_string(place(state)).ok()?;
    serde_json::from_str(&text).ok()
}

/// The note of this process. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Left(PathBuf);

impl Left {
    /// Leaves it.
    pub(crate) fn leave(state: &Path, note: &Note) -> io::Result<Self> {
        let path = place(state);
        write_private(&path, serde_json::to_string(note)?.as_bytes())?;
        Ok(Self(path))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // What stays names a flow that does not run.
        drop(fs::remove_file(&self.0));
    }
}
