//! `status`: a flow that runs, and its pipelines.

use jiff::Timestamp;
use serde_json::Value;
use wiredflow_engine::clock::Clock;

use crate::deployed;
use crate::engine::EngineArguments;
use crate::exit::{Exit, Outcome};
use crate::live;
use crate::paint::{Ink, printable};
use crate::reach::Subject;
use crate::service;
use crate::table::{Align, Cell, Table};
use crate::tool::Tool;

/// Show a flow that runs: its pipelines, what they do and what went wrong last
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow status flow.yaml
  wiredflow status flow.yaml numbers --json | jq '.pipelines[].state'
  wiredflow status https://plant.example:8420 --token-file plant.token
  wiredflow status --engine nats://10.0.0.1:4222            all nodes and flows of a cluster
  wiredflow status sensors --engine nats://10.0.0.1:4222    one flow of it

A flow on this machine is found by its state folder. Exit codes: 0 it runs, 1 it does not run or does not listen.")]
pub(crate) struct Status {
    #[command(flatten)]
    subject: Subject,

    #[command(flatten)]
    engine: EngineArguments,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        if self.engine.is_given() {
            let flow = self.subject.name();
            let showing = deployed::show(tool, &self.engine, flow, self.json);
            return service::runtime()?.block_on(showing);
        }
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
                let name = text(&pipeline["pipeline"]);
                let line = format!("{name}{}: {}", ago(pipeline), printable(first));
                lines.push(out.paint.with(Ink::Yellow, &line));
            }
        }
        tool.screen.print(&format!("{}\n", lines.join("\n")))?;
        Ok(Exit::Done)
    }
}

/// How long ago the newest error came, behind the pipeline's name.
fn ago(pipeline: &Value) -> String {
    let at = pipeline["last_error_at"].as_str();
    let at = at.and_then(|at| at.parse::<Timestamp>().ok());
    at.map_or_else(String::new, |at| {
        let ago = Clock::real().now().duration_since(at).as_secs_f64();
        format!(", {} ago", live::time(ago.max(0.0)))
    })
}

fn table(pipelines: &[Value]) -> Table {
    let mut head = vec![
        ("PIPELINE", Align::Left),
        ("STATE", Align::Left),
        ("TRIGGER", Align::Left),
        ("COMMITTED", Align::Right),
        ("FAILED", Align::Right),
        ("DEAD-LETTERED", Align::Right),
        ("RECORDS IN", Align::Right),
        ("OUT", Align::Right),
    ];
    let passed_over = |pipeline: &Value| pipeline["ticks_skipped"].as_u64().unwrap_or_default();
    let is_late = pipelines.iter().any(|pipeline| passed_over(pipeline) > 0);
    if is_late {
        head.push(("TICKS PASSED OVER", Align::Right));
    }
    let can_wait = pipelines.iter().any(|pipeline| waiting(pipeline).is_some());
    if can_wait {
        head.push(("WAITING", Align::Right));
    }
    let mut table = Table::new(&head);
    for pipeline in pipelines {
        let text = |name: &str| pipeline[name].as_str().unwrap_or_default();
        let ends = &pipeline["deliveries"];
        let number = |value: &Value| Cell::count(value.as_u64().unwrap_or_default());
        let state = match pipeline["paused"].as_bool() {
            Some(true) => Cell::inked("paused", Ink::Yellow),
            _ => text("state").into(),
        };
        let mut row = vec![
            text("pipeline").into(),
            state,
            text("trigger").into(),
            number(&ends["committed"]),
            number(&ends["failed"]),
            number(&ends["dead_lettered"]),
            number(&pipeline["records_in"]),
            number(&pipeline["records_out"]),
        ];
        if is_late {
            row.push(Cell::count(passed_over(pipeline)));
        }
        if can_wait {
            row.push(waiting(pipeline).map_or_else(|| "".into(), Cell::count));
        }
        table.row(row);
    }
    table
}

/// What waits on the disk in a pipeline's inbox, and for its sinks that are not required; none where nothing can.
fn waiting(pipeline: &Value) -> Option<u64> {
    let inbox = pipeline["inbox"]["waiting"].as_u64();
    let outboxes = pipeline["outboxes"].as_object().into_iter().flatten();
    let each = outboxes.filter_map(|(_, outbox)| outbox["waiting"].as_u64());
    inbox.into_iter().chain(each).reduce(|sum, one| sum + one)
}
