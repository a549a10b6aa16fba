//! What is counted while a flow runs.

use std::sync::atomic::Ordering;

use serde_json::json;
use wiredflow_scale::figures::{FlowFigures, Trigger};
use wiredflow_scale::profile::Profile;
use wiredflow_testkit::{HttpPeer, Reply};

use super::bench::{Bench, Feed, Started, within};
use super::stages::{burn, check_sum};
use std::time::Duration;
use wiredflow_engine::run::RunOptions;

#[test]
fn a_stage_that_hangs_shows_in_its_call_its_queue_and_its_source() {
    let (bench, free) = Bench::new().hanging();
    let mut plan = bench.plan(
        "pipelines: {p: {once: true, stages: [{core_logic: {rust: see}, batch: {max: 100, within: 1ms}}, {core_logic: {rust: hang}}]}}",
    );
    let feed = Feed::of((0..6000).map(|n| json!({"n": n})));
    feed.feeds(&mut plan, 0);
    let flow = Started::new(&plan, &RunOptions::default());
    let stuck = |figures: &FlowFigures| {
        let (first, second) = (&figures.stages[0], &figures.stages[1]);
        second.oldest_call_seconds > 0.2
            && second.queued > 2
            && first.queued > 2
            && figures.pipelines[0].source_blocked_seconds > 0.2
    };
    flow.until_figures(stuck);
    let before = flow.figures();
    let (first, second) = (&before.stages[0], &before.stages[1]);
    assert_eq!((first.in_flight, second.in_flight), (1, 1));
    assert_eq!(before.pipelines[0].trigger, Trigger::Stream);
    assert!(before.pipelines[0].under_way >= 256, "{before:?}");
    let profile = Profile::between(None, &before);
    assert!(profile.stages[1].queue_before > 1.0, "{profile:?}");
    assert_eq!(
        profile.stages[0].queue_after,
        Some(profile.stages[1].queue_before)
    );
    assert!(profile.pipelines[0].source_blocked > 0.0);
    free.store(true, Ordering::Relaxed);
    flow.until(|report| report.pipelines["p"].deliveries.committed == 6000);
    let after = flow.figures();
    flow.stop();
    flow.end();
    let (first, second) = (&after.stages[0], &after.stages[1]);
    assert_eq!((first.in_flight, first.queued, second.queued), (0, 0, 0));
    assert_eq!(first.batch.len(), first.calls);
    assert_eq!(
        first.queue_wait.len(),
        first.calls,
        "each batch has waited once"
    );
    assert_eq!((first.records_in, after.pipelines[0].runs), (6000, 6000));
    assert_eq!(after.pipelines[0].under_way, 0);
    // What came between the two looks.
    let since = Profile::between(Some(&before), &after);
    for (stage, then) in since.stages.iter().zip(&before.stages) {
        assert_eq!(stage.records_in + then.records_in, 6000);
        check_sum(&stage.stage, &stage.seconds);
    }
    assert!(since.host.cores >= 1.0 && since.host.memory_mib > 1.0);
}

#[test]
fn runs_of_a_schedule_have_times_and_a_period_and_limits_are_counted() {
    let peer = HttpPeer::start();
    let busy = || Reply::code(429).header("retry-after", "0");
    peer.on_each("/", [busy(), busy(), Reply::json(json!([{"n": 1}]))]);
    let bench = Bench::new();
    let text = format!(
        "pipelines: {{p: {{every: 50ms, stages: [{{http: \"{}\", retry: {{backoff: 10ms}}}}, {{core_logic: {{rust: see}}}}]}}, \
         q: {{once: true, stages: [{{core_logic: {{rust: see}}, rate_limit: {{per_second: 7}}}}]}}}}",
        peer.url("/")
    );
    let flow = Started::new(&bench.plan(&text), &within(Duration::from_secs(60)));
    flow.until_figures(|figures| figures.pipelines[0].runs >= 5);
    let figures = flow.figures();
    flow.stop();
    flow.end();
    assert_eq!(
        (figures.stages[0].limited, figures.stages[0].errors),
        (2, 2)
    );
    let p = &figures.pipelines[0];
    assert_eq!(p.run_time.len(), p.runs);
    let period_seconds = Some(0.05);
    assert_eq!(p.trigger, Trigger::Schedule { period_seconds });
    assert_eq!(figures.pipelines[1].trigger, Trigger::Once);
    assert_eq!(figures.stages[2].rate_limit, Some(7.0));
    let profile = Profile::between(None, &figures);
    assert!(profile.pipelines[0].load.unwrap() > 0.0);
}

const WAIT: f64 = 0.1;

/// One stage that works off `CALLS` calls of 100 ms each, with looks at its clocks all the while.
fn planted(stage: &str) -> (Profile, f64) {
    const CALLS: u64 = 8;
    let bench = Bench::new()
        .with("sleep", |call| {
            std::thread::sleep(Duration::from_secs_f64(WAIT));
            Ok(call.data)
        })
        .with("burn", |call| {
            burn(Duration::from_secs_f64(WAIT));
            Ok(call.data)
        });
    let python = "import time\n\ndef sleep(relevant_info=None, **_):\n    time.sleep(0.1)\n    return relevant_info\n\n\
                  def burn(relevant_info=None, **_):\n    end = time.perf_counter() + 0.1\n    while time.perf_counter() < end:\n        pass\n    return relevant_info\n\n\
                  def give(relevant_info=None, **_):\n    for part in range(4):\n        time.sleep(0.025)\n        yield relevant_info\n";
    std::fs::write(bench.folder().join("logic.py"), python).unwrap();
    let mut plan = bench.plan(&format!(
        "pipelines: {{p: {{once: true, stages: [{stage}]}}}}"
    ));
    let feed = Feed::of((0..CALLS).map(|n| json!({"n": n})));
    feed.feeds(&mut plan, 0);
    let flow = Started::new(&plan, &RunOptions::default());
    let mut before = flow.figures();
    flow.until_figures(|figures| {
        // However often somebody looks, no clock goes back and the parts are the whole.
        let since = Profile::between(Some(&before), figures);
        let stage = &since.stages[0];
        if stage.seconds.wall > 0.001 {
            check_sum(&stage.stage, &stage.seconds);
        }
        figures.pipelines[0].runs == CALLS
    });
    before = flow.figures();
    flow.stop();
    flow.end();
    (Profile::between(None, &before), CALLS as f64 * WAIT)
}

#[test]
fn what_a_function_waits_for_is_external_in_every_language() {
    for stage in [
        "{core_logic: {rust: sleep}}",
        "{core_logic: {python: \"logic.py:sleep\"}}",
        "{core_logic: {python: \"logic.py:give\"}}",
        "{core_logic: {program: [sleep, \"0.1\"]}}",
        "{send: {python: \"logic.py:sleep\"}}",
    ] {
        let (profile, planted) = planted(stage);
        let seconds = profile.stages[0].seconds;
        check_sum(stage, &seconds);
        // A sleep is never shorter than asked for; a busy machine wakes late, which is no external time.
        assert!(seconds.external >= 0.95 * planted, "{stage}: {seconds:?}");
        assert!(seconds.compute < 0.3 * planted, "{stage}: {seconds:?}");
    }
}

#[test]
fn what_a_function_computes_is_compute_and_its_wait_for_a_core_overhead() {
    for stage in [
        "{core_logic: {rust: burn}}",
        "{core_logic: {python: \"logic.py:burn\"}}",
        "{core_logic: {program: [sh, -c, \"i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done\"]}}",
    ] {
        let (profile, planted) = planted(stage);
        let one = &profile.stages[0];
        check_sum(stage, &one.seconds);
        let busy = one.seconds.compute + one.seconds.overhead;
        if !stage.contains("program") {
            assert!(busy >= 0.95 * planted, "{stage}: {:?}", one.seconds);
        }
        assert!(
            one.seconds.external < 0.2 * busy,
            "{stage}: {:?}",
            one.seconds
        );
        assert!(
            (one.cpu_seconds - one.seconds.compute).abs() < 0.1 * planted,
            "{stage}: {one:?}"
        );
    }
}

#[test]
fn bytes_are_those_of_the_records_as_json() {
    let bench = Bench::new();
    let mut plan = bench.plan(
        "pipelines: {p: {once: true, stages: [{drop: {fields: [b]}}, {store: {jsonl: {folder: data}, required: false}}]}}",
    );
    // All of one length.
    let record = |n: u64| json!({"a": 100 + n % 800, "b": "12345"});
    Feed::of((0..3000).map(record)).feeds(&mut plan, 0);
    let flow = Started::new(&plan, &RunOptions::default());
    let figures = flow.end().figures;
    let (dropped, stored) = (&figures.stages[0], &figures.stages[1]);
    let whole = record(0).to_string().len() as u64;
    let rest = json!({"a": 100}).to_string().len() as u64;
    assert_eq!(
        (dropped.bytes_in, dropped.bytes_out),
        (Some(3000 * whole), Some(3000 * rest))
    );
    assert_eq!(
        (stored.records_in, stored.bytes_in),
        (3000, Some(3000 * rest))
    );
}
