//! `init`: writes a first flow.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use wiredflow_core::config::is_name;

use crate::exit::{Exit, Failure, Outcome};
use crate::paint::{Ink, printable};
use crate::tool::Tool;

/// The files of a new flow.
const FILES: [(&str, &str); 3] = [
    ("flow.yaml", include_str!("init/flow.yaml")),
    ("logic.py", include_str!("init/logic.py")),
    ("flow.test.yaml", include_str!("init/flow.test.yaml")),
];

/// Write a first flow, with comments that teach, its logic in Python, and its tests
#[derive(Debug, clap::Args)]
#[command(after_help = "Nothing that exists is overwritten.

Examples:
  wiredflow init my_service
  wiredflow init .                 in this folder")]
pub(crate) struct Init {
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Init {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let folder = &self.folder;
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::wrong(format!(
                "cannot make the folder `{}`: {error}",
                folder.display()
            ))
        })?;
        for (name, _) in FILES {
            let path = folder.join(name);
            // Also a link that leads nowhere is something that exists.
            if path.symlink_metadata().is_ok() {
                return Err(exists(&path));
            }
        }
        let flow_name = name_for(folder);
        for (name, text) in FILES {
            write_new(&folder.join(name), &text.replace("NAME", &flow_name))?;
        }
        if !tool.global.quiet {
            tool.screen.print(&next_steps(tool, folder))?;
        }
        Ok(Exit::Done)
    }
}

fn next_steps(tool: &Tool, folder: &Path) -> String {
    let paint = tool.screen.out().paint;
    let written: Vec<String> = FILES
        .iter()
        .map(|(name, _)| shown(&folder.join(name)))
        .collect();
    let flow = in_a_shell(&shown(&folder.join("flow.yaml")));
    let step = |command: String, what: &str| {
        format!("  {}\n      {what}\n", paint.with(Ink::Cyan, &command))
    };
    let run = format!(
        "runs it until ^C; what it stores is in {}",
        shown(&folder.join("data"))
    );
    format!(
        "wrote {}\n\nNext:\n{}{}{}{}",
        written.join(", "),
        step(
            format!("wiredflow check {flow}"),
            "tells all problems of the flow"
        ),
        step(
            format!("wiredflow test {flow}"),
            "runs the flow's own tests, which need no server"
        ),
        step(
            "wiredflow mock".to_owned(),
            "in another terminal: the servers that the flow asks"
        ),
        step(format!("wiredflow run {flow}"), &run),
    )
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string()).into_owned()
}

/// A path as it can be given to a shell: in quotes where it has more than plain letters.
fn in_a_shell(path: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "_-./+:@%".contains(letter);
    if !path.is_empty() && path.chars().all(plain) && !path.starts_with('-') {
        path.to_owned()
    } else if path.starts_with('-') {
        format!("'./{}'", path.replace('\'', r"'\''"))
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Failure::wrong(format!("cannot write `{}`: {error}", path.display())),
    })
}

fn exists(path: &Path) -> Failure {
    Failure::wrong(format!(
        "`{}` is there already; name another folder",
        path.display()
    ))
}

/// The flow is called as its folder where that can be a name.
fn name_for(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = absolute
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.filter(|name| is_name(name))
        .unwrap_or_else(|| "my_service".to_owned())
}
