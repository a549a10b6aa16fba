//! `test`: the flow's own tests.

mod case;
mod file;
mod letters;
mod pattern;
mod report;

use std::path::PathBuf;

use wiredflow_core::fields::Reading;
use wiredflow_core::problem::{Problem, any_error};
use wiredflow_core::yaml;

use crate::exit::{Exit, Failure, Outcome};
use crate::flow_file::{self, Tree};
use crate::problems::Source;
use crate::tool::Tool;
use case::Subject;
use file::Case;

/// Run a flow's own tests: with given input, without its peers, in no time
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The tests of flow.yaml stand in flow.test.yaml beside it. Your functions run; nothing reaches the network,
storages are in a folder that is removed, and the clock stands still until nothing is left to do.

  # flow.test.yaml
  cases:
    a number is kept:
      given:
        numbers.http: [{\"number\": 5}]      # PIPELINE.STAGE: one answer for each call
      expect:
        storages:
          numbers: [{\"number\": 5, datetime_label: $time}]

Examples:
  wiredflow test flow.yaml
  wiredflow test flow.yaml --case \"is kept\" --log-level info   what your functions print
  wiredflow test flow.yaml --json | jq '.cases[] | select(.ok | not)'

docs/testing.md has all keys. Exit codes: 0 all cases are ok, 1 one is not, 2 a file or the arguments are wrong."
)]
pub(crate) struct Test {
    /// The flow file
    file: Option<PathBuf>,

    /// The test file; the flow's name with `.test.yaml` beside it when left out
    #[arg(long, value_name = "FILE")]
    tests: Option<PathBuf>,

    /// Only cases with this text in their name
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,

    /// Print one JSON document: {"ok", "cases": [{"name", "ok", "differences": […]}]}
    #[arg(long)]
    json: bool,
}

impl Test {
    pub(crate) fn run(&self, tool: &Tool) -> Outcome {
        let (source, tree) = flow_file::tree(tool, self.file.as_deref())?;
        let tree = match tree {
            Ok(tree) => tree,
            Err(problem) => return self.wrong(tool, &source, &[*problem]),
        };
        let path = self.file_of_tests();
        let text = flow_file::read(&path).map_err(|problem| self.no_tests(&problem))?;
        let tests = Source::file(path.display().to_string(), text.clone());
        let (cases, problems) = read(&text, &tree);
        let Some(cases) = cases.filter(|_| !any_error(&problems)) else {
            return self.wrong(tool, &tests, &problems);
        };
        let subject = Subject {
            tree: &tree,
            functions: tool.functions(),
        };
        for (index, case) in cases.iter().enumerate() {
            if cases[..index].iter().any(|before| before.env == case.env) {
                continue; // The same flow with the same variables has been looked at.
            }
            let problems = subject.problems(case);
            if any_error(&problems) {
                return self.wrong(tool, &source, &problems);
            }
        }
        let chosen: Vec<&Case> = cases.iter().filter(|case| self.wants(case)).collect();
        if chosen.is_empty() {
            let names: Vec<String> = cases
                .iter()
                .map(|case| format!("`{}`", case.name))
                .collect();
            return Err(Failure::wrong(format!(
                "no case has `{}` in its name; there are {}",
                self.case.as_deref().unwrap_or_default(),
                names.join(", ")
            )));
        }
        self.play(tool, &subject, &chosen)
    }

    fn play(&self, tool: &Tool, subject: &Subject<'_>, cases: &[&Case]) -> Outcome {
        let paint = tool.screen.out().paint;
        let mut played = Vec::new();
        for case in cases {
            let one = subject.play(case);
            let is_told = !one.is_ok() || !tool.global.quiet;
            if is_told && !self.json {
                tool.screen.print(&report::one(&one, paint))?;
            }
            played.push(one);
        }
        if self.json {
            tool.print_json(&report::document(&subject.name(), &played))?;
        } else if !tool.global.quiet {
            tool.screen.print(&report::sum(&played, paint))?;
        }
        let all = played.iter().all(case::Played::is_ok);
        Ok(if all { Exit::Done } else { Exit::Failed })
    }

    fn wants(&self, case: &Case) -> bool {
        let part = self.case.as_deref();
        part.is_none_or(|part| case.name.contains(part))
    }

    fn file_of_tests(&self) -> PathBuf {
        let beside = || match &self.file {
            Some(file) => file.with_extension("test.yaml"),
            None => PathBuf::from("flow.test.yaml"),
        };
        self.tests.clone().unwrap_or_else(beside)
    }

    fn no_tests(&self, problem: &Problem) -> Failure {
        let message = &problem.message;
        Failure::wrong(match &self.tests {
            Some(_) => message.clone(),
            None => format!(
                "{message}; the tests of a flow stand beside it: `wiredflow test --help` shows one, `wiredflow init DIR` \
                 writes one, `--tests` names another file"
            ),
        })
    }

    /// Tells the problems of a file.
    fn wrong(&self, tool: &Tool, source: &Source, problems: &[Problem]) -> Outcome {
        let mut report = source.report(problems, tool.screen.err().paint);
        if problems
            .iter()
            .any(|problem| problem.message.contains("environment variable"))
        {
            report.push_str("a test gives variables of its own: `env: {NAME: value}`, for all cases or for one\n");
        }
        if self.json {
            tool.print_json(&source.document(problems))?;
        } else {
            tool.screen.tell(&report);
        }
        Ok(Exit::Wrong)
    }
}

fn read(text: &str, tree: &Tree) -> (Option<Vec<Case>>, Vec<Problem>) {
    let node = match yaml::parse(text) {
        Ok(node) => node,
        Err(problem) => return (None, vec![*problem]),
    };
    let mut reading = Reading::default();
    let cases = file::read(&node, tree, &mut reading);
    (cases, reading.into_problems())
}
