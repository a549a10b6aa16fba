//! What whole flows store, load and send: whose fault a refused row is, what a burst leaves, whose time it takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wiredflow_core::delivery::{Outcome, Payload};
use wiredflow_core::stage::{Cx, Emitter, Stage};
use wiredflow_core::storage::{CommitReceipt, Cursor, Fence, Loaded, Query, Storage};
use wiredflow_core::{Batch, Error, Result};
use wiredflow_engine::catalogue::Work;
use wiredflow_engine::check::{SystemLookup, check_text};
use wiredflow_engine::functions::Functions;
use wiredflow_engine::run::RunOptions;
use wiredflow_engine::state::Body;
use wiredflow_engine::storages::OpenStorage;

use super::bench::{Bench, Feed, Started, millis, replace, run_plan, within};
use super::stages::burn;
use crate::small_disk::SmallDisk;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs `stages` on what `feed` gives.
fn fed(bench: &Bench, feed: &std::sync::Arc<Feed>, text: &str) -> wiredflow_engine::run::Ended {
    let mut plan = bench.plan(text);
    feed.feeds(&mut plan, 0);
    run_plan(&plan, &within(LIMIT))
}

/// What a storage of a flow holds.
fn stored(bench: &Bench, storages: &str, name: &str) -> Value {
    let text = format!(
        "storages: {storages}\npipelines: {{q: {{once: true, stages: [{{load: {name}}}, {{core_logic: {{rust: see}}}}]}}}}"
    );
    let before = bench.seen().len();
    let report = bench.run(&text);
    assert!(report.ok, "{report:?}");
    bench.seen().swap_remove(before)
}

#[test]
fn a_refused_row_is_the_fault_of_the_record_it_was_made_of() {
    // The first record gives no row and the second two, so that all rows stand at other places.
    let bench = Bench::new().with("spread", |call| match call.data["n"].as_u64() {
        Some(0) => Ok(Value::Null),
        Some(1) => Ok(json!([{"n": 1}, {"n": 1}])),
        _ => Ok(call.data),
    });
    let bench = bench.with("same", |call| Ok(call.data));
    let feed = Feed::of([
        json!({"n": 0}),
        json!({"n": 1}),
        json!({"n": 2}),
        json!({"n": 3, "more": "than the header"}),
        json!({"n": 4}),
    ]);
    let ended = fed(
        &bench,
        &feed,
        "pipelines: {p: {once: true, stages: [{store: {csv: {new_columns: error}, preprocess: [{rust: spread}, {rust: same}]}, on_error: dead_letter}]}}",
    );
    assert!(ended.report.ok, "{:?}", ended.report);
    assert_eq!(feed.ended_as(Outcome::DeadLettered), [3]);
    assert_eq!(feed.ended_as(Outcome::Committed), [0, 1, 2, 4]);
    let letters = bench.dead_letters();
    assert_eq!(
        letters[0].body,
        Body::Json(json!({"n": 3, "more": "than the header"}))
    );
    let text = std::fs::read_to_string(bench.folder().join("data/csv_in_p.csv")).unwrap();
    assert_eq!(text, "n\r\n1\r\n1\r\n2\r\n4\r\n");
}

#[test]
fn a_preprocessing_that_fails_on_a_record_names_it_after_another_has_dropped_some() {
    let bench = Bench::new()
        .with("drop_even", |call| {
            let odd = call.data["n"].as_u64().is_some_and(|n| n % 2 == 1);
            Ok(if odd { call.data } else { Value::Null })
        })
        .with("no_three", |call| match call.data["n"].as_u64() {
            Some(3) => Err(Error::data("three")),
            _ => Ok(call.data),
        });
    let feed = Feed::of((0..6).map(|n| json!({"n": n})));
    let ended = fed(
        &bench,
        &feed,
        "pipelines: {p: {once: true, stages: [{store: {jsonl: {}, preprocess: [{rust: drop_even}, {rust: no_three}]}, on_error: dead_letter}]}}",
    );
    assert!(ended.report.ok, "{:?}", ended.report);
    assert_eq!(feed.ended_as(Outcome::DeadLettered), [3]);
    let text = std::fs::read_to_string(bench.folder().join("data/jsonl_in_p.jsonl")).unwrap();
    assert_eq!(text, "{\"n\":1}\n{\"n\":5}\n");
}

#[test]
fn overwrite_keeps_the_last_delivery_of_a_burst() {
    for kind in ["json", "jsonl", "csv", "sqlite"] {
        let bench = Bench::new();
        let feed = Feed::new();
        let both = |n: u64| Payload::Values(vec![json!({"n": n}), json!({"n": n + 100})]);
        feed.give_payloads((0..50).map(both));
        // One without records replaces nothing.
        feed.give_payloads([Payload::Values(Vec::new())]);
        feed.end();
        let storages = format!("{{s: {{{kind}: {{}}, mapping: overwrite}}}}");
        let text = format!(
            "storages: {storages}\npipelines: {{p: {{once: true, stages: [{{store: s}}, {{core_logic: {{rust: see}}}}]}}}}"
        );
        let ended = fed(&bench, &feed, &text);
        assert!(ended.report.ok, "{kind}: {:?}", ended.report);
        assert_eq!(feed.ended_as(Outcome::Committed).len(), 51, "{kind}");
        assert_eq!(ended.report.pipelines["p"].records_in, 100);
        let expected = match kind {
            "csv" => json!([{"n": "49"}, {"n": "149"}]),
            _ => json!([{"n": 49}, {"n": 149}]),
        };
        assert_eq!(stored(&bench, &storages, "s"), expected, "{kind}");
    }
}

#[test]
fn overwrite_keeps_the_delivery_before_one_that_is_refused() {
    let bench = Bench::new();
    let feed = Feed::of([json!({"n": 1}), json!({"n": 2}), json!(["no", "object"])]);
    feed.give_payloads([]);
    let ended = fed(
        &bench,
        &feed,
        "pipelines: {p: {once: true, stages: [{store: {csv: {}, mapping: overwrite}, on_error: skip}]}}",
    );
    assert!(ended.report.ok, "{:?}", ended.report);
    assert_eq!(feed.ended_as(Outcome::Skipped), [2]);
    let text = std::fs::read_to_string(bench.folder().join("data/csv_in_p.csv")).unwrap();
    assert_eq!(text, "n\r\n2\r\n");
}

#[test]
fn overwrite_keeps_a_group_that_was_asked_for() {
    let bench = Bench::new();
    let feed = Feed::of((0..6).map(|n| json!({"n": n})));
    let ended = fed(
        &bench,
        &feed,
        "pipelines: {p: {once: true, stages: [{store: {jsonl: {}, mapping: overwrite}, batch: {max: 3, within: 1m}}]}}",
    );
    assert!(ended.report.ok, "{:?}", ended.report);
    let text = std::fs::read_to_string(bench.folder().join("data/jsonl_in_p.jsonl")).unwrap();
    assert_eq!(text, "{\"n\":3}\n{\"n\":4}\n{\"n\":5}\n");
}

/// A storage on a slow disk.
struct Slow(Duration);

impl Storage for Slow {
    fn commit(&mut self, rows: &[&Value], _: &[Cursor], _: &Fence) -> Result<CommitReceipt> {
        Ok(CommitReceipt::issue("slow".into(), rows.len()))
    }

    fn cursor(&mut self, _: &str) -> Result<Option<String>> {
        Ok(None)
    }

    fn load(&mut self, _: &Query) -> Result<Loaded> {
        std::thread::sleep(self.0);
        Ok(Loaded::Rows(vec![json!(1)]))
    }
}

#[test]
fn the_wait_for_the_disk_is_external_and_preprocessing_is_compute() {
    let bench = Bench::new().with("slow", |call| {
        burn(millis(300));
        Ok(call.data)
    });
    let mut plan = bench.plan(
        "storages: {s: {json: {}}}\npipelines: {p: {once: true, stages: [{load: s}, {store: {jsonl: {}, preprocess: [{rust: slow}]}}]}}",
    );
    plan.storages[0].open =
        OpenStorage::new("nothing".to_owned(), |_, _| Ok(Box::new(Slow(millis(300)))));
    let report = run_plan(&plan, &within(LIMIT)).report;
    assert!(report.ok, "{report:?}");
    let (load, store) = (report.stages[0].seconds, report.stages[1].seconds);
    assert!(load.external >= 0.29 && load.compute < 0.15, "{load:?}");
    // What it waited for a core is overhead. A machine that was taken away for a moment shows in neither.
    assert!(store.compute + store.overhead >= 0.2, "{store:?}");
}

#[test]
fn records_without_the_field_to_send_are_counted() {
    for send in [
        "{send: {rust: see, field: misspelt}}",
        "{send: {rust: see, field: there}}",
    ] {
        let bench = Bench::new();
        let feed = Feed::of([
            json!({"there": 1}),
            json!({"there": null}),
            json!({"there": 3}),
        ]);
        let text = format!("pipelines: {{p: {{once: true, stages: [{send}]}}}}");
        let report = fed(&bench, &feed, &text).report;
        let expected = if send.contains("misspelt") { 3 } else { 1 };
        assert_eq!(report.pipelines["p"].records_skipped, expected, "{send}");
        assert_eq!(report.pipelines["p"].deliveries.committed, 3);
        assert_eq!(bench.seen().len(), 3 - expected as usize);
    }
}

#[track_caller]
fn problems(text: &str) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let lookup = SystemLookup::new(folder.path());
    let checked = check_text(text, "test", folder.path(), &Functions::default(), &lookup);
    let told = |problem: wiredflow_core::problem::Problem| {
        (problem.message, problem.help.unwrap_or_default())
    };
    checked.problems.into_iter().map(told).collect()
}

#[test]
fn storages_of_one_name_are_refused() {
    let shared = "storages: {p: {json: {}}}\npipelines: {p: {once: true, stages: [{http: \"http://x\"}, {store: json}]}}";
    let [(message, help)] = &problems(shared)[..] else {
        panic!("{:?}", problems(shared))
    };
    assert!(
        message.contains("inline storage of pipeline `p` is called `p`")
            && message.contains("shared storage"),
        "{message}"
    );
    assert!(help.contains("`store: p`"), "{help}");

    let numbered = "pipelines: {p: {once: true, stages: [{http: \"http://x\"}, {store: json}, {store: csv}]}, \
                    p_2: {once: true, stages: [{http: \"http://x\"}, {store: jsonl}]}}";
    let [(message, help)] = &problems(numbered)[..] else {
        panic!("{:?}", problems(numbered))
    };
    assert!(
        message.contains("inline storage of pipeline `p_2` is called `p_2`")
            && message.contains("inline storage of pipeline `p`"),
        "{message}"
    );
    assert!(help.contains("rename"), "{help}");
}

#[test]
fn storages_that_would_write_the_same_are_refused() {
    let stages = |path: &str, table: &str| {
        format!(
            "{{once: true, stages: [{{http: \"http://x\"}}, {{store: {{sqlite: {{path: {path}, table: {table}}}}}}}]}}"
        )
    };
    let flow = |first: &str, second: &str| format!("pipelines: {{a: {first}, b: {second}}}");
    let same = flow(&stages("data/x.db", "t"), &stages("./data/x.db", "T"));
    let [(message, help)] = &problems(&same)[..] else {
        panic!("{:?}", problems(&same))
    };
    assert!(
        message.contains("`a` and `b`") && message.contains("table `t`"),
        "{message}"
    );
    assert!(help.contains("under `storages`"), "{help}");
    let apart = flow(&stages("data/x.db", "t"), &stages("data/x.db", "u"));
    assert_eq!(problems(&apart), []);
}

#[test]
fn a_storage_whose_folder_cannot_be_made_stops_the_flow_before_anything_is_taken_in() {
    for kind in ["json", "jsonl", "csv", "sqlite"] {
        let bench = Bench::new();
        std::fs::write(bench.folder().join("data"), "a file in the folder's place").unwrap();
        let feed = Feed::new();
        feed.give([json!({"n": 1})]);
        let text = format!("pipelines: {{p: {{once: true, stages: [{{store: {kind}}}]}}}}");
        let ended = fed(&bench, &feed, &text);
        let error = ended.report.error.unwrap();
        assert!(error.contains("data"), "{kind}: {error}");
        assert!(ended.report.seconds < 10.0, "{kind}");
        assert_eq!(feed.given(), 0, "{kind}");
    }
}

#[test]
fn a_storage_on_a_read_only_disk_stops_the_flow_and_a_full_one_is_waited_for() {
    for kind in ["json", "jsonl", "csv", "sqlite"] {
        let bench = Bench::new();
        let disk = bench.folder().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let Some(mounted) = SmallDisk::mount(&disk) else {
            wiredflow_testkit::skipped(
                "read-only and full disks",
                "this user may not mount a tmpfs",
            );
            return;
        };
        let config = if kind == "sqlite" {
            "path: disk/a/x.db"
        } else {
            "folder: disk/a"
        };
        let text = format!(
            "pipelines: {{p: {{once: true, stages: [{{core_logic: {{rust: make}}}}, {{store: {{{kind}: {{{config}}}}}}}]}}}}"
        );
        let bench = bench.with("make", |_| Ok(json!({"n": 1})));
        mounted.set_read_only(true);
        let report = bench.run(&text);
        assert!(!report.ok && report.seconds < 10.0, "{kind}: {report:?}");
        assert!(report.error.unwrap().contains("disk/a"), "{kind}");
        mounted.set_read_only(false);

        let filler = disk.join("filler");
        drop(std::fs::write(&filler, vec![0; 2 << 20]));
        let flow = bench.start(&text);
        flow.until(|report| report.pipelines["p"].last_error.is_some());
        let error = flow.report().pipelines["p"].last_error.clone().unwrap();
        assert!(error.contains("no space left"), "{kind}: {error}");
        std::fs::remove_file(&filler).unwrap();
        flow.until(|report| report.pipelines["p"].deliveries.committed == 1);
        assert!(flow.end().report.ok, "{kind}");
    }
}

/// A sink that commits nothing until it is let go.
struct Held(Arc<Mutex<Vec<Value>>>, Arc<AtomicBool>);

impl Stage for Held {
    async fn run(&self, batch: &Batch, out: &mut Emitter<'_>, _: &Cx) -> Result<()> {
        while !self.1.load(Ordering::Relaxed) {
            tokio::time::sleep(millis(5)).await;
        }
        self.0.lock().unwrap().extend(batch.values().cloned());
        out.pass(Some(CommitReceipt::issue("held".into(), batch.len())));
        Ok(())
    }
}

#[test]
fn a_sink_takes_together_what_a_function_has_made_meanwhile() {
    let bench = Bench::new().quick("quick", |call| Ok(call.data));
    let mut plan = bench.plan(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: quick}}, {store: {jsonl: {folder: data}}}]}}",
    );
    let (stored, free) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let (shelf, open) = (Arc::clone(&stored), Arc::clone(&free));
    let held = move || Held(Arc::clone(&shelf), Arc::clone(&open));
    replace(&mut plan, (0, 1), Work::Sink, held);
    let numbers: Vec<Value> = (0..2000).map(|n| json!({ "n": n })).collect();
    Feed::of(numbers.clone()).feeds(&mut plan, 0);
    let flow = Started::new(&plan, &RunOptions::default());
    // The room is full, and one batch waits outside: then the function is held. What the first call took comes on top.
    flow.until_figures(|figures| figures.stages[1].queued == 2);
    let figures = flow.figures();
    assert!(
        (512..800).contains(&figures.stages[0].records_out),
        "{figures:?}"
    );
    free.store(true, Ordering::Relaxed);
    let figures = flow.end().figures;
    assert_eq!(*stored.lock().unwrap(), numbers);
    let store = &figures.stages[1];
    assert_eq!(store.records_in, 2000);
    assert!(store.batch.quantile(1.0) >= 250, "{:?}", store.batch);
    assert!(store.calls < 1600, "{} calls", store.calls);
}
