//! The files of the project, as git knows them: what is ignored is no part of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The project's folder and its files.
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<String>,
}

impl Tree {
    /// Lists the tracked files and the new ones that are not ignored, sorted, without those that
    /// are deleted.
    pub(crate) fn open() -> Result<Self> {
        let root = root();
        let output = Command::new("git")
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "-z",
            ])
            .current_dir(&root)
            .output()
            .map_err(|err| format!("cannot run `git ls-files`: {err}"))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`git ls-files` failed: {}", reason.trim()));
        }
        let mut files: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .split_terminator('\0')
            .filter(|path| root.join(path).is_file())
            .map(str::to_owned)
            .collect();
        files.sort();
        files.dedup();
        Ok(Self { root, files })
    }

    /// All files, as paths from the project's folder.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// True for a file of the project, and for a folder that holds one.
    pub(crate) fn contains(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        path.is_empty()
            || self.files().any(|file| {
                file.strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }

    /// The text of a file of the project, or `None` for one that is not text.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>> {
        let bytes = std::fs::read(self.root.join(path))
            .map_err(|err| format!("cannot read `{path}`: {err}"))?;
        Ok(String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.contains('\0')))
    }
}

/// The project's folder: this package's parent.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}
