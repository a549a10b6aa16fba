//! `dead-letters replay`: once more, from the stage that failed on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::json;
use wiredflow_engine::clock::Clock;
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::{RunOptions, replayed_from};
use wiredflow_engine::state::{
    DeadLetterId, LetterEditor, ListedDeadLetter, Selection, StateReader, StoredReplay, is_locked,
};

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file::{self, StatePlace};
use crate::paint::printable;
use crate::service::{Signals, runtime, serve};
use crate::tool::Tool;

use super::chosen::{Chosen, ids};
use super::{open, told};

/// How often the ends of replays are looked for.
const LOOK_EACH: Duration = Duration::from_millis(200);

/// How many looks pass between two words on how far it is, where no person looks at the lines.
const SAID_EACH: u32 = 50;

/// Replay dead letters, whether the flow runs or not
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A record goes on from the stage that could not handle it, with the params it had, through the rest of its
pipeline; a payload that could not be read is read again. Mend the cause first: the function, the file, the peer.
What goes through leaves the dead letters. What fails again stays, with the new reason.

A flow that runs takes the letters up within a second, beside its work; a change of its file or of its functions
counts from its next start on. Where none runs, this command opens the stages itself, without triggers and sources.

Examples:
  wiredflow dead-letters replay flow.yaml 01jd8k2c           one of them
  wiredflow dead-letters replay flow.yaml --pipeline numbers all of a pipeline
  wiredflow dead-letters replay flow.yaml --all --json
  wiredflow dead-letters replay flow.yaml --all --no-wait    ask, and let the flow do it when it runs

Exit codes: 0 all went through, 1 some failed again or could not be replayed, 2 the file or the arguments are wrong."
)]
pub(super) struct Replay {
    #[command(flatten)]
    chosen: Chosen,

    /// Only ask: the flow that runs replays them, or else its next start
    #[arg(long)]
    no_wait: bool,

    /// Print one JSON document: {"ok", "replayed": [{"id", "pipeline", "stage", "outcome", "reason", "became"}]}
    #[arg(long)]
    json: bool,
}

/// A letter that cannot be replayed, and why.
type Refused = (ListedDeadLetter, String);

/// What is known of the letters that were asked for.
struct Watched<'a> {
    reader: StateReader,
    /// The newest end of a replay that was looked at.
    seen: i64,
    letters: &'a [ListedDeadLetter],
    ended: BTreeMap<DeadLetterId, StoredReplay>,
    /// Those that are gone without an end: somebody has dropped them.
    dropped: BTreeSet<DeadLetterId>,
    looks: u32,
}

impl Replay {
    pub(super) fn run(&self, tool: &Tool) -> Outcome {
        let (file, _) = self.chosen.named(tool);
        let subject = flow_file::check(tool, file)?;
        let (source, problems) = (&subject.source, &subject.checked.problems);
        let Some(plan) = &subject.checked.plan else {
            let report = source.report(problems, tool.screen.err().paint);
            tool.screen.tell(&report);
            return Ok(Exit::Wrong);
        };
        let place = StatePlace {
            flow: plan.name.to_string(),
            folder: tool.global.state.clone().unwrap_or(plan.state.clone()),
            pipelines: plan
                .pipelines
                .iter()
                .map(|one| one.name.to_string())
                .collect(),
        };
        let reader = open(&place)?;
        let chosen = self.chosen.find(tool, (&place, &reader), "replay")?;
        let (letters, refused) = self.possible(tool, plan, &reader, chosen)?;
        let mut watched = Watched {
            seen: reader.newest_replay().map_err(told)?,
            reader,
            letters: &letters,
            ended: BTreeMap::new(),
            dropped: BTreeSet::new(),
            looks: 0,
        };
        if !letters.is_empty() {
            let mut editor = LetterEditor::open(&place.folder, &place.flow).map_err(told)?;
            let now = Clock::real().now();
            editor.ask(&ids(&letters), now).map_err(told)?;
        }
        let mut exit = Exit::Done;
        if !letters.is_empty() && !self.no_wait {
            exit = watched.settle(tool, plan, &place, self.json)?;
        }
        let all_well = self.tell(tool, &watched, &refused)?;
        Ok(match exit {
            Exit::Done if !all_well => Exit::Failed,
            exit => exit,
        })
    }

    /// Those that can be replayed, and the others with the reason.
    ///
    /// # Errors
    /// `Wrong` for one that was named and cannot be.
    fn possible(
        &self,
        tool: &Tool,
        plan: &Plan,
        reader: &StateReader,
        chosen: Vec<ListedDeadLetter>,
    ) -> Result<(Vec<ListedDeadLetter>, Vec<Refused>), Failure> {
        let (mut letters, mut refused) = (Vec::new(), Vec::new());
        for letter in chosen {
            let id = letter.id.to_string();
            let Some(stored) = reader.dead_letter(&id).map_err(told)? else {
                continue;
            };
            match replayed_from(plan, &stored) {
                Ok(()) => letters.push(letter),
                Err(why) if self.chosen.names_some(tool) => {
                    return Err(Failure::wrong(format!(
                        "the dead letter `{id}` cannot be replayed: {why}; `dead-letters show` gives its record, \
                         `dead-letters drop` removes it"
                    )));
                }
                Err(why) => refused.push((letter, why)),
            }
        }
        Ok((letters, refused))
    }

    /// Says what became of each; whether all went through.
    fn tell(
        &self,
        tool: &Tool,
        watched: &Watched<'_>,
        refused: &[Refused],
    ) -> Result<bool, Failure> {
        let (mut documents, mut text, mut counts) = (Vec::new(), String::new(), BTreeMap::new());
        let mut line =
            |letter: &ListedDeadLetter, outcome: &str, reason: Option<&str>, became: &[String]| {
                documents.push(json!({
                    "id": letter.id, "pipeline": letter.pipeline, "stage": letter.stage,
                    "outcome": outcome, "reason": reason, "became": became,
                }));
                *counts.entry(outcome.to_owned()).or_insert(0) += 1;
                let words = in_words(outcome);
                let place = format!("{}/{}", letter.pipeline, letter.stage);
                text.push_str(&format!("{}  {place}  {words}", letter.id));
                if let Some(reason) = reason.and_then(|reason| reason.lines().next()) {
                    text.push_str(&format!(": {}", printable(reason)));
                }
                let more: Vec<&str> = became.iter().skip(1).map(String::as_str).collect();
                if !more.is_empty() {
                    text.push_str(&format!(
                        " (and as letters of its parts: {})",
                        more.join(", ")
                    ));
                }
                text.push('\n');
            };
        for letter in watched.letters {
            match watched.ended.get(&letter.id) {
                Some(end) => line(letter, &end.outcome, end.reason.as_deref(), &end.became),
                None if watched.dropped.contains(&letter.id) => line(letter, "dropped", None, &[]),
                None => line(letter, "waiting", None, &[letter.id.to_string()]),
            }
        }
        for (letter, why) in refused {
            line(letter, "refused", Some(why), &[letter.id.to_string()]);
        }
        let well = |outcome: &str| {
            matches!(outcome, "committed" | "skipped" | "dropped")
                || (self.no_wait && outcome == "waiting")
        };
        let all_well = counts.keys().all(|outcome| well(outcome));
        if self.json {
            tool.print_json(&json!({ "ok": all_well, "replayed": documents }))?;
        } else if documents.is_empty() {
            tool.screen.print("no dead letters\n")?;
        } else {
            let total: u32 = counts.values().sum();
            let told =
                |(outcome, number): (&String, &u32)| format!("{number} {}", in_words(outcome));
            let told: Vec<String> = counts.iter().map(told).collect();
            let word = if total == 1 {
                "dead letter"
            } else {
                "dead letters"
            };
            tool.screen
                .print(&format!("{text}{total} {word}: {}\n", told.join(", ")))?;
        }
        Ok(all_well)
    }
}

fn in_words(outcome: &str) -> &str {
    match outcome {
        "dead_lettered" => "failed again",
        "refused" => "cannot be replayed",
        "waiting" => "asked for; the flow replays it when it runs",
        other => other,
    }
}

impl Watched<'_> {
    /// Has the letters replayed, by the flow that runs or here, and waits for what becomes of them.
    fn settle(
        &mut self,
        tool: &Tool,
        plan: &Plan,
        place: &StatePlace,
        json: bool,
    ) -> Result<Exit, Failure> {
        let ended = if is_locked(&place.folder) {
            self.wait(tool, place, json)
        } else {
            match self.here(tool, plan, json) {
                // It has begun to run just now.
                Err(_) if is_locked(&place.folder) => self.wait(tool, place, json),
                ended => ended,
            }
        };
        tool.screen.show(Vec::new());
        self.look()?;
        ended
    }

    /// Opens the stages here and replays.
    fn here(&mut self, tool: &Tool, plan: &Plan, json: bool) -> Result<Exit, Failure> {
        let mut pipelines: Vec<String> = self
            .letters
            .iter()
            .map(|letter| letter.pipeline.clone())
            .collect();
        pipelines.sort();
        pipelines.dedup();
        let options = RunOptions {
            replay: true,
            pipelines,
            state: tool.global.state.clone(),
            ..RunOptions::default()
        };
        let look = &mut |_| {
            // What cannot be read now is read at the end.
            drop(self.look());
            self.show(tool, json);
            ControlFlow::Continue(())
        };
        let served = serve(plan, &options, Some(LOOK_EACH), look, None, None)?;
        Ok(served.exit)
    }

    /// Waits for the flow that runs.
    fn wait(&mut self, tool: &Tool, place: &StatePlace, json: bool) -> Result<Exit, Failure> {
        let clock = Clock::real();
        let runtime = runtime()?;
        tracing::info!("the flow runs: it takes them up within a second");
        runtime.block_on(async {
            let mut signals = Signals::listen()?;
            loop {
                self.look()?;
                if self.ended.len() + self.dropped.len() == self.letters.len() {
                    return Ok(Exit::Done);
                }
                if !is_locked(&place.folder) {
                    self.look()?;
                    tracing::warn!(
                        "the flow has ended: what is asked for is replayed at its next start"
                    );
                    return Ok(Exit::Done);
                }
                self.show(tool, json);
                tokio::select! {
                    () = signals.next() => {
                        tracing::warn!("what is asked for stays so: the flow goes on with it");
                        return Ok(Exit::Failed);
                    }
                    () = clock.sleep(LOOK_EACH) => {}
                }
            }
        })
    }

    /// Reads what has ended since the last look.
    fn look(&mut self) -> Result<(), Failure> {
        let there = self
            .reader
            .dead_letters(Selection::default())
            .map_err(told)?;
        let there: BTreeSet<DeadLetterId> = there.into_iter().map(|letter| letter.id).collect();
        for end in self.reader.replays_after(self.seen).map_err(told)? {
            self.seen = end.number;
            if self.letters.iter().any(|letter| letter.id == end.letter) {
                self.ended.insert(end.letter.clone(), end);
            }
        }
        // Read after the list: one that has left it by its end has that end.
        for letter in self.letters {
            if !there.contains(&letter.id) && !self.ended.contains_key(&letter.id) {
                self.dropped.insert(letter.id.clone());
            }
        }
        Ok(())
    }

    /// Says how far it is: where a person looks in a line that stays, else now and then in the log.
    fn show(&mut self, tool: &Tool, json: bool) {
        let done = self.ended.len();
        let again = self.ended.values();
        let again = again.filter(|end| end.outcome == "dead_lettered").count();
        let all = self.letters.len();
        let text = format!("{done} of {all} dead letters replayed, {again} of them failed again");
        self.looks += 1;
        if tool.screen.err().is_terminal && !json && !tool.global.quiet {
            tool.screen.show(vec![text]);
        } else if self.looks.is_multiple_of(SAID_EACH) {
            tracing::info!("{text}");
        }
    }
}
