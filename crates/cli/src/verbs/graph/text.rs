//! A flow as lines that fit the terminal.

use wiredflow_engine::outline::{Outline, Place, StageOutline, StorageOutline};

use crate::paint::{Ink, Paint, cut, printable, width};
use crate::problems::plural;

/// Between a stage's columns.
const GAP: usize = 2;
/// The widest a stage's name is shown.
const WIDEST_NAME: usize = 24;
/// The narrowest the last column is cut to.
const NARROWEST: usize = 8;

/// Draws a flow; no line is wider than `columns`, if that is known.
pub(super) fn draw(outline: &Outline, columns: Option<usize>, paint: Paint) -> String {
    let mut lines = vec![Line::default().ink(
        Ink::Bold,
        &format!(
            "{}: {}, {}",
            outline.flow,
            plural(outline.pipelines.len(), "pipeline"),
            plural(outline.storages.len(), "storage")
        ),
    )];
    let stages = || {
        outline
            .pipelines
            .iter()
            .flat_map(|pipeline| &pipeline.stages)
    };
    let names = stages().map(|stage| width(&title(stage))).max();
    let names = names.unwrap_or(0).min(WIDEST_NAME);
    let details = stages()
        .map(|stage| width(&stage.detail))
        .max()
        .unwrap_or(0);
    for (number, pipeline) in outline.pipelines.iter().enumerate() {
        lines.push(Line::default());
        let head = Line::default().ink(Ink::Cyan, &pipeline.name);
        lines.push(head.plain("  ").plain(&pipeline.trigger));
        for (index, stage) in pipeline.stages.iter().enumerate() {
            let place = Place {
                pipeline: number,
                stage: index,
            };
            let last = index + 1 == pipeline.stages.len();
            let links = links(outline, place);
            let taken = 4 + names + 2 * GAP + width(&links);
            let room = columns.map_or(details, |columns| {
                details.min(columns.saturating_sub(taken).max(NARROWEST))
            });
            let line = Line::default()
                .ink(Ink::Dim, if last { " └─ " } else { " ├─ " })
                .padded(&title(stage), names)
                .padded(&stage.detail, room)
                .ink(Ink::Green, &links);
            lines.push(line);
        }
    }
    let linked: Vec<&StorageOutline> = outline
        .storages
        .iter()
        .filter(|storage| !storage.readers.is_empty())
        .collect();
    if !linked.is_empty() {
        lines.push(Line::default());
    }
    for storage in linked {
        let places = |places: &[Place]| {
            let place = |place: &Place| {
                let pipeline = &outline.pipelines[place.pipeline];
                format!("{}/{}", pipeline.name, pipeline.stages[place.stage].name)
            };
            places.iter().map(place).collect::<Vec<_>>().join(", ")
        };
        let line = Line::default()
            .ink(Ink::Green, &format!("{} ({})", storage.name, storage.kind))
            .plain(&format!(
                ": {} ──▶ {}",
                places(&storage.writers),
                places(&storage.readers)
            ));
        lines.push(line);
    }
    lines
        .iter()
        .map(|line| line.shown(columns, paint))
        .collect()
}

/// A stage's name, with its kind where the name does not say it.
fn title(stage: &StageOutline) -> String {
    if stage.name.starts_with(&stage.kind) {
        stage.name.clone()
    } else {
        format!("{} ({})", stage.name, stage.kind)
    }
}

/// What a stage stores into and loads from.
fn links(outline: &Outline, place: Place) -> String {
    let names = |has: fn(&StorageOutline) -> &Vec<Place>| {
        let storages = outline.storages.iter();
        let named = storages.filter(|storage| has(storage).contains(&place));
        let names: Vec<&str> = named.map(|storage| storage.name.as_str()).collect();
        names.join(", ")
    };
    let (from, to) = (names(|one| &one.readers), names(|one| &one.writers));
    match (from.as_str(), to.as_str()) {
        ("", "") => String::new(),
        (from, "") => format!("◀── {from}"),
        (_, to) => format!("──▶ {to}"),
    }
}

/// A line in pieces, each with its colour.
#[derive(Default)]
struct Line(Vec<(String, Option<Ink>)>);

impl Line {
    fn plain(mut self, text: &str) -> Self {
        self.0.push((printable(text).into_owned(), None));
        self
    }

    fn ink(mut self, ink: Ink, text: &str) -> Self {
        self.0.push((printable(text).into_owned(), Some(ink)));
        self
    }

    /// A column: cut or filled up to its width, and a gap.
    fn padded(self, text: &str, to: usize) -> Self {
        let text = printable(text);
        let text = cut(&text, to);
        let space = " ".repeat(to.saturating_sub(width(&text)) + GAP);
        self.plain(&format!("{text}{space}"))
    }

    fn shown(&self, columns: Option<usize>, paint: Paint) -> String {
        let mut room = columns.unwrap_or(usize::MAX);
        let mut line = String::new();
        let full = self
            .0
            .iter()
            .map(|(text, _)| text.as_str())
            .collect::<String>();
        let end = full.trim_end().len();
        let mut at = 0;
        for (text, ink) in &self.0 {
            let kept = &text[..text.len().min(end.saturating_sub(at))];
            at += text.len();
            let shown = cut(kept, room);
            room -= width(&shown).min(room);
            match ink {
                Some(ink) if !shown.is_empty() => line.push_str(&paint.with(*ink, &shown)),
                _ => line.push_str(&shown),
            }
        }
        line.push('\n');
        line
    }
}
