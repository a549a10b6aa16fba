//! Profiles of flows whose bottleneck is known.

mod line;
mod random;

use super::{Bottleneck, Cause, find};
use crate::figures::Trigger;
use crate::profile::{Outbox, PipelineProfile, Profile, Seconds, Spread, StageProfile};
use line::quiet;

/// A stage of pipeline `p`; where the clocks do not fill its wall time, it starved.
fn stage(name: &str, seconds: Seconds) -> StageProfile {
    StageProfile {
        pipeline: "p".to_owned(),
        stage: name.to_owned(),
        kind: "core_logic".to_owned(),
        place: "local".to_owned(),
        replicas: 1,
        calls: 100,
        queue_room: line::ROOM,
        seconds,
        utilisation: seconds.utilisation(),
        ..StageProfile::default()
    }
}

/// Clocks over 10 seconds.
fn clocks(compute: f64, external: f64, blocked: f64) -> Seconds {
    Seconds {
        wall: 10.0,
        compute,
        external,
        blocked,
        starved: 10.0 - compute - external - blocked,
        ..Seconds::default()
    }
}

/// What waits for a stage that nothing waits for.
fn with_outbox(stage: StageProfile, waiting: u64, growth: i64) -> StageProfile {
    StageProfile {
        records_in: 1000,
        outbox: Some(Outbox { waiting, growth }),
        ..stage
    }
}

#[test]
fn a_stage_that_nothing_waits_for_limits_only_itself_and_only_when_its_outbox_grows() {
    let side = || stage("side", clocks(0.1, 9.8, 0.0));
    let found = |side| {
        find(&flow(
            stream(),
            vec![stage("work", clocks(1.0, 0.0, 0.0)), side],
        ))
    };
    for (waiting, growth) in [(0, 0), (5000, 0), (5000, -300), (9, 9), (200, 90)] {
        assert_eq!(found(with_outbox(side(), waiting, growth)), None);
    }
    let slow = found(with_outbox(side(), 400, 300)).unwrap();
    assert_eq!(
        (slow.stage.as_str(), slow.cause),
        ("side", Cause::ExternalLatency)
    );
    assert!(slow.evidence[0].contains("400 records wait in its outbox, 300 more"));
    let idle = with_outbox(stage("side", clocks(0.1, 0.1, 0.0)), 400, 300);
    assert_eq!(found(idle), None, "it has not had the time yet");
    // What holds a run up is another.
    let busy = stage("work", clocks(3.0, 0.0, 0.0));
    let tight = find(&flow(
        each(1.0, 1.2),
        vec![busy, with_outbox(side(), 400, 300)],
    ))
    .unwrap();
    assert_eq!(tight.stage, "work");
}

#[test]
fn a_peer_that_is_away_is_named_and_no_advice_makes_it_faster() {
    let waits = Seconds {
        wall: 10.0,
        throttled: 9.9,
        starved: 0.1,
        ..Seconds::default()
    };
    let late = PipelineProfile {
        runs: 0,
        under_way: 1,
        oldest_run_seconds: 53.0,
        ..each(10.0, 0.0)
    };
    let ask = |calls, errors| StageProfile {
        calls,
        errors,
        retries: errors,
        ..stage("ask", waits)
    };
    let store = || StageProfile {
        calls: 0,
        ..stage("store", clocks(0.0, 0.0, 0.0))
    };
    // Between two attempts, and after one or some.
    for asked in [ask(0, 0), ask(1, 1), ask(7, 5)] {
        let found = find(&flow(late.clone(), vec![asked, store()])).unwrap();
        assert_eq!(
            (found.stage.as_str(), found.cause),
            ("ask", Cause::ExternalLatency)
        );
        assert!(found.advice[0].contains("why its calls fail"), "{found:?}");
        let told = found.advice.join(" ");
        assert!(
            !told.contains("parallel") && !told.contains("batch"),
            "{told}"
        );
    }
    // Few failures are not the reason.
    let slow = ask(100, 2);
    let found = find(&flow(late, vec![slow, store()])).unwrap();
    assert_eq!(found.cause, Cause::ScheduleTooTight);
}

fn stream() -> PipelineProfile {
    PipelineProfile {
        pipeline: "p".to_owned(),
        trigger: Trigger::Stream,
        runs: 100,
        ..PipelineProfile::default()
    }
}

fn each(period: f64, run: f64) -> PipelineProfile {
    PipelineProfile {
        trigger: Trigger::Schedule {
            period_seconds: Some(period),
        },
        runs: (10.0 / period.max(run)) as u64,
        run_seconds: Spread {
            mean: run,
            p50: run,
            p99: run,
        },
        period_seconds: Some(period),
        load: Some(run / period),
        ..stream()
    }
}

fn once(run: f64) -> PipelineProfile {
    PipelineProfile {
        trigger: Trigger::Once,
        runs: 1,
        run_seconds: Spread {
            mean: run,
            p50: run,
            p99: run,
        },
        ..stream()
    }
}

fn flow(pipeline: PipelineProfile, stages: Vec<StageProfile>) -> Profile {
    Profile {
        flow: "f".to_owned(),
        seconds: 10.0,
        host: quiet(),
        stages,
        pipelines: vec![pipeline],
        bottleneck: None,
    }
}

/// A stream that its middle stage holds up: what that one does is up to the caller.
fn held_by(middle: StageProfile) -> Profile {
    let before = StageProfile {
        queue_before: 2.0,
        ..stage("before", clocks(0.5, 0.0, 9.4))
    };
    let middle = StageProfile {
        queue_before: 2.0,
        ..middle
    };
    let source = PipelineProfile {
        source_blocked: 0.95,
        ..stream()
    };
    flow(
        source,
        vec![before, middle, stage("after", clocks(0.1, 0.3, 0.0))],
    )
}

fn named(profile: &Profile) -> (String, Cause, bool) {
    let found = find(profile).unwrap_or_else(|| panic!("nothing found in {profile:#?}"));
    assert!(
        !found.evidence.is_empty() && !found.advice.is_empty(),
        "{found:#?}"
    );
    let Bottleneck {
        stage,
        cause,
        certain,
        ..
    } = found;
    (stage, cause, certain)
}

#[test]
fn a_stream_is_limited_where_batches_wait_and_the_source_is_held() {
    let sleeps = held_by(stage("slow", clocks(0.1, 9.8, 0.0)));
    assert_eq!(
        named(&sleeps),
        ("slow".to_owned(), Cause::ExternalLatency, true)
    );
    let counts = StageProfile {
        cpu_seconds: 9.7,
        ..stage("slow", clocks(9.8, 0.1, 0.0))
    };
    assert_eq!(
        named(&held_by(counts)),
        ("slow".to_owned(), Cause::Compute, true)
    );
}

#[test]
fn what_keeps_up_is_not_accused() {
    let idle = flow(stream(), vec![stage("a", clocks(0.0, 0.0, 0.0))]);
    assert_eq!(find(&idle), None);
    let busy = flow(
        stream(),
        vec![StageProfile {
            queue_before: 0.6,
            ..stage("a", clocks(8.5, 0.0, 0.0))
        }],
    );
    assert_eq!(
        find(&busy),
        None,
        "85 % busy, and no batch waits on the mean"
    );
    let burst = flow(
        PipelineProfile {
            source_blocked: 0.3,
            ..stream()
        },
        vec![StageProfile {
            queue_before: 1.2,
            ..stage("a", clocks(0.0, 6.0, 0.0))
        }],
    );
    assert_eq!(find(&burst), None, "it has caught up");
    let on_time = flow(each(1.0, 0.8), vec![stage("a", clocks(0.0, 8.0, 0.0))]);
    assert_eq!(find(&on_time), None);
    let done = flow(once(0.1), vec![stage("a", clocks(0.1, 0.0, 0.0))]);
    assert_eq!(find(&done), None);
    assert_eq!(find(&Profile::default()), None);
}

#[test]
fn two_readings_that_differ_are_both_told() {
    // The second stage has the queue; the first is busy and hardly blocked.
    let profile = flow(
        PipelineProfile {
            source_blocked: 0.9,
            ..stream()
        },
        vec![
            StageProfile {
                queue_before: 2.0,
                ..stage("near", clocks(0.0, 9.3, 0.6))
            },
            StageProfile {
                queue_before: 1.4,
                ..stage("slow", clocks(0.0, 9.9, 0.0))
            },
        ],
    );
    let found = find(&profile).unwrap();
    assert_eq!((&*found.stage, found.certain), ("slow", false));
    let said = found.evidence.join("; ");
    assert!(
        said.contains("the queues say `slow`, what is held back says `near`"),
        "{said}"
    );
    assert!(said.contains("nearly as busy: `near`"), "{said}");
}

#[test]
fn a_queue_before_a_stage_that_is_held_back_belongs_to_the_one_that_holds_it() {
    // It takes four batches at once, so that none waits before it.
    let mut profile = held_by(stage("groups", clocks(0.1, 9.8, 0.0)));
    profile.stages[1].queue_before = 0.7;
    assert_eq!(
        named(&profile),
        ("groups".to_owned(), Cause::ExternalLatency, true)
    );
}

#[test]
fn a_schedule_is_too_tight_when_a_run_takes_longer_than_its_period() {
    let stages = || {
        vec![
            stage("quick", clocks(0.5, 0.0, 0.0)),
            stage("slow", clocks(0.0, 9.0, 0.0)),
        ]
    };
    let found = find(&flow(each(1.0, 1.9), stages())).unwrap();
    assert_eq!(
        (&*found.stage, found.cause, found.certain),
        ("slow", Cause::ScheduleTooTight, true)
    );
    assert!(found.advice[0].contains("every: 3s"), "{:?}", found.advice);
    assert_eq!(find(&flow(each(1.0, 0.99), stages())), None);
}

#[test]
fn a_limit_of_a_peer_is_told_before_the_period() {
    let limited = StageProfile {
        limited: 20,
        calls: 40,
        ..stage(
            "ask",
            Seconds {
                throttled: 8.0,
                ..clocks(0.0, 1.0, 0.0)
            },
        )
    };
    let (_, cause, _) = named(&flow(each(1.0, 1.9), vec![limited.clone()]));
    assert_eq!(cause, Cause::ExternalLimit);
    let found = find(&held_by(limited)).unwrap();
    assert!(
        found
            .advice
            .iter()
            .any(|line| line.contains("more servers will not help")),
        "{found:?}"
    );
}

#[test]
fn a_hung_call_shows_at_once() {
    // A schedule: one run is open for five periods, the others were on time.
    let open = PipelineProfile {
        under_way: 1,
        oldest_run_seconds: 5.0,
        ..each(1.0, 0.2)
    };
    let hangs = StageProfile {
        in_flight: 1,
        oldest_call_seconds: 5.0,
        ..stage("ask", clocks(0.0, 6.0, 0.0))
    };
    assert_eq!(
        named(&flow(open, vec![hangs.clone()])).1,
        Cause::ScheduleTooTight
    );
    // A stream in which nothing waits yet.
    let (name, cause, certain) = named(&flow(stream(), vec![hangs]));
    assert_eq!(
        (&*name, cause, certain),
        ("ask", Cause::ExternalLatency, false)
    );
}

#[test]
fn what_is_done_once_is_as_slow_as_its_slowest_stage() {
    let (source, sink) = (clocks(0.2, 9.5, 0.0), stage("store", clocks(0.0, 1.0, 0.0)));
    let bound = flow(once(10.0), vec![stage("read", source), sink.clone()]);
    assert_eq!(named(&bound), ("read".to_owned(), Cause::SourceBound, true));
    // One call is no source with work left: it is slow itself.
    let one = StageProfile { calls: 1, ..sink };
    assert_eq!(
        named(&flow(once(10.0), vec![stage("read", source), one])).1,
        Cause::ExternalLatency
    );
    let after = flow(
        once(10.0),
        vec![
            stage("read", clocks(0.5, 0.0, 9.0)),
            StageProfile {
                queue_before: 1.9,
                ..stage("work", clocks(9.8, 0.0, 0.0))
            },
        ],
    );
    assert_eq!(named(&after), ("work".to_owned(), Cause::Compute, true));
}

#[test]
fn a_stage_that_was_never_called_has_no_speed() {
    let cold = StageProfile {
        calls: 0,
        ..stage("cold", clocks(0.0, 0.0, 0.0))
    };
    assert_eq!(find(&flow(once(10.0), vec![cold.clone()])), None);
    let profile = flow(once(10.0), vec![stage("slow", clocks(0.0, 9.0, 0.0)), cold]);
    assert_eq!(named(&profile).0, "slow");
}

#[test]
fn cores_that_are_not_free_are_told_by_the_delay_of_the_kernel() {
    let mut profile = held_by(StageProfile {
        cpu_seconds: 6.0,
        run_delay_seconds: 3.5,
        ..stage("slow", clocks(6.0, 0.2, 0.0))
    });
    profile.stages[1].seconds.overhead = 3.5;
    profile.host.cpu_used = 0.99;
    assert_eq!(named(&profile).1, Cause::HostFull);
    // The same stage beside a free core is slow by itself.
    profile.host.cpu_used = 0.6;
    assert_eq!(named(&profile).1, Cause::Compute);
    // A full host does not make sleep shorter.
    let mut sleeps = held_by(stage("slow", clocks(0.1, 9.8, 0.0)));
    sleeps.host.cpu_used = 0.99;
    assert_eq!(named(&sleeps).1, Cause::ExternalLatency);
}

#[test]
fn calls_that_share_a_python_process_are_told_from_calls_that_sleep_in_it() {
    let four = |cpu_seconds: f64| {
        let mut stage = StageProfile {
            replicas: 4,
            processes: 1,
            cpu_seconds,
            ..stage(
                "work",
                Seconds {
                    wall: 40.0,
                    overhead: 29.0,
                    ..clocks(cpu_seconds, 10.0 - cpu_seconds, 0.0)
                },
            )
        };
        stage.queue_before = 2.0;
        held_by(stage)
    };
    assert_eq!(named(&four(9.5)).1, Cause::Gil);
    assert_eq!(named(&four(0.2)).1, Cause::ExternalLatency);
    // The same where the clocks know nothing of what a call does inside.
    let mut two = four(0.2);
    let stage = &mut two.stages[1];
    (stage.replicas, stage.seconds.wall) = (2, 20.0);
    (
        stage.seconds.compute,
        stage.seconds.external,
        stage.seconds.overhead,
    ) = (10.0, 0.0, 9.9);
    assert_eq!(named(&two).1, Cause::ExternalLatency);
}

#[test]
fn memory_and_a_hot_key_have_their_figures() {
    let mut short = held_by(stage("slow", clocks(9.0, 0.5, 0.0)));
    (short.host.memory_used, short.host.major_faults) = (0.97, 400.0);
    assert_eq!(named(&short).1, Cause::Memory);
    let keyed = StageProfile {
        replicas: 2,
        hottest_key: Some(0.9),
        ..stage(
            "sum",
            Seconds {
                wall: 20.0,
                ..clocks(16.0, 0.0, 0.0)
            },
        )
    };
    assert_eq!(named(&held_by(keyed)).1, Cause::Skew);
}

#[test]
fn of_two_pipelines_the_one_that_falls_behind_is_named_first() {
    let mut profile = held_by(stage("slow", clocks(0.1, 9.8, 0.0)));
    profile.pipelines.push(PipelineProfile {
        pipeline: "job".to_owned(),
        ..once(10.0)
    });
    profile.stages.push(StageProfile {
        pipeline: "job".to_owned(),
        ..stage("copy", clocks(0.0, 9.9, 0.0))
    });
    let found = find(&profile).unwrap();
    assert_eq!(found.stage, "slow");
    assert!(
        found.evidence.iter().any(|line| line.contains("`copy`")),
        "{found:?}"
    );
}
