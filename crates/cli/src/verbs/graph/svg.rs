//! A flow as a picture: one SVG file that needs nothing else and follows the reader's light or dark page.

use wiredflow_engine::outline::Outline;

use super::layout::{HIGH, Layout, Link, Shape, layout};

/// Colours by their duty, for light pages and for dark ones.
const STYLE: &str = "\
  <style>
    svg { --page: #ffffff; --lane: #f5f7fa; --box: #ffffff; --line: #9aa5b1; --text: #1f2933; --dim: #616e7c; --in: #2f6fde; --keep: #1c7c54; }
    @media (prefers-color-scheme: dark) {
      svg { --page: #14181d; --lane: #1b2128; --box: #242c35; --line: #5b6875; --text: #e4e7eb; --dim: #9aa5b1; --in: #7aa7f7; --keep: #5fc796; }
    }
    text { font: 12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: var(--text); }
    .head { font-weight: bold; font-size: 15px; }
    .name { font-weight: bold; }
    .dim { fill: var(--dim); }
    .page { fill: var(--page); }
    .lane { fill: var(--lane); }
    .stage { fill: var(--box); stroke: var(--line); }
    .trigger { fill: none; stroke: var(--in); }
    .storage { fill: var(--box); stroke: var(--keep); }
    .arrow { fill: none; stroke: var(--line); }
    .stores { fill: none; stroke: var(--keep); }
    .loads { fill: none; stroke: var(--in); stroke-dasharray: 4 3; }
    .tip { fill: var(--line); }
    .tip-stores { fill: var(--keep); }
    .tip-loads { fill: var(--in); }
  </style>
";

/// Draws a flow.
pub(super) fn draw(outline: &Outline) -> String {
    let picture = layout(outline);
    let Layout { width, height, .. } = picture;
    let name = escaped(&outline.flow);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n  <title>The flow {name}</title>\n{STYLE}{}",
        tips()
    );
    line(
        &mut svg,
        &format!("<rect class=\"page\" width=\"{width}\" height=\"{height}\"/>"),
    );
    line(
        &mut svg,
        &format!("<text class=\"head\" x=\"24\" y=\"38\">{name}</text>"),
    );
    let lane_width = picture
        .lanes
        .iter()
        .flat_map(|lane| &lane.boxes)
        .map(|shape| shape.x + shape.wide)
        .max()
        .unwrap_or(0);
    for lane in &picture.lanes {
        let (top, high) = (lane.top, lane.high);
        line(
            &mut svg,
            &format!(
                "<rect class=\"lane\" x=\"24\" y=\"{top}\" width=\"{}\" height=\"{high}\" rx=\"8\"/>",
                lane_width - 12
            ),
        );
        let name = escaped(&lane.name);
        line(
            &mut svg,
            &format!(
                "<text class=\"name\" x=\"36\" y=\"{}\">{name}</text>",
                top + 22
            ),
        );
    }
    for link in &picture.links {
        line(&mut svg, &path(link));
    }
    for lane in &picture.lanes {
        for pair in lane.boxes.windows(2) {
            let (from, to) = (pair[0].x + pair[0].wide, pair[1].x);
            let y = pair[0].y + HIGH / 2;
            line(
                &mut svg,
                &format!(
                    "<path class=\"arrow\" d=\"M{from} {y}H{}\" marker-end=\"url(#tip)\"/>",
                    to - 2
                ),
            );
        }
        for (index, shape) in lane.boxes.iter().enumerate() {
            let (class, round) = if index == 0 {
                ("trigger", HIGH / 2)
            } else {
                ("stage", 6)
            };
            let Shape { x, y, wide, .. } = shape;
            let outer = format!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{HIGH}\" rx=\"{round}\"/>"
            );
            shape_of(&mut svg, &outer, shape);
        }
    }
    for storage in &picture.storages {
        shape_of(&mut svg, &cylinder(storage), storage);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The tips of the three kinds of arrows.
fn tips() -> String {
    let tip = |id: &str| {
        format!(
            "    <marker id=\"{id}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
             orient=\"auto-start-reverse\"><path class=\"{id}\" d=\"M0 0L8 4L0 8z\"/></marker>\n"
        )
    };
    let all: String = ["tip", "tip-stores", "tip-loads"]
        .into_iter()
        .map(tip)
        .collect();
    format!("  <defs>\n{all}  </defs>\n")
}

/// A link; its tip is where the records go.
fn path(link: &Link) -> String {
    let mut d = String::new();
    for (index, (x, y)) in link.corners.iter().enumerate() {
        let letter = if index == 0 { 'M' } else { 'L' };
        d.push_str(&format!("{letter}{x} {y}"));
    }
    if link.stores {
        format!("<path class=\"stores\" d=\"{d}\" marker-end=\"url(#tip-stores)\"/>")
    } else {
        format!("<path class=\"loads\" d=\"{d}\" marker-start=\"url(#tip-loads)\"/>")
    }
}

fn cylinder(shape: &Shape) -> String {
    let Shape { x, y, wide, .. } = shape;
    let (right, half, top, bottom) = (x + wide, wide / 2, y + 6, y + HIGH - 6);
    format!(
        "<path class=\"storage\" d=\"M{x} {top}A{half} 6 0 0 1 {right} {top}V{bottom}A{half} 6 0 0 1 {x} {bottom}z\
         M{x} {top}A{half} 6 0 0 0 {right} {top}\"/>"
    )
}

fn shape_of(svg: &mut String, outer: &str, shape: &Shape) {
    let x = shape.x + 14;
    let (title, detail) = (escaped(&shape.title), escaped(&shape.detail));
    let full = shape
        .full
        .as_deref()
        .map(|full| format!("<title>{}</title>", escaped(full)));
    let (first, second) = if shape.detail.is_empty() {
        (27, 0)
    } else {
        (22, 37)
    };
    let mut text = format!(
        "<text class=\"name\" x=\"{x}\" y=\"{}\">{title}</text>",
        shape.y + first
    );
    if !shape.detail.is_empty() {
        let y = shape.y + second;
        text.push_str(&format!(
            "<text class=\"dim\" x=\"{x}\" y=\"{y}\">{detail}</text>"
        ));
    }
    line(
        svg,
        &format!("<g>{}{outer}{text}</g>", full.unwrap_or_default()),
    );
}

fn line(svg: &mut String, text: &str) {
    svg.push_str("  ");
    svg.push_str(text);
    svg.push('\n');
}

/// Text between tags; what XML cannot hold has been made printable before.
fn escaped(text: &str) -> String {
    let text = crate::paint::printable(text);
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
