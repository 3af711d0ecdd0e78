//! A profile as one HTML page that needs nothing else: a roofline, a timeline and a table for each kind of call.

use super::{Ceilings, Group, Phase, Profile, share};
use std::fmt::Write;

/// Pixels of a picture.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 380.0;
const MARGIN: f64 = 56.0;

/// Colours of kinds of kernels, in the order in which they are met.
const COLOURS: [&str; 8] = ["#3b82f6", "#10a37f", "#e07b39", "#a855f7", "#d4a72c", "#e5484d", "#0891b2", "#7c8798"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2rem auto;padding:0 1rem;color:#1d2733;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.2rem}table{border-collapse:collapse;width:100%;font-size:13px}\
td,th{padding:3px 8px;text-align:right;border-bottom:1px solid #8883;font-variant-numeric:tabular-nums}\
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}td:nth-child(2){max-width:24rem}small,.about{color:#68737f}\
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:#68737f}.line{stroke:#68737f;fill:none}\
.grid{stroke:#8883}.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 .9em}\
@media(prefers-color-scheme:dark){body{color:#e3e8ee;background:#12181f}}";

/// The whole page.
pub fn page(profile: &Profile) -> String {
    let Profile { model, target, threads, ceilings, phases } = profile;
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0} profile</title><style>{STYLE}</style><h1>{0}</h1><p class=\"about\">{1}, {threads} \
         threads. Ceilings measured beside it: {2:.1} GB/s read from memory, {3:.1} GFLOP/s of multiply-adds in f32.</p>",
        escape(model),
        escape(target),
        ceilings.bandwidth / 1e9,
        ceilings.flops / 1e9
    );
    let kinds = kinds(phases);
    out += &legend(&kinds);
    for phase in phases {
        let _ =
            write!(out, "<h2>{}</h2><p class=\"about\">{}: {:.3} ms</p>", phase.name, escape(&phase.about), phase.seconds * 1e3);
        out += &roofline(phase, ceilings, &kinds);
        out += &timeline(phase, &kinds);
        out += &table(phase, ceilings);
    }
    out + "</html>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `matmul` of `matmul_3`.
fn kind(function: &str) -> &str {
    function.rsplit_once('_').map_or(function, |(kind, _)| kind)
}

fn kinds(phases: &[Phase]) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for kernel in phases.iter().flat_map(|phase| &phase.kernels) {
        if !kinds.iter().any(|known| known == kind(&kernel.function)) {
            kinds.push(kind(&kernel.function).to_string());
        }
    }
    kinds
}

fn colour(kinds: &[String], function: &str) -> &'static str {
    let at = kinds.iter().position(|known| known == kind(function)).unwrap_or(0);
    COLOURS[at % COLOURS.len()]
}

fn legend(kinds: &[String]) -> String {
    let key = |(at, kind): (usize, &String)| {
        format!("<span class=\"key\" style=\"background:{}\"></span>{}", COLOURS[at % COLOURS.len()], escape(kind))
    };
    format!("<p>{}</p>", kinds.iter().enumerate().map(key).collect::<String>())
}

/// A logarithmic axis.
struct Axis {
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, begin: f64, end: f64) -> Self {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            (from, to) = (from.min(value.log10().floor()), to.max(value.log10().ceil()));
        }
        if from >= to { Self { from: 0.0, to: 1.0, begin, end } } else { Self { from, to, begin, end } }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.max(1e-300).log10() - self.from) / (self.to - self.from);
        self.begin + part.clamp(0.0, 1.0) * (self.end - self.begin)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.from as i32..=self.to as i32).map(|power| 10f64.powi(power))
    }
}

/// Operations a second over operations a byte, under the two ceilings. A point's area is its time.
fn roofline(phase: &Phase, ceilings: &Ceilings, kinds: &[String]) -> String {
    let intensity = |group: &Group| group.flops / group.bytes.max(1.0);
    let rate = |group: &Group| group.flops / group.seconds.max(1e-12);
    let shown: Vec<&Group> = phase.groups.iter().filter(|group| group.flops > 0.0 && group.bytes > 0.0).collect();
    let ridge = ceilings.flops / ceilings.bandwidth;
    let x = Axis::new(shown.iter().map(|g| intensity(g)).chain([ridge, ridge * 4.0]), MARGIN, WIDTH - 16.0);
    let y = Axis::new(shown.iter().map(|g| rate(g)).chain([ceilings.flops]), HEIGHT - 40.0, 12.0);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"roofline\">");
    for value in x.decades() {
        let at = x.at(value);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} 12V{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
            HEIGHT - 40.0,
            HEIGHT - 24.0
        );
    }
    for value in y.decades() {
        let at = y.at(value);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{MARGIN} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - 16.0,
            MARGIN - 6.0,
            at + 4.0,
            value / 1e9
        );
    }
    let low = 10f64.powf(x.from);
    let _ = write!(
        out,
        "<path class=\"line\" d=\"M{:.1} {:.1}L{:.1} {:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">operations a byte</text><text x=\"{:.1}\" y=\"26\">GFLOP/s</text>",
        x.at(low),
        y.at(low * ceilings.bandwidth),
        x.at(ridge),
        y.at(ceilings.flops),
        WIDTH - 16.0,
        WIDTH / 2.0,
        HEIGHT - 6.0,
        MARGIN + 6.0
    );
    for group in shown {
        let radius = 3.0 + 22.0 * (group.seconds / phase.seconds.max(1e-12)).clamp(0.0, 1.0).sqrt();
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" fill=\"{}\" fill-opacity=\".65\"><title>{}</title></circle>",
            x.at(intensity(group)),
            y.at(rate(group)),
            colour(kinds, &group.function),
            title(&group.part, &group.function, group.seconds)
        );
    }
    out + "</svg>"
}

fn title(part: &str, function: &str, seconds: f64) -> String {
    format!("{} {}: {:.4} ms", escape(part), escape(function), seconds * 1e3)
}

/// Kernels side by side, as long as they took.
fn timeline(phase: &Phase, kinds: &[String]) -> String {
    let whole: f64 = phase.kernels.iter().map(|kernel| kernel.seconds).sum::<f64>().max(1e-12);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} 64\" role=\"img\" aria-label=\"timeline\">");
    let mut at = 0.0;
    for kernel in &phase.kernels {
        let width = kernel.seconds / whole * WIDTH;
        let _ = write!(
            out,
            "<rect x=\"{at:.2}\" y=\"4\" width=\"{width:.2}\" height=\"36\" fill=\"{}\"><title>{}</title></rect>",
            colour(kinds, &kernel.function),
            title(&kernel.part, &kernel.function, kernel.seconds)
        );
        at += width;
    }
    for tick in 0..=4 {
        let part = f64::from(tick) / 4.0;
        let anchor = ["start", "middle", "middle", "middle", "end"][tick as usize];
        let _ =
            write!(out, "<text x=\"{:.1}\" y=\"56\" text-anchor=\"{anchor}\">{:.3} ms</text>", part * WIDTH, part * whole * 1e3);
    }
    out + "</svg>"
}

fn table(phase: &Phase, ceilings: &Ceilings) -> String {
    let head = "<table><tr><th>part</th><th>kernel</th><th>times</th><th>ms</th><th>time</th><th>MB</th><th>GB/s</th><th>MFLOP</th><th>GFLOP/s</th><th>of ceiling</th></tr>";
    let whole: f64 = phase.groups.iter().map(|group| group.seconds).sum::<f64>().max(1e-12);
    let row = |group: &Group| {
        let Group { part, function, ops, count, seconds, flops, bytes } = group;
        format!(
            "<tr><td>{}</td><td>{}<br><small>{}</small></td><td>{count}</td><td>{:.3}</td><td>{:.1} %</td><td>{:.2}</td><td>{:.1}</td><td>{:.2}</td><td>{:.1}</td><td>{:.0} %</td></tr>",
            escape(part),
            escape(function),
            escape(ops),
            seconds * 1e3,
            seconds / whole * 100.0,
            bytes / 1e6,
            bytes / seconds.max(1e-12) / 1e9,
            flops / 1e6,
            flops / seconds.max(1e-12) / 1e9,
            share(ceilings, *flops, *bytes, *seconds) * 100.0
        )
    };
    format!("{head}{}</table>", phase.groups.iter().map(row).collect::<String>())
}
