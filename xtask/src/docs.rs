//! Documents that are made from the program: they are written by it, and compared with it.

use std::process::Command;

use crate::{Result, tree};

/// A document, and the arguments of `wiredflow` that print it. One that is not in the project yet
/// is neither written nor compared: a first, empty file switches it on.
const MADE: &[(&str, &[&str])] = &[("docs/stages.md", &["stages", "--markdown"])];

/// Writes each made document anew.
pub(crate) fn write() -> Result {
    for (path, arguments) in switched_on() {
        let text = printed(arguments)?;
        std::fs::write(tree::root().join(path), text)
            .map_err(|err| format!("cannot write `{path}`: {err}"))?;
        println!("wrote {path}");
    }
    Ok(())
}

/// Compares each made document with what the program prints.
pub(crate) fn check() -> Result {
    for (path, arguments) in switched_on() {
        let text = std::fs::read_to_string(tree::root().join(path))
            .map_err(|err| format!("cannot read `{path}`: {err}"))?;
        if text != printed(arguments)? {
            return Err(format!(
                "`{path}` is not what the program prints: run `cargo xtask docs`"
            ));
        }
        println!("{path} is what the program prints");
    }
    Ok(())
}

fn switched_on() -> impl Iterator<Item = &'static (&'static str, &'static [&'static str])> {
    MADE.iter()
        .filter(|(path, _)| tree::root().join(path).is_file())
}

fn printed(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "wiredflow", "--"])
        .args(arguments)
        .current_dir(tree::root())
        .output()
        .map_err(|err| format!("cannot run `cargo run`: {err}"))?;
    let command = arguments.join(" ");
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`wiredflow {command}` failed: {}", reason.trim()));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| format!("`wiredflow {command}` printed bytes that are no text"))
}
