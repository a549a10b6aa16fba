//! Flows that are dropped, and runs that nobody has ended.

use std::io::Write;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use wiredflow_core::delivery::Outcome;
use wiredflow_engine::run::RunOptions;
use wiredflow_engine::state::{RunOutcome, State};
use wiredflow_testkit::wait_until;

use super::bench::{Bench, Feed, PATIENCE, Started, millis};

/// The names of this process's threads.
pub(super) fn threads() -> Vec<String> {
    let names = std::fs::read_dir("/proc/self/task").unwrap();
    names
        .filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

#[test]
fn dropping_a_running_flow_lets_go_of_everything() {
    let bench = Bench::new().yielding("count", 1_000_000, millis(1));
    std::fs::write(
        bench.folder().join("logic.py"),
        "import time\n\ndef slow(relevant_info=None, **params):\n    time.sleep(0.01)\n    return relevant_info\n",
    )
    .unwrap();
    let text = "pipelines: {p: {every: 1h, timeout: 1h, stages: [{core_logic: {rust: count}}, {core_logic: {python: \"logic.py:slow\"}}, {store: {jsonl: {}}}]}, \
                q: {every: 20ms, overlap: allow, stages: [{core_logic: {rust: see}, parallel: 3}, {store: sqlite}]}, \
                r: {once: true, stages: [{core_logic: {rust: see}}]}}";
    let mut plan = bench.plan(text);
    let feed = Feed::new();
    feed.feeds(&mut plan, 2);
    feed.give([json!(1), json!(2)]);
    let flow = Started::new(&plan, &RunOptions::default());
    flow.until(|report| report.stages[2].records_out > 3 && report.stages[5].calls > 0);
    wait_until(PATIENCE, || {
        bench.runs().iter().any(|run| run.outcome.is_none())
    });
    flow.abandon();

    wait_until(PATIENCE, || {
        threads().iter().all(|name| !name.starts_with("wf-"))
    });
    let folder = bench.folder().join(".wiredflow");
    let mut opened = None;
    wait_until(PATIENCE, || {
        opened = State::open(&folder, "test", jiff::Timestamp::now()).ok();
        opened.is_some()
    });
    let (state, opening) = opened.unwrap();
    assert!(opening.crash.unwrap().runs >= 1, "as after a kill");
    drop(state);
    // What was stored is whole, and its file is free.
    let rows = std::fs::read_to_string(bench.folder().join("data/jsonl_in_p.jsonl")).unwrap();
    assert!(rows.ends_with('\n'));
    for row in rows.lines() {
        serde_json::from_str::<Value>(row).unwrap();
    }
    let file = std::fs::File::open(bench.folder().join("data/jsonl_in_p.jsonl")).unwrap();
    file.try_lock().unwrap();
}

#[test]
fn f5_a_run_whose_process_is_gone_does_not_run_for_ever() {
    let (bench, free) = Bench::new().hanging();
    let text = "pipelines: {p: {every: 1h, stages: [{core_logic: {rust: hang}}]}}";
    let flow = bench.start(text);
    flow.until(|report| report.stages[0].calls == 1);
    // A run does not wait for its row, which comes a moment later.
    wait_until(PATIENCE, || bench.runs().len() == 1);
    assert_eq!(bench.runs()[0].outcome, None, "it runs");
    flow.stop();
    flow.stop();
    let ended = flow.end();
    assert_eq!(ended.report.pipelines["p"].deliveries.unfinished, 1);
    let run = &bench.runs()[0];
    assert_eq!(run.outcome, Some(RunOutcome::Failed));
    assert!(run.error.as_deref().unwrap().contains("interrupted"));
    free.store(true, Ordering::Relaxed);

    // The next start says the same, and runs its tick again.
    let flow = bench.start(text);
    flow.until(|report| report.pipelines["p"].deliveries.committed == 1);
    flow.stop();
    assert!(flow.end().report.ok);
    let runs = bench.runs();
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome).collect();
    assert_eq!(
        outcomes,
        [Some(RunOutcome::Failed), Some(RunOutcome::Committed)]
    );
    assert_eq!(runs[0].scheduled_at, runs[1].scheduled_at);
}

#[test]
fn f5_work_that_an_end_drops_is_counted_and_not_acknowledged() {
    let (bench, free) = Bench::new().hanging();
    let mut plan = bench.plan("pipelines: {p: {once: true, stages: [{core_logic: {rust: hang}}]}}");
    let feed = Feed::new();
    feed.feeds(&mut plan, 0);
    feed.give((0..7).map(|n| json!(n)));
    let flow = Started::new(&plan, &RunOptions::default());
    flow.until(|report| report.stages[0].calls == 1);
    flow.stop();
    flow.stop();
    let ended = flow.end();
    free.store(true, Ordering::Relaxed);
    assert_eq!(ended.report.pipelines["p"].deliveries.unfinished, 7);
    assert!(feed.ended_as(Outcome::Committed).is_empty());
}

#[test]
fn what_a_crash_has_torn_is_taken_back_though_only_other_pipelines_have_run_since() {
    let bench = Bench::new().with("one", |_| Ok(json!({"n": 1})));
    let text = "pipelines: {a: {once: true, stages: [{core_logic: {rust: one}}, {store: {jsonl: {}}}]}, \
                b: {once: true, stages: [{core_logic: {rust: one}}, {store: {jsonl: {}}}]}}";
    assert!(bench.run(text).ok);
    bench.start(text).abandon();
    let path = bench.folder().join("data/jsonl_in_b.jsonl");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(b"{\"n\": 1, \"to").unwrap();
    drop(file);
    let only_a = RunOptions {
        pipelines: vec!["a".to_owned()],
        ..RunOptions::default()
    };
    let read = || std::fs::read_to_string(&path).unwrap();
    for _ in 0..2 {
        assert!(bench.run_with(text, &only_a).ok);
        assert!(read().ends_with("to"), "nobody has opened it");
    }
    assert!(bench.run(text).ok);
    let rows = read();
    assert!(rows.lines().count() >= 2, "{rows}");
    for row in rows.lines() {
        assert_eq!(row, "{\"n\":1}");
    }
    // From here on what is found is another's, and whole.
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(b"{\"n\":2}\n").unwrap();
    assert!(bench.run(text).ok);
    assert!(read().contains("{\"n\":2}\n{\"n\":1}\n"), "{}", read());
}
