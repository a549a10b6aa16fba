//! What is counted while a flow runs.

use std::sync::atomic::Ordering;

use serde_json::json;
use wiredflow_scale::figures::{FlowFigures, Trigger};
use wiredflow_scale::profile::Profile;
use wiredflow_testkit::{HttpPeer, Reply};

use super::bench::{Bench, Feed, Started, within};
use super::stages::check_sum;
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
