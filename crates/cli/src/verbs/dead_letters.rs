//! `dead-letters`: what could not be handled.

mod chosen;
mod remove;
mod replay;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use wiredflow_core::Value;
use wiredflow_engine::state::{Body, ListedDeadLetter, Selection, StateReader, StoredDeadLetter};

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file::{self, StatePlace};
use crate::paint::{Ink, Paint, printable, printable_lines};
use crate::table::{Align, Cell, Table};
use crate::tool::Tool;
use crate::verbs::runs::local;

/// Look at what could not be handled, replay or drop it, whether the flow runs or not
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A record that a stage could not handle, and whose policy is `on_error: dead_letter`, is set
aside with the reason; so is a payload that cannot be read. The flow goes on.

Examples:
  wiredflow dead-letters list flow.yaml
  wiredflow dead-letters show flow.yaml              the newest, with its body
  wiredflow dead-letters show flow.yaml 01jd8k2c     one of them; the first characters are enough
  wiredflow dead-letters replay flow.yaml 01jd8k2c   once more, from the stage that failed on
  wiredflow dead-letters replay flow.yaml --all
  wiredflow dead-letters drop flow.yaml 01jd8k2c     it is not wanted any more

Dead letters are kept for 30 days."
)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    Show(Show),
    Replay(replay::Replay),
    Drop(remove::Remove),
}

/// List dead letters, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow dead-letters list flow.yaml
  wiredflow dead-letters list flow.yaml --pipeline numbers --last 5 --json")]
struct List {
    /// The flow file
    file: Option<PathBuf>,

    /// Only those of this pipeline
    #[arg(long, value_name = "P")]
    pipeline: Option<String>,

    /// At most so many; all when left out
    #[arg(long, value_name = "N")]
    last: Option<u32>,

    /// Print one JSON document: {"dead_letters": [{"id", "pipeline", "stage", "reason", "time", "bytes"}]}
    #[arg(long)]
    json: bool,
}

/// Show a dead letter with its reason, trace, params and body
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow dead-letters show flow.yaml
  wiredflow dead-letters show flow.yaml 01jd8k2c9m3vq7w5x0za --json | jq .body")]
struct Show {
    /// The flow file
    #[arg(index = 1)]
    file: Option<PathBuf>,

    /// Which, as `list` names it; the newest when left out
    #[arg(index = 2)]
    id: Option<String>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl DeadLetters {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        match &self.verb {
            Verb::List(list) => list.run(tool),
            Verb::Show(show) => show.run(tool),
            Verb::Replay(replay) => replay.run(tool),
            Verb::Drop(remove) => remove.run(tool),
        }
    }
}

impl List {
    fn run(&self, tool: &Tool) -> Outcome {
        let selection = Selection {
            pipeline: self.pipeline.as_deref(),
            limit: self.last,
        };
        let place = flow_file::state_place(tool, self.file.as_deref())?;
        let letters = open(&place)?.dead_letters(selection).map_err(told)?;
        if letters.is_empty() {
            place.check_pipeline(self.pipeline.as_deref())?;
        }
        if self.json {
            tool.print_json(&json!({ "dead_letters": letters }))?;
        } else if letters.is_empty() {
            tool.screen.print("no dead letters\n")?;
        } else {
            let out = tool.screen.out();
            let mut text = table(&letters).lines(out.columns(), out.paint).join("\n");
            text.push('\n');
            tool.screen.print(&text)?;
        }
        Ok(Exit::Done)
    }
}

impl Show {
    fn run(&self, tool: &Tool) -> Outcome {
        let (file, id) = self.named(tool);
        let reader = open(&flow_file::state_place(tool, file)?)?;
        let id = which(&reader, id)?;
        let letter = reader.dead_letter(&id).map_err(told)?;
        let letter =
            letter.ok_or_else(|| Failure::failed(format!("there is no dead letter `{id}`")))?;
        if self.json {
            tool.print_json(&letter)?;
        } else {
            tool.screen
                .print(&shown(&letter, tool.screen.out().paint))?;
        }
        Ok(Exit::Done)
    }

    /// With a flow linked in, the only argument is the id unless it is a file.
    fn named(&self, tool: &Tool) -> (Option<&Path>, Option<&str>) {
        match (&self.file, &self.id) {
            (Some(only), None) if tool.flow.is_some() && !only.exists() => (None, only.to_str()),
            (file, id) => (file.as_deref(), id.as_deref()),
        }
    }
}

fn open(place: &StatePlace) -> Result<StateReader, Failure> {
    StateReader::open(&place.folder, &place.flow).map_err(told)
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn told(error: wiredflow_core::Error) -> Failure {
    Failure::failed(error.message())
}

/// The id that begins like that, or the newest.
fn which(reader: &StateReader, id: Option<&str>) -> Result<String, Failure> {
    let letters = reader.dead_letters(Selection::default()).map_err(told)?;
    let mut ids = letters.iter().map(|letter| letter.id.to_string());
    let Some(id) = id else {
        return ids
            .next()
            .ok_or_else(|| Failure::failed("there are no dead letters"));
    };
    let found: Vec<String> = ids.filter(|known| known.starts_with(id)).collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::failed(format!(
            "there is no dead letter `{id}`; `wiredflow dead-letters list` names them"
        ))),
        [..] => Err(Failure::failed(format!(
            "`{id}` begins {} dead letters; give more of it",
            found.len()
        ))),
    }
}

fn table(letters: &[ListedDeadLetter]) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TIME", Align::Left),
        ("PIPELINE", Align::Left),
        ("STAGE", Align::Left),
        ("BYTES", Align::Right),
        ("REASON", Align::Left),
    ]);
    for letter in letters {
        table.row(vec![
            letter.id.to_string().into(),
            local(letter.time).into(),
            (&letter.pipeline).into(),
            (&letter.stage).into(),
            Cell::count(letter.bytes),
            letter.reason.lines().next().unwrap_or_default().into(),
        ]);
    }
    table
}

/// All of a letter; what came from outside is made printable.
fn shown(letter: &StoredDeadLetter, paint: Paint) -> String {
    let listed = &letter.listed;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let name = paint.with(Ink::Bold, &format!("{name:<9}"));
        text.push_str(&format!(
            "{name} {}\n",
            printable_lines(value, "          ")
        ));
    };
    line("id", &listed.id.to_string());
    line("time", &local(listed.time));
    line("place", &format!("{}/{}", listed.pipeline, listed.stage));
    if let Some(asked) = letter.asked {
        line("asked", &format!("for its replay since {}", local(asked)));
    }
    line("kind", &letter.kind);
    line("reason", &listed.reason);
    line("attempts", &letter.attempts.to_string());
    if let Some(delivery) = &letter.delivery {
        line("delivery", delivery);
    }
    if let Some(origin) = &letter.origin {
        line("from", origin);
    }
    if let Some(params) = letter.params.as_ref().filter(|params| !params.is_empty()) {
        line("params", &Value::Object(params.clone()).to_string());
    }
    if let Some(trace) = &letter.trace {
        line("trace", trace);
    }
    let size = format!("{} bytes", listed.bytes);
    text.push_str(&format!("{} {size}\n", paint.with(Ink::Bold, "body     ")));
    text.push_str(&body(&letter.body));
    text
}

/// JSON as JSON, readable text as text, anything else as base64.
fn body(body: &Body) -> String {
    let text = match body {
        Body::Json(value) => serde_json::to_string_pretty(value).unwrap_or_default(),
        Body::Batch(values) => serde_json::to_string_pretty(values).unwrap_or_default(),
        Body::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return format!("{}\n", printable(text)),
            Err(_) => match serde_json::to_value(body) {
                Ok(Value::Object(map)) => {
                    let base64 = map
                        .get("base64")
                        .and_then(Value::as_str)
                        .unwrap_or_default();
                    format!("base64: {base64}")
                }
                _ => String::new(),
            },
        },
    };
    format!("{}\n", printable_lines(&text, ""))
}
