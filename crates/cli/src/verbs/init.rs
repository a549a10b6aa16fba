//! `init`: writes a first flow.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use wiredflow_core::config::is_name;

use crate::exit::{Exit, Failure, Outcome};
use crate::paint::{Ink, printable};
use crate::tool::Tool;

/// The files of a new flow.
const FILES: [(&str, &str); 2] = [
    ("flow.yaml", include_str!("init/flow.yaml")),
    ("logic.py", include_str!("init/logic.py")),
];

/// Write a first flow, with comments that teach, and its logic in Python
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
    let flow = folder.join("flow.yaml");
    let [flow, logic] = [flow, folder.join("logic.py")]
        .map(|path| printable(&path.display().to_string()).into_owned());
    let command = |text: String| paint.with(Ink::Cyan, &text);
    format!(
        "wrote {flow} and {logic}\n\nNext:\n  {}\n      tells all problems of the flow\n  {}\n      in another \
         terminal: the servers that it asks\n  {}\n      runs it until ^C; what it stores is in {}\n",
        command(format!("wiredflow check {flow}")),
        command("wiredflow mock".to_owned()),
        command(format!("wiredflow run {flow}")),
        printable(&folder.join("data").display().to_string()),
    )
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
