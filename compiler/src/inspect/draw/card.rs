//! One part as a card: its name, shapes, size, and what it remembers.

use super::super::report::Layer;
use super::super::table::{flops, memory};
use super::super::tree::Kind;
use super::super::units::count;
use super::svg::{Anchor, Area, Canvas, class};

/// Height of the small label of a part without a matrix product.
pub const PILL: f64 = 30.0;

/// Whether a part is drawn small.
pub fn is_pill(layer: &Layer) -> bool {
    layer.part.kind == Kind::Pointwise
}

/// How wide a part wants to be.
pub fn width(layer: &Layer) -> f64 {
    if is_pill(layer) { (24.0 + 7.2 * title(layer).chars().count() as f64).max(76.0) } else { 330.0 }
}

/// How high it is.
pub fn height(layer: &Layer) -> f64 {
    if is_pill(layer) {
        return PILL;
    }
    let remembers = if layer.part.memory.is_empty() { 0.0 } else { 26.0 };
    let inside = if chips(layer).is_empty() { 0.0 } else { 28.0 };
    70.0 + remembers + inside
}

/// Draws it into the area.
pub fn draw(canvas: &mut Canvas, layer: &Layer, area: Area) {
    let kind = class(layer.part.kind);
    if is_pill(layer) {
        canvas.rect(kind, area, PILL / 2.0);
        canvas.text("small", area.x + area.w / 2.0, area.y + area.h / 2.0 + 4.0, Anchor::Middle, &title(layer));
        return;
    }
    canvas.rect(kind, area, 9.0);
    canvas.rect(&format!("{kind}-solid"), Area { w: 5.0, y: area.y + 9.0, h: area.h - 18.0, ..area }, 2.5);
    let x = area.x + 18.0;
    canvas.text("name", x, area.y + 23.0, Anchor::Start, &title(layer));
    let shapes = if layer.input == layer.output || layer.input.is_empty() {
        layer.output.clone()
    } else {
        format!("{} → {}", layer.input, layer.output)
    };
    canvas.text("mono", x, area.y + 41.0, Anchor::Start, &shapes);
    canvas.text("small", x, area.y + 59.0, Anchor::Start, &numbers(layer));
    let mut y = area.y + 68.0;
    let inside = chips(layer);
    if !inside.is_empty() {
        draw_chips(canvas, &inside, x, y, area.x + area.w - 12.0);
        y += 28.0;
    }
    if !layer.part.memory.is_empty() {
        let grows = layer.part.memory.iter().any(|m| m.reach.is_some());
        let text = format!("{} {}", if grows { "cache" } else { "state" }, memory(&layer.part.memory));
        let w = 34.0 + 6.6 * text.chars().count() as f64;
        canvas.rect("chip", Area { x, y, w, h: 20.0 }, 10.0);
        drum(canvas, kind, x + 14.0, y + 10.0);
        canvas.text("small", x + 26.0, y + 14.0, Anchor::Start, &text);
    }
}

/// A small store.
fn drum(canvas: &mut Canvas, kind: &str, x: f64, y: f64) {
    for line in [-4.5, -1.0, 2.5] {
        canvas.rect(&format!("{kind}-solid"), Area { x: x - 5.0, y: y + line, w: 10.0, h: 2.2 }, 1.1);
    }
}

/// `mixer · block`, or one of them if they are equal.
pub fn title(layer: &Layer) -> String {
    let part = &layer.part;
    match part.block.is_empty() || part.name.trim_end_matches(|c: char| c.is_numeric() || c == '_') == part.block {
        true => part.name.clone(),
        false => format!("{} · {}", part.name, part.block),
    }
}

fn numbers(layer: &Layer) -> String {
    let part = &layer.part;
    let mut said = vec![if part.params > 0 { format!("{} params", count(part.params)) } else { "no params of its own".into() }];
    if part.active < part.params {
        said.push(format!("{} a token", count(part.active)));
    }
    let work = flops(part.work());
    if !work.is_empty() {
        said.push(format!("{work} FLOPs"));
    }
    said.join("  ·  ")
}

/// Parts inside that do something: their names, each once.
fn chips(layer: &Layer) -> Vec<(Kind, String)> {
    let parts: Vec<&Layer> = layer.children.iter().filter(|c| !is_pill(c)).collect();
    if parts.len() < 2 && !parts.iter().any(|p| p.part.kind != layer.part.kind) {
        return Vec::new();
    }
    parts.iter().map(|c| (c.part.kind, c.part.name.clone())).collect()
}

fn draw_chips(canvas: &mut Canvas, chips: &[(Kind, String)], x: f64, y: f64, right: f64) {
    let mut at = x;
    for (kind, name) in chips {
        let w = 28.0 + 6.8 * name.chars().count() as f64;
        if at + w > right {
            canvas.text("small", at, y + 14.0, Anchor::Start, "…");
            return;
        }
        canvas.rect("chip", Area { x: at, y, w, h: 20.0 }, 5.0);
        canvas.circle(&format!("{}-solid", class(*kind)), at + 11.0, y + 10.0, 4.0);
        canvas.text("small", at + 20.0, y + 14.0, Anchor::Start, name);
        at += w + 6.0;
    }
}
