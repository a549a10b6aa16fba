//! `pause`, `resume` and `trigger`: the pipelines of a flow that runs.

use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::reach::Subject;
use crate::tool::Tool;

/// Pause pipelines of a flow that runs: they start nothing new
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is in flight is finished. Ticks that come meanwhile are passed over; a source is not read, so that
what it brings waits with its peer. A pipeline stays paused until it is resumed, also when the flow is started anew.

Examples:
  wiredflow pause flow.yaml numbers
  wiredflow pause flow.yaml                 all of them
  wiredflow pause https://plant.example:8420 numbers --token-file plant.token"
)]
pub(crate) struct Pause {
    #[command(flatten)]
    switch: Switch,
}

/// Let paused pipelines go on
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A schedule goes on with its next tick, a source with what comes.

Examples:
  wiredflow resume flow.yaml numbers
  wiredflow resume flow.yaml                all of them"
)]
pub(crate) struct Resume {
    #[command(flatten)]
    switch: Switch,
}

/// Run scheduled pipelines of a flow that runs now, beside their schedule
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A pipeline that runs just now is not run again, unless its `overlap` is `queue` or `allow`. A paused one is run.

Examples:
  wiredflow trigger flow.yaml numbers

Exit codes: 0 each run is being started, 1 one of them is not."
)]
pub(crate) struct Trigger {
    #[command(flatten)]
    switch: Switch,
}

#[derive(Debug, clap::Args)]
struct Switch {
    #[command(flatten)]
    subject: Subject,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Pause {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        self.switch.run(tool, "pause", "paused", |_| true)
    }
}

impl Resume {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        self.switch.run(tool, "resume", "resumed", |_| true)
    }
}

impl Trigger {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        // Streams are meant only where they are named.
        let is_scheduled = |pipeline: &Value| pipeline["scheduled"] == json!(true);
        self.switch.run(tool, "trigger", "triggered", is_scheduled)
    }
}

impl Switch {
    fn run(&self, tool: &Tool, verb: &str, done: &str, is_meant: fn(&Value) -> bool) -> Outcome {
        let reached = self.subject.reach(tool)?;
        let mut pipelines = reached.pipelines()?;
        if reached.named.is_empty() {
            pipelines.retain(is_meant);
        }
        let (mut documents, mut failed) = (Vec::new(), Vec::new());
        for pipeline in &pipelines {
            let name = pipeline["pipeline"].as_str().unwrap_or_default();
            match reached.post(&["pipelines", name, verb]) {
                Ok(document) => {
                    if !self.json {
                        let was_paused = pipeline["paused"] == json!(true);
                        let said = match verb {
                            "pause" if was_paused => format!("{name} was paused before\n"),
                            "resume" if !was_paused => format!("{name} was not paused\n"),
                            _ => format!("{done} {name}\n"),
                        };
                        tool.screen.print(&said)?;
                    }
                    documents.push(document);
                }
                Err(failure) => {
                    documents.push(json!({ "pipeline": name, "error": failure.message() }));
                    failed.push(failure);
                }
            }
        }
        if self.json {
            tool.print_json(&json!({ "ok": failed.is_empty(), "pipelines": documents }))?;
        }
        match failed.into_iter().next() {
            None if pipelines.is_empty() => Err(Failure::wrong(format!(
                "no pipeline of the flow can be {done}"
            ))),
            None => Ok(Exit::Done),
            Some(first) => Err(first),
        }
    }
}
