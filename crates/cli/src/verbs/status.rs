//! `status`: a flow that runs, and its pipelines.

use serde_json::Value;

use crate::exit::{Exit, Outcome};
use crate::live;
use crate::paint::{Ink, printable};
use crate::reach::Subject;
use crate::table::{Align, Cell, Table};
use crate::tool::Tool;

/// Show a flow that runs: its pipelines, what they do and what went wrong last
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow status flow.yaml
  wiredflow status flow.yaml numbers --json | jq '.pipelines[].state'
  wiredflow status https://plant.example:8420 --token-file plant.token

A flow on this machine is found by its state folder. Exit codes: 0 it runs, 1 it does not run or does not listen.")]
pub(crate) struct Status {
    #[command(flatten)]
    subject: Subject,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let reached = self.subject.reach(tool)?;
        let mut status = reached.get(&["status"], &[])?;
        let pipelines = reached.pipelines()?;
        if self.json {
            status["pipelines"] = pipelines.into();
            tool.print_json(&status)?;
            return Ok(Exit::Done);
        }
        let out = tool.screen.out();
        let text = |value: &Value| printable(value.as_str().unwrap_or_default()).into_owned();
        let head = format!(
            "{} is {} for {}, at {}",
            text(&status["flow"]),
            text(&status["state"]),
            live::time(status["seconds"].as_f64().unwrap_or_default()),
            text(&status["url"])
        );
        let mut lines = vec![out.paint.with(Ink::Green, &head)];
        if let Some(error) = status["error"].as_str() {
            lines.push(out.paint.with(Ink::Red, &printable(error)));
        }
        lines.extend(table(&pipelines).lines(out.columns(), out.paint));
        for pipeline in &pipelines {
            if let Some(error) = pipeline["last_error"].as_str() {
                let first = error.lines().next().unwrap_or_default();
                let line = format!("{}: {}", text(&pipeline["pipeline"]), printable(first));
                lines.push(out.paint.with(Ink::Yellow, &line));
            }
        }
        tool.screen.print(&format!("{}\n", lines.join("\n")))?;
        Ok(Exit::Done)
    }
}

fn table(pipelines: &[Value]) -> Table {
    let mut table = Table::new(&[
        ("PIPELINE", Align::Left),
        ("STATE", Align::Left),
        ("TRIGGER", Align::Left),
        ("COMMITTED", Align::Right),
        ("FAILED", Align::Right),
        ("DEAD-LETTERED", Align::Right),
        ("RECORDS IN", Align::Right),
        ("OUT", Align::Right),
    ]);
    for pipeline in pipelines {
        let text = |name: &str| pipeline[name].as_str().unwrap_or_default();
        let ends = &pipeline["deliveries"];
        let number = |value: &Value| Cell::count(value.as_u64().unwrap_or_default());
        let state = match pipeline["paused"].as_bool() {
            Some(true) => Cell::inked("paused", Ink::Yellow),
            _ => text("state").into(),
        };
        table.row(vec![
            text("pipeline").into(),
            state,
            text("trigger").into(),
            number(&ends["committed"]),
            number(&ends["failed"]),
            number(&ends["dead_lettered"]),
            number(&pipeline["records_in"]),
            number(&pipeline["records_out"]),
        ]);
    }
    table
}
