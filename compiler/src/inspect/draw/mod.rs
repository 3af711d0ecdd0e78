//! A model as a picture: the stream of rows runs down the left, parts hang off it, equal layers are drawn once.

mod card;
mod pattern;
mod residual;
mod svg;

use super::report::{Layer, Report, ranges};
use super::table::memory;
use super::units::count;
use braid_dsl::model::{Model, ScopeId};
use pattern::{Run, Stack, stack};
use residual::{Event, events};
use svg::{Anchor, Area, Canvas, KINDS, class};

const WIDTH: f64 = 900.0;
/// Where the stream runs.
const STREAM: f64 = 92.0;
/// Where branches begin.
const BRANCH: f64 = 148.0;
const GAP: f64 = 18.0;

/// The picture of a model as an SVG file.
pub fn draw(model: &Model, report: &Report) -> String {
    let model = &super::ends::named(model);
    let mut picture = Picture { model, canvas: Canvas::default(), frames: Canvas::default(), y: 0.0 };
    picture.head(report);
    let top = picture.y;
    picture.end(&format!("{} {}", model.inputs.first().map_or("", |(name, _)| name), report.root.input));
    picture.inside(&report.root);
    let bottom = picture.y;
    picture.end(&report.root.output);
    let height = picture.y + 22.0;
    let mut sheet = Canvas::default();
    sheet.rect("paper", Area { x: 0.0, y: 0.0, w: WIDTH, h: height }, 14.0);
    sheet.append(picture.frames);
    sheet.path("stream", &format!("M{STREAM} {:.1}V{:.1}", top + 22.0, bottom + 4.0));
    sheet.append(picture.canvas);
    sheet.finish(WIDTH, height, &format!("The model {}", report.model))
}

struct Picture<'a> {
    model: &'a Model,
    canvas: Canvas,
    /// What lies below the stream.
    frames: Canvas,
    y: f64,
}

impl Picture<'_> {
    fn head(&mut self, report: &Report) {
        let part = &report.root.part;
        self.canvas.text("title", 40.0, 50.0, Anchor::Start, &report.model);
        let mut said = vec![format!("{} parameters", count(part.params))];
        if part.active < part.params {
            said.push(format!("{} of them for each token", count(part.active)));
        }
        if !part.memory.is_empty() {
            said.push(format!("a sequence remembers {}", memory(&part.memory)));
        }
        self.canvas.text("sub", 40.0, 74.0, Anchor::Start, &said.join("  ·  "));
        let mut x = 40.0;
        for kind in KINDS.into_iter().filter(|k| has_kind(&report.root, *k)) {
            self.canvas.circle(&format!("{}-solid", class(kind)), x + 5.0, 95.0, 5.0);
            self.canvas.text("small", x + 16.0, 99.0, Anchor::Start, kind.name());
            x += 36.0 + 6.6 * kind.name().chars().count() as f64;
        }
        self.y = 118.0;
    }

    /// What goes in or comes out.
    fn end(&mut self, text: &str) {
        self.canvas.text("mono", STREAM, self.y + 16.0, Anchor::Middle, text.trim());
        self.y += 24.0;
    }

    /// All parts of a layer, top down.
    fn inside(&mut self, layer: &Layer) {
        let parts: Vec<ScopeId> = layer.children.iter().map(|c| c.part.id).collect();
        let find = |id: &ScopeId| layer.children.iter().position(|c| c.part.id == *id);
        let mut drawn = 0;
        for event in events(self.model, layer.part.id, &parts) {
            match event {
                Event::Branch(ids) => {
                    let parts: Vec<&Layer> = ids.iter().filter_map(find).map(|at| &layer.children[at]).collect();
                    self.branch(&parts);
                }
                Event::Through(id) => {
                    let Some(at) = find(&id) else { continue };
                    if layer.children[at].iteration().is_none() {
                        self.through(&layer.children[at]);
                    } else if at >= drawn {
                        let run = iterations(layer, at);
                        drawn = at + run.len();
                        self.stack(&run);
                    }
                }
            }
        }
    }

    fn through(&mut self, layer: &Layer) {
        self.y += GAP * 0.7;
        let (w, h) = (card::width(layer).min(WIDTH - 96.0), card::height(layer));
        let x = if card::is_pill(layer) { STREAM - w / 2.0 } else { 48.0 };
        card::draw(&mut self.canvas, layer, Area { x: x.max(44.0), y: self.y, w, h });
        self.y += h + GAP * 0.7;
    }

    /// Layers of one `repeat`: a repeated pattern, and in it runs of equal layers.
    fn stack(&mut self, layers: &[&Layer]) {
        let signatures: Vec<&str> = layers.iter().map(|l| l.signature.as_str()).collect();
        let Stack { pattern, times, rest } = stack(&signatures);
        self.y += GAP * 0.7;
        let (top, mark) = (self.y, self.frames.mark());
        let nested = times > 1 && pattern.len() > 1;
        if nested {
            self.y += 34.0;
            badge(&mut self.canvas, top + 8.0, &format!("× {times}"));
        }
        let period = pattern.iter().map(|run| run.length).sum();
        pattern.iter().for_each(|run| self.run(layers, run, times, period));
        if nested {
            let mut outer = Canvas::default();
            outer.rect("outer", Area { x: 22.0, y: top, w: WIDTH - 44.0, h: self.y - top }, 14.0);
            self.frames.insert(mark, outer);
            self.y += GAP * 0.7;
        }
        rest.iter().for_each(|run| self.run(layers, run, 1, 0));
    }

    /// Equal layers, which come again after every `period`.
    fn run(&mut self, layers: &[&Layer], run: &Run, times: usize, period: usize) {
        let (top, mark) = (self.y, self.frames.mark());
        self.y += 30.0;
        self.inside(layers[run.first]);
        self.y += 4.0;
        let mut frame = Canvas::default();
        frame.rect("frame", Area { x: 34.0, y: top, w: WIDTH - 68.0, h: self.y - top }, 11.0);
        self.frames.insert(mark, frame);
        let every = (0..times).flat_map(|time| (0..run.length).map(move |at| run.first + time * period + at));
        let numbers: Vec<usize> = every.filter_map(|at| layers[at].iteration()).map(|(_, n)| n).collect();
        let label = layers[run.first].iteration().map_or("", |(label, _)| label);
        self.canvas.text("badge", BRANCH, top + 21.0, Anchor::Start, &format!("{label} {}", ranges(&numbers)));
        let together = if period == run.length { run.length * times } else { run.length };
        if together > 1 {
            badge(&mut self.canvas, top + 8.0, &format!("× {together}"));
        }
        self.y += GAP * 0.7;
    }

    /// Parts beside the stream whose result joins it again.
    fn branch(&mut self, parts: &[&Layer]) {
        let right = WIDTH - 64.0;
        let pills: f64 = parts.iter().filter(|p| card::is_pill(p)).map(|p| card::width(p)).sum();
        let cards = parts.iter().filter(|p| !card::is_pill(p)).count();
        let free = right - BRANCH - pills - 26.0 * parts.len() as f64;
        let in_a_row = cards <= 1 || free / cards as f64 >= 260.0;
        let top = self.y + 6.0;
        let middle = match in_a_row {
            true => self.row(parts, top, (free / cards.max(1) as f64).min(400.0)),
            false => self.column(parts, top, right - BRANCH - 20.0),
        };
        let bottom = self.y;
        let (x, r) = (STREAM, 10.0);
        self.canvas.path(
            "wire",
            &format!("M{x} {:.1}V{:.1}Q{x} {middle:.1} {:.1} {middle:.1}H{BRANCH}", top - 4.0, middle - 16.0, x + 16.0),
        );
        self.canvas.circle("join", x, bottom + 4.0, r);
        self.canvas.path("wire", &format!("M{:.1} {:.1}h10m-5 -5v10", x - 5.0, bottom + 4.0));
        self.y = bottom + 18.0;
    }

    /// Side by side; gives the height of the wire.
    fn row(&mut self, parts: &[&Layer], top: f64, card_width: f64) -> f64 {
        let high = parts.iter().map(|p| card::height(p)).fold(0.0, f64::max);
        let middle = top + high / 2.0;
        let mut x = BRANCH;
        for (at, part) in parts.iter().enumerate() {
            let (w, h) = (if card::is_pill(part) { card::width(part) } else { card_width }, card::height(part));
            if at > 0 {
                self.canvas.path("wire", &format!("M{x:.1} {middle:.1}h22"));
                x += 22.0;
            }
            card::draw(&mut self.canvas, part, Area { x, y: middle - h / 2.0, w, h });
            x += w;
        }
        let bottom = top + high + 8.0;
        self.back(x, middle, bottom);
        self.y = bottom;
        middle
    }

    /// One below the other.
    fn column(&mut self, parts: &[&Layer], top: f64, wide: f64) -> f64 {
        let mut y = top;
        for part in parts {
            let (w, h) = (if card::is_pill(part) { card::width(part) } else { wide.min(460.0) }, card::height(part));
            if y > top {
                self.canvas.path("wire", &format!("M{:.1} {:.1}v8", BRANCH + 36.0, y - 8.0));
            }
            card::draw(&mut self.canvas, part, Area { x: BRANCH, y, w, h });
            y += h + 8.0;
        }
        self.back(BRANCH + 20.0, y - 8.0, y);
        self.y = y;
        top + card::height(parts[0]) / 2.0
    }

    /// The wire back to the stream.
    fn back(&mut self, x: f64, middle: f64, bottom: f64) {
        let (end, y) = (x + 14.0, bottom + 4.0);
        self.canvas.path(
            "wire",
            &format!(
                "M{x:.1} {middle:.1}H{:.1}Q{end:.1} {middle:.1} {end:.1} {:.1}V{:.1}Q{end:.1} {y:.1} {:.1} {y:.1}H{:.1}",
                end - 8.0,
                middle + 8.0,
                y - 8.0,
                end - 8.0,
                STREAM + 10.0
            ),
        );
    }
}

fn badge(canvas: &mut Canvas, y: f64, text: &str) {
    let w = 18.0 + 8.0 * text.chars().count() as f64;
    let x = WIDTH - 48.0 - w;
    canvas.rect("tag", Area { x, y, w, h: 20.0 }, 10.0);
    canvas.text("badge", x + w / 2.0, y + 14.5, Anchor::Middle, text);
}

/// The iterations of the same `repeat` from the given child on.
fn iterations(layer: &Layer, from: usize) -> Vec<&Layer> {
    let label = layer.children[from].iteration().map(|i| i.0);
    layer.children[from..].iter().take_while(|c| c.iteration().map(|i| i.0) == label).collect()
}

fn has_kind(layer: &Layer, kind: super::Kind) -> bool {
    layer.children.iter().any(|c| (c.iteration().is_none() && c.part.kind == kind) || has_kind(c, kind))
}
