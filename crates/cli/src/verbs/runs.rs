//! `runs`: the history of a flow.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use wiredflow_engine::clock::Clock;
use wiredflow_engine::state::{RunOutcome, RunSelection, StateReader, StoredRun};

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file;
use crate::live;
use crate::paint::Ink;
use crate::table::{Align, Cell, Table};
use crate::tool::Tool;

/// Show the history of a flow, newest first, whether it runs or not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow runs flow.yaml
  wiredflow runs flow.yaml --pipeline numbers --last 100
  wiredflow runs flow.yaml --outcome failed
  wiredflow runs flow.yaml --json | jq '.runs[].error'

Runs are kept for 30 days, the newest 100,000 of them.")]
pub(crate) struct Runs {
    /// The flow file
    file: Option<PathBuf>,

    /// Only the runs of this pipeline
    #[arg(long, value_name = "P")]
    pipeline: Option<String>,

    /// Only the runs that ended so: committed, failed, dead_lettered or skipped
    #[arg(long, value_name = "O", value_parser = outcome)]
    outcome: Option<RunOutcome>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: u32,

    /// Print one JSON document: {"runs": […]}
    #[arg(long)]
    json: bool,
}

impl Runs {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let runs = self.read(tool)?;
        if self.json {
            tool.print_json(&json!({ "runs": runs }))?;
        } else if runs.is_empty() {
            tool.screen.print(match self.outcome {
                Some(_) => "no such runs\n",
                None => "no runs yet; a stream's deliveries are counted, not kept as runs\n",
            })?;
        } else {
            let out = tool.screen.out();
            let mut text = table(&runs).lines(out.columns(), out.paint).join("\n");
            text.push('\n');
            tool.screen.print(&text)?;
        }
        Ok(Exit::Done)
    }

    fn read(&self, tool: &Tool) -> Result<Vec<StoredRun>, Failure> {
        let place = flow_file::state_place(tool, self.file.as_deref())?;
        let selection = RunSelection {
            pipeline: self.pipeline.as_deref(),
            outcome: self.outcome,
            limit: Some(self.last),
        };
        let runs = StateReader::open(&place.folder, &place.flow)
            .and_then(|reader| reader.chosen_runs(selection))
            .map_err(|error| Failure::failed(error.message()))?;
        if runs.is_empty() {
            place.check_pipeline(self.pipeline.as_deref())?;
        }
        Ok(runs)
    }
}

/// Reads the word of an outcome.
fn outcome(word: &str) -> Result<RunOutcome, String> {
    use RunOutcome::{Committed, DeadLettered, Failed, Skipped};
    let mut known = [Committed, Failed, DeadLettered, Skipped].into_iter();
    known
        .find(|known| known.word() == word)
        .ok_or_else(|| "possible are committed, failed, dead_lettered and skipped".to_owned())
}

fn table(runs: &[StoredRun]) -> Table {
    let mut table = Table::new(&[
        ("STARTED", Align::Left),
        ("PIPELINE", Align::Left),
        ("OUTCOME", Align::Left),
        ("TOOK", Align::Right),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("ERROR", Align::Left),
    ]);
    for run in runs {
        let outcome = match run.outcome {
            Some(outcome @ RunOutcome::Failed) => Cell::inked(outcome.word(), Ink::Red),
            Some(outcome) => outcome.word().into(),
            None => "running".into(),
        };
        let seconds = |end: Timestamp| end.duration_since(run.started).as_secs_f64().max(0.0);
        let took = match run.ended {
            Some(ended) => live::time(seconds(ended)),
            None => format!("{} …", live::time(seconds(Clock::real().now()))),
        };
        table.row(vec![
            local(run.started).into(),
            (&run.pipeline).into(),
            outcome,
            took.into(),
            Cell::count(run.records_in),
            Cell::count(run.records_out),
            run.error
                .as_deref()
                .and_then(|error| error.lines().next())
                .unwrap_or_default()
                .into(),
        ]);
    }
    table
}

/// A time as people here read it.
pub(crate) fn local(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system())
        .strftime("%F %T")
        .to_string()
}
