//! `/metrics`: figures for Prometheus and its kin, as OpenMetrics text.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use wiredflow_engine::observe::RunReport;
use wiredflow_engine::run::{Phase, PipelineState};
use wiredflow_engine::state::StateReader;
use wiredflow_scale::figures::FlowFigures;
use wiredflow_scale::histogram::Histogram;

use crate::answer::{Answer, text};
use crate::process::Process;
use crate::question::Question;

const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The bounds of the buckets, in seconds: as Prometheus's own libraries have them, and some to both sides.
const BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// `GET /metrics`.
pub(crate) async fn show(question: Question) -> Result<Answer, Answer> {
    let live = question.live()?;
    let asked = question.desk.ask_state(&live, |live| {
        StateReader::open(&live.state, &live.plan.name)?.dead_letter_counts()
    });
    let letters = asked.await?;
    let (Some(report), Some(states)) = (live.control.report(), live.control.pipelines()) else {
        return Err(question.live().err().unwrap_or_else(|| {
            crate::answer::refused(StatusCode::SERVICE_UNAVAILABLE, "the flow has ended")
        }));
    };
    let mut metrics = Metrics::default();
    metrics.flow(&report, live.started.as_millisecond() as f64 / 1e3);
    metrics.pipelines(&report, &states, &letters);
    metrics.stages(&report);
    if let Some(figures) = live.figures.figures() {
        metrics.figures(&figures);
    }
    metrics.process(&Process::read());
    Ok(text(StatusCode::OK, KIND, metrics.finish()))
}

/// The text in the making.
#[derive(Debug, Default)]
struct Metrics(String);

/// What a family of samples is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Only grows; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How values are spread: buckets, their number and their sum.
    Histogram,
    /// Facts in labels.
    Info,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Metrics {
    fn flow(&mut self, report: &RunReport, started: f64) {
        let labels: Labels<'_> = &[
            ("flow", &report.flow),
            ("version", env!("CARGO_PKG_VERSION")),
        ];
        self.family(
            "wiredflow_flow",
            Kind::Info,
            None,
            "The flow and its Wiredflow",
        );
        self.sample("wiredflow_flow_info", labels, 1.0);
        let name = "wiredflow_flow_start_time_seconds";
        self.family(
            name,
            Kind::Gauge,
            Some("seconds"),
            "When the flow was started, since 1970",
        );
        self.sample(name, &[], started);
        let name = "wiredflow_flow_ok";
        self.family(
            name,
            Kind::Gauge,
            None,
            "1 while nothing has failed for good",
        );
        self.sample(name, &[], f64::from(u8::from(report.ok)));
    }

    fn pipelines(
        &mut self,
        report: &RunReport,
        states: &[PipelineState],
        letters: &BTreeMap<String, u64>,
    ) {
        let name = "wiredflow_pipeline_state";
        self.family(
            name,
            Kind::Gauge,
            None,
            "1 for the state that the pipeline is in",
        );
        for state in states {
            for phase in [Phase::Opening, Phase::Open, Phase::Waiting, Phase::Ended] {
                let labels: Labels<'_> = &[("pipeline", &state.name), ("state", phase.word())];
                self.sample(name, labels, f64::from(u8::from(state.phase == phase)));
            }
        }
        let name = "wiredflow_pipeline_paused";
        self.family(name, Kind::Gauge, None, "1 while the pipeline is paused");
        for state in states {
            let is_paused = f64::from(u8::from(state.paused.is_some()));
            self.sample(name, &[("pipeline", &state.name)], is_paused);
        }
        let name = "wiredflow_pipeline_deliveries";
        self.family(name, Kind::Counter, None, "Deliveries by their end");
        for (pipeline, one) in &report.pipelines {
            let ends = one.deliveries;
            for (outcome, count) in [
                ("committed", ends.committed),
                ("failed", ends.failed),
                ("dead_lettered", ends.dead_lettered),
                ("skipped", ends.skipped),
                ("unfinished", ends.unfinished),
            ] {
                let labels: Labels<'_> = &[("pipeline", pipeline), ("outcome", outcome)];
                self.total(name, labels, count as f64);
            }
        }
        type Figure = fn(&wiredflow_engine::observe::PipelineReport) -> u64;
        let counters: [(&str, &str, Figure); 5] = [
            ("records_in", "Records that came in", |one| one.records_in),
            ("records_out", "Records that left the last stage", |one| {
                one.records_out
            }),
            (
                "records_skipped",
                "Records that had nothing for a stage",
                |one| one.records_skipped,
            ),
            (
                "restarts",
                "How often the pipeline was opened again",
                |one| one.restarts,
            ),
            ("ticks_skipped", "Ticks that were passed over", |one| {
                one.ticks_skipped
            }),
        ];
        for (what, help, figure) in counters {
            let name = format!("wiredflow_pipeline_{what}");
            self.family(&name, Kind::Counter, None, help);
            for (pipeline, one) in &report.pipelines {
                self.total(&name, &[("pipeline", pipeline)], figure(one) as f64);
            }
        }
        let name = "wiredflow_pipeline_inbox_deliveries";
        self.family(name, Kind::Gauge, None, "Deliveries that wait in the inbox");
        for (pipeline, one) in &report.pipelines {
            if let Some(inbox) = &one.inbox {
                self.sample(name, &[("pipeline", pipeline)], inbox.waiting as f64);
            }
        }
        let name = "wiredflow_stage_outbox_records";
        let help = "Records that wait in the outbox of a stage with `required: false`";
        self.family(name, Kind::Gauge, None, help);
        for (pipeline, one) in &report.pipelines {
            for (stage, outbox) in &one.outboxes {
                let labels: Labels<'_> = &[("pipeline", pipeline), ("stage", stage)];
                self.sample(name, labels, outbox.waiting as f64);
            }
        }
        let name = "wiredflow_dead_letters";
        self.family(name, Kind::Gauge, None, "Dead letters that are kept");
        for state in states {
            let kept = letters.get(&*state.name).copied().unwrap_or_default();
            self.sample(name, &[("pipeline", &state.name)], kept as f64);
        }
    }

    fn stages(&mut self, report: &RunReport) {
        let name = "wiredflow_stage_seconds";
        let help = "Time of the stage's calls, by what it went to: the six add up to elapsed time times replicas";
        self.family(name, Kind::Counter, Some("seconds"), help);
        for stage in &report.stages {
            let seconds = stage.seconds;
            for (activity, seconds) in [
                ("compute", seconds.compute),
                ("external", seconds.external),
                ("blocked", seconds.blocked),
                ("starved", seconds.starved),
                ("throttled", seconds.throttled),
                ("overhead", seconds.overhead),
            ] {
                let labels: Labels<'_> = &[
                    ("pipeline", &stage.pipeline),
                    ("stage", &stage.stage),
                    ("activity", activity),
                ];
                self.total(name, labels, seconds);
            }
        }
        type Figure = fn(&wiredflow_scale::profile::StageProfile) -> Option<f64>;
        let figures: [(&str, Kind, Option<&str>, &str, Figure); 11] = [
            (
                "clock_faults",
                Kind::Counter,
                None,
                "Looks at which the clocks did not add up to the time",
                |one| Some(one.clock_faults as f64),
            ),
            ("calls", Kind::Counter, None, "Attempts", |one| {
                Some(one.calls as f64)
            }),
            (
                "errors",
                Kind::Counter,
                None,
                "Attempts that failed",
                |one| Some(one.errors as f64),
            ),
            (
                "retries",
                Kind::Counter,
                None,
                "Attempts after the first",
                |one| Some(one.retries as f64),
            ),
            (
                "records_in",
                Kind::Counter,
                None,
                "Records that came in",
                |one| Some(one.records_in as f64),
            ),
            (
                "records_out",
                Kind::Counter,
                None,
                "Records that were handed on",
                |one| Some(one.records_out as f64),
            ),
            (
                "in_bytes",
                Kind::Counter,
                Some("bytes"),
                "Bytes of the records that came in, as JSON",
                |one| one.bytes_in.map(|bytes| bytes as f64),
            ),
            (
                "out_bytes",
                Kind::Counter,
                Some("bytes"),
                "Bytes of the records that were handed on, as JSON",
                |one| one.bytes_out.map(|bytes| bytes as f64),
            ),
            (
                "limited",
                Kind::Counter,
                None,
                "Answers that asked for less: 429, and 503 with Retry-After",
                |one| Some(one.limited as f64),
            ),
            (
                "queue_batches",
                Kind::Gauge,
                None,
                "Batches that wait before the stage",
                |one| Some(one.queue_before),
            ),
            (
                "replicas",
                Kind::Gauge,
                None,
                "Calls that can run at once",
                |one| Some(one.replicas as f64),
            ),
        ];
        for (what, kind, unit, help, figure) in figures {
            let name = format!("wiredflow_stage_{what}");
            self.family(&name, kind, unit, help);
            for stage in &report.stages {
                let Some(value) = figure(stage) else { continue };
                let labels: Labels<'_> = &[("pipeline", &stage.pipeline), ("stage", &stage.stage)];
                match kind {
                    Kind::Counter => self.total(&name, labels, value),
                    Kind::Gauge | Kind::Histogram | Kind::Info => self.sample(&name, labels, value),
                }
            }
        }
    }

    fn figures(&mut self, figures: &FlowFigures) {
        let name = "wiredflow_stage_service_seconds";
        let help = "Time of one attempt";
        self.family(name, Kind::Histogram, Some("seconds"), help);
        for stage in &figures.stages {
            let labels: Labels<'_> = &[("pipeline", &stage.pipeline), ("stage", &stage.stage)];
            self.histogram(name, labels, &stage.service);
        }
        let name = "wiredflow_stage_cpu_seconds";
        let help = "CPU time of the stage's calls, in threads and child processes";
        self.family(name, Kind::Counter, Some("seconds"), help);
        for stage in &figures.stages {
            let labels: Labels<'_> = &[("pipeline", &stage.pipeline), ("stage", &stage.stage)];
            self.total(name, labels, stage.cpu_seconds);
        }
        let name = "wiredflow_stage_in_flight";
        self.family(name, Kind::Gauge, None, "Calls that run now");
        for stage in &figures.stages {
            let labels: Labels<'_> = &[("pipeline", &stage.pipeline), ("stage", &stage.stage)];
            self.sample(name, labels, stage.in_flight as f64);
        }
        let name = "wiredflow_pipeline_run_seconds";
        let help = "From the start of a delivery to its end";
        self.family(name, Kind::Histogram, Some("seconds"), help);
        for pipeline in &figures.pipelines {
            self.histogram(
                name,
                &[("pipeline", &pipeline.pipeline)],
                &pipeline.run_time,
            );
        }
        let name = "wiredflow_pipeline_under_way";
        self.family(name, Kind::Gauge, None, "Deliveries under way");
        for pipeline in &figures.pipelines {
            let under_way = pipeline.under_way as f64;
            self.sample(name, &[("pipeline", &pipeline.pipeline)], under_way);
        }
    }

    /// The buckets of values in microseconds.
    fn histogram(&mut self, name: &str, labels: Labels<'_>, values: &Histogram) {
        let bucket = format!("{name}_bucket");
        let (mut left, mut count) = (values.values().peekable(), 0);
        for bound in BUCKETS {
            while let Some((_, more)) = left.next_if(|(value, _)| *value as f64 <= bound * 1e6) {
                count += more;
            }
            let bound = format!("{bound:?}");
            self.sample(&bucket, &[labels, &[("le", &bound)]].concat(), count as f64);
        }
        let number = values.len() as f64;
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), number);
        self.sample(&format!("{name}_count"), labels, number);
        self.sample(&format!("{name}_sum"), labels, values.mean() * number / 1e6);
    }

    fn process(&mut self, process: &Process) {
        let name = "process_cpu_seconds";
        self.family(
            name,
            Kind::Counter,
            Some("seconds"),
            "CPU time of this process",
        );
        if let Some(seconds) = process.cpu_seconds {
            self.total(name, &[], seconds);
        }
        let name = "process_resident_memory_bytes";
        self.family(name, Kind::Gauge, Some("bytes"), "Memory of this process");
        if let Some(bytes) = process.resident_bytes {
            self.sample(name, &[], bytes);
        }
        let name = "process_open_fds";
        self.family(name, Kind::Gauge, None, "Open files and sockets");
        if let Some(files) = process.open_files {
            self.sample(name, &[], files as f64);
        }
        let name = "process_threads";
        self.family(name, Kind::Gauge, None, "Threads");
        if let Some(threads) = process.threads {
            self.sample(name, &[], threads);
        }
    }

    /// Begins a family: its samples follow.
    fn family(&mut self, name: &str, kind: Kind, unit: Option<&str>, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        self.line(format_args!("# TYPE {name} {kind}"));
        if let Some(unit) = unit {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
        self.line(format_args!("# HELP {name} {help}."));
    }

    fn total(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.sample(&format!("{name}_total"), labels, value);
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.push_str(&line.to_string());
        self.0.push('\n');
    }

    fn finish(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h7_a_label_says_what_it_says_and_no_more() {
        let mut metrics = Metrics::default();
        metrics.family("x", Kind::Gauge, None, "A figure");
        metrics.sample("x", &[("a", "q\"} 1\nevil 2"), ("b", "\\")], 0.5);
        let lines = metrics.finish();
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "# TYPE x gauge",
                "# HELP x A figure.",
                "x{a=\"q\\\"} 1\\nevil 2\",b=\"\\\\\"} 0.5",
                "# EOF"
            ]
        );
    }
}
