//! Flows whose bottleneck is known, written by hand.

/// A flow and what is true of it.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    /// The pipelines; `BROKER`, `TOPIC` and `PEER` stand for what the case is given.
    pub(super) pipelines: String,
    pub(super) seconds: u64,
    pub(super) feed: Feed,
    /// Busy loops beside it, for each core.
    pub(super) neighbours: usize,
    pub(super) truth: Truth,
    /// Whether it needs the machine for itself.
    pub(super) is_loud: bool,
}

/// What its topic is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Feed {
    Nothing,
    /// Messages a second.
    Steady(f64),
    /// So many at once, each 4 seconds.
    Bursts(usize),
}

/// What is true of it.
#[derive(Debug, Clone)]
pub(super) enum Truth {
    Healthy,
    /// One of these stages, with one of these causes.
    Limited(Vec<String>, Vec<&'static str>),
}

/// The stage and the cause that are planted.
pub(super) fn limited(stage: &str, cause: &'static str) -> Truth {
    Truth::Limited(vec![stage.to_owned()], vec![cause])
}

impl Case {
    pub(super) fn new(name: &str, pipelines: String, truth: Truth) -> Self {
        let is_loud = ["burn", "work", "sql", "program"]
            .iter()
            .any(|word| pipelines.contains(word));
        Self {
            name: name.to_owned(),
            pipelines,
            seconds: 6,
            feed: Feed::Nothing,
            neighbours: 0,
            truth,
            is_loud,
        }
    }

    fn fed(self, feed: Feed) -> Self {
        Self { feed, ..self }
    }
}

/// One pipeline named `p`.
pub(super) fn pipeline(trigger: &str, stages: &[String]) -> String {
    let mut text = format!("  p:\n    {trigger}\n    stages:\n");
    for stage in stages {
        text.push_str(&format!("      - {{{stage}}}\n"));
    }
    text
}

pub(super) const ONCE: &str = "once: true";
pub(super) const MQTT: &str = "source: {mqtt: {broker: \"BROKER\", topic: \"TOPIC\"}}";

/// A stage that calls a function of `logic.py`.
pub(super) fn python(name: &str, function: &str, params: &str) -> String {
    format!("core_logic: {{python: \"logic.py:{function}\", params: {{{params}}}}}, name: {name}")
}

pub(super) fn store() -> String {
    "store: {jsonl: {folder: data}}, name: store".to_owned()
}

/// SQL that counts so far.
pub(super) fn sql(name: &str, most: usize) -> String {
    format!(
        "core_logic: {{sql: \"with recursive c(x) as (select 1 union all select x + 1 from c where x < :most) select \
         count(*) as n from c\", params: {{most: {most}}}}}, name: {name}"
    )
}

pub(super) fn written_by_hand() -> Vec<Case> {
    let make = || python("make", "make", "");
    let configure =
        || "configuration: {python: \"logic.py:configure\"}, name: configure".to_owned();
    let get = |path: &str, more: &str| format!("http: {{url: \"PEER{path}\"}}, name: ask{more}");
    let flow = |name: &str, trigger: &str, stages: &[String], truth: Truth| {
        Case::new(name, pipeline(trigger, stages), truth)
    };
    let mut cases = vec![
        flow(
            "python that sleeps, behind a quick one",
            ONCE,
            &[make(), python("slow", "wait", "seconds: 0.04"), store()],
            limited("slow", "external_latency"),
        ),
        flow(
            "python that computes",
            ONCE,
            &[make(), python("slow", "burn", "seconds: 0.04"), store()],
            limited("slow", "compute"),
        ),
        flow(
            "python that computes, on messages",
            MQTT,
            &[python("slow", "burn", "seconds: 0.01"), store()],
            limited("slow", "compute"),
        )
        .fed(Feed::Steady(1000.0)),
        flow(
            "python that sleeps, on messages",
            MQTT,
            &[
                "set: {seen: true}, name: set".to_owned(),
                python("slow", "wait", "seconds: 0.01"),
                store(),
            ],
            limited("slow", "external_latency"),
        )
        .fed(Feed::Steady(1000.0)),
        flow(
            "sql that computes",
            ONCE,
            &[make(), sql("slow", 300_000), store()],
            limited("slow", "compute"),
        ),
        flow(
            "a program that computes",
            ONCE,
            &[
                make(),
                "core_logic: {program: [sh, program.sh, \"60000\"]}, name: slow".to_owned(),
                store(),
            ],
            limited("slow", "compute"),
        ),
        flow(
            "a program that sleeps",
            ONCE,
            &[
                make(),
                "core_logic: {program: [sh, -c, \"sleep 0.06; cat\"]}, name: slow".to_owned(),
                store(),
            ],
            limited("slow", "external_latency"),
        ),
        flow(
            "a slow peer",
            ONCE,
            &[configure(), get("/wait/80", ""), store()],
            limited("ask", "external_latency"),
        ),
        flow(
            "a slow peer, asked four at a time",
            ONCE,
            &[configure(), get("/wait/200", ", parallel: 4"), store()],
            limited("ask", "external_latency"),
        ),
        flow(
            "a peer that says 429",
            ONCE,
            &[configure(), get("/limited/3", ""), store()],
            limited("ask", "external_limit"),
        ),
        flow(
            "a peer that says 429, on a schedule",
            "every: 300ms",
            &[get("/limited/1", ""), store()],
            limited("ask", "external_limit"),
        ),
        flow(
            "a rate limit of its own",
            ONCE,
            &[
                configure(),
                get("/wait/5", ", rate_limit: {per_second: 10}"),
                store(),
            ],
            limited("ask", "external_limit"),
        ),
        flow(
            "a slow receiver at the end",
            ONCE,
            &[
                make(),
                python("quick", "wait", "seconds: 0.002"),
                "send: {http_put: {url: \"PEER/wait/60\"}}, name: send".to_owned(),
            ],
            limited("send", "external_latency"),
        ),
        flow(
            "a storage of the user's that is slow",
            ONCE,
            &[
                make(),
                "store: {python: \"logic.py:write\", params: {seconds: 0.05}}, name: write"
                    .to_owned(),
            ],
            limited("write", "external_latency"),
        ),
        flow(
            "a schedule too tight for a sleep",
            "every: 200ms",
            &[python("slow", "tick", "seconds: 0.5"), store()],
            limited("slow", "schedule_too_tight"),
        ),
        flow(
            "a schedule too tight for its work",
            "every: 250ms",
            &[
                get("/wait/10", ""),
                python("slow", "tick", "work: 0.35"),
                store(),
            ],
            limited("slow", "schedule_too_tight"),
        ),
        flow(
            "a schedule too tight for the sum of its stages",
            "every: 300ms",
            &[
                get("/wait/260", ""),
                python("second", "wait", "seconds: 0.12"),
                store(),
            ],
            limited("ask", "schedule_too_tight"),
        ),
        flow(
            "runs that overlap and queue",
            "every: 20ms\n    overlap: allow",
            &[
                python("tick", "tick", ""),
                python("slow", "wait", "seconds: 0.1"),
                store(),
            ],
            limited("slow", "external_latency"),
        ),
        flow(
            "four calls and one python process",
            ONCE,
            &[
                make(),
                python("slow", "burn", "seconds: 0.04") + ", parallel: 4",
                store(),
            ],
            limited("slow", "gil"),
        ),
        flow(
            "a slow source of finite length",
            ONCE,
            &[
                python("read", "make", "pause: 0.05"),
                python("quick", "wait", "seconds: 0.005"),
                store(),
            ],
            limited("read", "source_bound"),
        ),
        flow(
            "a call that hangs",
            MQTT,
            &[python("stuck", "hang", "after: 2"), store()],
            limited("stuck", "external_latency"),
        )
        .fed(Feed::Steady(20.0)),
    ];
    let near = flow(
        "two that are nearly equal",
        ONCE,
        &[
            make(),
            python("first", "wait", "seconds: 0.04"),
            python("second", "wait", "seconds: 0.041"),
            store(),
        ],
        Truth::Limited(
            vec!["first".to_owned(), "second".to_owned()],
            vec!["external_latency"],
        ),
    );
    let moves = Case {
        seconds: 12,
        ..flow(
            "one that moves",
            MQTT,
            &[
                python("early", "change", "at: 6, before: 0.02, then: 0.0001"),
                python("late", "change", "at: 6, before: 0.0001, then: 0.02"),
                store(),
            ],
            limited("late", "external_latency"),
        )
        .fed(Feed::Steady(800.0))
    };
    let full = |name: &str, trigger: &str, stages: &[String]| Case {
        neighbours: 3,
        seconds: 8,
        ..flow(name, trigger, stages, limited("slow", "host_full"))
    };
    cases.extend([
        near,
        moves,
        full(
            "python that computes, beside busy neighbours",
            ONCE,
            &[make(), python("slow", "burn", "seconds: 0.03"), store()],
        ),
        full(
            "sql that computes, beside busy neighbours",
            ONCE,
            &[make(), sql("slow", 200_000), store()],
        ),
    ]);
    cases.extend(healthy());
    cases
}

/// Flows that nothing limits.
fn healthy() -> Vec<Case> {
    let flow = |name: &str, trigger: &str, stages: &[String]| {
        Case::new(name, pipeline(trigger, stages), Truth::Healthy)
    };
    vec![
        flow("healthy: idle", MQTT, &[store()]),
        flow(
            "healthy: a light load",
            MQTT,
            &[python("quick", "wait", "seconds: 0.002"), store()],
        )
        .fed(Feed::Steady(40.0)),
        flow(
            "healthy: computes half of the time",
            MQTT,
            &[python("half", "burn", "seconds: 0.01"), store()],
        )
        .fed(Feed::Steady(50.0)),
        flow(
            "healthy: short bursts",
            MQTT,
            &[python("quick", "wait", "seconds: 0.005"), store()],
        )
        .fed(Feed::Bursts(80)),
        flow(
            "healthy: runs of 70 % of the period",
            "every: 500ms",
            &[python("tick", "tick", "seconds: 0.35"), store()],
        ),
        flow(
            "healthy: polls",
            "every: 300ms",
            &[
                "http: {url: \"PEER/wait/20\"}, name: ask".to_owned(),
                store(),
            ],
        ),
        flow(
            "healthy: a rate limit that is not reached",
            "every: 400ms",
            &[
                "http: {url: \"PEER/wait/5\"}, name: ask, rate_limit: {per_second: 20}".to_owned(),
                store(),
            ],
        ),
        flow(
            "healthy: done in a moment",
            ONCE,
            &[python("make", "make", "count: 3"), store()],
        ),
    ]
}
