//! A profile for people: a line with a bar for each stage, and the verdict.

use wiredflow_core::config::LOCAL;
use wiredflow_scale::bottleneck::Bottleneck;
use wiredflow_scale::profile::{PipelineProfile, Profile, Seconds, StageProfile};

use crate::live;
use crate::paint::{Ink, Paint, cut, printable, width};
use crate::table::{Align, Cell, Table};

/// The widest and the narrowest bar.
const BARS: (usize, usize) = (40, 10);
/// The width from which on all figures have room beside a bar.
const WIDE: usize = 72;
/// The width from which on the time of a call has room.
const ROOMY: usize = 50;
/// The width of a page that is no terminal.
const PAGE: usize = 100;

/// One of the six clocks in a bar.
struct Part {
    word: &'static str,
    /// Told apart without colours too.
    glyph: char,
    ink: Ink,
    of: fn(&Seconds) -> f64,
}

const PARTS: [Part; 6] = [
    Part {
        word: "compute",
        glyph: '█',
        ink: Ink::Green,
        of: |seconds| seconds.compute,
    },
    Part {
        word: "external",
        glyph: '▒',
        ink: Ink::Blue,
        of: |seconds| seconds.external,
    },
    Part {
        word: "overhead",
        glyph: '▚',
        ink: Ink::Yellow,
        of: |seconds| seconds.overhead,
    },
    Part {
        word: "throttled",
        glyph: '▤',
        ink: Ink::Red,
        of: |seconds| seconds.throttled,
    },
    Part {
        word: "blocked",
        glyph: '░',
        ink: Ink::Cyan,
        of: |seconds| seconds.blocked,
    },
    Part {
        word: "starved",
        glyph: '·',
        ink: Ink::Dim,
        of: |seconds| seconds.starved,
    },
];

/// The whole profile: the figures and the verdict. No line is wider than `columns`.
pub(crate) fn text(profile: &Profile, columns: Option<usize>, paint: Paint) -> String {
    let mut lines = figures(profile, columns, paint);
    lines.push(String::new());
    lines.extend(verdict(profile, columns.unwrap_or(PAGE), paint));
    lines.join("\n") + "\n"
}

/// Two times beside each other: the figures of each stage now and then, and what limited the flow.
pub(crate) fn side_by_side(
    now: &Profile,
    then: &Profile,
    columns: Option<usize>,
    paint: Paint,
) -> Vec<String> {
    let mut table = Table::new(&[
        ("STAGE", Align::Left),
        ("RECORDS/S", Align::Right),
        ("THEN", Align::Right),
        ("CALL", Align::Right),
        ("THEN", Align::Right),
        ("BUSY", Align::Right),
        ("THEN", Align::Right),
    ]);
    let same = |a: &StageProfile, b: &StageProfile| a.pipeline == b.pipeline && a.stage == b.stage;
    let gone = then.stages.iter();
    let gone = gone.filter(|stage| !now.stages.iter().any(|other| same(stage, other)));
    let pairs = now.stages.iter().map(|stage| {
        let mut before = then.stages.iter();
        (Some(stage), before.find(|before| same(stage, before)))
    });
    for (stage, before) in pairs.chain(gone.map(|stage| (None, Some(stage)))) {
        let Some(named) = stage.or(before) else {
            continue;
        };
        let figures = |stage: Option<&StageProfile>, seconds: f64| match stage {
            None => ["–".to_owned(), String::new(), String::new()],
            Some(stage) => [
                rate(stage.records_in.max(stage.records_out), seconds),
                service(stage),
                format!("{:.0} %", stage.utilisation * 100.0),
            ],
        };
        let [rate, call, busy] = figures(stage, now.seconds);
        let [rate_then, call_then, busy_then] = figures(before, then.seconds);
        table.row(vec![
            format!("{} / {}", named.pipeline, named.stage).into(),
            rate.into(),
            rate_then.into(),
            call.into(),
            call_then.into(),
            busy.into(),
            busy_then.into(),
        ]);
    }
    let mut lines = table.lines(columns, paint);
    for (word, profile) in [("now", now), ("then", then)] {
        let (ink, said) = match &profile.bottleneck {
            Some(found) => (Ink::Red, found.sentence()),
            None => (Ink::Green, healthy(profile)),
        };
        let said = wrapped(&format!("{word}: "), &said, columns.unwrap_or(PAGE));
        lines.extend(said.iter().map(|line| paint.with(ink, line)));
    }
    lines
}

/// While it runs: the figures of the last seconds, and the verdict's first line.
pub(crate) fn lines(profile: &Profile, so_far: f64, columns: usize, paint: Paint) -> Vec<String> {
    let head = format!(
        "{} has run for {}; the last {}; ^C ends it and judges all of it",
        profile.flow,
        live::time(so_far),
        live::time(profile.seconds)
    );
    let head = cut(&printable(&head), columns).into_owned();
    let mut lines = vec![paint.with(Ink::Green, &head)];
    lines.extend(figures(profile, Some(columns), paint));
    lines.extend(verdict(profile, columns, paint).into_iter().take(1));
    lines
}

fn figures(profile: &Profile, columns: Option<usize>, paint: Paint) -> Vec<String> {
    let columns = columns.unwrap_or(PAGE);
    let bar_width = (columns / 3).clamp(BARS.1, BARS.0);
    let room = columns.saturating_sub(bar_width + 2);
    let rows = stages(profile, columns).lines(Some(room), Paint::Plain);
    let widest = rows.iter().map(|row| width(row)).max().unwrap_or_default();
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let space = " ".repeat(widest.saturating_sub(width(row)) + 2);
        lines.push(match index.checked_sub(1) {
            None => paint.with(Ink::Bold, &format!("{row}{space}TIME")),
            Some(stage) => {
                let stage = &profile.stages[stage];
                let limits = profile.bottleneck.as_ref().is_some_and(|found| {
                    found.pipeline == stage.pipeline && found.stage == stage.stage
                });
                let row = if limits {
                    paint.with(Ink::Red, row)
                } else {
                    row.clone()
                };
                format!("{row}{space}{}", bar(&stage.seconds, bar_width, paint))
            }
        });
    }
    lines.push(legend(columns, paint));
    for stage in profile.stages.iter().filter(|stage| stage.clock_faults > 0) {
        let line = format!(
            "the clocks of `{}` did not add up at {} looks: its times may be wrong, which is a fault of Wiredflow",
            stage.stage, stage.clock_faults
        );
        let lines_of = wrapped("", &line, columns);
        lines.extend(lines_of.iter().map(|line| paint.with(Ink::Yellow, line)));
    }
    lines
}

/// The figures of the stages, without their bars; the order is that of the profile.
fn stages(profile: &Profile, columns: usize) -> Table {
    let is_wide = columns >= WIDE;
    let if_roomy = |cell: Cell| if columns >= ROOMY { cell } else { "".into() };
    let if_wide = |cell: Cell| if is_wide { cell } else { "".into() };
    let mut table = Table::new(&[
        ("STAGE", Align::Left),
        ("WHERE", Align::Left),
        ("CALLS", Align::Right),
        ("RECORDS/S", Align::Right),
        ("CALL", Align::Right),
        ("QUEUE", Align::Right),
        ("BUSY", Align::Right),
    ]);
    for stage in &profile.stages {
        table.row(vec![
            format!("{} / {}", stage.pipeline, stage.stage).into(),
            // A column that only remotes fill is left out where there are none.
            match stage.place.as_str() {
                LOCAL => "".into(),
                place => place.into(),
            },
            if_wide(Cell::count(stage.calls)),
            if_wide(rate(stage.records_in.max(stage.records_out), profile.seconds).into()),
            if_roomy(service(stage).into()),
            format!("{:.1}", stage.queue_before).into(),
            format!("{:.0} %", stage.utilisation * 100.0).into(),
        ]);
    }
    table
}

fn rate(count: u64, seconds: f64) -> String {
    let rate = if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    };
    let digits = if rate < 10.0 && rate > 0.0 { 1 } else { 0 };
    format!("{rate:.digits$}")
}

/// The median of a call; one that hangs says how long it has.
fn service(stage: &StageProfile) -> String {
    let median = stage.service_ms.p50;
    let oldest = stage.oldest_call_seconds * 1e3;
    match () {
        () if oldest > 1e3 && oldest > 10.0 * median => format!("{:.0} s …", oldest / 1e3),
        () if stage.calls == 0 => String::new(),
        () if median >= 1e4 => format!("{:.0} s", median / 1e3),
        () if median >= 10.0 => format!("{median:.0} ms"),
        () => format!("{median:.2} ms"),
    }
}

/// How many cells each clock has in a bar of this width: they fill it, and are out by less than one each.
fn cells(seconds: &Seconds, width: usize) -> [usize; 6] {
    let mut cells = [0; 6];
    let values = PARTS.each_ref().map(|part| (part.of)(seconds).max(0.0));
    let all: f64 = values.iter().sum();
    if all <= 0.0 || !all.is_finite() {
        return cells;
    }
    let exact = values.map(|value| value / all * width as f64);
    for (cell, exact) in cells.iter_mut().zip(exact) {
        *cell = exact.floor() as usize;
    }
    let mut by_rest: Vec<usize> = (0..PARTS.len()).collect();
    let rest = |index: &usize| exact[*index].fract();
    by_rest.sort_by(|left, right| rest(right).total_cmp(&rest(left)));
    let left = width.saturating_sub(cells.iter().sum());
    for index in by_rest.into_iter().take(left) {
        cells[index] += 1;
    }
    cells
}

fn bar(seconds: &Seconds, width: usize, paint: Paint) -> String {
    let parts = PARTS.iter().zip(cells(seconds, width));
    let parts = parts.filter(|(_, cells)| *cells > 0);
    parts
        .map(|(part, cells)| paint.with(part.ink, &part.glyph.to_string().repeat(cells)))
        .collect()
}

fn legend(columns: usize, paint: Paint) -> String {
    let plain: Vec<String> = PARTS
        .iter()
        .map(|part| format!("{} {}", part.glyph, part.word))
        .collect();
    if width(&plain.join("  ")) > columns {
        return paint.with(Ink::Dim, &cut(&plain.join(" "), columns));
    }
    let painted = PARTS.iter().map(|part| {
        let glyph = paint.with(part.ink, &part.glyph.to_string());
        format!("{glyph} {}", paint.with(Ink::Dim, part.word))
    });
    painted.collect::<Vec<_>>().join("  ")
}

/// The sentence, why it is so, and what to do.
fn verdict(profile: &Profile, columns: usize, paint: Paint) -> Vec<String> {
    let Some(found) = &profile.bottleneck else {
        let lines = wrapped("", &healthy(profile), columns);
        return lines
            .iter()
            .map(|line| paint.with(Ink::Green, line))
            .collect();
    };
    let Bottleneck {
        evidence, advice, ..
    } = found;
    let sentence = wrapped("", &found.sentence(), columns);
    let mut lines: Vec<String> = sentence
        .iter()
        .map(|line| paint.with(Ink::Red, line))
        .collect();
    for (head, points) in [("Why", evidence), ("What to do", advice)] {
        if points.is_empty() {
            continue;
        }
        lines.push(paint.with(Ink::Bold, &format!("{head}:")));
        for (index, point) in points.iter().enumerate() {
            let mark = match head {
                "Why" => "  - ".to_owned(),
                _ => format!("  {}. ", index + 1),
            };
            lines.extend(wrapped(&mark, point, columns));
        }
    }
    lines
}

fn healthy(profile: &Profile) -> String {
    let busiest = profile
        .stages
        .iter()
        .max_by(|left, right| left.utilisation.total_cmp(&right.utilisation));
    let loaded = profile
        .pipelines
        .iter()
        .filter_map(|one: &PipelineProfile| Some((one, one.load?)))
        .max_by(|left, right| left.1.total_cmp(&right.1));
    // A long period's run may be late without being anybody's fault yet.
    let keeps_up = loaded.is_none_or(|(_, load)| load <= 1.0);
    let mut said = format!("nothing limits {}", profile.flow);
    if keeps_up {
        said.push_str(": it keeps up");
    }
    if let Some(stage) = busiest {
        let (pipeline, name) = (&stage.pipeline, &stage.stage);
        let busy = stage.utilisation * 100.0;
        said.push_str(&format!(
            "; the busiest stage is `{pipeline} / {name}` with {busy:.0} %"
        ));
    }
    if let Some((pipeline, load)) = loaded {
        let name = &pipeline.pipeline;
        said.push_str(&format!(
            ", a run of `{name}` takes {:.0} % of its period",
            load * 100.0
        ));
    }
    said
}

/// The text behind its mark, in lines that fit, broken at spaces; those after the first begin below the text.
fn wrapped(mark: &str, text: &str, columns: usize) -> Vec<String> {
    let margin = " ".repeat(width(mark));
    let mut lines = Vec::new();
    let mut line = mark.to_owned();
    let mut is_begun = false;
    for word in printable(text).split_whitespace() {
        if is_begun && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::replace(&mut line, margin.clone()));
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        }
        line.push_str(word);
        is_begun = true;
    }
    lines.push(line);
    let cut_to_fit = |line: &String| cut(line, columns).into_owned();
    lines.iter().map(cut_to_fit).collect()
}

#[cfg(test)]
mod tests {
    use wiredflow_scale::bottleneck::Cause;

    use super::*;

    fn profile(bottleneck: Option<Bottleneck>) -> Profile {
        let stage = |name: &str, seconds| StageProfile {
            pipeline: "numbers".to_owned(),
            stage: name.to_owned(),
            calls: 120,
            records_in: 1_200,
            seconds,
            utilisation: seconds.utilisation(),
            queue_before: 1.9,
            ..StageProfile::default()
        };
        let half = Seconds {
            wall: 10.0,
            compute: 5.0,
            starved: 5.0,
            ..Seconds::default()
        };
        let waits = Seconds {
            wall: 10.0,
            external: 9.0,
            throttled: 0.5,
            blocked: 0.5,
            ..Seconds::default()
        };
        Profile {
            flow: "plant".to_owned(),
            seconds: 10.0,
            stages: vec![stage("work", half), stage("send", waits)],
            bottleneck,
            ..Profile::default()
        }
    }

    fn found() -> Bottleneck {
        Bottleneck {
            pipeline: "numbers".to_owned(),
            stage: "send".to_owned(),
            cause: Cause::ExternalLatency,
            certain: true,
            evidence: vec!["it had work 95 % of the time: external 90 %".to_owned()],
            advice: vec!["wait for several at once: `parallel: 4` on `send`".to_owned()],
        }
    }

    #[test]
    fn a_bar_is_filled_by_the_six_clocks() {
        for width in [10, 13, 40] {
            for stage in profile(None).stages {
                assert_eq!(cells(&stage.seconds, width).iter().sum::<usize>(), width);
            }
        }
        assert_eq!(
            bar(&profile(None).stages[0].seconds, 10, Paint::Plain),
            "█████·····"
        );
        assert_eq!(bar(&Seconds::default(), 10, Paint::Plain), "");
    }

    #[test]
    fn the_verdict_has_its_reasons_and_what_to_do() {
        assert_eq!(
            text(&profile(Some(found())), Some(90), Paint::Plain),
            "\
STAGE           CALLS  RECORDS/S     CALL  QUEUE  BUSY  TIME
numbers / work    120        120  0.00 ms    1.9  50 %  ███████████████···············
numbers / send    120        120  0.00 ms    1.9  90 %  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▤▤░
█ compute  ▒ external  ▚ overhead  ▤ throttled  ░ blocked  · starved

`numbers` is limited by `send`, which waits for something outside (external_latency)
Why:
  - it had work 95 % of the time: external 90 %
What to do:
  1. wait for several at once: `parallel: 4` on `send`
"
        );
        let healthy = text(&profile(None), None, Paint::Plain);
        assert!(
            healthy.ends_with(
                "nothing limits plant: it keeps up; the busiest stage is `numbers / send` with 90 %\n"
            ),
            "{healthy}"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in [40, 60, 80, 120] {
            let shown = text(&profile(Some(found())), Some(columns), Paint::Plain);
            let live = lines(&profile(Some(found())), 61.0, columns, Paint::Plain);
            for line in shown.lines().chain(live.iter().map(String::as_str)) {
                assert!(width(line) <= columns, "{columns}: {line:?}");
            }
        }
    }
}
