//! A flow's code on its way to another machine: files in one stream, known by its hash.
//!
//! For each file: `u32` length of its path and the path, `u8` whether it may be run, `u64` length and the bytes.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use wiredflow_core::{Error, Result};

/// The file of a flow's folder that says which packages its functions want.
pub const REQUIREMENTS: &str = "requirements.txt";

/// The most that goes along, in bytes, and the most files.
const MOST_BYTES: u64 = 256 << 20;
const MOST_FILES: usize = 10_000;

/// How deep folders are looked through.
const DEPTH: usize = 16;

/// Folders that hold no code of the flow.
const PASSED_OVER: [&str; 6] = [
    "__pycache__",
    "node_modules",
    "site-packages",
    "target",
    "venv",
    "env",
];

/// Files in one stream.
#[derive(Clone, Debug)]
pub struct Pack {
    bytes: Vec<u8>,
    hash: String,
}

impl Pack {
    /// The Python files of a folder and all below it, its `requirements.txt`, and `more` of its files and folders whole. What is hidden stays, but
    /// for what is named.
    ///
    /// # Errors
    /// `Config`, when there is too much, or a file cannot be read.
    pub fn of(folder: &Path, more: &[String]) -> Result<Self> {
        let mut files = Vec::new();
        gather(folder, Path::new(""), 0, false, &mut files)?;
        let requirements = REQUIREMENTS.to_owned();
        let requirements = Some(&requirements).filter(|name| folder.join(name).is_file());
        for name in more.iter().chain(requirements) {
            let path = folder.join(name);
            match path.is_dir() {
                true => gather(folder, Path::new(name), 0, true, &mut files)?,
                false => files.push(PathBuf::from(name)),
            }
        }
        files.sort();
        files.dedup();
        let mut bytes = Vec::new();
        for file in &files {
            let path = folder.join(file);
            let unread = |error: io::Error| {
                Error::config(format!("`{}` cannot be read: {error}", path.display()))
            };
            let data = fs::metadata(&path).map_err(unread)?;
            let length = data.len();
            if bytes.len() as u64 + length > MOST_BYTES || files.len() > MOST_FILES {
                return Err(Error::config(format!(
                    "`{}` has more code than the {} MiB and {MOST_FILES} files that go to another machine",
                    folder.display(),
                    MOST_BYTES >> 20,
                )));
            }
            let content = fs::read(&path).map_err(unread)?;
            let name = file.to_string_lossy();
            bytes.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(name.as_bytes());
            bytes.push(u8::from(data.permissions().mode() & 0o100 != 0));
            bytes.extend((content.len() as u64).to_be_bytes());
            bytes.extend(content);
        }
        let hash = hex(&Sha256::digest(&bytes));
        Ok(Self { bytes, hash })
    }

    /// Its hash: 64 hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The stream.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the files that `stream` brings into a folder that is not there yet, as a whole or not at all.
    ///
    /// # Errors
    /// Where the stream is not the one of that hash, or the files cannot be written.
    pub fn unpack(hash: &str, mut stream: impl Read, place: &Path) -> io::Result<()> {
        let odd = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
        if !is_hash(hash) {
            return Err(odd("that is no hash"));
        }
        let mut bytes = Vec::new();
        stream
            .by_ref()
            .take(MOST_BYTES * 2)
            .read_to_end(&mut bytes)?;
        if hex(&Sha256::digest(&bytes)) != hash {
            return Err(odd("what has arrived is not what was sent"));
        }
        let new = place.with_extension(format!("new-{}", std::process::id()));
        make(&new)?;
        let written = write_all(&bytes, &new).and_then(|()| fs::rename(&new, place));
        if written.is_err() {
            drop(fs::remove_dir_all(&new));
        }
        match written {
            // Another one was quicker.
            Err(_) if place.is_dir() => Ok(()),
            written => written,
        }
    }
}

fn write_all(mut bytes: &[u8], folder: &Path) -> io::Result<()> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut taken = |count: usize| -> io::Result<&[u8]> {
        let (part, rest) = bytes.split_at_checked(count).ok_or_else(short)?;
        bytes = rest;
        Ok(part)
    };
    let mut left = taken(0).map(|_| true)?;
    while left {
        let Ok(prefix) = taken(4) else { break };
        let length = prefix
            .iter()
            .fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        let name = String::from_utf8_lossy(taken(length)?).into_owned();
        let runs = taken(1)?[0] == 1;
        let length = taken(8)?
            .iter()
            .fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
        let content = taken(length)?;
        let name = Path::new(&name);
        if !name
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a path that leads elsewhere",
            ));
        }
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            make(parent)?;
        }
        let mode = if runs { 0o700 } else { 0o600 };
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        file.write_all(content)?;
        left = true;
    }
    Ok(())
}

/// Adds the files of a folder: all of them, or those in Python.
fn gather(
    root: &Path,
    folder: &Path,
    depth: usize,
    all: bool,
    files: &mut Vec<PathBuf>,
) -> Result<()> {
    let unread = |error: io::Error| {
        Error::config(format!(
            "`{}` cannot be read: {error}",
            root.join(folder).display()
        ))
    };
    for entry in fs::read_dir(root.join(folder)).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        // A link is what it leads to; one in a circle ends at the depth.
        let Ok(data) = fs::metadata(entry.path()) else {
            continue;
        };
        let path = folder.join(&name);
        if data.is_dir() {
            let passed_over = text.starts_with('.') || PASSED_OVER.contains(&text.as_ref());
            if depth < DEPTH && !passed_over {
                gather(root, &path, depth + 1, all, files)?;
            }
        } else if data.is_file() && (all || text.ends_with(".py")) && !text.starts_with('.') {
            files.push(path);
        }
        if files.len() > MOST_FILES {
            return Err(Error::config(format!(
                "`{}` has more than {MOST_FILES} files of code: put the flow into a folder of its own",
                root.display()
            )));
        }
    }
    Ok(())
}

/// Makes a folder that is for this user alone.
///
/// # Errors
/// Those of the system.
pub fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Whether this is a SHA-256 in hexadecimal digits.
pub fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// As hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_nothing_else_is_taken() {
        let here = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("logic.py", "x = 1"),
            ("deep/er/more.py", "y = 2"),
            ("model.bin", "\0\u{1}"),
            ("data/rows.jsonl", "{}"),
            ("tables/a.csv", "a"),
            (".secret/key.py", "k"),
            ("venv/lib.py", "v"),
        ] {
            let path = here.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::set_permissions(
            here.path().join("model.bin"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        let more = ["model.bin".to_owned(), "tables".to_owned()];
        let pack = Pack::of(here.path(), &more).unwrap();
        assert_eq!(pack.hash(), Pack::of(here.path(), &more).unwrap().hash());

        let there = tempfile::tempdir().unwrap();
        write_all(pack.bytes(), there.path()).unwrap();
        let again = Pack::of(there.path(), &more).unwrap();
        assert_eq!(again.hash(), pack.hash());
        let mut names: Vec<_> = fs::read_dir(there.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["deep", "logic.py", "model.bin", "tables"]);

        fs::write(here.path().join("logic.py"), "x = 2").unwrap();
        assert_ne!(Pack::of(here.path(), &more).unwrap().hash(), pack.hash());
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for name in ["../out.py", "/tmp/out.py", "a/../../out.py"] {
            let mut bytes = (name.len() as u32).to_be_bytes().to_vec();
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(1_u64.to_be_bytes());
            bytes.push(b'x');
            let there = tempfile::tempdir().unwrap();
            assert!(
                write_all(&bytes, &there.path().join("inner")).is_err(),
                "{name}"
            );
            assert!(!there.path().join("out.py").exists());
        }
        let short = [0, 0, 0, 9, b'a'];
        assert!(write_all(&short, tempfile::tempdir().unwrap().path()).is_err());
    }
}
