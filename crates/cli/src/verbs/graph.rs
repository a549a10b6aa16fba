//! `graph`: a flow as text or as a picture.

mod layout;
mod svg;
mod text;

use std::path::PathBuf;

use wiredflow_engine::outline::Outline;

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file;
use crate::paint::printable;
use crate::tool::Tool;

/// Show a flow: its pipelines, their stages, and the storages between them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is opened or started. A Python function counts as a reader of the storages that its body takes
by name, such as `db_connectors[\"numbers\"]`, and SQL of those that it mentions. What a program reads cannot be seen.

Examples:
  wiredflow graph flow.yaml
  wiredflow graph flow.yaml --svg flow.svg      a picture that fits light and dark pages"
)]
pub(crate) struct Graph {
    /// The flow file
    file: Option<PathBuf>,

    /// Write a picture into this file, over what is there; `-` for standard output
    #[arg(long, value_name = "F")]
    svg: Option<PathBuf>,
}

impl Graph {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let subject = flow_file::check(tool, self.file.as_deref())?;
        let (source, checked) = (&subject.source, &subject.checked);
        if !checked.problems.is_empty() {
            let report = source.report(&checked.problems, tool.screen.err().paint);
            tool.screen.tell(&report);
        }
        let (Some(plan), Some(flow)) = (&checked.plan, &checked.flow) else {
            return Ok(Exit::Wrong);
        };
        let outline = Outline::of(flow, &plan.folder, &plan.scrubber);
        let out = tool.screen.out();
        match &self.svg {
            None => {
                let text = text::draw(&outline, out.columns(), out.paint);
                tool.screen.print(&text)?;
            }
            Some(file) if file.as_os_str() == "-" => tool.screen.print(&svg::draw(&outline))?,
            Some(file) => {
                let name = printable(&file.display().to_string()).into_owned();
                std::fs::write(file, svg::draw(&outline))
                    .map_err(|error| Failure::failed(format!("cannot write `{name}`: {error}")))?;
                if !tool.global.quiet {
                    tool.screen.print(&format!("wrote {name}\n"))?;
                }
            }
        }
        Ok(Exit::Done)
    }
}
