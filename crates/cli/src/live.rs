//! A running flow on a terminal, and its summary at the end.

use std::time::Duration;

use wiredflow_engine::observe::{PipelineReport, RunReport};

use crate::paint::{Ink, Paint, cut, printable};
use crate::table::{Align, Cell, Table};

/// The live lines: one for the flow, one for each pipeline.
pub(crate) fn lines(
    report: &RunReport,
    before: Option<&RunReport>,
    columns: usize,
    paint: Paint,
) -> Vec<String> {
    let mut head = format!("{} has run for {}", report.flow, time(report.seconds));
    if let Some(rate) = before.and_then(|before| rate(before, report)) {
        head.push_str(&format!(", {rate:.0} records a second"));
    }
    head.push_str("; ^C stops it");
    let head = cut(&printable(&head), columns).into_owned();
    let mut lines = vec![paint.with(Ink::Green, &head)];
    let heads = [
        ("PIPELINE", Align::Left),
        ("DONE", Align::Right),
        ("FAILED", Align::Right),
        ("DEAD", Align::Right),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("QUEUE", Align::Right),
        ("LAST ERROR", Align::Left),
    ];
    let mut table = Table::new(&heads);
    for (name, pipeline) in &report.pipelines {
        let deliveries = &pipeline.deliveries;
        table.row(vec![
            name.into(),
            Cell::count(deliveries.committed),
            bad(deliveries.failed),
            bad(deliveries.dead_lettered),
            Cell::count(pipeline.records_in),
            Cell::count(pipeline.records_out),
            Cell::count(queued(report, name)),
            error(pipeline),
        ]);
    }
    lines.extend(table.lines(Some(columns), paint));
    lines
}

/// What a run was, for the one who started it: a table on a terminal, and one line everywhere.
pub(crate) fn summary(report: &RunReport, columns: Option<usize>, paint: Paint) -> String {
    let mut text = String::new();
    if columns.is_some() {
        let heads = [
            ("PIPELINE", Align::Left),
            ("COMMITTED", Align::Right),
            ("FAILED", Align::Right),
            ("DEAD-LETTERED", Align::Right),
            ("SKIPPED", Align::Right),
            ("RECORDS IN", Align::Right),
            ("OUT", Align::Right),
            ("LAST ERROR", Align::Left),
        ];
        let mut table = Table::new(&heads);
        for (name, pipeline) in &report.pipelines {
            let deliveries = &pipeline.deliveries;
            table.row(vec![
                name.into(),
                Cell::count(deliveries.committed),
                bad(deliveries.failed),
                bad(deliveries.dead_lettered),
                Cell::count(deliveries.skipped),
                Cell::count(pipeline.records_in),
                Cell::count(pipeline.records_out),
                error(pipeline),
            ]);
        }
        for line in table.lines(columns, paint) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text.push_str(&sentence(report, paint));
    text
}

fn sentence(report: &RunReport, paint: Paint) -> String {
    let sum = |count: fn(&PipelineReport) -> u64| report.pipelines.values().map(count).sum::<u64>();
    let ran = format!("{} ran for {}", report.flow, time(report.seconds));
    let mut parts = vec![format!(
        "{} deliveries committed, {} failed",
        sum(|one| one.deliveries.committed),
        sum(|one| one.deliveries.failed)
    )];
    for (number, word) in [
        (sum(|one| one.deliveries.dead_lettered), "dead-lettered"),
        (sum(|one| one.deliveries.skipped), "skipped"),
        (sum(|one| one.deliveries.unfinished), "unfinished"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    let (records_in, records_out) = (sum(|one| one.records_in), sum(|one| one.records_out));
    let (ink, end) = match &report.error {
        None if report.ok => (Ink::Green, String::new()),
        None => (Ink::Red, "; it failed".to_owned()),
        Some(error) => (Ink::Red, format!("; it failed: {error}")),
    };
    let skipped = match sum(|one| one.records_skipped) {
        0 => String::new(),
        skipped => format!(", {skipped} skipped"),
    };
    let said = format!(
        "{}; {records_in} records in, {records_out} out{skipped}{end}",
        parts.join(", ")
    );
    let (ran, said) = (printable(&ran), printable(&said));
    format!("{}: {said}\n", paint.with(ink, &ran))
}

/// How long, for people: `12s`, `3m 20s`, `2h 5m`.
pub(crate) fn time(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let whole = duration.as_secs();
    match whole {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        _ => format!("{}h {}m", whole / 3600, whole / 60 % 60),
    }
}

/// Records that came in, per second since the last look.
fn rate(before: &RunReport, now: &RunReport) -> Option<f64> {
    let records = |report: &RunReport| {
        report
            .pipelines
            .values()
            .map(|one| one.records_in)
            .sum::<u64>()
    };
    let seconds = now.seconds - before.seconds;
    let count = records(now).saturating_sub(records(before));
    (seconds > 0.0).then(|| count as f64 / seconds)
}

fn queued(report: &RunReport, pipeline: &str) -> u64 {
    let stages = report
        .stages
        .iter()
        .filter(|stage| stage.pipeline == pipeline);
    stages.map(|stage| stage.queue_before as u64).sum()
}

/// A count that should be zero.
fn bad(number: u64) -> Cell {
    match number {
        0 => Cell::count(0),
        _ => Cell::inked(&number.to_string(), Ink::Red),
    }
}

fn error(pipeline: &PipelineReport) -> Cell {
    let text = pipeline.last_error.as_deref().unwrap_or_default();
    Cell::inked(text.lines().next().unwrap_or_default(), Ink::Yellow)
}
