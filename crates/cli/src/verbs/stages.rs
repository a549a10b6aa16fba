//! `stages`: the catalogue, read from the program itself.

mod cards;
mod markdown;
mod text;

use serde_json::{Value, json};
use wiredflow_core::problem::possible;

use crate::exit::{Exit, Failure, Outcome};
use crate::tool::Tool;
use cards::{Kind, all};

/// Show what a flow can have: stages, sources, storages, receivers, and all keys
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without KIND a list; with one all its keys with types, defaults and meaning, and an example.

Examples:
  wiredflow stages
  wiredflow stages http
  wiredflow stages pipeline          the keys of a pipeline; also flow, stage, storage, retry …
  wiredflow stages --json | jq '.stages[].name'"
)]
pub(crate) struct Stages {
    /// What to show: a kind, or a place for keys such as `pipeline`
    kind: Option<String>,

    /// Print one JSON document
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Print the whole catalogue as a document
    #[arg(long, conflicts_with = "kind")]
    markdown: bool,
}

impl Stages {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let kinds = self.chosen()?;
        let out = tool.screen.out();
        if self.json {
            tool.print_json(&document(&kinds))?;
        } else if self.markdown {
            tool.screen.print(&markdown::document(&kinds))?;
        } else if self.kind.is_some() {
            tool.screen
                .print(&text::details(&kinds, out.columns(), out.paint))?;
        } else {
            tool.screen
                .print(&text::list(&kinds, out.columns(), out.paint))?;
        }
        Ok(Exit::Done)
    }

    fn chosen(&self) -> Result<Vec<Kind>, Failure> {
        let mut kinds = all();
        let Some(name) = &self.kind else {
            return Ok(kinds);
        };
        let help = possible(name, kinds.iter().map(|kind| kind.card.name));
        kinds.retain(|kind| kind.card.name == name);
        if kinds.is_empty() {
            return Err(Failure::wrong(format!("there is no kind `{name}`: {help}")));
        }
        Ok(kinds)
    }
}

/// All kinds by their role.
fn document(kinds: &[Kind]) -> Value {
    let mut document = serde_json::Map::new();
    for kind in kinds {
        let fields: Vec<Value> = kind.fields().iter().map(field).collect();
        let entry = json!({
            "name": kind.card.name,
            "doc": kind.doc(),
            "short": kind.card.short,
            "example": kind.card.example,
            "fields": fields,
        });
        let list = document
            .entry(kind.role.word())
            .or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(entry);
        }
    }
    Value::Object(document)
}

fn field(field: &cards::Key) -> Value {
    json!({
        "name": field.name,
        "doc": field.doc,
        "expects": field.expects,
        "default": field.default,
        "required": field.required,
    })
}
