//! Where everything of a picture stands: lanes for pipelines, a column for storages, and links between them
//! that run below the stages. All measures are in pixels.

use wiredflow_engine::outline::{Outline, Place};

use crate::paint::{cut, printable, width};

/// How wide a character of the picture's font is, in tenths.
const CHARACTER: usize = 72;
const MARGIN: usize = 24;
/// Between a lane's top and its row of boxes: the pipeline's name.
const HEAD: usize = 34;
/// A box or a storage.
pub(super) const HIGH: usize = 46;
/// Between two boxes: an arrow.
const GAP: usize = 36;
/// Between two links that run side by side.
const TRACK: usize = 8;
/// Between the boxes and the first link below them.
const CLEAR: usize = 14;
const BELOW_LANE: usize = 18;
/// The most characters of a text in a box.
const LONGEST: usize = 34;

/// A picture that only has to be written down.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) lanes: Vec<Lane>,
    pub(super) storages: Vec<Shape>,
    pub(super) links: Vec<Link>,
}

/// A pipeline.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) top: usize,
    pub(super) high: usize,
    /// The trigger, then the stages.
    pub(super) boxes: Vec<Shape>,
}

/// Something with two lines of text.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) wide: usize,
    pub(super) title: String,
    pub(super) detail: String,
    /// The detail in full, where it was cut.
    pub(super) full: Option<String>,
}

/// What joins a stage and a storage.
#[derive(Debug)]
pub(super) struct Link {
    /// From the stage to the storage, corner by corner.
    pub(super) corners: Vec<(usize, usize)>,
    /// Whether records go from the stage to the storage.
    pub(super) stores: bool,
}

/// A link before its place is known.
struct Wire {
    place: Place,
    storage: usize,
    stores: bool,
}

impl Shape {
    fn new(title: &str, detail: &str, (x, y): (usize, usize)) -> Self {
        let (title, whole) = (printable(title), printable(detail));
        let (title, detail) = (cut(&title, LONGEST), cut(&whole, LONGEST));
        let wide = width(&title).max(width(&detail)) * CHARACTER / 10 + 28;
        Self {
            x,
            y,
            wide,
            full: (detail != whole).then(|| whole.clone().into_owned()),
            title: title.into_owned(),
            detail: detail.into_owned(),
        }
    }

    fn right(&self) -> usize {
        self.x + self.wide
    }
}

/// Lays a flow out.
pub(super) fn layout(outline: &Outline) -> Layout {
    let wires = wires(outline);
    let mut lanes: Vec<Lane> = Vec::new();
    let mut top = MARGIN + HEAD;
    for (number, pipeline) in outline.pipelines.iter().enumerate() {
        let y = top + HEAD;
        let mut boxes = vec![Shape::new(&pipeline.trigger, "", (MARGIN + 12, y))];
        for stage in &pipeline.stages {
            let x = boxes[boxes.len() - 1].right() + GAP;
            let title = if stage.name == stage.kind {
                stage.name.clone()
            } else {
                format!("{} · {}", stage.name, stage.kind)
            };
            boxes.push(Shape::new(&title, &stage.detail, (x, y)));
        }
        let tracks = wires.iter().filter(|wire| wire.place.pipeline == number);
        let below = CLEAR + tracks.count() * TRACK;
        let storages = at_home(outline, number).count();
        let high = (HEAD + HIGH + below).max(HEAD + storages * (HIGH + CLEAR)) + 6;
        lanes.push(Lane {
            name: pipeline.name.clone(),
            top,
            high,
            boxes,
        });
        top += high + BELOW_LANE;
    }
    let rights = lanes.iter().flat_map(|lane| &lane.boxes).map(Shape::right);
    let channel = rights.max().unwrap_or(MARGIN) + GAP;
    let column = channel + wires.len() * TRACK + GAP;
    let storages = place_storages(outline, &lanes, column);
    let links = links(&wires, &lanes, &storages, channel);
    let right = storages.iter().map(Shape::right).max();
    Layout {
        width: right.unwrap_or(channel) + MARGIN,
        height: top + MARGIN - BELOW_LANE,
        lanes,
        storages,
        links,
    }
}

fn wires(outline: &Outline) -> Vec<Wire> {
    let mut wires = Vec::new();
    for (storage, one) in outline.storages.iter().enumerate() {
        for (places, stores) in [(&one.writers, true), (&one.readers, false)] {
            wires.extend(places.iter().map(|place| Wire {
                place: *place,
                storage,
                stores,
            }));
        }
    }
    wires
}

/// The storages that stand beside a pipeline: the first that stores into them, else that loads.
fn at_home(outline: &Outline, pipeline: usize) -> impl Iterator<Item = usize> {
    let storages = outline.storages.iter().enumerate();
    storages.filter_map(move |(index, storage)| {
        let first = storage.writers.first().or(storage.readers.first());
        let home = first.map_or(0, |place| place.pipeline);
        (home == pipeline).then_some(index)
    })
}

fn place_storages(outline: &Outline, lanes: &[Lane], column: usize) -> Vec<Shape> {
    let mut placed: Vec<(usize, Shape)> = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        for (row, index) in at_home(outline, number).enumerate() {
            let storage = &outline.storages[index];
            let y = lane.top + HEAD + row * (HIGH + CLEAR);
            placed.push((index, Shape::new(&storage.name, &storage.kind, (column, y))));
        }
    }
    placed.sort_by_key(|(index, _)| *index);
    placed.into_iter().map(|(_, shape)| shape).collect()
}

fn links(wires: &[Wire], lanes: &[Lane], storages: &[Shape], channel: usize) -> Vec<Link> {
    // Where several links leave one box they share its lower side out.
    let share = |wires: &[&Wire], wire: &Wire, side: usize| {
        let place = wires.iter().position(|other| std::ptr::eq(*other, wire));
        side * (place.unwrap_or(0) + 1) / (wires.len() + 1)
    };
    let start = |wire: &Wire| {
        let shape = &lanes[wire.place.pipeline].boxes[wire.place.stage + 1];
        let all = wires.iter().filter(|other| other.place == wire.place);
        shape.x + share(&all.collect::<Vec<_>>(), wire, shape.wide)
    };
    let link = |(track, wire): (usize, &Wire)| {
        let lane = &lanes[wire.place.pipeline];
        let x = start(wire);
        // The leftmost runs lowest, so that none crosses another on its way down.
        let later = wires
            .iter()
            .filter(|other| other.place.pipeline == wire.place.pipeline && start(other) > x);
        let bottom = lane.top + HEAD + HIGH;
        let below = bottom + CLEAR + later.count() * TRACK;
        let storage = &storages[wire.storage];
        let all = wires.iter().filter(|other| other.storage == wire.storage);
        let y = storage.y + share(&all.collect::<Vec<_>>(), wire, HIGH);
        let down = channel + track * TRACK;
        Link {
            corners: vec![
                (x, bottom),
                (x, below),
                (down, below),
                (down, y),
                (storage.x, y),
            ],
            stores: wire.stores,
        }
    };
    wires.iter().enumerate().map(link).collect()
}
