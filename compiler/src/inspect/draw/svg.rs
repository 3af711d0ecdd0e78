//! Few primitives of SVG, and the one style sheet: colours for light and dark surroundings.

use super::super::tree::Kind;
use std::fmt::Write;

/// A drawing that grows downward.
#[derive(Default)]
pub struct Canvas {
    body: String,
}

/// A rectangle with round corners.
#[derive(Clone, Copy)]
pub struct Area {
    /// Left.
    pub x: f64,
    /// Top.
    pub y: f64,
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
}

/// How text stands.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// Begins at x.
    Start,
    /// Around x.
    Middle,
}

impl Canvas {
    /// A rectangle of a class.
    pub fn rect(&mut self, class: &str, area: Area, radius: f64) {
        let Area { x, y, w, h } = area;
        // Writing to a String cannot fail.
        let _ =
            writeln!(self.body, r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" rx="{radius}"/>"#);
    }

    /// A line of text whose baseline is at y.
    pub fn text(&mut self, class: &str, x: f64, y: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
        };
        let _ = writeln!(self.body, r#"<text class="{class}" x="{x:.1}" y="{y:.1}"{anchor}>{}</text>"#, escaped(text));
    }

    /// A path of a class.
    pub fn path(&mut self, class: &str, d: &str) {
        let _ = writeln!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// A disc.
    pub fn circle(&mut self, class: &str, x: f64, y: f64, r: f64) {
        let _ = writeln!(self.body, r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{r}"/>"#);
    }

    /// The end of what was drawn so far: see [`Canvas::insert`].
    pub fn mark(&self) -> usize {
        self.body.len()
    }

    /// Puts another drawing below what was drawn after the mark.
    pub fn insert(&mut self, mark: usize, below: Canvas) {
        self.body.insert_str(mark, &below.body);
    }

    /// Draws another drawing over this one.
    pub fn append(&mut self, over: Canvas) {
        self.body.push_str(&over.body);
    }

    /// The file.
    pub fn finish(self, width: f64, height: f64, title: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
             <title>{}</title>\n<style>\n{}</style>\n{}</svg>\n",
            escaped(title),
            style(),
            self.body
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// All kinds in the order of the legend.
pub const KINDS: [Kind; 8] = [
    Kind::Attention,
    Kind::Recurrence,
    Kind::Hybrid,
    Kind::Convolution,
    Kind::Routed,
    Kind::Dense,
    Kind::Lookup,
    Kind::Pointwise,
];

/// The class of a kind, its colour, and its tints in light and dark surroundings.
fn colours(kind: Kind) -> (&'static str, &'static str, &'static str, &'static str) {
    match kind {
        Kind::Attention => ("attention", "#3b82f6", "#e8f0fe", "#172a46"),
        Kind::Recurrence => ("recurrence", "#10a37f", "#e3f6f0", "#10342b"),
        Kind::Hybrid => ("hybrid", "#0ea5c6", "#e0f5fa", "#0e323c"),
        Kind::Convolution => ("convolution", "#84a81c", "#f1f6dd", "#2a330d"),
        Kind::Routed => ("routed", "#f0883e", "#fdeee0", "#402612"),
        Kind::Dense => ("dense", "#8b5cf6", "#f0eafe", "#2a2145"),
        Kind::Lookup => ("lookup", "#d6458b", "#fce8f1", "#401a2d"),
        Kind::Pointwise => ("pointwise", "#8a94a3", "#eef0f3", "#262c36"),
    }
}

/// The class of a kind.
pub fn class(kind: Kind) -> &'static str {
    colours(kind).0
}

fn style() -> String {
    let mut light = String::from(
        "text { font-family: Inter, 'Segoe UI', 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif; font-size: 13px; fill: #1f2630; }\n\
         .title { font-size: 24px; font-weight: 650; } .sub { fill: #5d6878; } .name { font-size: 14.5px; font-weight: 600; }\n\
         .mono { font-family: 'JetBrains Mono', 'SF Mono', Menlo, 'Liberation Mono', monospace; font-size: 11.5px; fill: #5d6878; }\n\
         .small { font-size: 12px; fill: #5d6878; } .badge { font-size: 13px; font-weight: 600; } .sum { font-size: 15px; font-weight: 600; }\n\
         .paper { fill: #ffffff; } .frame { fill: #f6f7f9; stroke: #dde1e7; } .outer { fill: none; stroke: #b6bfcb; stroke-dasharray: 5 4; }\n\
         .stream { fill: none; stroke: #9aa5b4; stroke-width: 3; } .wire { fill: none; stroke: #9aa5b4; stroke-width: 1.6; }\n\
         .join { fill: #ffffff; stroke: #9aa5b4; stroke-width: 1.6; } .chip { fill: #ffffff; stroke: #dde1e7; } .tag { fill: #e3e7ed; }\n",
    );
    let mut dark = String::from(
        "text { fill: #e6ebf2; } .sub, .mono, .small { fill: #98a4b5; } .paper { fill: #10151c; }\n\
         .frame { fill: #171d26; stroke: #2a3340; } .outer { stroke: #4a5667; } .join { fill: #10151c; } .chip { fill: #10151c; stroke: #2f3947; }\n\
         .stream, .wire, .join { stroke: #5f6d80; } .tag { fill: #2a3340; }\n",
    );
    for kind in KINDS {
        let (class, colour, tint, shade) = colours(kind);
        let _ = writeln!(light, ".{class} {{ fill: {tint}; stroke: {colour}; }} .{class}-solid {{ fill: {colour}; }}");
        let _ = writeln!(dark, ".{class} {{ fill: {shade}; }}");
    }
    format!("{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
}
