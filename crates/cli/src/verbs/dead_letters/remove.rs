//! `dead-letters drop`: what is not wanted any more.

use serde_json::json;
use wiredflow_engine::state::LetterEditor;

use crate::exit::{Exit, Outcome};
use crate::flow_file;
use crate::tool::Tool;

use super::chosen::{Chosen, ids};
use super::{open, told};

/// Drop dead letters for good, whether the flow runs or not
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wiredflow dead-letters drop flow.yaml 01jd8k2c 01jd8k30
  wiredflow dead-letters drop flow.yaml --pipeline numbers --json
  wiredflow dead-letters drop flow.yaml --all

Nothing is dropped when one of the names is unknown. A letter that is being replayed is dropped too: what comes of
its replay is stored, and what fails again is not kept.")]
pub(super) struct Remove {
    #[command(flatten)]
    chosen: Chosen,

    /// Print one JSON document: {"dropped": [ID, …]}
    #[arg(long)]
    json: bool,
}

impl Remove {
    pub(super) fn run(&self, tool: &Tool) -> Outcome {
        let (file, _) = self.chosen.named(tool);
        let place = flow_file::state_place(tool, file)?;
        let reader = open(&place)?;
        let letters = self.chosen.find(tool, (&place, &reader), "drop")?;
        if !letters.is_empty() {
            let mut editor = LetterEditor::open(&place.folder, &place.flow).map_err(told)?;
            editor.remove(&ids(&letters)).map_err(told)?;
        }
        if self.json {
            tool.print_json(&json!({ "dropped": ids(&letters) }))?;
        } else {
            tool.screen.print(&match letters.len() {
                0 => "no dead letters\n".to_owned(),
                1 => format!("dropped {}\n", letters[0].id),
                number => format!("dropped {number} dead letters\n"),
            })?;
        }
        Ok(Exit::Done)
    }
}
