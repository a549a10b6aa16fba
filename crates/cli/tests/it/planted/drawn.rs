//! Flows that chance draws, each with what is true of it.

use wiredflow_testkit::Chance;

use super::cases::{Case, Feed, MQTT, ONCE, Truth, limited, pipeline, python, sql, store};

/// Draws one.
pub(super) fn draw(chance: &mut Chance, number: usize) -> Case {
    match chance.below(10) {
        0 | 1 => healthy(chance, number),
        2 => tight(chance, number),
        3 => source_bound(chance, number),
        _ => chain(chance, number),
    }
}

/// A number between two, evenly.
fn between(chance: &mut Chance, least: f64, most: f64) -> f64 {
    least + (most - least) * chance.below(1001) as f64 / 1000.0
}

/// Stages that cost a small part of `seconds` each.
fn small(chance: &mut Chance, seconds: f64, name: &str) -> String {
    match chance.below(3) {
        0 => format!("set: {{{name}: 1}}, name: {name}"),
        _ => {
            let cost = seconds * between(chance, 0.05, 0.5);
            python(name, "wait", &format!("seconds: {cost:.5}"))
        }
    }
}

/// A chain of stages, one of which is at least twice as slow as all others, that always has work.
fn chain(chance: &mut Chance, number: usize) -> Case {
    let cost = between(chance, 0.02, 0.12);
    let params = format!("seconds: {cost:.4}");
    let from_broker = chance.below(3) == 0;
    let kind = chance.below(if from_broker { 4 } else { 9 });
    let milliseconds = (cost * 1e3) as u64;
    // Of messages several make a batch.
    let regrouped = if from_broker {
        ", batch: {max: 4, within: 50ms}"
    } else {
        ""
    };
    let (slow, truth, what) = match kind {
        0 | 1 => (
            python("slow", "wait", &params) + regrouped,
            limited("slow", "external_latency"),
            "sleeps",
        ),
        2 => (
            python("slow", "burn", &params) + regrouped,
            limited("slow", "compute"),
            "computes",
        ),
        3 => (
            format!("send: {{http_put: {{url: \"PEER/wait/{milliseconds}\"}}}}, name: slow"),
            limited("slow", "external_latency"),
            "sends to a slow peer",
        ),
        4 => (
            sql("slow", (cost * 3e6) as usize),
            limited("slow", "compute"),
            "sql",
        ),
        5 => (
            python("slow", "wait", "seconds: 0.001")
                + &format!(", rate_limit: {{per_second: {:.1}}}", 1.0 / cost),
            limited("slow", "external_limit"),
            "has a rate limit",
        ),
        6 => (
            python("slow", "burn", &params) + ", parallel: 3",
            limited("slow", "gil"),
            "three calls, one process",
        ),
        7 => (
            python("slow", "wait", &params) + ", parallel: 2",
            limited("slow", "external_latency"),
            "two calls that sleep in one process",
        ),
        _ => (
            format!(
                "http: {{url: \"PEER/limited/{}\"}}, name: slow",
                2 + chance.below(3)
            ),
            limited("slow", "external_limit"),
            "is told to come later",
        ),
    };
    let mut stages = Vec::new();
    if !from_broker {
        let first = match kind {
            8 => "configuration: {python: \"logic.py:configure\"}, name: first".to_owned(),
            _ => python("first", "make", ""),
        };
        stages.push(first);
    }
    // Two calls of a stage make it twice as fast; a peer's answer is what goes on.
    let part = if kind == 7 { 0.3 } else { 1.0 };
    if kind != 8 {
        for index in 0..chance.below(3) {
            stages.push(small(chance, cost * part, &format!("before{index}")));
        }
    }
    stages.push(slow);
    for index in 0..chance.below(2) {
        stages.push(small(chance, cost * part, &format!("after{index}")));
    }
    stages.push(store());
    let trigger = if from_broker { MQTT } else { ONCE };
    let rate = between(chance, 4.0, 15.0) / cost;
    Case {
        feed: if from_broker {
            Feed::Steady(rate)
        } else {
            Feed::Nothing
        },
        seconds: 7,
        ..Case::new(
            &format!(
                "drawn {number}: {} stages, `slow` {what}, {milliseconds} ms",
                stages.len()
            ),
            pipeline(trigger, &stages),
            truth,
        )
    }
}

fn tight(chance: &mut Chance, number: usize) -> Case {
    let period = between(chance, 0.1, 0.6);
    let run = period * between(chance, 1.2, 3.0);
    let param = if chance.below(2) == 0 {
        "seconds"
    } else {
        "work"
    };
    let mut stages = vec![python(
        "slow",
        "tick",
        &format!("{param}: {:.3}", run * 0.8),
    )];
    stages.push(python(
        "less",
        "wait",
        &format!("seconds: {:.3}", run * 0.25),
    ));
    stages.push(store());
    Case::new(
        &format!("drawn {number}: a run of {run:.2} s each {period:.2} s"),
        pipeline(&format!("every: {}ms", (period * 1e3) as u64), &stages),
        limited("slow", "schedule_too_tight"),
    )
}

fn source_bound(chance: &mut Chance, number: usize) -> Case {
    let pause = between(chance, 0.03, 0.15);
    let stages = [
        python("read", "make", &format!("pause: {pause:.3}")),
        small(chance, pause, "next"),
        store(),
    ];
    Case::new(
        &format!("drawn {number}: a source that gives a record each {pause:.2} s"),
        pipeline(ONCE, &stages),
        limited("read", "source_bound"),
    )
}

fn healthy(chance: &mut Chance, number: usize) -> Case {
    let busy = between(chance, 0.1, 0.7);
    if chance.below(2) == 0 {
        let period = between(chance, 0.2, 1.0);
        let param = if chance.below(2) == 0 {
            "seconds"
        } else {
            "work"
        };
        let stages = [
            python("tick", "tick", &format!("{param}: {:.3}", period * busy)),
            store(),
        ];
        return Case::new(
            &format!("drawn {number}: healthy, a run of {busy:.2} periods of {period:.2} s"),
            pipeline(&format!("every: {}ms", (period * 1e3) as u64), &stages),
            Truth::Healthy,
        );
    }
    let rate = between(chance, 5.0, 80.0);
    let stages = [
        python("quick", "wait", &format!("seconds: {:.4}", busy / rate)),
        store(),
    ];
    Case {
        feed: Feed::Steady(rate),
        ..Case::new(
            &format!("drawn {number}: healthy, {rate:.0} messages a second, {busy:.2} busy"),
            pipeline(MQTT, &stages),
            Truth::Healthy,
        )
    }
}
