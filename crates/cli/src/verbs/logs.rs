//! `logs`: the newest log lines of a flow that runs.

use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_engine::clock::Clock;

use crate::exit::{Exit, Failure, Outcome};
use crate::log;
use crate::reach::{Reached, Subject};
use crate::service::{Signals, runtime};
use crate::tool::Tool;

/// How often new lines are asked for.
const EACH: Duration = Duration::from_secs(1);

/// Show the newest log lines of a flow that runs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow logs flow.yaml
  wiredflow logs flow.yaml numbers --last 20
  wiredflow logs flow.yaml --follow

A flow keeps its newest 1,000 lines, of the level that it was started with.")]
pub(crate) struct Logs {
    #[command(flatten)]
    subject: Subject,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    last: u32,

    /// Go on with what comes, until ^C or the end of the flow
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,

    /// Print one JSON document: {"logs": [{"number", "time", "level", "message", "fields"}]}
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let reached = self.subject.reach(tool)?;
        let (mut newest, lines) = self.look(&reached, 0)?;
        if self.json {
            tool.print_json(&json!({ "logs": lines }))?;
            return Ok(Exit::Done);
        }
        show(tool, &lines)?;
        if !self.follow {
            return Ok(Exit::Done);
        }
        let (clock, waiting) = (Clock::real(), runtime()?);
        let mut signals = waiting.block_on(async { Signals::listen() })?;
        loop {
            let goes_on = waiting.block_on(async {
                tokio::select! {
                    () = signals.next() => false,
                    () = clock.sleep(EACH) => true,
                }
            });
            if !goes_on {
                return Ok(Exit::Done);
            }
            let (now, lines) = self.look(&reached, newest)?;
            newest = now;
            show(tool, &lines)?;
        }
    }

    /// The lines after `after`, and the number of the newest.
    fn look(&self, reached: &Reached, after: u64) -> Result<(u64, Vec<Value>), Failure> {
        let number = after.to_string();
        let query = [("after", number.as_str()), ("limit", "1000")];
        let document = reached.get(&["logs"], &query)?;
        let mut lines = document["logs"].as_array().cloned().unwrap_or_default();
        let is_meant = |line: &Value| {
            let pipeline = line["fields"]["pipeline"].as_str();
            reached.named.is_empty() || reached.named.iter().any(|name| pipeline == Some(name))
        };
        lines.retain(is_meant);
        if after == 0 {
            let most = usize::try_from(self.last).unwrap_or(usize::MAX);
            lines.drain(..lines.len().saturating_sub(most));
        }
        Ok((document["newest"].as_u64().unwrap_or(after), lines))
    }
}

fn show(tool: &Tool, lines: &[Value]) -> Result<(), Failure> {
    let paint = tool.screen.out().paint;
    let text: String = lines.iter().map(|line| log::line_of(line, paint)).collect();
    if text.is_empty() {
        return Ok(());
    }
    tool.screen.print(&text)
}
