//! Which dead letters a verb is about.

use std::path::{Path, PathBuf};

use wiredflow_engine::state::{DeadLetterId, ListedDeadLetter, Selection, StateReader};

use crate::exit::Failure;
use crate::flow_file::StatePlace;
use crate::tool::Tool;

use super::told;

/// How many letters an ambiguous name is answered with.
const SHOWN: usize = 5;

/// The letters that are meant: by name, or all that a list with these words shows.
#[derive(Debug, clap::Args)]
pub(super) struct Chosen {
    /// The flow file
    #[arg(index = 1)]
    file: Option<PathBuf>,

    /// Which, as `list` names them; the first characters are enough
    #[arg(index = 2, value_name = "ID")]
    ids: Vec<String>,

    /// All that there are
    #[arg(long)]
    all: bool,

    /// All of this pipeline
    #[arg(long, value_name = "P")]
    pipeline: Option<String>,

    /// Only the newest so many
    #[arg(long, value_name = "N")]
    last: Option<u32>,
}

impl Chosen {
    /// The flow file, and the names that were given. With a flow linked in, the first argument is a name unless it
    /// is a file.
    pub(super) fn named(&self, tool: &Tool) -> (Option<&Path>, Vec<&str>) {
        let ids = self.ids.iter().map(String::as_str);
        match &self.file {
            Some(first) if tool.flow.is_some() && !first.exists() => {
                (None, first.to_str().into_iter().chain(ids).collect())
            }
            file => (file.as_deref(), ids.collect()),
        }
    }

    /// Whether single letters are named.
    pub(super) fn names_some(&self, tool: &Tool) -> bool {
        !self.named(tool).1.is_empty()
    }

    /// The letters that are meant, oldest first.
    ///
    /// # Errors
    /// `Wrong` when none are named, or a name is none, of a letter or of a pipeline.
    pub(super) fn find(
        &self,
        tool: &Tool,
        (place, reader): (&StatePlace, &StateReader),
        verb: &str,
    ) -> Result<Vec<ListedDeadLetter>, Failure> {
        let (_, names) = self.named(tool);
        let by_words = self.all || self.pipeline.is_some() || self.last.is_some();
        if names.is_empty() && !by_words {
            return Err(Failure::wrong(format!(
                "say which: `wiredflow dead-letters {verb} FILE ID …`, `--pipeline P`, `--last N` or `--all`; \
                 `wiredflow dead-letters list` names them"
            )));
        }
        if !names.is_empty() && by_words {
            return Err(Failure::wrong(
                "give either names of dead letters, or `--all`, `--pipeline` and `--last`",
            ));
        }
        let selection = Selection {
            pipeline: self.pipeline.as_deref(),
            limit: self.last,
        };
        let mut letters = reader.dead_letters(selection).map_err(told)?;
        letters.reverse();
        if letters.is_empty() {
            place.check_pipeline(self.pipeline.as_deref())?;
        }
        if names.is_empty() {
            return Ok(letters);
        }
        let mut found: Vec<ListedDeadLetter> = Vec::new();
        for name in names {
            let letter = one(&letters, name)?;
            if !found.contains(letter) {
                found.push(letter.clone());
            }
        }
        Ok(found)
    }
}

/// The one letter whose name begins so.
fn one<'a>(letters: &'a [ListedDeadLetter], name: &str) -> Result<&'a ListedDeadLetter, Failure> {
    let begins = |letter: &&ListedDeadLetter| letter.id.to_string().starts_with(name);
    let found: Vec<&ListedDeadLetter> = letters.iter().filter(begins).collect();
    match found[..] {
        [letter] => Ok(letter),
        [] => Err(Failure::wrong(format!(
            "there is no dead letter `{name}`; `wiredflow dead-letters list` names them"
        ))),
        _ => {
            let shown = found
                .iter()
                .take(SHOWN)
                .map(|letter| format!("`{}`", letter.id));
            let shown = shown.collect::<Vec<_>>().join(", ");
            let more = if found.len() > SHOWN { ", …" } else { "" };
            Err(Failure::wrong(format!(
                "`{name}` begins {} dead letters ({shown}{more}); give more of it",
                found.len()
            )))
        }
    }
}

/// Their names.
pub(super) fn ids(letters: &[ListedDeadLetter]) -> Vec<DeadLetterId> {
    letters.iter().map(|letter| letter.id.clone()).collect()
}
