//! A flow that is cut at any places, its parts joined by links, does what it did whole: the same records in the same order,
//! the same dead letters, the same ends of the same deliveries.

use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use wiredflow_core::Error;
use wiredflow_core::delivery::{Outcome, Payload};
use wiredflow_engine::plan::Plan;
use wiredflow_engine::run::RunOptions;
use wiredflow_engine::state::StoredDeadLetter;
use wiredflow_testkit::{Mishaps, Model};

use super::bench::{Bench, Feed, Started, run_plan};
use super::far;

/// What a stage may be. Each shows what it was given: as one or as a list, with which params.
const STAGES: [&str; 9] = [
    "core_logic: {rust: tell}",
    "core_logic: {rust: twice}",
    "core_logic: {rust: yields}",
    "core_logic: {rust: picky}, on_error: dead_letter",
    "core_logic: {rust: picky}, on_error: skip",
    "core_logic: {rust: none}",
    "configuration: {rust: params}",
    "set: {set: 1}, on_error: dead_letter",
    "core_logic: {rust: tell}, parallel: 3",
];

/// What both flows are made of and fed with.
#[derive(Clone, Debug)]
struct Drawn {
    /// Stages, and whether a cut is before each.
    stages: Vec<(usize, bool)>,
    /// How many branches the end has. In the cut flow each is a pipeline of its own.
    branches: usize,
    /// How many records each delivery brings.
    deliveries: Vec<usize>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let stages = vec((0..STAGES.len(), any::<bool>()), 1..7);
    let drawn = (stages, 1..4_usize, vec(0..4_usize, 1..30));
    drawn.prop_map(|(stages, branches, deliveries)| Drawn {
        stages,
        branches,
        deliveries,
    })
}

impl Drawn {
    fn whole(&self) -> String {
        let stages = self
            .stages
            .iter()
            .map(|(stage, _)| STAGES[*stage].to_owned());
        let branches = (0..self.branches).map(see);
        file(&[stages.chain(branches).collect()])
    }

    fn cut(&self) -> String {
        let mut parts: Vec<Vec<String>> = vec![Vec::new()];
        for (index, (stage, is_cut)) in self.stages.iter().enumerate() {
            let link = format!("link: l{}", parts.len());
            if let (true, Some(part)) = (*is_cut && index > 0, parts.last_mut()) {
                part.push(link);
                parts.push(Vec::new());
            }
            let part = parts.last_mut().unwrap();
            part.push(STAGES[*stage].to_owned());
        }
        let trunk = parts.len();
        let links = (trunk..trunk + self.branches).map(|number| format!("link: l{number}"));
        parts.last_mut().unwrap().extend(links);
        parts.extend((0..self.branches).map(|branch| vec![see(branch)]));
        file(&parts)
    }
}

/// The end of a branch. It passes on what it was given, as a storage would.
fn see(branch: usize) -> String {
    format!("core_logic: {{rust: see{branch}}}, name: see{branch}")
}

/// Pipelines of these stages; each but the first takes from the link of its number.
fn file(parts: &[Vec<String>]) -> String {
    let mut text = "pipelines:\n".to_owned();
    for (number, stages) in parts.iter().enumerate() {
        let source = match number {
            0 => "mqtt: {broker: b, topic: t}".to_owned(),
            _ => format!("link: l{number}"),
        };
        let stages: Vec<String> = stages.iter().map(|stage| format!("{{{stage}}}")).collect();
        let stages = stages.join(", ");
        text += &format!("  p{number}: {{source: {{{source}}}, stages: [{stages}]}}\n");
    }
    text
}

/// What is the same, whole and cut.
#[derive(Debug, PartialEq)]
struct Done {
    /// What came to the end of each branch, in order.
    seen: Vec<Vec<Value>>,
    /// The dead letters and why, in some order.
    letters: Vec<String>,
    /// How each delivery ended.
    ended: Vec<(u64, Outcome)>,
}

/// Runs a flow: all in one, or over an engine, each pipeline as a process of its own would run it.
fn run(text: &str, drawn: &Drawn, apart: Option<u64>) -> Done {
    let seen: Arc<Mutex<Vec<Vec<Value>>>> = Arc::new(Mutex::new(vec![Vec::new(); drawn.branches]));
    let mut bench = Bench::new()
        .quick("tell", |call| {
            Ok(json!({"told": call.data, "x": call.params.get("x")}))
        })
        .quick("twice", |call| Ok(json!([call.data, call.data])))
        .quick("none", |call| {
            let dropped = hash(&call.data).is_multiple_of(3);
            Ok(if dropped { Value::Null } else { call.data })
        })
        .quick("params", |call| Ok(json!({"x": hash(&call.data) % 10})))
        .quick("picky", |call| match hash(&call.data) % 4 {
            0 => Err(Error::data("it does not like that")),
            _ => Ok(call.data),
        })
        .giving("yields", |call, give| {
            for part in 0..hash(&call.data) % 3 {
                give(json!({"part": part, "of": call.data}))?;
            }
            give(json!([{"last": call.data}]))
        });
    for branch in 0..drawn.branches {
        let seen = Arc::clone(&seen);
        bench = bench.quick(&format!("see{branch}"), move |call| {
            seen.lock().unwrap()[branch].push(json!([call.data, *call.params]));
            Ok(call.data)
        });
    }
    let feed = Feed::new();
    let payload = |(delivery, records): (usize, &usize)| {
        let record = |number| json!({"delivery": delivery, "number": number});
        Payload::Values((0..*records).map(record).collect())
    };
    feed.give_payloads(drawn.deliveries.iter().enumerate().map(payload));
    feed.end();
    let mut plan = bench.plan(text);
    feed.feeds(&mut plan, 0);
    let stored = match apart {
        None => {
            let report = run_plan(&plan, &RunOptions::default()).report;
            assert!(report.ok, "{report:?}");
            bench.dead_letters()
        }
        Some(seed) => run_apart(&bench, &plan, seed),
    };
    let mut letters: Vec<String> = stored
        .iter()
        .map(|letter| format!("{} {:?}", letter.listed.reason, letter.body))
        .collect();
    letters.sort();
    let mut ended = feed.settled();
    ended.sort_unstable();
    let seen = seen.lock().unwrap().clone();
    Done {
        seen,
        letters,
        ended,
    }
}

/// Gives the dead letters of all.
fn run_apart(bench: &Bench, plan: &Plan, seed: u64) -> Vec<StoredDeadLetter> {
    let model = Model::new(seed);
    let names = |index: usize| (format!("node-{index}"), format!("state-{index}"));
    let start = |index: usize| {
        let (node, state) = names(index);
        let mut part = plan.clone();
        part.pipelines = vec![plan.pipelines[index].clone()];
        part.state = bench.folder().join(state);
        model.mishaps(
            &node,
            Mishaps {
                // Each costs seconds; they are tried in `far`.
                lost_answers: 0,
                ..far::mishaps()
            },
        );
        let options = RunOptions {
            engine: Some(model.client(&node)),
            ..RunOptions::default()
        };
        Started::new(&part, &options)
    };
    let all = 0..plan.pipelines.len();
    let started: Vec<Started> = all.clone().map(start).collect();
    for part in started {
        let report = part.end().report;
        assert!(report.ok, "{report:?}");
    }
    all.flat_map(|index| bench.dead_letters_in(&names(index).1))
        .collect()
}

/// A number that is the same for the same value.
fn hash(value: &Value) -> u64 {
    let bytes = value.to_string().into_bytes();
    bytes.iter().fold(14_695_981_039_346_656_037, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211)
    }) >> 20
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flow_does_the_same_whole_and_cut(drawn in drawn()) {
        let (whole, cut) = (drawn.whole(), drawn.cut());
        let (before, after) = (run(&whole, &drawn, None), run(&cut, &drawn, None));
        prop_assert_eq!(before, after, "{}\n{}", whole, cut);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_flow_does_the_same_whole_and_cut_over_processes(drawn in drawn(), seed in any::<u64>()) {
        let (whole, cut) = (drawn.whole(), drawn.cut());
        let (before, after) = (run(&whole, &drawn, None), run(&cut, &drawn, Some(seed)));
        prop_assert_eq!(before, after, "{}\n{}\nseed {}", whole, cut, seed);
    }
}
