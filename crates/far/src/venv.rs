//! A virtual environment for a flow's `requirements.txt`, made once for what stands in it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wiredflow_core::{Error, Result};
use wiredflow_engine::clock::Clock;
use wiredflow_engine::pack::{REQUIREMENTS, hex, make};

use crate::cache::Cache;
use crate::ssh::last_line;

/// What there is when all packages are installed.
const READY: &str = "ready";

/// An environment that shall be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Venv {
    /// Its name, from what stands in the file and the Python that installs it.
    name: String,
    /// The hash of the code that has the file.
    code: String,
    /// The Python that makes it.
    python: String,
}

impl Venv {
    /// That of a flow's folder; none where it names no packages. `version` is what the Python says of itself.
    ///
    /// # Errors
    /// `Config`, where the file cannot be read.
    pub fn of(folder: &Path, code: &str, python: &str, version: &str) -> Result<Option<Self>> {
        let path = folder.join(REQUIREMENTS);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let message = format!("`{}` cannot be read: {error}", path.display());
                return Err(Error::config(message));
            }
        };
        let mut hash = Sha256::new();
        for part in [text.as_slice(), python.as_bytes(), version.as_bytes()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        // Files beside it may be named in it.
        if text.windows(2).any(|two| two == b"./") {
            hash.update(code);
        }
        let name = hex(&hash.finalize());
        Ok(Some(Self {
            name: name[..32].to_owned(),
            code: code.to_owned(),
            python: python.to_owned(),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it, unless it is there.
    ///
    /// # Errors
    /// `Config`, with the last words of what has failed.
    pub fn make(&self, cache: &Cache, clock: &Clock) -> Result<()> {
        let failed = |error: io::Error| {
            Error::config(format!("no virtual environment can be made: {error}"))
        };
        let place = cache.venv(&self.name);
        let folder = place.parent().unwrap_or(&place);
        make(folder).map_err(failed)?;
        let lock = File::create(place.with_extension("lock")).map_err(failed)?;
        // Another flow may be making the same: it is waited for.
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| failed(error.into()))?;
        if place.join(READY).exists() {
            Cache::touch(&place, clock);
            return Ok(());
        }
        if place.exists() {
            fs::remove_dir_all(&place).map_err(failed)?;
        }
        let run = |program: &Path, arguments: &[&std::ffi::OsStr]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(cache.code(&self.code));
            command.stdin(Stdio::null()).output().map_err(failed)
        };
        let made = run(
            Path::new(&self.python),
            &["-m".as_ref(), "venv".as_ref(), place.as_os_str()],
        )?;
        told(
            &made,
            "no virtual environment can be made (on Debian it wants the package python3-venv)",
        )?;
        let pip = [
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--quiet",
            "-r",
            REQUIREMENTS,
        ];
        let installed = run(&place.join("bin/python"), &pip.map(AsRef::as_ref))?;
        told(&installed, "`requirements.txt` cannot be installed")?;
        File::create(place.join(READY)).map_err(failed)?;
        Ok(())
    }
}

/// What a command that has failed said last.
fn told(output: &Output, what: &str) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = last_line(&output.stderr).or_else(|| last_line(&output.stdout));
    let said = said.unwrap_or("it did not say why");
    Err(Error::config(format!("{what}: {said}")))
}
