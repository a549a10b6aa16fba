//! Pause, resume, trigger.

use jiff::Timestamp;
use serde_json::{Value, json};
use wiredflow_testkit::{Mosquitto, Signal, wait_until, written_rows};

use super::{Api, LISTEN, QUIET};
use crate::{SOON, tool};

fn fast() -> String {
    format!(
        "name: fast\n{LISTEN}pipelines: {{p: {{every: 50ms, stages: [{{core_logic: {{program: [echo, '{{}}']}}}}, {{store: jsonl}}]}}}}\n"
    )
}

/// The runs that have started after a time.
fn started_after(api: &Api, time: Timestamp) -> usize {
    let runs = api.get("runs?limit=1000");
    let started = |run: &Value| {
        run["started"]
            .as_str()
            .unwrap()
            .parse::<Timestamp>()
            .unwrap()
    };
    runs["runs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| started(run) > time)
        .count()
}

fn passed_over(api: &Api) -> u64 {
    api.pipeline("p")["ticks_skipped"].as_u64().unwrap()
}

#[test]
fn a_paused_schedule_starts_nothing_also_after_a_restart_and_goes_on_when_it_is_resumed() {
    let test = tool();
    test.file("flow.yaml", &fast());
    let api = Api::start(test, &[]);
    api.wait_for(|api| !api.get("runs")["runs"].as_array().unwrap().is_empty());
    let paused = api.ask("operator", "POST", "/api/v1/pipelines/p/pause");
    assert_eq!(
        paused.is(200).json(),
        json!({"pipeline": "p", "paused": true})
    );
    let then = Timestamp::now();
    let before = passed_over(&api);
    api.wait_for(|api| passed_over(api) >= before + 6);
    // One may have been on its way.
    let started = started_after(&api, then);
    assert!(started <= 1, "{started}");
    let document = api.pipeline("p");
    assert_eq!(
        (&document["paused"], &document["state"]),
        (&true.into(), &"open".into())
    );

    api.running.signal(Signal::Term);
    let ended = api.running.wait(SOON);
    ended.assert_code(0);
    let again = Timestamp::now();
    let api = Api::start(api.test, &[]);
    api.wait_for(|api| passed_over(api) >= 3);
    assert_eq!(api.pipeline("p")["paused"], true);
    assert_eq!(started_after(&api, again), 0);
    assert!(
        api.running
            .stderr()
            .contains("paused: it starts nothing until it is resumed")
    );

    api.ask("operator", "POST", "/api/v1/pipelines/p/resume")
        .is(200);
    api.wait_for(|api| started_after(api, again) > 2);
    assert_eq!(api.pipeline("p")["paused"], false);
}

#[test]
fn a_paused_stream_leaves_what_comes_with_its_peer_and_takes_it_when_it_is_resumed() {
    let broker = Mosquitto::start();
    let source = |client: &str| {
        format!(
            "source: {{mqtt: {{broker: '{}', topic: numbers, client_id: {client}}}}}",
            broker.address()
        )
    };
    let api = Api::run(&format!(
        "{LISTEN}pipelines:\n  held: {{{}, stages: [{{store: jsonl}}]}}\n  free: {{{}, stages: [{{store: jsonl}}]}}\n",
        source("held-1"),
        source("free-1")
    ));
    wait_until(SOON, || broker.log().matches("SUBSCRIBE").count() >= 2);
    api.wait_open("held");
    api.wait_open("free");
    let rows =
        |name: &str| written_rows(&api.test.path(format!("data/jsonl_in_{name}.jsonl"))).len();
    broker.publish("numbers", "{\"n\": 0}", 1);
    wait_until(SOON, || rows("held") == 1 && rows("free") == 1);
    api.ask("operator", "POST", "/api/v1/pipelines/held/pause")
        .is(200);
    for number in 1..=20 {
        broker.publish("numbers", format!("{{\"n\": {number}}}"), 1);
    }
    wait_until(SOON, || rows("free") == 21);
    // The other has had the same, in the same time.
    assert_eq!(rows("held"), 1);
    api.ask("operator", "POST", "/api/v1/pipelines/held/resume")
        .is(200);
    wait_until(SOON, || rows("held") == 21);
}

#[test]
fn a_pipeline_is_run_now_unless_it_runs() {
    let test = tool();
    let wait = "cat > /dev/null; while [ ! -e go ]; do sleep 0.02; done; echo '{}'";
    let pipeline = |keys: &str| {
        format!(
            "{{every: 1h, delay: 1h, {keys}stages: [{{core_logic: {{program: [sh, -c, \"{wait}\"]}}}}, {{store: jsonl}}]}}"
        )
    };
    test.file(
        "flow.yaml",
        &format!(
            "{LISTEN}pipelines:\n  skips: {}\n  queues: {}\n",
            pipeline(""),
            pipeline("overlap: queue, ")
        ),
    );
    let api = Api::start(test, &[]);
    let trigger = |name: &str| {
        api.ask(
            "operator",
            "POST",
            &format!("/api/v1/pipelines/{name}/trigger"),
        )
    };
    let committed = |name: &str| {
        api.pipeline(name)["deliveries"]["committed"]
            .as_u64()
            .unwrap()
    };
    for name in ["skips", "queues"] {
        api.wait_open(name);
        assert_eq!(
            trigger(name).is(202).json(),
            json!({"pipeline": name, "triggered": true})
        );
    }
    // The run has its row, so it has begun.
    wait_until(SOON, || {
        api.get("runs?pipeline=skips")["runs"]
            .as_array()
            .unwrap()
            .len()
            == 1
    });
    let refused = trigger("skips");
    assert!(refused.is(409).body.contains("overlap"), "{refused:?}");
    trigger("queues").is(202);
    api.test.file("go", "");
    wait_until(SOON, || committed("skips") == 1 && committed("queues") == 2);
    // A paused one is run all the same: somebody wants it.
    api.ask("operator", "POST", "/api/v1/pipelines/skips/pause")
        .is(200);
    trigger("skips").is(202);
    wait_until(SOON, || committed("skips") == 2);
    let rows = written_rows(&api.test.path("data/jsonl_in_skips.jsonl"));
    assert_eq!(rows.len(), 2);
    api.ask("operator", "POST", "/api/v1/pipelines/nobody/trigger")
        .is(404);
}

#[test]
fn a_stream_is_not_triggered() {
    let api = Api::run(QUIET);
    api.wait_open("hook");
    let refused = api.ask("admin", "POST", "/api/v1/pipelines/hook/trigger");
    assert!(refused.is(409).body.contains("stream"), "{refused:?}");
}

#[test]
fn h12_a_changed_file_with_problems_changes_nothing_and_a_good_one_is_shown_at_the_same_port() {
    let test = tool();
    test.file("flow.yaml", &fast());
    let api = Api::start(test, &["--watch"]);
    api.wait_for(|api| !api.get("runs")["runs"].as_array().unwrap().is_empty());
    api.test.file("flow.yaml", "pipelines: {p: {evry: 1s}}\n");
    api.running
        .stderr_contains("the flow goes on as it was", SOON);
    let then = Timestamp::now();
    assert_eq!(api.get("status")["flow"], "fast");
    api.wait_for(|api| started_after(api, then) > 1);
    let changed = fast().replace(
        "{p:",
        "{q: {every: 1h, delay: 1h, stages: [{store: jsonl}]}, p:",
    );
    api.test.file("flow.yaml", &changed);
    // The same port, the same tokens.
    wait_until(SOON, || {
        let reply = api.ask("admin", "GET", "/api/v1/pipelines/q");
        assert!(matches!(reply.status, 200 | 404 | 503), "{reply:?}");
        reply.status == 200
    });
}

#[test]
fn a_flow_that_runs_is_profiled_from_now_on_and_goes_on() {
    let api = Api::run(&fast());
    let calls = |api: &Api| api.get("stages")["stages"][0]["calls"].as_u64().unwrap();
    api.wait_for(|api| calls(api) > 0);
    let run = |arguments: &[&str]| api.test.run(arguments.iter().copied());
    let before = calls(&api);
    let attached = run(&["profile", "--attach", "flow.yaml", "--for", "2s", "--json"]);
    let profile = attached.assert_code(0).json();
    let after = calls(&api);
    assert_eq!(profile["flow"], "fast");
    let stage = &profile["stages"][0];
    let counted = stage["calls"].as_u64().unwrap();
    assert!(
        (1..=after - before).contains(&counted),
        "{counted} of {before} to {after}"
    );
    let clocks: f64 = [
        "compute",
        "external",
        "blocked",
        "starved",
        "throttled",
        "overhead",
    ]
    .iter()
    .map(|clock| stage["seconds"][clock].as_f64().unwrap())
    .sum();
    let wall = stage["seconds"]["wall"].as_f64().unwrap();
    assert!(
        wall >= 2.0 && (clocks - wall).abs() < 0.01 * wall,
        "{stage}"
    );
    let url = format!("http://{}", api.address);
    let viewer = ".wiredflow/token.viewer";
    let shown = run(&[
        "profile",
        "--attach",
        &url,
        "--token-file",
        viewer,
        "--for",
        "1s",
    ]);
    assert!(
        shown.assert_code(0).stdout.contains("starved"),
        "{}",
        shown.stdout
    );
    api.wait_for(|api| calls(api) > after);
}

#[test]
fn the_profile_of_the_next_seconds_is_of_these_alone() {
    let api = Api::run(&fast());
    api.wait_for(|api| !api.get("runs")["runs"].as_array().unwrap().is_empty());
    let next = api.get("profile?seconds=1");
    let whole = api.get("profile");
    let seconds = |profile: &Value| profile["seconds"].as_f64().unwrap();
    assert!(
        seconds(&next) >= 1.0 && seconds(&whole) > seconds(&next),
        "{next}"
    );
    let calls = |profile: &Value| profile["stages"][0]["calls"].as_u64().unwrap();
    assert!(calls(&whole) >= calls(&next), "{whole}");
    for profile in [&next, &whole] {
        assert_eq!(profile["flow"], "fast");
        let clocks = profile["stages"][0]["seconds"].as_object().unwrap();
        assert_eq!(clocks.len(), 7, "{clocks:?}");
        assert!(profile.get("bottleneck").is_some());
    }
    api.ask("viewer", "GET", "/api/v1/profile?seconds=61")
        .is(400);
}
