//! `check`: all problems of a flow.

use std::path::PathBuf;

use wiredflow_core::config_reader::not_built_yet;

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file;
use crate::problems::plural;
use crate::tool::Tool;

/// Tell all problems of a flow, with their places and what is possible
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is opened or connected, and nothing of yours is run: Python files are only parsed, by the interpreter that
will run them. The exit code is 2 when there is an error; a warning is none.

Examples:
  wiredflow check flow.yaml
  wiredflow check flow.yaml --json | jq '.problems[].message'"
)]
pub(crate) struct Check {
    /// The flow file
    file: Option<PathBuf>,

    /// Print one JSON document: {"ok", "problems": [{"severity", "message", "file", "line", …}]}
    #[arg(long)]
    json: bool,

    #[arg(long, value_name = "URL", hide = true)]
    engine: Option<String>,
}

impl Check {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        if self.engine.is_some() {
            return Err(Failure::wrong(not_built_yet("--engine")));
        }
        let subject = flow_file::check(tool, self.file.as_deref())?;
        let (source, problems) = (&subject.source, &subject.checked.problems);
        if self.json {
            tool.print_json(&source.document(problems))?;
        } else {
            tool.screen
                .print(&source.report(problems, tool.screen.out().paint))?;
        }
        let Some(plan) = &subject.checked.plan else {
            return Ok(Exit::Wrong);
        };
        if !self.json && !tool.global.quiet {
            let pipelines = plural(plan.pipelines.len(), "pipeline");
            let stages = plan
                .pipelines
                .iter()
                .map(|pipeline| pipeline.stages.len())
                .sum();
            let stages = plural(stages, "stage");
            tool.screen.print(&format!(
                "{} is fine: {pipelines}, {stages}\n",
                source.name()
            ))?;
        }
        Ok(Exit::Done)
    }
}
