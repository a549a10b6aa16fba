//! One case at work: the flow without its outside, by a clock that stands still.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wiredflow_core::config::FlowConfig;
use wiredflow_core::fill::Lookup;
use wiredflow_core::problem::{Problem, any_error};
use wiredflow_core::storage::{Fence, Query};
use wiredflow_core::{Result, Value};
use wiredflow_engine::check::{Checked, SystemLookup, check_node};
use wiredflow_engine::clock::{Clock, Dice};
use wiredflow_engine::fakes::{
    Outside, Seen, StageName, Streams, all_here, play, private_storages,
};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::plan::{Plan, StoragePlan, TriggerPlan};
use wiredflow_engine::run::RunOptions;
use wiredflow_engine::state::{Selection, StateReader, StoredDeadLetter};
use wiredflow_engine::storages::Left;

use crate::flow_file::Tree;

use super::file::Case;
use super::letters::compare_letters;
use super::pattern::{Difference, Pattern};

/// How much of its own time a case without `for` has: then what still waits is waited for no longer.
const ENOUGH: Duration = Duration::from_secs(3600);

/// How much real time a case has.
const LONGEST: Duration = Duration::from_secs(60);

/// How long what a case leaves behind may take to let go.
const LAST_MOMENTS: Duration = Duration::from_millis(500);

/// The flow under test.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) tree: &'a Tree,
    pub(super) functions: Functions,
}

/// How a case went.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) name: String,
    pub(super) seconds: f64,
    /// Why it could not be played, or ended as it should not.
    pub(super) error: Option<String>,
    pub(super) differences: Vec<Difference>,
}

impl Played {
    pub(super) fn is_ok(&self) -> bool {
        self.error.is_none() && self.differences.is_empty()
    }
}

/// The case's own variables before those of this process.
struct CaseLookup<'a> {
    env: &'a BTreeMap<String, String>,
    system: SystemLookup,
}

impl Lookup for CaseLookup<'_> {
    fn env(&self, name: &str) -> Option<String> {
        let own = self.env.get(name).cloned();
        own.or_else(|| self.system.env(name))
    }

    fn file(&self, path: &str) -> Result<String, String> {
        self.system.file(path)
    }
}

/// A flow that can be played.
struct Stage<'a> {
    plan: Plan,
    flow: FlowConfig,
    home: &'a Path,
    outside: Outside,
    clock: Clock,
}

impl Subject<'_> {
    /// The flow's name, as far as it can be read.
    pub(super) fn name(&self) -> String {
        let flow = self.tree.names();
        flow.map_or_else(|| self.tree.default_name.clone(), |flow| flow.name)
    }

    /// The problems of the flow with the variables of a case.
    pub(super) fn problems(&self, case: &Case) -> Vec<Problem> {
        self.check(&self.tree.node, case).problems
    }

    fn check(&self, node: &wiredflow_core::node::Node, case: &Case) -> Checked {
        let tree = self.tree;
        let lookup = CaseLookup {
            env: &case.env,
            system: SystemLookup::new(&tree.folder),
        };
        check_node(
            node,
            &tree.default_name,
            &tree.folder,
            &self.functions,
            &lookup,
        )
    }

    /// Plays a case.
    pub(super) fn play(&self, case: &Case) -> Played {
        let clock = Clock::real();
        let begun = clock.monotonic();
        let mut differences = Vec::new();
        let error = self.try_play(case, &mut differences).err();
        Played {
            name: case.name.clone(),
            seconds: (clock.monotonic() - begun).as_secs_f64(),
            error,
            differences,
        }
    }

    fn try_play(&self, case: &Case, differences: &mut Vec<Difference>) -> Result<(), String> {
        let home = tempfile::Builder::new().prefix("wiredflow-test-").tempdir();
        let home = home.map_err(|error| format!("cannot make a folder: {error}"))?;
        let node = private_storages(&all_here(&self.tree.node), &home.path().join("storages"));
        let checked = self.check(&node, case);
        let (Some(plan), Some(flow)) = (checked.plan, checked.flow) else {
            let problem = checked
                .problems
                .into_iter()
                .find(|one| any_error(std::slice::from_ref(one)));
            return Err(problem.map_or_else(String::new, |problem| problem.message));
        };
        fill(&plan, case).map_err(|error| error.to_string())?;
        let stage = Stage {
            plan,
            flow,
            home: home.path(),
            outside: Outside::new(case.given.clone()),
            clock: Clock::paused(case.now),
        };
        let error = stage.play_all(case, differences)?;
        stage.compare(case, error, differences)
    }
}

/// Puts into the storages what they hold before.
fn fill(plan: &Plan, case: &Case) -> Result<()> {
    for (name, rows) in &case.before {
        let storage = plan.storages.iter().find(|storage| storage.name == *name);
        if let (Some(storage), false) = (storage, rows.is_empty()) {
            let mut open = storage.open.opener(Left::InOrder, None)()?;
            let rows: Vec<&Value> = rows.iter().collect();
            let _receipt = open.commit(&rows, &[], &Fence::default())?;
        }
    }
    Ok(())
}

impl Stage<'_> {
    /// Runs what the case wants; gives the message with which the flow failed.
    fn play_all(
        &self,
        case: &Case,
        differences: &mut Vec<Difference>,
    ) -> Result<Option<String>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
        let real = Clock::real();
        let mut failure = None;
        for (plan, options) in self.steps(case) {
            let ended = runtime.block_on(async {
                tokio::select! {
                    ended = play(&plan, &options) => ended.map_err(|error| error.to_string()),
                    () = real.sleep(LONGEST) => Err(format!(
                        "it did not end within {}s of real time",
                        LONGEST.as_secs()
                    )),
                }
            })?;
            unfinished(&ended.report, differences);
            failure = ended.report.error;
            if failure.is_some() {
                break;
            }
        }
        runtime.shutdown_timeout(LAST_MOMENTS);
        Ok(failure)
    }

    /// The runs of a case: one by the schedules, or one for each pipeline.
    fn steps(&self, case: &Case) -> Vec<(Plan, RunOptions)> {
        let options = RunOptions {
            limit: Some(case.limit.unwrap_or(ENOUGH)),
            state: Some(self.home.join("state")),
            clock: self.clock.clone(),
            dice: Dice::seeded(1),
            ..RunOptions::default()
        };
        if case.limit.is_some() {
            let pipelines = case.run.clone();
            let plan = self.outside.stand_in(&self.plan, &self.flow, Streams::Stay);
            return vec![(
                plan,
                RunOptions {
                    pipelines,
                    ..options
                },
            )];
        }
        let plan = self.outside.stand_in(&self.plan, &self.flow, Streams::End);
        let names = if case.run.is_empty() {
            // As at a start: those that read what others store come last.
            let (last, first): (Vec<_>, Vec<_>) = plan
                .pipelines
                .iter()
                // They run with those that hand over to them.
                .filter(|pipeline| plan.links.iter().all(|link| link.receiver != pipeline.name))
                .map(|pipeline| (pipeline.name.to_string(), pipeline.waits_for_others))
                .partition(|(_, waits)| *waits);
            first
                .into_iter()
                .chain(last)
                .map(|(name, _)| name)
                .collect()
        } else {
            case.run.clone()
        };
        let step = |name: String| {
            let mut plan = plan.clone();
            let mut joined = BTreeSet::from([Arc::from(name.as_str())]);
            plan.add_takers(&mut joined);
            plan.pipelines
                .retain(|pipeline| joined.contains(&pipeline.name));
            for pipeline in &mut plan.pipelines {
                pipeline.waits_for_others = false;
                if !matches!(pipeline.trigger, TriggerPlan::Source { .. }) {
                    pipeline.trigger = TriggerPlan::Once;
                }
            }
            (plan, options.clone())
        };
        names.into_iter().map(step).collect()
    }

    fn compare(
        &self,
        case: &Case,
        failure: Option<String>,
        differences: &mut Vec<Difference>,
    ) -> Result<(), String> {
        let expect = &case.expect;
        for (name, pattern) in &expect.storages {
            let storage = self
                .plan
                .storages
                .iter()
                .find(|storage| storage.name == *name);
            let Some(storage) = storage else { continue };
            let got = load(storage).map_err(|error| format!("storage `{name}`: {error}"))?;
            compare_stored(pattern, &got, &format!("storages.{name}"), differences);
        }
        let seen = self.outside.seen();
        compare_sent(case, &seen, differences);
        for (stage, pattern) in &expect.asked {
            let asked = seen.asked.iter().filter(|(name, _)| name == stage);
            let asked = asked
                .map(|(_, params)| Value::Object(params.clone()))
                .collect();
            pattern.compare(&Value::Array(asked), &path("asked", stage), differences);
        }
        if let Some(expected) = &expect.dead_letters {
            let letters = self.dead_letters().map_err(|error| error.to_string())?;
            compare_letters(expected, &letters, differences);
        }
        match (&expect.failed, failure) {
            (None, None) => Ok(()),
            (None, Some(message)) => Err(format!("the flow failed: {message}")),
            (Some(part), Some(message)) if message.contains(part.as_str()) => Ok(()),
            (Some(part), got) => {
                differences.push(Difference {
                    path: "failed".to_owned(),
                    expected: Some(Pattern::Contains(part.clone()).shown()),
                    got: got.map(Value::from),
                });
                Ok(())
            }
        }
    }

    /// What was set aside, oldest first.
    fn dead_letters(&self) -> Result<Vec<StoredDeadLetter>> {
        let reader = StateReader::open(&self.home.join("state"), &self.plan.name)?;
        let mut letters = Vec::new();
        for listed in reader.dead_letters(Selection::default())? {
            letters.extend(reader.dead_letter(&listed.id.to_string())?);
        }
        letters.reverse();
        Ok(letters)
    }
}

/// What a storage holds, as `load` gives it; an empty list where nothing is stored.
fn load(storage: &StoragePlan) -> Result<Value> {
    let loaded = storage.open.opener(Left::InOrder, None)()?.load(&Query::default())?;
    Ok(match loaded.into_document() {
        Value::Null => Value::Array(Vec::new()),
        document => document,
    })
}

fn compare_stored(pattern: &Pattern, got: &Value, path: &str, differences: &mut Vec<Difference>) {
    let nothing = Pattern::List(Vec::new(), false);
    let pattern = match pattern {
        Pattern::Exactly(Value::Null) => &nothing,
        pattern => pattern,
    };
    pattern.compare(got, path, differences);
}

fn compare_sent(case: &Case, seen: &Seen, differences: &mut Vec<Difference>) {
    for expected in &case.expect.sent {
        let sent = || seen.sent.iter().filter(|sent| sent.stage == expected.stage);
        let path = path("sent", &expected.stage);
        if let Some(pattern) = &expected.payloads {
            let payloads = sent().map(|sent| sent.payload.clone()).collect();
            compare_stored(pattern, &Value::Array(payloads), &path, differences);
        }
        let to = expected.to.as_ref();
        let other = to.and_then(|to| sent().find(|sent| sent.to != *to));
        if let (Some(to), Some(other)) = (to, other) {
            differences.push(Difference {
                path: format!("{path}.to"),
                expected: Some(to.as_str().into()),
                got: Some(other.to.as_str().into()),
            });
        }
    }
}

fn path(what: &str, (pipeline, stage): &StageName) -> String {
    format!("{what}.{pipeline}.{stage}")
}

/// Deliveries that were still on their way when their time was over.
fn unfinished(report: &RunReport, differences: &mut Vec<Difference>) {
    if report.error.is_some() {
        return; // What is dropped beside a failure is told by it.
    }
    for (name, pipeline) in &report.pipelines {
        if pipeline.deliveries.unfinished > 0 {
            let words = pipeline
                .last_error
                .as_deref()
                .unwrap_or("it still waited at the end");
            differences.push(Difference {
                path: format!("{name}, a delivery that did not end"),
                expected: None,
                got: Some(words.into()),
            });
        }
    }
}
