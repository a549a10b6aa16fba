//! A running flow on a terminal, and its summary at the end.

use std::time::Duration;

use wiredflow_engine::observe::{PipelineReport, RunReport};

use crate::paint::{Ink, Paint, cut, printable};
use crate::table::{Align, Cell, Table};

/// The live lines: one for the flow, one for each pipeline, and one for each that has met an error.
pub(crate) fn lines(
    report: &RunReport,
    before: Option<&RunReport>,
    columns: usize,
    paint: Paint,
) -> Vec<String> {
    let mut head = format!("{} has run for {}", report.flow, time(report.seconds));
    if let Some(rate) = before.and_then(|before| rate(before, report)) {
        let digits = if rate < 10.0 { 1 } else { 0 };
        head.push_str(&format!(", {rate:.digits$} records a second"));
    }
    head.push_str("; ^C stops it");
    let head = cut(&printable(&head), columns).into_owned();
    let mut lines = vec![paint.with(Ink::Green, &head)];
    lines.extend(table(report, Some(columns), paint));
    lines
}

/// What a run was, for the one who started it: a table on a terminal, and one line everywhere.
pub(crate) fn summary(report: &RunReport, columns: Option<usize>, paint: Paint) -> String {
    let mut text = String::new();
    if columns.is_some() {
        for line in table(report, columns, paint) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text.push_str(&sentence(report, paint));
    text
}

/// A column of figures.
struct Column {
    head: &'static str,
    /// Of a pipeline, in its place of the report.
    figure: fn(&RunReport, &str, &PipelineReport) -> u64,
    shown: Shown,
}

/// When a column is shown, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Always,
    /// Where there is something to tell.
    Some,
    /// The same; and it should be nothing.
    Bad,
}

const COLUMNS: [Column; 10] = [
    Column::new(
        "COMMITTED",
        |_, _, one| one.deliveries.committed,
        Shown::Always,
    ),
    Column::new("FAILED", |_, _, one| one.deliveries.failed, Shown::Bad),
    Column::new(
        "DEAD-LETTERED",
        |_, _, one| one.deliveries.dead_lettered,
        Shown::Bad,
    ),
    Column::new("SKIPPED", |_, _, one| one.deliveries.skipped, Shown::Some),
    Column::new("RECORDS IN", |_, _, one| one.records_in, Shown::Always),
    Column::new("OUT", |_, _, one| one.records_out, Shown::Always),
    Column::new(
        "QUEUED",
        |report, name, _| queued(report, name),
        Shown::Some,
    ),
    Column::new(
        "IN THE INBOX",
        |_, _, one| one.inbox.map_or(0, |inbox| inbox.waiting),
        Shown::Some,
    ),
    Column::new(
        "IN OUTBOXES",
        |_, _, one| one.outboxes.values().map(|outbox| outbox.waiting).sum(),
        Shown::Some,
    ),
    Column::new("RESTARTS", |_, _, one| one.restarts, Shown::Bad),
];

impl Column {
    const fn new(
        head: &'static str,
        figure: fn(&RunReport, &str, &PipelineReport) -> u64,
        shown: Shown,
    ) -> Self {
        Self {
            head,
            figure,
            shown,
        }
    }
}

/// A line for each pipeline with the figures that say something, and below them what went wrong last.
fn table(report: &RunReport, columns: Option<usize>, paint: Paint) -> Vec<String> {
    let pipelines = || report.pipelines.iter();
    let says = |column: &&Column| {
        let figure = |(name, one): (&String, &PipelineReport)| (column.figure)(report, name, one);
        column.shown == Shown::Always || pipelines().any(|entry| figure(entry) > 0)
    };
    let shown: Vec<&Column> = COLUMNS.iter().filter(says).collect();
    let mut heads = vec![("PIPELINE", Align::Left)];
    heads.extend(shown.iter().map(|column| (column.head, Align::Right)));
    let mut table = Table::new(&heads);
    for (name, one) in pipelines() {
        let mut row = vec![Cell::from(name)];
        row.extend(shown.iter().map(|column| {
            let number = (column.figure)(report, name, one);
            if column.shown == Shown::Bad && number > 0 {
                Cell::inked(&number.to_string(), Ink::Red)
            } else {
                Cell::count(number)
            }
        }));
        table.row(row);
    }
    let mut lines = table.lines(columns, paint);
    for (name, one) in pipelines() {
        let Some(error) = one.last_error.as_deref() else {
            continue;
        };
        let line = format!("{name}: {}", error.lines().next().unwrap_or_default());
        let line = printable(&line);
        let line = columns.map_or_else(|| line.clone(), |columns| cut(&line, columns));
        lines.push(paint.with(Ink::Yellow, &line));
    }
    lines
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
        (
            sum(|one| one.inbox.map_or(0, |inbox| inbox.waiting)),
            "in the inbox for the next start",
        ),
        (
            sum(|one| one.outboxes.values().map(|outbox| outbox.waiting).sum()),
            "records in outboxes for the next start",
        ),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wiredflow_engine::observe::Deliveries;

    use super::*;
    use crate::paint::width;

    fn pipeline(committed: u64, dead_lettered: u64, error: Option<&str>) -> PipelineReport {
        PipelineReport {
            deliveries: Deliveries {
                committed,
                dead_lettered,
                ..Deliveries::default()
            },
            records_in: committed,
            records_out: committed,
            records_skipped: 0,
            restarts: 0,
            ticks_skipped: 0,
            inbox: None,
            outboxes: BTreeMap::new(),
            last_error: error.map(str::to_owned),
            last_error_at: None,
        }
    }

    fn report(pipelines: Vec<(&str, PipelineReport)>) -> RunReport {
        let named = pipelines
            .into_iter()
            .map(|(name, one)| (name.to_owned(), one));
        RunReport {
            flow: "plant".to_owned(),
            ok: true,
            seconds: 12.0,
            error: None,
            pipelines: named.collect::<BTreeMap<_, _>>(),
            stages: Vec::new(),
        }
    }

    #[test]
    fn figures_that_say_nothing_are_left_out_and_errors_have_lines_of_their_own() {
        let quiet = report(vec![
            ("heard", pipeline(3, 0, None)),
            ("polled", pipeline(12, 0, None)),
        ]);
        assert_eq!(
            lines(&quiet, None, 60, Paint::Plain),
            [
                "plant has run for 12s; ^C stops it",
                "PIPELINE  COMMITTED  RECORDS IN  OUT",
                "heard             3           3    3",
                "polled           12          12   12",
            ]
        );
        let error = "GET http://localhost:8027/numbers: no connection: refused\nmore";
        let bad = report(vec![
            ("heard", pipeline(3, 2, None)),
            ("polled", pipeline(0, 0, Some(error))),
        ]);
        let shown = lines(&bad, Some(&quiet), 60, Paint::Plain);
        assert_eq!(
            shown[1..],
            [
                "PIPELINE  COMMITTED  DEAD-LETTERED  RECORDS IN  OUT",
                "heard             3              2           3    3",
                "polled            0              0           0    0",
                "polled: GET http://localhost:8027/numbers: no connection: r…",
            ]
        );
        for columns in [52, 60, 100] {
            for line in lines(&bad, None, columns, Paint::Plain) {
                assert!(width(&line) <= columns, "{line}");
            }
        }
    }
}
