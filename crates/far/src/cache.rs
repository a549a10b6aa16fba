//! The folder of the user's cache in which all lies that is brought to a machine: programs, code, sessions.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use wiredflow_engine::clock::Clock;
use wiredflow_engine::pack::{Pack, make};

/// How long what nobody has used is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The folder, for this user alone.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    /// `$XDG_CACHE_HOME/wiredflow`, or `~/.cache/wiredflow`.
    ///
    /// # Errors
    /// Where there is neither, or the folder cannot be made.
    pub fn of_user() -> io::Result<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| Path::new(path).is_absolute());
        let home = || std::env::home_dir().map(|home| home.join(".cache"));
        let cache = cache.map(PathBuf::from).or_else(home);
        let none = || io::Error::new(io::ErrorKind::NotFound, "there is no home folder");
        let cache = Self(cache.ok_or_else(none)?.join("wiredflow"));
        for folder in [cache.0.clone(), cache.code_folder(), cache.run_folder()] {
            make(&folder)?;
        }
        Ok(cache)
    }

    fn code_folder(&self) -> PathBuf {
        self.0.join("code")
    }

    fn run_folder(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Puts code into its place, as a whole or not at all.
    ///
    /// # Errors
    /// Where the stream is not the one of that hash, or the files cannot be written.
    pub fn bring_code(&self, hash: &str, stream: impl Read) -> io::Result<()> {
        Pack::unpack(hash, stream, &self.code(hash))
    }

    /// Where a flow's code lies, by its hash.
    pub fn code(&self, hash: &str) -> PathBuf {
        self.code_folder().join(hash)
    }

    /// Where a virtual environment lies.
    pub fn venv(&self, name: &str) -> PathBuf {
        self.0.join("venv").join(name)
    }

    /// Where a session has its socket.
    pub(crate) fn session(&self, id: &str) -> PathBuf {
        self.run_folder().join(id)
    }

    /// Says that something was used now.
    pub fn touch(path: &Path, clock: &Clock) {
        // It is for the next cleaning only.
        drop(File::open(path).and_then(|file| file.set_modified(SystemTime::from(clock.now()))));
    }

    /// Takes away programs and code that nobody has used for a month, and the folders of sessions that have ended without
    /// taking theirs away.
    pub fn clean(&self, clock: &Clock) {
        let now = SystemTime::from(clock.now());
        for folder in ["bin", "code", "venv"] {
            for path in entries(&self.0.join(folder)) {
                let used = fs::metadata(&path).and_then(|data| data.modified());
                let age = used.ok().and_then(|used| now.duration_since(used).ok());
                if age.is_some_and(|age| age > KEPT) {
                    remove(&path);
                }
            }
        }
        for path in entries(&self.run_folder()) {
            let made = fs::metadata(&path).and_then(|data| data.modified());
            let age = made.ok().and_then(|made| now.duration_since(made).ok());
            let is_old = age.is_some_and(|age| age > Duration::from_secs(60));
            if is_old && std::os::unix::net::UnixStream::connect(path.join("socket")).is_err() {
                remove(&path);
            }
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// What cannot be taken away lies there until the next time.
fn remove(path: &Path) {
    match path.is_dir() {
        true => drop(fs::remove_dir_all(path)),
        false => drop(fs::remove_file(path)),
    }
}
